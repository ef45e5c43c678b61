"""Everything a machine with a GPU can tell about this project, in one command: `python -m benchmarks.gpu_check --out DIR`.

Under 8 minutes on one GPU, from a source tree, without network: the kernels' tests on the device, compute-sanitizer where it is
installed, a scan that must say what it says on the CPU, the bandwidth table, the proof that nothing waits or is copied, with and
without ranking, the cost of the default scan and its memory a neuron, the cost of hooks end to end. Writes
DIR/gpu_check.json, in which every part says what it found or why it did not run; exit status 0 only if all that ran is right.
`--dry-run` goes the same way without a GPU, on tiny shapes: it proves the plumbing, that the kernels are right on the host shim
and that the portable backend's scan says what the CPU's does, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import conditions

ROOT = Path(__file__).resolve().parent.parent
TEST = "tests/kernels/test_cuda_on_device.py"
TEST_SECONDS, SANITIZER_SECONDS = 200, 90
TARGET_SHARE = 0.85
TARGET_BYTES = 256 << 20
SANITIZED = ("tokens", "rows", "image", "nan and inf image", "mask", "short samples", "lanes of many rows")
"""Cases small enough for compute-sanitizer, which between them reach every kernel."""


def device_facts(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    if device == "cpu":
        return {"name": "none: dry run"}
    properties = torch.cuda.get_device_properties(device)
    facts = {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_GB": round(properties.total_memory / 1e9, 1),
        "processors": properties.multi_processor_count,
        "torch_cuda": torch.version.cuda,
    }
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem", "--format=csv,noheader"]
    try:
        facts["driver, clocks"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        facts["driver, clocks"] = f"unknown: {error}"
    return facts


def run_tests(device: str) -> dict[str, Any]:
    """The kernels' tests on the device, in a process of their own. All of them skipped is not right, but for a dry run."""
    command = [sys.executable, "-m", "pytest", "--no-header", "-rs", TEST]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TEST_SECONDS)
    except subprocess.TimeoutExpired as error:
        return {"right": False, "said": f"not done after {error.timeout} s"}
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    right = done.returncode == 0 and (counts.get("passed", 0) > 0 or device == "cpu")
    return {"right": right, **counts, "said": "" if right else done.stdout[-4000:] + done.stderr[-1000:]}


def sanitize(tool: str) -> dict[str, Any]:
    """compute-sanitizer over small shapes. memcheck without torch's allocator, so that every tensor ends where it ends."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(program).is_file():
        return {"ran": False, "why": "compute-sanitizer is not installed"}
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.gpu_check", "--small-shapes"]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if tool == "memcheck" else None
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SANITIZER_SECONDS, env=environment)
    except subprocess.TimeoutExpired as error:
        return {"ran": False, "why": f"not done after {error.timeout} s"}
    summary = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY.*)", done.stdout)
    right = done.returncode == 0 and bool(summary)
    return {"ran": True, "right": right, "summary": summary, "said": "" if right else done.stdout[-3000:] + done.stderr[-1000:]}


def small_shapes(device: str) -> int:
    """What runs under compute-sanitizer: every kernel on shapes of odd sizes. Returns how many tensors were read."""
    sys.path[:0] = [str(ROOT / "tests")]
    from cuda_on_host import battery

    runtime, read = runtime_for(device), 0
    for name in SANITIZED[:2] if device == "cpu" else SANITIZED:
        for dtype in ("float32", "bfloat16"):
            x, mask, phase = battery.form(battery.cases()[name], dtype, device)
            for layout, view, valid in battery.layouts(x, mask):
                record = battery.observed(battery.reduced(view, valid, phase, runtime), phase, runtime)
                battery.assert_right(record, view, valid, phase, f"{name}, {layout}")
                read += 1
    return read


def runtime_for(device: str) -> Any:
    """The device's launcher, or without one the host shim."""
    if device == "cpu":
        sys.path[:0] = [str(ROOT / "tests")]
        from cuda_on_host.host import HostRuntime

        return HostRuntime("forward", 24)
    from naa_fast.kernels.cuda.compile import runtime

    return runtime(torch.empty(1, device=device))


def bandwidth(device: str) -> dict[str, Any]:
    from benchmarks.gpu_bandwidth import bandwidth_rows

    small = device == "cpu"
    rows = bandwidth_rows(device, runtime_for(device), 1 << 14 if small else 2 * TARGET_BYTES, small)
    main = [entry for entry in rows if entry["case"].startswith("reduce + fold") and entry["dtype"] in ("float32", "bfloat16")]
    lowest: dict[str, float] = {}
    for entry in main:
        key = f"{entry['case']} {entry['dtype']}"
        lowest[key] = min(lowest.get(key, 9.0), entry["share_of_read"])
    return {"right": True, "rows": rows, "lowest_share": lowest, "target": TARGET_SHARE, "measured": not small}


def copies(device: str) -> dict[str, Any]:
    from benchmarks.gpu_end_to_end import sync_and_copy_proof

    found = sync_and_copy_proof(device, 1 if device == "cpu" else 5)
    return {"right": bool(found["proved"]) or device == "cpu", **found}


def end_to_end(device: str) -> dict[str, Any]:
    from benchmarks.gpu_end_to_end import end_to_end_rows

    rows = end_to_end_rows(device, "small", 1) if device == "cpu" else end_to_end_rows(device, "full", 10)
    return {"right": True, "rows": rows, "measured": device != "cpu"}


def scan_part(name: str, device: str) -> dict[str, Any]:
    from benchmarks import gpu_scan

    found: dict[str, Any] = getattr(gpu_scan, name)(device)
    return found


def parts(device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """The parts in their order: correctness before speed."""
    return {
        "tests": lambda: run_tests(device),
        "memcheck": lambda: sanitize("memcheck"),
        "racecheck": lambda: sanitize("racecheck"),
        "scan": lambda: scan_part("same_verdict", device),
        "bandwidth": lambda: bandwidth(device),
        "copies": lambda: copies(device),
        "scan_copies": lambda: scan_part("ranked_copies", device),
        "scan_cost": lambda: scan_part("scan_cost", device),
        "end_to_end": lambda: end_to_end(device),
    }


def guarded(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The part's findings, or what it died of: one that fails must not take the others' figures with it."""
    start = time.perf_counter()
    try:
        found = part()
    except Exception as error:
        found = {"right": False, "said": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-3000:]}
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def summary(name: str, found: dict[str, Any]) -> str:
    """One line for the terminal."""
    verdict = "did not run" if found.get("ran") is False else "right" if found.get("right") else "WRONG"
    more = found.get("why") or found.get("lowest_share") or {k: found[k] for k in ("passed", "failed", "skipped") if k in found}
    said = str(found.get("said", "")).strip().splitlines()
    return f"{name:>10}  {verdict}  {found['seconds']} s  {more or ''}" + (f"\n{'':>12}{said[-1]}" if said else "")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for gpu_check.json")
    parser.add_argument("--dry-run", action="store_true", help="go the same way without a GPU, on tiny shapes")
    parser.add_argument("--only", nargs="+", choices=list(parts("cpu")), help="run these parts alone")
    parser.add_argument("--small-shapes", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    device = "cpu" if given.dry_run else "cuda:0"
    if not given.dry_run and not torch.cuda.is_available():
        print("torch finds no CUDA device; --dry-run goes the same way without one", file=sys.stderr)
        return 2
    if given.small_shapes:
        print(f"{small_shapes(device)} tensors read")
        return 0
    if given.out is None:
        parser.error("--out: where to write gpu_check.json")
    given.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"conditions": conditions(), "device": device_facts(device), "dry_run": given.dry_run}
    for name, part in parts(device).items():
        if given.only and name not in given.only:
            continue
        report[name] = guarded(part)
        print(summary(name, report[name]), flush=True)
        # After every part: what was measured stays, whatever happens to the machine.
        (given.out / "gpu_check.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    wrong = [name for name in parts(device) if report.get(name, {}).get("right") is False]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
