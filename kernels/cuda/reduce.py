"""`reduce` on a CUDA device: one read of a layer's output, one launch, no sync.

`reduce` is `partials_for`, which allocates, and `reduce_into`, which torch.library can wrap: `partial_bytes` says beforehand how
long the output is, from the shape and the device alone, whatever the strides and the phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.errors import InputError
from naa_fast.kernels.cuda.compile import Kernel, Runtime, Words, dtype_of, runtime
from naa_fast.records import COUNT_FIELDS, FOLD_BLOCK, FOLDS, MOMENT_FIELDS

ITEMSIZE = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
BLOCK = 256
REALS, COUNTS = 1 + len(MOMENT_FIELDS), (len(COUNT_FIELDS) + 2) // 2
"""Words of an item: the pivot and every moment; every count and the exponent of the sums, two a word (common.cuh)."""


@dataclass(frozen=True)
class Partials:
    """Items on the device, packed: reals `[items, REALS, channels]`, then counts `[items, COUNTS, channels]` (common.cuh).

    `samples` >= 0: items are `samples * tiles`; -1: items are `tiles`, tile t of fold t % FOLDS.
    """

    buffer: Tensor
    dtype: str
    channels: int
    samples: int
    tiles: int

    @property
    def per_sample(self) -> bool:
        return self.samples >= 0

    @property
    def items(self) -> int:
        return self.samples * self.tiles if self.per_sample else self.tiles

    @property
    def counts_at(self) -> int:
        """The byte at which the counts begin."""
        return self.items * REALS * self.channels * max(4, ITEMSIZE[self.dtype])

    def real(self, field: int) -> Tensor:
        """One of an item's reals (PIVOT, S1, ... of common.cuh): float64 `[items, channels]`."""
        wide = torch.float64 if self.dtype == "float64" else torch.float32
        words = self.buffer[: self.counts_at].view(wide).view(self.items, REALS, self.channels)
        return words[:, field].to(torch.float64)

    def half(self, name: str) -> Tensor:
        """One of COUNT_FIELDS, or "exponent": int32 `[items, channels]`."""
        words = self.buffer[self.counts_at :].view(torch.int32).view(self.items, COUNTS, self.channels)
        place = (*COUNT_FIELDS, "exponent").index(name)
        word = words[:, place // 2]
        if name == "exponent":  # signed
            return (word if place % 2 else word << 16) >> 16
        return (word >> 16 if place % 2 else word) & 0xFFFF


@dataclass(frozen=True)
class Plan:
    """A launch but for its addresses and phase: `words` are the fields of ReduceArgs (tile.cuh)."""

    kernel: Kernel
    grid: int
    words: Words
    tiles: int
    reals: int
    nbytes: int


def above(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def partition(outer: int, channels: int, inner: int, itemsize: int, slots: int) -> tuple[int, int]:
    """`(tiles, length)`: tiles of the batch (inner == 1, a multiple of FOLDS) or of a sample, and positions a tile.

    Large, so that writing and reading the items (36 bytes each, 64 for float64) stays near 1 % of the read; small enough that a
    float32 accumulator sees at most 512 additions and that `slots`, the blocks the device runs at once, are filled evenly.
    """
    across = above(channels, 512 // itemsize)  # blocks along the channels, 32 lanes of 16 bytes each
    if inner == 1:
        least = FOLDS * max(1, above(outer, FOLDS * (1024 if itemsize >= 4 else 2048)))
        most = max(least, FOLDS * (outer // (FOLDS * 64)))

        def cost(tiles: int) -> float:
            waves = tiles * across / slots
            return -(-waves // 1) / waves * (1.0 + 72.0 * tiles / (itemsize * max(outer, 1)))

        return min(range(least, min(most, 4 * least) + 1, FOLDS), key=cost) if across else least, 1
    blocks = max(1, outer * across)
    tiles = max(
        1,
        above(inner, 8192 // itemsize),
        min(above(4 * slots, blocks), inner * itemsize // 2048),
        min(above(slots, blocks), inner // 256),
    )
    length = inner if tiles == 1 else above(above(inner, tiles), 16) * 16
    return max(1, above(inner, max(length, 1))), length


def partial_bytes(shape: tuple[int, int, int], dtype: str, slots: int) -> int:
    """Bytes of the packed items of a tensor of `shape`."""
    outer, channels, inner = shape
    tiles, _ = partition(outer, channels, inner, ITEMSIZE[dtype], slots)
    items = tiles if inner == 1 else outer * tiles
    return items * channels * (REALS * max(4, ITEMSIZE[dtype]) + COUNTS * 4)


def lanes_along(channels: int, vector: int, itemsize: int) -> int:
    """Lanes of a warp along the channels: few idle ones, but 64 bytes of a row together where it has them."""
    vectors = above(channels, vector)
    together = min(64, channels * itemsize)

    def cost(lanes: int) -> float:
        idle = above(vectors, lanes) * lanes / vectors
        return idle * max(1.0, together / (lanes * vector * itemsize)) * (1.0 + 0.02 * (5 - lanes.bit_length()))

    return min((32, 16, 8, 4, 2, 1), key=cost)


def plan(shape: tuple[int, int, int], strides: tuple[int, int, int], dtype: str, aligned: bool, masked: bool, slots: int) -> Plan:
    """How to read a tensor of this form; `aligned`: its address is a multiple of 16.

    Channels next to each other: lanes along the channels. Positions next to each other: lanes along the positions. Neither: lanes
    along the channels, one element at a time. Nothing is ever copied.
    """
    (outer, channels, inner), itemsize = shape, ITEMSIZE[dtype]
    vector = 16 // itemsize
    tiles, length = partition(outer, channels, inner, itemsize, slots)
    # An axis of one element has no stride to speak of.
    strides_used = [stride for size, stride in zip(shape, strides, strict=True) if size > 1]
    rows = inner == 1 or strides[2] != 1 or (channels > 1 and strides[1] == 1)
    groups = team = 0
    if rows:
        near = strides[1] == 1 or channels == 1
        others = [s for axis, s in enumerate(strides) if axis != 1 and shape[axis] > 1]
        whole = near and aligned and channels % vector == 0 and all(s % vector == 0 for s in others)
        name = ("reduce_rows" if whole else "reduce_rows_scalar") + ("_masked" if masked else "")
        step = vector if whole else 1
        width = lanes_along(channels, step, itemsize)
        groups = above(channels, step * width)
        places = BLOCK // width
        # Short samples: a lane reads one to its end, which spares the block its sums over lanes, if there are enough of them.
        alone = inner > 1 and tiles == 1 and inner <= 256 and above(outer, places) * groups >= slots
        team = 0 if alone else 1
        items = tiles if inner == 1 else outer * tiles
        grid = (above(items, places) if alone else items) * groups
    else:
        whole = aligned and not masked and inner % vector == 0 and length % vector == 0
        whole = whole and all(s % vector == 0 for s in strides_used if s != 1)
        name = "reduce_planes" if whole else "reduce_planes_ragged"
        width = 1
        while width < 32 and length >= 8 * width * vector:  # at least four loads a lane
            width *= 2
        grid = above(outer * channels * tiles, BLOCK // width)
    if outer * inner >= 1 << 32:
        raise InputError(f"a tensor of shape {list(shape)} has {outer * inner} positions a neuron", "use smaller batches")
    if grid >= 1 << 31:
        raise InputError(
            f"a tensor of shape {list(shape)} needs {grid} blocks", "a launch has at most 2147483647; use smaller batches"
        )
    words = np.zeros(19, np.int64)
    words[4:15] = outer, channels, inner, *strides, tiles, length, width, team, groups
    items = tiles if inner == 1 else outer * tiles
    reals = items * channels * REALS * max(4, itemsize)
    return Plan(Kernel("reduce", name, dtype), grid, words, tiles, reals, partial_bytes(shape, dtype, slots))


@cache
def cached_plan(*form: Any) -> Plan:
    return plan(*form)


def plan_of(x: Tensor, mask: Tensor | None, device: Runtime) -> Plan:
    """The plan for `x`, made once per form. Raises InputError for an element type, shape or mask that has no kernel."""
    dtype = dtype_of(x)
    if x.ndim != 3:
        raise InputError(f"reduce reads [outer, channels, inner]; this tensor is {list(x.shape)}")
    if mask is not None:
        wanted = (x.shape[0], x.shape[2])
        if mask.dtype != torch.bool or tuple(mask.shape) != wanted or mask.device != x.device or not mask.is_contiguous():
            raise InputError(
                f"mask is {mask.dtype} {list(mask.shape)} on {mask.device}",
                f"expected a contiguous torch.bool {list(wanted)} on {x.device}",
            )
    slots = device.slots(Kernel("reduce", "reduce_rows", dtype))
    aligned = x.data_ptr() % 16 == 0
    return cached_plan(tuple(x.shape), tuple(x.stride()), dtype, aligned, mask is not None, slots)


def launch(
    form: Plan, x: Tensor, mask: Tensor | None, phase: int, out: Tensor, device: Runtime, kept: Tensor | None = None
) -> None:
    if form.grid == 0:
        return
    words, kernel = form.words.copy(), form.kernel
    address, room = x.data_ptr(), out.data_ptr()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    words[:4] = address, 0 if mask is None else mask.data_ptr(), room, room + form.reals
    words[15:18] = phase % (FOLDS * FOLD_BLOCK), address, address + extent * x.element_size()
    if kept is not None:
        kernel, words[18] = kernel._replace(name=f"{kernel.name}_kept"), kept.data_ptr()
    device.launch(kernel, form.grid, words)


def unwritten(form: Plan, x: Tensor) -> Partials:
    outer, channels, inner = x.shape
    out = torch.empty(form.nbytes, dtype=torch.uint8, device=x.device)
    return Partials(out, form.kernel.dtype, channels, -1 if inner == 1 else outer, form.tiles)


def partials_for(x: Tensor, mask: Tensor | None, device: Runtime | None = None) -> Partials:
    """Unwritten partials of the size `reduce_into` fills for `x`, allocated by torch on its device."""
    return unwritten(plan_of(x, mask, device or runtime(x)), x)


def reduce_into(x: Tensor, mask: Tensor | None, phase: int, out: Tensor, device: Runtime | None = None) -> None:
    """Write the items of `x` to `out`, uint8 of `partial_bytes` on the same device. One launch; every byte is written."""
    device = device or runtime(x)
    form = plan_of(x, mask, device)
    if out.numel() != form.nbytes or out.device != x.device:
        raise InputError(
            f"the partials of this tensor take {form.nbytes} bytes on {x.device}, the buffer has {out.numel()} on {out.device}"
        )
    launch(form, x, mask, phase, out, device)


def reduce_on(device: Runtime, x: Tensor, mask: Tensor | None, phase: int, kept: Tensor | None = None) -> Partials:
    """`reduce` with an explicit runtime; `kept` `[outer, channels]`, fresh and of the type of `x` `[outer, channels, 1]`, takes a
    copy of it, NaN where masked.
    """
    x = x.detach()
    form = plan_of(x, mask, device)
    partials = unwritten(form, x)
    launch(form, x, mask, phase, partials.buffer, device, kept)
    return partials


def reduce(x: Tensor, mask: Tensor | None, phase: int) -> Partials:
    """Partial moments of `x` `[outer, channels, inner]`, any strides, float32, float16, bfloat16 or float64.

    `mask` (contiguous bool `[outer, inner]`): False positions were not observed. `phase`: global index of the batch's first
    sample. One read of `x`, one launch on torch's current stream, one allocation by torch of about 1 % of it.
    """
    return reduce_on(runtime(x), x, mask, phase)
