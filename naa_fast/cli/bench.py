"""`naa-fast bench`: how fast the kernels are here, beside what this machine could do at best and what torch and NumPy do."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naa_fast.cli.shared import DEVICES, add_images, add_model, add_text, emit, note, positive
from naa_fast.errors import EXIT_PASS, BackendUnavailable, NaaError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from naa_fast.ops import Chosen

ROUNDS = 7
LEAST_ROUNDS = 3
SECONDS = 40.0
"""For everything: what has not begun by then is left out, and it is said."""
SLOW, PART = 0.25, 16
"""Seconds of one call beyond which a rival is timed once, on that part of the tensor: what is slow is so in proportion."""
TILE_BYTES = 16 << 20
"""Noise that is drawn; the rest of a tensor repeats it."""
FASTER = (
    "* more than 100 %: the read is timed by torch.sum, which does not reach what this memory can do, or another program slowed "
    "it down in between; the share is of that read, not of the memory"
)
DEFAULT_MEGABYTES = {"cpu": 256, "cuda": 512}  # more than caches hold: at 64 MB, third-level caches of servers answer
WIDTHS = {"[N,D]": (1024, 1), "[B,T,D]": (1024, 256), "NCHW": (256, 784), "channels_last": (256, 784)}  # channels, positions
CASES = (
    ("[N,D]", "float32"),
    ("[N,D]", "bfloat16"),
    ("[N,D]", "float16"),
    ("[B,T,D]", "bfloat16"),
    ("NCHW", "float32"),
    ("NCHW", "bfloat16"),
    ("channels_last", "float32"),
)


class WrongAnswer(NaaError):
    """A kernel disagrees with float64 on this machine; its speed is of no interest."""


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "time the kernels on this machine against its read bandwidth, torch and NumPy (under a minute)"
    parser = verbs.add_parser("bench", help=about, description=about, parents=parents)
    parser.examples = (
        "naa-fast bench --device cpu",
        "naa-fast bench --model net.py:build --weights net.safetensors --data clean.npz",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to measure (default: a GPU if there is one)")
    parser.add_argument(
        "--megabytes",
        type=positive,
        metavar="N",
        help="size of each tensor (default: 256, on a GPU 512)",
    )
    parser.add_argument("--json", action="store_true", help="print conditions and rows as JSON")
    add_model(parser, required=False)
    data = parser.add_argument_group("data: what a scan of your own model takes, in place of the kernels")
    data.add_argument("--data", type=Path, metavar="PATH", help="a set as for measure, of which the first samples run")
    data.add_argument("--samples", type=positive, default=2048, metavar="N", help="how many (default: 2048)")
    data.add_argument("--batch-size", type=positive, default=256, metavar="N", help="samples a forward (default: 256)")
    data.add_argument("--layers", action="extend", nargs="+", metavar="GLOB", help="as for scan")
    add_text(data)
    add_images(data)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import torch

    if arguments.model is not None or arguments.data is not None:
        from naa_fast.cli import bench_own

        return bench_own.run(arguments)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable("device 'cuda' cannot be had", "torch finds no CUDA device", "naa-fast doctor says more")
    device = torch.device("cuda" if arguments.device != "cpu" and torch.cuda.is_available() else "cpu")
    nbytes = (arguments.megabytes or DEFAULT_MEGABYTES[device.type]) << 20
    known = conditions(device)
    if not arguments.json:
        emit(", ".join(f"{key} {value}" for key, value in known.items()))
        emit(f"reduce + fold, all statistics, {nbytes >> 20} MB a tensor; in brackets 20 % and 80 % of the rounds;")
        emit("torch.mean ×2: torch's mean alone takes twice as long")
    rows: list[dict[str, Any]] = []
    left_out = []
    ends = time.perf_counter() + SECONDS
    for number, (layout, dtype) in enumerate(CASES):
        seconds = (ends - time.perf_counter()) / (len(CASES) - number + 1)
        if seconds <= 0:
            left_out.append(f"{layout} {dtype}")
            continue
        rows.append(kernel_row(layout, dtype, nbytes, device, seconds))
        if arguments.json:
            note(f"{layout} {dtype}")
        else:
            emit(kernel_line(rows[-1]))
    if any(row["faster_than_read"] for row in rows):
        known["note"] = FASTER
    whole = forward_row(device, max(ends - time.perf_counter(), 0.0))
    rows.append(whole)
    if left_out:
        note(f"left out, {SECONDS:g} s had gone: {', '.join(left_out)}; fewer --megabytes take less")
    if arguments.json:
        emit(json.dumps({"conditions": known, "rows": rows}, indent=1, ensure_ascii=False))
    else:
        emit(
            f"a forward with every convolution hooked: {whole['median_ms']:.1f} ms, bare {whole['bare_ms']:.1f} ms "
            f"({100 * whole['overhead']:+.0f} %)"
        )
        if "note" in known:
            emit(FASTER)
    return EXIT_PASS


def conditions(device: Any) -> dict[str, Any]:
    import platform

    import torch

    from naa_fast.ops import choose

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    backend = choose("reduce", torch.zeros(1, device=device)).backend
    return {
        "device": f"{device.type} ({name})",
        "backend": backend,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def timed(case: Callable[[], object], device: Any) -> float:
    """Seconds of one call, of a device until it has answered."""
    import torch

    start = time.perf_counter()
    case()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def turns(cases: dict[str, Callable[[], object]], device: Any, most: float) -> dict[str, list[float]]:
    """Seconds of every round of every case, in turns, after one round that is not counted; fewer rounds, one at least, where
    `most` seconds do not suffice.
    """
    start = time.perf_counter()
    for case in cases.values():
        timed(case, device)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for done in range(ROUNDS):
        gone = time.perf_counter() - start
        if (done >= LEAST_ROUNDS and gone > most / 2) or (done >= 1 and gone > most):
            break
        for name, case in cases.items():
            seconds[name].append(timed(case, device))
    return seconds


def tensor(layout: str, dtype: str, nbytes: int, device: Any) -> tuple[Tensor, tuple[int, ...]]:
    """Noise as `[outer, channels, inner]` in the memory order of the layout, and the axes torch reduces over."""
    import torch

    kind: torch.dtype = getattr(torch, dtype)
    channels, inner = WIDTHS[layout]
    outer = max(2, nbytes // (kind.itemsize * channels * inner))
    shape = (outer, channels, inner) if layout == "NCHW" else (outer, inner, channels)
    tile = (max(2, min(outer, TILE_BYTES // (4 * channels * inner))), *shape[1:])
    noise = torch.randn(tile, generator=torch.Generator(device).manual_seed(0), device=device).to(kind)
    values = noise.repeat(-(-outer // len(noise)), 1, 1)[:outer]
    return (values if layout == "NCHW" else values.transpose(1, 2)), ((0,) if inner == 1 else (0, 2))


class Kernel:
    """The chosen backend on one tensor `[outer, channels, inner]`, as the accumulator calls it."""

    def __init__(self, x: Tensor) -> None:
        from naa_fast.accumulate.samples import HOST_BACKENDS, host_array
        from naa_fast.ops import choose

        choice = choose("reduce", x)
        self.backend: Chosen = choice.module
        self.x = host_array(x) if choice.backend in HOST_BACKENDS else x
        self.state = self.backend.empty(x.shape[1], x)

    def __call__(self) -> None:
        self.backend.fold([(self.state, self.backend.reduce(self.x, None, 0))], 0)

    def positions(self) -> tuple[Any, Any]:
        """Mean and variance per neuron of all that was seen."""
        from naa_fast.records import LayerRecord

        (packed,) = self.backend.read([self.state])
        moments = LayerRecord.unpacked("", "", *packed).positions
        return moments.mean, moments.variance


def check(x: Tensor, what: str) -> None:
    """Raise WrongAnswer unless mean and variance of some neurons of `x` `[outer, channels, inner]` are those of float64, to 1e-5
    of a standard deviation.
    """
    import torch

    kernel = Kernel(x)
    kernel()
    mean, variance = kernel.positions()
    for channel in range(0, x.shape[1], max(1, x.shape[1] // 4)):
        right_variance, right_mean = (float(part) for part in torch.var_mean(x[:, channel].double()))
        off = max(abs(mean[channel] - right_mean) / right_variance**0.5, abs(variance[channel] / right_variance - 1))
        if not off <= 1e-5:
            raise WrongAnswer(f"{what}: neuron {channel} is off by {off:.2g}", "expected 1e-5 at most", "please report this")


def kernel_row(layout: str, dtype: str, nbytes: int, device: Any, most: float) -> dict[str, Any]:
    """One case: our time, its share of the read bandwidth, and how many times longer the others take."""
    import numpy
    import torch

    x, axes = tensor(layout, dtype, nbytes, device)
    x = x[:, :, 0] if layout == "[N,D]" else x
    view = x[:, :, None] if x.ndim == 2 else x
    check(view, f"{layout} {dtype}")
    probe = torch.ones(max(nbytes, 32 << 20) // 4, device=device)
    host = x.numpy() if device.type == "cpu" and dtype == "float32" else None
    cases: dict[str, Callable[[], object]] = {
        "ours": Kernel(view),
        "read": probe.sum,
    }
    rivals: dict[str, Callable[[int], object]] = {
        "torch_mean": lambda rows: x[:rows].mean(axes),
        "torch_var_mean": lambda rows: torch.var_mean(x[:rows], axes),
    }
    if host is not None:
        rivals["numpy_mean"] = lambda rows: host[:rows].mean(axes)
    slow: dict[str, float] = {}
    for name, rival in rivals.items():
        few = max(2, len(x) // PART)
        part = [timed(partial(rival, few), device) for _ in range(2)][-1] * len(x) / few
        if part > SLOW:
            slow[name] = part
        else:
            cases[name] = partial(rival, len(x))
    seconds = turns(cases, device, most)
    ours = seconds["ours"]

    def times(name: str) -> float | None:
        if name in slow:
            return slow[name] / float(numpy.median(ours))
        return float(numpy.median(numpy.divide(seconds[name], ours))) if name in seconds else None

    share = (times("read") or 0.0) * x.nbytes / probe.nbytes
    return {
        "case": layout,
        "dtype": dtype,
        "shape": list(x.shape),
        **spread(ours),
        "GB_per_s": x.nbytes / float(numpy.median(ours)) / 1e9,
        "read_GB_per_s": probe.nbytes / float(numpy.median(seconds["read"])) / 1e9,
        "share_of_read": share,
        "faster_than_read": share > 1,
        **{f"ratio_to_{name}": times(name) for name in ("torch_mean", "torch_var_mean", "numpy_mean")},
    }


def spread(seconds: list[float]) -> dict[str, float]:
    import numpy

    low, median, high = (float(value) * 1e3 for value in numpy.percentile(seconds, [20, 50, 80]))
    return {"median_ms": median, "p20_ms": low, "p80_ms": high}


def kernel_line(row: dict[str, Any]) -> str:
    others = ("torch_mean", "torch_var_mean", "numpy_mean")
    times = [f"{name.replace('_', '.', 1)} ×{row[f'ratio_to_{name}']:.1f}" for name in others if row[f"ratio_to_{name}"]]
    return (
        f"{row['case']:14s}{row['dtype']:9s}{row['median_ms']:8.2f} ms [{row['p20_ms']:.2f}, {row['p80_ms']:.2f}]"
        f"{row['GB_per_s']:8.1f} GB/s = {row['share_of_read']:4.0%}{'*' * row['faster_than_read']} of read;  {'  '.join(times)}"
    )


def small_network() -> nn.Module:
    """Six convolutions on images of 64: enough to see what hooks cost, small enough to wait for."""
    from torch import nn

    widths = (3, 32, 32, 64, 64, 128, 128)
    parts: list[nn.Module] = []
    for index in range(6):
        parts += [nn.Conv2d(widths[index], widths[index + 1], 3, 1 + index % 2, 1), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)).eval()


def forward_row(device: Any, most: float) -> dict[str, Any]:
    """A small network with all its convolutions hooked, beside the same network bare."""
    import copy

    import numpy
    import torch

    from naa_fast.accumulate import Accumulator
    from naa_fast.capture import Capture, select

    torch.manual_seed(0)
    bare = small_network().to(device)
    hooked = copy.deepcopy(bare)
    images = torch.randn(64, 3, 64, 64, device=device)
    accumulator = Accumulator()
    with torch.no_grad(), Capture(hooked, select(hooked, torch.nn.Conv2d), accumulator) as capture:

        def ours() -> None:
            accumulator.begin(len(images), 0)
            capture.begin(len(images))
            hooked(images)
            accumulator.commit()

        seconds = turns({"bare": lambda: bare(images), "ours": ours}, device, most)
    return {
        "case": "forward, convolutions hooked",
        "dtype": "float32",
        "shape": list(images.shape),
        **spread(seconds["ours"]),
        "bare_ms": float(numpy.median(seconds["bare"])) * 1e3,
        "overhead": float(numpy.median(numpy.divide(seconds["ours"], seconds["bare"]))) - 1,
    }
