"""Speed of the CPU kernels beside the machine's own read bandwidth: `python -m benchmarks.cpu_kernels [--json FILE]`.

Every case is checked against plain formulas first, then timed in turns with the bandwidth probe, NumPy's mean and torch's mean
and var_mean on the same values, so that shares and ratios come from one run. About five minutes with the default size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
import torch
from numba import njit

from benchmarks.common import conditions, interleaved, paired, row, write
from naa_fast.kernels import cpu
from naa_fast.kernels.cpu.threads import run
from naa_fast.records import Array

MEGABYTE = 1 << 20
TORCH_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@njit(nogil=True, fastmath=True)
def total(x: Array) -> Any:
    result = np.float32(0)
    for i in range(len(x)):
        result += x[i]
    return result


@njit(nogil=True, fastmath=True)
def total_of_four(x: Array) -> Any:
    """As `total`, over four streams at a time."""
    result = np.float32(0)
    quarter = len(x) // 4
    a, b, c, d = x[:quarter], x[quarter : 2 * quarter], x[2 * quarter : 3 * quarter], x[3 * quarter :]
    for i in range(quarter):
        result += (a[i] + b[i]) + (c[i] + d[i])
    return result


def reader(x: Array, form: Callable[..., Any]) -> Callable[[], None]:
    """Reads all of `x` on as many threads as the kernels use, in pieces of 1 MB, on the kernels' own threads."""
    step = MEGABYTE // x.itemsize
    tasks: list[Callable[[], Any]] = [partial(form, x[start : start + step]) for start in range(0, x.size, step)]
    return lambda: run([*tasks], x.nbytes)


def cases(nbytes: int, widths: list[int]) -> list[tuple[str, str, tuple[int, int, int], str]]:
    """`(name, dtype, (outer, channels, inner), order)`, tensors of about `nbytes`."""
    listed = []
    for dtype, size in (("float32", 4), ("bfloat16", 2), ("float16", 2)):
        for channels in widths:
            listed.append(("[N,D]", dtype, (nbytes // size // channels, channels, 1), "rows"))
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        for channels, inner in ((64, 3136), (256, 784), (512, 196), (2048, 49)):
            listed.append(("NCHW", dtype, (nbytes // size // (channels * inner), channels, inner), "images"))
    for channels, inner in ((64, 3136), (256, 784), (2048, 49)):
        listed.append(("channels_last", "float32", (nbytes // 4 // (channels * inner), channels, inner), "rows"))
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        for channels in (768, 4096):
            listed.append(("[B,T,D] mask", dtype, (nbytes // size // (channels * 512), channels, 512), "rows masked"))
    return listed


def tensor(source: Array, dtype: str, shape: tuple[int, int, int], order: str) -> tuple[Array, torch.Tensor]:
    """The values as the kernels take them, [outer, channels, inner], and as torch holds them."""
    outer, channels, inner = shape
    count = outer * channels * inner
    # Copied in pieces: torch's conversion of the whole would need it twice.
    values = torch.empty(count, dtype=TORCH_TYPES[dtype])
    for start in range(0, count, len(source)):
        stop = min(start + len(source), count)
        values[start:stop] = torch.from_numpy(source[: stop - start])
    held = values.view(outer, inner, channels).transpose(1, 2) if order != "images" else values.view(shape)
    array = held.view(torch.uint16).numpy() if dtype == "bfloat16" else held.numpy()
    return array, held


def check(x: Array, held: torch.Tensor, mask: Array | None) -> None:
    """Mean and variance against torch in float64, on some channels: no speed without a right answer."""
    state = cpu.empty(x.shape[1], x)
    cpu.fold([(state, cpu.reduce(x, mask, 0))], 0)
    moments, counts, _ = cpu.read([state])[0]
    for channel in range(0, x.shape[1], max(1, x.shape[1] // 3)):
        values = held[:, channel].double()
        if mask is not None:
            values = values[torch.from_numpy(mask)]
        variance, mean = torch.var_mean(values)
        assert counts[0, 0, channel] == values.numel()
        assert abs(moments[0, 0, channel] - mean.item()) <= 1e-6
        assert abs(moments[0, 1, channel] / (values.numel() - 1) / variance.item() - 1) <= 1e-6


def measured(
    name: str, dtype: str, shape: tuple[int, int, int], order: str, source: Array, probe: Array, rounds: int
) -> dict[str, Any]:
    x, held = tensor(source, dtype, shape, order)
    mask = None
    if "masked" in order:
        mask = np.random.default_rng(1).integers(1, shape[2] + 1, (shape[0], 1)) > np.arange(shape[2])  # padded on the right
    check(x, held, mask)
    state = cpu.empty(shape[1], x)
    axes = tuple(axis for axis in (0, 2) if shape[axis] > 1)
    timed: dict[str, Callable[[], object]] = {
        "read": reader(probe, total),
        "read4": reader(probe, total_of_four),
        "ours": lambda: cpu.fold([(state, cpu.reduce(x, mask, 0))], 0),
    }
    if mask is None:
        timed["torch.mean"] = lambda: held.mean(axes)
        if dtype == "float32":
            timed["numpy.mean"] = lambda: x.mean(axes)
    seconds = interleaved(timed, rounds)
    if mask is None:  # seconds a call on its own: as many rounds as ours would take half an hour
        seconds |= interleaved({"torch.var_mean": lambda: torch.var_mean(held, axes)}, 2, 0)
    read = list(np.minimum(seconds["read"], seconds["read4"]))
    nbytes = x.nbytes if mask is None else int(mask.sum()) * shape[1] * x.itemsize
    ratios: dict[str, float | None] = {
        "share_of_read": paired(read, seconds["ours"]) * nbytes / probe.nbytes,
        "read_GB_per_s": probe.nbytes / float(np.median(read)) / 1e9,
    }
    for rival in ("numpy.mean", "torch.mean", "torch.var_mean"):
        known = rival in seconds
        ratios["ratio_to_" + rival.replace(".", "_")] = (
            float(np.median(seconds[rival]) / np.median(seconds["ours"])) if known else None
        )
    return row(name, dtype, shape, seconds["ours"], nbytes, **ratios)


def line(entry: dict[str, Any]) -> str:
    def times(name: str) -> str:
        return "      –" if entry[name] is None else f"{entry[name]:6.1f}x"

    return (
        f"{entry['case']:14s} {entry['dtype']:9s} {'x'.join(map(str, entry['shape'])):>16s} {entry['median_ms']:8.2f} ms "
        f"[{entry['p20_ms']:.2f}, {entry['p80_ms']:.2f}] {entry['GB_per_s']:6.1f} GB/s = {entry['share_of_read']:4.0%} of read"
        f" {times('ratio_to_numpy_mean')} {times('ratio_to_torch_mean')} {times('ratio_to_torch_var_mean')}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write conditions and rows to this file")
    parser.add_argument("--megabytes", type=int, default=256, help="size of each tensor (default 256)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 256, 1024, 4096, 14336], help="D of the [N,D] cases")
    parser.add_argument("--only", help="only cases whose name and dtype contain this")
    options = parser.parse_args(arguments)
    nbytes = options.megabytes * MEGABYTE
    source = np.random.default_rng(0).standard_normal(16 * MEGABYTE, dtype=np.float32)
    probe = np.resize(source, max(nbytes, 256 * MEGABYTE) // 4)
    known = conditions()
    print(f"{known['cpu']}, {numba.get_num_threads()} threads, {known['date']}, {known.get('commit', 'no git')}")
    print("reduce + fold, all statistics; last columns: times faster than numpy.mean, torch.mean, torch.var_mean")
    rows = []
    for name, dtype, shape, order in cases(nbytes, options.widths):
        if options.only and options.only not in f"{name} {dtype}":
            continue
        rows.append(measured(name, dtype, shape, order, source, probe, options.rounds))
        print(line(rows[-1]), flush=True)
    if options.json:
        write(options.json, rows, threads=numba.get_num_threads(), command="python -m benchmarks.cpu_kernels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
