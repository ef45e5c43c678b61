"""Long runs through the command line: `python -m benchmarks.ranks [--json FILE]`.

Two ranks under torchrun (gloo) against one, each with one thread: the same set of 200,000 samples must give the same bytes, and
the ratio of their throughputs is the figure. Then 1,000,000 samples on one process with all threads, twice: a small CNN, whose
share of time outside the model's forward is to stay below a tenth, and a tiny MLP, which loses: there is little forward to
measure beside. Memory is the peak of the process's resident set, against that of a tenth of the samples. Seconds are those of
the scan itself, as the command tells them; starting Python and torch is in `process_s`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from benchmarks.common import cpus, load, row, table, write
from naa_fast.scan.times import PARTS

MODELS = """
import torch
from torch import nn

def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2048, 10),
    )

def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
"""
SHAPE = (1, 16, 16)
TIMES = re.compile(r"time: ([0-9.]+) s; (.*)")
SHARES = ("waiting", "forward", "ours")
RATIO = 1.6
SHARE = 0.10
GROWTH_MB = 25.0
MEGABYTE = 1e6


def make_set(path: Path, samples: int) -> None:
    """Random images as float16, which the scan widens; half the disk of float32."""
    random = np.random.default_rng(0)
    file = open_memmap(path, "w+", np.float16, (samples, *SHAPE))
    for start in range(0, samples, 20_000):
        part = file[start : start + 20_000]
        part[:] = random.standard_normal(part.shape, dtype=np.float32)


def measured(place: Path, model: str, data: str, out: str, ranks: int, threads: int) -> dict[str, Any]:
    """One run of `naa-fast measure`: seconds, shares of time, peak resident memory of rank 0's process, and the file's bytes."""
    words = ["measure", "--model", f"{place / 'model.py'}:{model}", "--data", str(place / data), "--out", str(place / out)]
    words += ["--device", "cpu", "--log-format", "json", "--chunk-size", "8192"]
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "naa_fast"]
    command = [sys.executable, "-m", *(launch if ranks > 1 else ["naa_fast"]), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    began, peak = time.perf_counter(), 0
    with (place / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(0.1)
    told = (place / "log").read_text()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}:\n{told}")
    found = times_of(told)
    return {**found, "process_s": time.perf_counter() - began, "peak": peak, "content": (place / out).read_bytes()}


def resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def times_of(told: str) -> dict[str, float]:
    """Seconds and shares from the notes of a run; what took too little to be named is 0. Raises RuntimeError if it told none."""
    for line in told.splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        match = TIMES.match(str(entry.get("message", "")))
        if match:
            shares = {name: float(share) for name, share in re.findall(r"(?:^|, )(.+?) (\d+) %", match[2])}
            return {"seconds": float(match[1]), **{part: shares.get(PARTS[part], 0.0) / 100 for part in SHARES}}
    raise RuntimeError(f"the run did not say where its time went:\n{told}")


def rank_rows(place: Path, samples: int, rounds: int) -> list[dict[str, Any]]:
    """One rank and two, in turns."""
    make_set(place / "ranks.npy", samples)
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(rounds):
        for ranks, kept in runs.items():
            kept.append(measured(place, "cnn", "ranks.npy", f"{ranks}.naa.safetensors", ranks, 1))
    same = len({run["content"] for kept in runs.values() for run in kept}) == 1
    ratio = float(np.median([a["seconds"] / b["seconds"] for a, b in zip(runs[1], runs[2], strict=True)]))
    rows = []
    for ranks, kept in runs.items():
        seconds = [run["seconds"] for run in kept]
        more = {
            "ranks": ranks,
            "samples": samples,
            "total_s": float(np.median(seconds)),
            "process_s": float(np.median([run["process_s"] for run in kept])),
            "samples_per_s": round(samples / float(np.median(seconds))),
            "times_one_rank": ratio if ranks > 1 else 1.0,
            "same_bytes": same,
        }
        rows.append(
            row("measure, by ranks", "float16", (samples, *SHAPE), seconds, samples * 512, variant=f"{ranks} ranks", **more)
        )
    return rows


def million_rows(place: Path, samples: int) -> list[dict[str, Any]]:
    """A tenth of the samples and all of them, through the CNN and the MLP."""
    make_set(place / "all.npy", samples)
    make_set(place / "tenth.npy", samples // 10)
    rows = []
    for model in ("cnn", "mlp"):
        few = measured(place, model, "tenth.npy", "few.naa.safetensors", 1, cpus())
        run = measured(place, model, "all.npy", "all.naa.safetensors", 1, cpus())
        more = {
            "samples": samples,
            "total_s": run["seconds"],
            "samples_per_s": round(samples / run["seconds"]),
            "resident_MB": run["peak"] / MEGABYTE,
            "growth_MB": (run["peak"] - few["peak"]) / MEGABYTE,
            "share_outside_forward": 1 - run["forward"],
            "share_waiting": run["waiting"],
            "share_hooks": run["ours"],
        }
        rows.append(
            row("measure, a million", "float16", (samples, *SHAPE), [run["seconds"]], samples * 512, variant=model, **more)
        )
    return rows


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows do not keep of what was promised; empty if all is kept."""
    broken = []
    for entry in rows:
        if not entry.get("same_bytes", True):
            broken.append("the ranks gave other bytes than one alone")
        if entry.get("ranks") == 2 and not entry["times_one_rank"] >= RATIO:
            broken.append(f"two ranks are {entry['times_one_rank']:.2f} times as fast as one, expected {RATIO}")
        if entry.get("variant") == "cnn" and not entry["share_outside_forward"] <= SHARE:
            broken.append(f"{100 * entry['share_outside_forward']:.0f} % of the time is outside the CNN's forward, expected 10")
        if "growth_MB" in entry and not entry["growth_MB"] <= GROWTH_MB:
            broken.append(f"memory grew by {entry['growth_MB']:.1f} MB ({entry['variant']}), allowed {GROWTH_MB:g}")
    return list(dict.fromkeys(broken))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write conditions and rows to this file")
    parser.add_argument("--samples", type=int, default=200_000, help="samples of the runs by ranks")
    parser.add_argument("--million", type=int, default=1_000_000, help="samples of the long runs")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    busy = load()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "model.py").write_text(MODELS)
        rows = rank_rows(place, options.samples, options.rounds)
        print(
            table(rows, ("ranks", "samples", "total_s", "process_s", "samples_per_s", "times_one_rank", "same_bytes")), flush=True
        )
        long = million_rows(place, options.million)
    shown = ("variant", "samples", "total_s", "samples_per_s", "resident_MB", "growth_MB")
    print(table(long, (*shown, "share_outside_forward", "share_waiting", "share_hooks")), flush=True)
    rows += long
    broken = verdicts(rows)
    print("\n".join(broken) if broken else "all that was promised is kept")
    if options.json:
        write(options.json, rows, load=busy, broken=broken, command="python -m benchmarks.ranks")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
