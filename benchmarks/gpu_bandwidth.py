"""How fast `reduce` and `fold` read on a CUDA device, beside the fastest plain read of the same run.

`bandwidth_rows` makes the table; `gpu_check` writes it. With a host runtime in place of a device the same code runs on tiny
tensors: that proves the plumbing and no speed.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import paired, row
from naa_fast.kernels import cuda
from naa_fast.kernels.cuda.compile import Queue, Runtime, by_value
from naa_fast.kernels.cuda.fold import fold_on
from naa_fast.kernels.cuda.reduce import reduce_on

WIDTHS = (64, 256, 1000, 1024, 4096, 14336, 50257)
IMAGES = ((64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7))
"""Channels and side of the outputs of ResNet-50."""

POSITIONS = 2048
ROUNDS, REPEATS = 11, 4

READ = """
// Nothing but loads: eight 16-byte ones of a thread on their way at a time. The store keeps the compiler from dropping them.
struct ReadArgs { long long x, vectors, out; };
extern "C" __global__ void __launch_bounds__(512) read_all(const ReadArgs a) {
  const uint4* x = reinterpret_cast<const uint4*>(a.x);
  const long long step = 512LL * gridDim.x;
  long long i = blockIdx.x * 512LL + threadIdx.x;
  unsigned seen = 0;
  for (; i + 7 * step < a.vectors; i += 8 * step) {
    uint4 v[8];
#pragma unroll
    for (int u = 0; u < 8; ++u) v[u] = __ldg(x + i + u * step);
#pragma unroll
    for (int u = 0; u < 8; ++u) seen ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  for (; i < a.vectors; i += step) seen ^= x[i].x ^ x[i].y ^ x[i].z ^ x[i].w;
  if (seen == 0x9e3779b9u) *reinterpret_cast<unsigned*>(a.out) = seen;
}
"""


class WrongAnswer(Exception):
    """A kernel that would have been timed computes something else than it should."""


@dataclass(frozen=True)
class Layout:
    """A tensor to read: `shape` as a model gives it, and its view `[outer, channels, inner]`."""

    case: str
    dtype: str
    shape: tuple[int, ...]
    view: Callable[[Tensor], Tensor]

    def tensor(self, device: str) -> Tensor:
        """Standard normal values in this layout, as the view that `reduce` takes."""
        return self.view(torch.empty(self.shape, dtype=getattr(torch, self.dtype), device=device).normal_(1.0, 2.0))


def layouts(nbytes: int, small: bool) -> Iterator[Layout]:
    """Every layout at every width, about `nbytes` each; fewer widths for the types that are not the target."""

    def many(per_sample: int, dtype: str) -> int:
        return max(1, nbytes // (per_sample * (2 if dtype.endswith("float16") else 8 if dtype == "float64" else 4)))

    for dtype in ("float32", "bfloat16", "float16", "float64"):
        main = dtype in ("float32", "bfloat16")
        for width in (WIDTHS if main else (4096,))[: 1 if small else None]:
            yield Layout("[N,D]", dtype, (many(width, dtype), width), lambda x: x[:, :, None])
        for width in ((64, 768, 4096, 14336) if main else (4096,))[: 1 if small else None]:
            positions = 40 if small else POSITIONS
            texts = many(width * positions, dtype), positions, width
            yield Layout("[B,T,D]", dtype, texts, lambda x: x.permute(0, 2, 1))
        for channels, side in (IMAGES if main else IMAGES[1:2])[-1 if small else None :]:
            shape = (many(channels * side * side, dtype), channels, side, side)
            yield Layout("NCHW", dtype, shape, lambda x: x.flatten(2))
            shape = (shape[0], side, side, channels)
            yield Layout("channels_last", dtype, shape, lambda x: x.permute(0, 3, 1, 2).flatten(2))


class Clock:
    """Times work on a device by its own events, or on the host by the host's clock."""

    def __init__(self, device: str) -> None:
        self.cuda = device != "cpu"

    def seconds(self, work: Callable[[int], object], repeats: int) -> float:
        """Of one call, over `repeats` of them back to back; `work` gets their number."""
        if not self.cuda:
            start = time.perf_counter()
            for turn in range(repeats):
                work(turn)
            return (time.perf_counter() - start) / repeats
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        for turn in range(repeats):
            work(turn)
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1e3 / repeats


def reader(device: str, runtime: Runtime) -> Callable[[Tensor], object]:
    """Reads a tensor and does nothing else: the fastest of three grids. On the host a sum stands in for it."""
    if device == "cpu":
        return lambda x: x.sum()
    cupy = importlib.import_module("cupy")
    function = cupy.RawModule(code=READ, options=("--std=c++17",)).get_function("read_all").kernel
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    out = torch.zeros(1, dtype=torch.int32, device=device)

    def read(x: Tensor, blocks: int) -> None:
        words = np.array([x.data_ptr(), x.numel() * x.element_size() // 16, out.data_ptr()], np.int64)
        argument = words.view(by_value(3))[0, ...]
        function((blocks,), (512,), (argument,), 0, Queue(torch.cuda.current_stream().cuda_stream))

    probe = torch.empty(1 << 29, dtype=torch.uint8, device=device)
    clock = Clock(device)
    grids = [processors * many for many in (4, 8, 16, 64)]
    speed = {grid: min(clock.seconds(lambda _, g=grid: read(probe, g), 4) for _ in range(5)) for grid in grids}  # type: ignore[misc]
    best = min(speed, key=lambda grid: speed[grid])
    return lambda x: read(x, best)


def check(x: Tensor, runtime: Runtime) -> None:
    """Means, square sums and counts of the first neurons against torch in float64. Raises WrongAnswer.

    Rounding may move a power sum around a pivot at most `reach` away by (6 sqrt(L) + 2k) u n reach^k, L additions to an
    accumulator, which a tile bounds by 512 (derived in tests/tolerances.py: Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019).
    """
    state = cuda.empty(x.shape[1], x)
    fold_on(runtime, [(state, reduce_on(runtime, x, None, 0))], 0)
    part = x[:, :16].double()
    mean, count = part.mean((0, 2)), x.shape[0] * x.shape[2]
    square = ((part - mean[:, None]) ** 2).sum((0, 2))
    sigma = (square / count).sqrt()
    reach = sigma + torch.minimum(part.amax((0, 2)) - part.amin((0, 2)), 8 * sigma)
    unit, walk = (2.0**-53 if x.dtype == torch.float64 else 2.0**-24), 6 * min(count, 512) ** 0.5
    rounding = torch.finfo(torch.float64).eps * count
    allowed = torch.stack([(walk + 2) * unit * reach, count * (3 * walk + 8) * unit * reach**2]) + rounding
    want, got = torch.stack([mean, square]), state.moments[0, :2, :16]
    over = ((got - want).abs() / allowed).amax(0)
    worst = int(over.nan_to_num(nan=torch.inf).argmax())
    if not (bool((over <= 1).all()) and bool((state.counts[0, 0] == count).all())):
        raise WrongAnswer(
            f"{list(x.shape)} {x.dtype}, neuron {worst}: mean and m2 {got[:, worst].tolist()}, expected {want[:, worst].tolist()}"
            f" within {allowed[:, worst].tolist()}; counts {state.counts[0, 0].unique().tolist()}, expected {count}"
        )


def bandwidth_rows(device: str, runtime: Runtime, nbytes: int, small: bool = False) -> list[dict[str, Any]]:
    """One row a layout, type and width: `reduce` and `reduce` + `fold`, each as a share of the plain read in the same rounds.

    Two tensors in turn, so that nothing is read from the device's cache; every answer is checked before it is timed.
    """
    torch.manual_seed(0)
    read, clock, rows = reader(device, runtime), Clock(device), []
    rounds, repeats = (1, 1) if small else (ROUNDS, REPEATS)
    for layout in layouts(nbytes, small):
        tensors = [layout.tensor(device) for _ in range(2)]
        check(tensors[0], runtime)
        state = cuda.empty(tensors[0].shape[1], tensors[0])

        def reduce_only(turn: int, held: list[Tensor] = tensors) -> None:
            reduce_on(runtime, held[turn % 2], None, 0)

        def reduce_and_fold(turn: int, held: list[Tensor] = tensors, into: Any = state) -> None:
            fold_on(runtime, [(into, reduce_on(runtime, held[turn % 2], None, 0))], 0)

        def plain(turn: int, held: list[Tensor] = tensors) -> None:
            read(held[turn % 2])

        work = {"read": plain, "reduce": reduce_only, "reduce + fold": reduce_and_fold}
        times: dict[str, list[float]] = {name: [] for name in work}
        for form in work.values():
            clock.seconds(form, 2)
        for _ in range(rounds):
            for name, form in work.items():
                times[name].append(clock.seconds(form, repeats))
        size = tensors[0].numel() * tensors[0].element_size()
        for name in ("reduce", "reduce + fold"):
            share = paired(times["read"], times[name])
            rows.append(row(f"{name} {layout.case}", layout.dtype, layout.shape, times[name], size, share_of_read=share))
        rows.append(row(f"read {layout.case}", layout.dtype, layout.shape, times["read"], size))
        del tensors
    return rows
