"""What the hand-written LLVM IR of kernels/cpu is worth: `python -m benchmarks.plain_njit [--json FILE]`.

A copy of kernels/cpu in which PLAIN takes the place of what is not plain Numba is timed in turns with the kernels as they are,
on the same values; what the two say is compared first. Ratios are of processor time, plain over ours: 2 means that ours takes
half. The last line is the time that a fresh process compiles, as it is and with a signature for every constant
(`planes.unspecialised`).
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import paired, row, write
from naa_fast.kernels import cpu

SOURCES = Path(cpu.__file__).parent
PLAIN = {
    "images.sweep": """
@compiled
def sweep(x, start, stride, samples, n, pivot, out):
    lanes = 16
    own = np.zeros(2 * 8 * lanes, out.dtype)
    own[8 * lanes :] = -np.inf
    s2, s3 = np.zeros(lanes, out.dtype), np.zeros(lanes, out.dtype)
    s4, positive = np.zeros(lanes, out.dtype), np.zeros(lanes, out.dtype)
    low = np.full(lanes, np.inf, out.dtype)
    nil, one = out.dtype.type(0), out.dtype.type(1)
    whole = n - n % lanes
    for j in range(samples):
        first = start + j * stride
        sums, highs = own[j * lanes : (j + 1) * lanes], own[(8 + j) * lanes : (9 + j) * lanes]
        for i in range(0, whole, lanes):
            for lane in range(lanes):
                v = value_at(x, first + i + lane)
                d = v - pivot
                d2 = d * d
                sums[lane] += d
                highs[lane] = v if v > highs[lane] else highs[lane]
                s2[lane] += d2
                s3[lane] += d2 * d
                s4[lane] += d2 * d2
                low[lane] = v if v < low[lane] else low[lane]
                positive[lane] += one if v > 0 else nil
        for lane in range(n - whole):
            v = value_at(x, first + whole + lane)
            d = v - pivot
            d2 = d * d
            sums[lane] += d
            highs[lane] = v if v > highs[lane] else highs[lane]
            s2[lane] += d2
            s3[lane] += d2 * d
            s4[lane] += d2 * d2
            low[lane] = v if v < low[lane] else low[lane]
            positive[lane] += one if v > 0 else nil
        out[j] = sums.sum()
        out[8 + j] = highs.max()
    out[16], out[17], out[18], out[19], out[20] = s2.sum(), s3.sum(), s4.sum(), positive.sum(), low.min()
""",
    "tally.put_bins": """
@compiled
def put_bins(x, at, out, to, lanes):
    for k in range(max(lanes, 1)):
        v = value_at(x, at + k)
        bits = np.float32(v).view(np.int32)
        steps = ((bits & 0x7FFFFFFF) >> 21) - BELOW
        steps = min(max(steps, 0), MIDDLE)
        steps = -steps if bits < 0 else steps
        out[to + k] = np.uint8(steps + MIDDLE if v - v == 0 else LEFT_OUT)
""",
    "classes.choose_rows": """
@compiled
def choose_rows(x, stride, classes, first, last, limit, none, out):
    for row in range(first, last):
        start = row * stride
        best, where, finite = value_at(x, start), 0, True
        for c in range(classes):
            v = value_at(x, start + c)
            finite = finite and v - v == 0
            if v > best:
                best, where = v, c
        out[row] = where if finite else none
""",
}
"""The same in plain Numba, by file and name. Lanes of 16 sums are the most that its loop vectoriser makes of `sweep`."""


def copied(folder: Path) -> Any:
    """kernels/cpu with PLAIN in the place of its own functions, imported under a name of its own."""
    name = "plain_kernels"
    (folder / name).mkdir()
    texts = {path.stem: path.read_text().replace("naa_fast.kernels.cpu", name) for path in SOURCES.glob("*.py")}
    for swapped, source in PLAIN.items():
        file, function = swapped.split(".")
        ours = re.compile(rf"\n@(?:intrinsic|compiled)[^\n]*\ndef {function}\(.*?(?=\n\n\n)", re.DOTALL)
        assert len(ours.findall(texts[file])) == 1, swapped
        before, after = ours.split(texts[file])
        texts[file] = before + f"\nfrom {name}.elements import value_at\n\n" + source.rstrip("\n") + after
    for file, text in texts.items():
        (folder / name / f"{file}.py").write_text(text)
    return importlib.import_module(name)


def cases(megabytes: int) -> list[tuple[str, str, str, tuple[int, ...]]]:
    """What is swapped, the op that uses it, the element type, the shape."""
    found: list[tuple[str, str, str, tuple[int, ...]]] = []
    for dtype, size in (("float32", 4), ("bfloat16", 2), ("float16", 2)):
        values = (megabytes << 20) // size
        if dtype == "float32":
            found.append(("sweep", "reduce", dtype, (values // (64 * 3136), 64, 3136)))
            found.append(("sweep", "reduce", dtype, (values // (512 * 49), 512, 49)))
        found.append(("put_bins", "bins", dtype, (values // 1024, 1024)))
        found.append(("choose_rows", "classes", dtype, (values // 1000, 1000)))
        found.append(("choose_rows", "classes", dtype, (values // 10, 10)))
    return found


def worked(module: Any, op: str, x: np.ndarray) -> Callable[[], Any]:
    if op == "reduce":
        state = module.empty(x.shape[1], x)
        return lambda: (module.fold([(state, module.reduce(x, None, 0))], 0), module.read([state])[0])[1]
    if op == "bins":
        return lambda: module.bins(x, None)
    return lambda: module.classes(x, -1)


def alike(ours: Any, plain: Any, op: str) -> bool:
    """Whether both say the same: sums to rounding, bins and classes exactly."""
    if op == "reduce":
        return all(
            np.allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(a[np.isfinite(a)]).max()) for a, b in zip(ours, plain, strict=True)
        )
    return bool(np.array_equal(np.asarray(ours), np.asarray(plain)))


def in_turns(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of every round of every case: on a busy machine the clock tells who was made to wait."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            begun = time.process_time()
            case()
            seconds[name].append(time.process_time() - begun)
    return seconds


def measured(folder: Path, rounds: int, megabytes: int) -> list[dict[str, Any]]:
    rows, random, plain = [], np.random.default_rng(0), copied(folder)
    for swapped, op, dtype, shape in cases(megabytes):
        x = random.standard_normal(shape, np.float32)
        x = (x.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else x.astype(dtype)
        ours, theirs = worked(cpu, op, x), worked(plain, op, x)
        assert alike(ours(), theirs(), op), f"{swapped} on {dtype} {shape}: the plain one says something else"
        seconds = in_turns({"ours": ours, "plain": theirs}, rounds)
        ratio = paired(seconds["plain"], seconds["ours"])
        rows.append(row(swapped, dtype, shape, seconds["ours"], x.nbytes, plain_over_ours=ratio))
        print(f"{swapped:20s} {op:8s} {dtype:9s} {'x'.join(map(str, shape)):>14s}  plain / ours {ratio:5.2f}", flush=True)
    return rows


COMPILE = """
import sys, time, numpy as np
sys.path.insert(0, sys.argv[1])
import naa_fast.records
begun = time.process_time()
import kept as cpu
x = np.ones((64, 64, 1), np.float32)
for shaped in (x, np.ones((16, 8, 40), np.float32)):
    state = cpu.empty(shaped.shape[1], shaped)
    cpu.fold([(state, cpu.reduce(shaped, None, 0))], 0)
print(time.process_time() - begun)
"""
SPECIALISED = ("    kernel.get_call_template = plainly\n", "")


def compiling() -> dict[str, float]:
    """Seconds of a processor that a fresh process imports and compiles the kernels of one element type in."""
    found = {}
    for way, swap in (("as it is", ("", "")), ("specialised", SPECIALISED)):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "kept").mkdir()
            for path in SOURCES.glob("*.py"):
                text = path.read_text().replace("naa_fast.kernels.cpu", "kept")
                (Path(folder) / "kept" / path.name).write_text(text.replace(*swap))
            command = [sys.executable, "-c", COMPILE, folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[way] = float(done.stdout)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write conditions and rows to this file")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--megabytes", type=int, default=32, help="size of each tensor (default 32)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        sys.path.insert(0, scratch)
        rows = measured(Path(scratch), options.rounds, options.megabytes)
        seconds = compiling()
    print(f"compiling: {seconds['as it is']:.1f} s, {seconds['specialised']:.1f} s with a signature for every constant")
    if options.json:
        write(options.json, rows, compiling=seconds, command="python -m benchmarks.plain_njit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
