"""What every benchmark shares: timing in turns, the conditions a figure was measured under, and rows of results.

`interleaved` times, `row` makes a result, `conditions` says where and when, `write` puts both into one JSON file, `table` on the
screen.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("case", "variant", "median_ms", "p20_ms", "p80_ms", "overhead", "hooked_MB", "layers")
PACKAGES = ("numpy", "numba", "torch", "cupy-cuda12x", "cupy-cuda13x", "scikit-learn", "torchmetrics", "transformers", "timm")


def interleaved(
    cases: dict[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    synchronize: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every round of every case, all cases once a round: what slows the machine down slows all of them.

    `synchronize` waits for the device before the clock is read.
    """
    wait = synchronize or (lambda: None)
    for _ in range(warmup):
        for case in cases.values():
            case()
    wait()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def row(case: str, dtype: str, shape: tuple[int, ...], seconds: list[float], nbytes: int, **ratios: Any) -> dict[str, Any]:
    """One tidy result: median and spread in milliseconds, bytes read once, and whatever ratios belong to it."""
    low, median, high = np.percentile(seconds, [20, 50, 80])
    return {
        "case": case,
        "dtype": dtype,
        "shape": list(shape),
        "median_ms": round(median * 1e3, 4),
        "p20_ms": round(low * 1e3, 4),
        "p80_ms": round(high * 1e3, 4),
        "bytes": nbytes,
        "GB_per_s": round(nbytes / median / 1e9, 3),
        **{name: round(value, 4) if isinstance(value, float) else value for name, value in ratios.items()},
    }


def paired(reference: list[float], seconds: list[float]) -> float:
    """Median over the rounds of reference over case: both were measured moments apart, so a busy neighbour cancels out."""
    return float(np.median(np.divide(reference, seconds)))


def cpu_model() -> str:
    """Name of the processor; what /proc/cpuinfo says where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> dict[str, Any]:
    """Commit of the source tree and whether it was changed since; empty without git."""

    def git(*arguments: str) -> str:
        where = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "--short=12", "HEAD"), "clean": not git("status", "--porcelain", "-uno")}
    except (OSError, subprocess.CalledProcessError):
        return {}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def conditions() -> dict[str, Any]:
    """What a reader needs to judge a figure, or to repeat it. No host names and no paths."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cpus": cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        **commit(),
    }


def write(path: str | Path, rows: list[dict[str, Any]], **more: Any) -> None:
    """Conditions and rows as one JSON file, a row a line, so that a diff of two runs can be read."""
    head = json.dumps({**conditions(), **more}, ensure_ascii=False)
    lines = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in rows)
    Path(path).write_text(f'{{"conditions": {head},\n "rows": [\n  {lines}\n ]}}\n')


def table(rows: list[dict[str, Any]], columns: tuple[str, ...] = COLUMNS) -> str:
    """Rows as aligned text."""

    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
        return "–" if value is None else str(value)

    lines = [list(columns)] + [[text(entry.get(column)) for column in columns] for entry in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def load() -> float | None:
    """Load average of the last minute, read before a run. Beside other work torch's threads wait for one another far longer than
    they compute (8 ms a call was seen), ours less so: ratios of such a run flatter us.
    """
    found = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    if found is not None and found > 0.5 * cpus():
        print(f"note: the load average is {found:g} on {cpus()} processors; figures of a busy machine are not to be published")
    return found
