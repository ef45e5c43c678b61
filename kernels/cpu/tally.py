"""`tally` on the host: the bins of a batch's values in blocks of neighbouring columns, then counted block after block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from naa_fast.kernels.cpu.elements import cgutils, compiled, intrinsic, widened
from naa_fast.kernels.cpu.memory import room
from naa_fast.kernels.cpu.reduce import TASKS, Partials, blocks, elements, flat, pieces
from naa_fast.kernels.cpu.threads import SERIAL_BYTES, Task, run
from naa_fast.records import BINS, LEFT_OUT, LOWEST, OCTAVE, Array

MIDDLE = BINS // 2
WIDTH = 64
"""Columns of a block: their bins of one sample are a line of the cache, and those of 256 samples fit in the nearest one."""
VECTOR = 16
"""Values whose bins are made at a time."""
TOGETHER = 8
"""Columns that are counted at a time, a constant: the loop over them is unrolled, and their counts, 8 KB, stay in the nearest
cache."""
BLOCKS = 16
"""Blocks a task counts."""
BELOW = (127 + LOWEST) * OCTAVE - 1
"""What the topmost bits of a magnitude are in the bin around zero, at most."""


class Tails:
    """A layer's running histograms, int32 `[1 or 2, channels or a few more, BINS + 1]`: a neuron's bins lie together, the last
    takes what is left out. `single` of layers with one position a sample, `pair` (mean and maximum) of the others; made when
    first needed.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.single: Array | None = None
        self.pair: Array | None = None

    def counts(self, views: int) -> Array:
        """Room for so many views, and for whole groups of columns."""
        return np.zeros((views, -(-self.channels // TOGETHER) * TOGETHER, BINS + 1), np.int32)


class Bins:
    """The bins of `[samples, channels]` values, uint8 `[blocks, samples, WIDTH]`; LEFT_OUT beyond the last channel."""

    def __init__(self, samples: int, channels: int) -> None:
        self.channels = channels
        self.blocks = room((-(-channels // WIDTH), samples, WIDTH), np.uint8)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """As the definition has them, uint8 `[samples, channels]`."""
        rows = self.blocks.transpose(1, 0, 2).reshape(self.blocks.shape[1], -1)[:, : self.channels]
        return rows.astype(dtype or np.uint8)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def put_bins(typingctx: Any, x: Any, at: Any, out: Any, to: Any, lanes: Any) -> Any:
    """`records.bin_of` of `lanes` (a literal; 0: one) elements of the flat `x` from `at` on, into the flat `out` from `to` on.

    Written in vector IR because Numba's own integers are 64 bits wide: a quarter as many in a vector. Plain it takes 4.3 to 5.0
    times as long ([N, 1024] of float32, bfloat16 and float16; `benchmarks.plain_njit`).
    """
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    many = lanes.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0].dtype
        source = context.make_array(signature.args[0])(context, builder, args[0]).data
        target = context.make_array(signature.args[2])(context, builder, args[2]).data

        def shaped(element: Any) -> Any:
            return ir.VectorType(element, many) if many else element

        def constant(element: Any, number: Any) -> Any:
            return ir.Constant(shaped(element), [number] * many if many else number)

        word, byte = ir.IntType(32), ir.IntType(8)
        real = ir.DoubleType() if kind == types.float64 else ir.FloatType()
        place = builder.bitcast(cgutils.gep_inbounds(builder, source, args[1]), shaped(source.type.pointee).as_pointer())
        loaded = builder.load(place, align=context.get_abi_sizeof(source.type.pointee))
        value = widened(builder, loaded, kind, many)
        finite = builder.fcmp_ordered("==", builder.fsub(value, value), constant(real, 0.0))
        narrow = builder.fptrunc(value, shaped(ir.FloatType())) if kind == types.float64 else value
        bits = builder.bitcast(narrow, shaped(word))
        steps = builder.lshr(builder.and_(bits, constant(word, 0x7FFFFFFF)), constant(word, 21))
        steps = builder.sub(steps, constant(word, BELOW))
        for sign, bound in (("<", 0), (">", MIDDLE)):
            steps = builder.select(builder.icmp_signed(sign, steps, constant(word, bound)), constant(word, bound), steps)
        negative = builder.ashr(bits, constant(word, 31))  # all ones, or none
        steps = builder.sub(builder.xor(steps, negative), negative)
        chosen = builder.select(finite, builder.add(steps, constant(word, MIDDLE)), constant(word, LEFT_OUT))
        room = builder.bitcast(cgutils.gep_inbounds(builder, target, args[3]), shaped(byte).as_pointer())
        builder.store(builder.trunc(chosen, shaped(byte)), room, align=1)
        return context.get_dummy_value()

    return types.none(x, types.intp, out, types.intp, lanes), codegen


@compiled
def fill_bins(x: Array, stride: int, channels: int, first: int, last: int, samples: int, out: Array) -> None:
    """Bins of rows `first:last` of the flat `x` into the flat `out` [blocks, samples, WIDTH]."""
    whole = channels // WIDTH
    rest = channels - whole * WIDTH
    for row in range(first, last):
        for block in range(whole):
            at, to = row * stride + block * WIDTH, (block * samples + row) * WIDTH
            put_bins(x, at, out, to, 16)
            put_bins(x, at + 16, out, to + 16, 16)
            put_bins(x, at + 32, out, to + 32, 16)
            put_bins(x, at + 48, out, to + 48, 16)
        if rest > 0:
            at, to = row * stride + whole * WIDTH, (whole * samples + row) * WIDTH
            vectors = rest - rest % VECTOR
            for c in range(0, vectors, VECTOR):
                put_bins(x, at + c, out, to + c, 16)
            for c in range(vectors, rest):
                put_bins(x, at + c, out, to + c, 0)
            for c in range(rest, WIDTH):
                out[to + c] = LEFT_OUT


@compiled
def count_bins(chosen: Array, samples: int, first: int, last: int, out: Array) -> None:
    """Count blocks `first:last` of the flat `chosen` [blocks, samples, WIDTH] in `out` [columns, BINS + 1]."""
    cells = out.reshape(-1)  # unsigned places: a negative one would be looked at twice
    for block in range(first, last):
        for c in range(0, min(WIDTH, out.shape[0] - block * WIDTH), TOGETHER):
            column = np.uint64((block * WIDTH + c) * (BINS + 1))
            for row in range(samples):
                at = (block * samples + row) * WIDTH + c
                for k in range(TOGETHER):
                    cells[column + np.uint64(k * (BINS + 1)) + np.uint64(chosen[at + k])] += 1


def tails(channels: int, like: Array) -> Tails:
    """Histograms of a layer of which nothing was seen; `like` tells other backends the device."""
    return Tails(channels)


def bins(x: Array, mask: Array | None) -> Bins:
    """The bin of every value of `x` `[samples, channels]`; see kernels/reference/tally.py. One read of `x`."""
    x = elements(x)
    samples, channels = x.shape
    out = Bins(samples, channels)
    if x.size == 0:
        return out
    layout = flat(x)
    if layout is None or (layout[1][1] != 1 and channels > 1):
        layout = flat(np.ascontiguousarray(x))
        assert layout is not None
    data, (stride, _) = layout
    spans = pieces(samples, 1, TASKS) if x.nbytes >= SERIAL_BYTES else [(0, samples)]
    chosen = out.blocks.reshape(-1)
    run([partial(fill_bins, data, stride, channels, *span, samples, chosen) for span in spans], x.nbytes)
    if mask is not None:
        out.blocks[:, ~mask] = LEFT_OUT
    return out


def count(chosen: Bins, counts: Array) -> None:
    """Add a batch's bins to `counts` [columns, BINS + 1]."""
    number, samples, _ = chosen.blocks.shape
    every = chosen.blocks.reshape(-1)
    tasks: list[Task] = [
        partial(count_bins, every, samples, first, first + width, counts) for first, width in blocks(number, BLOCKS)
    ]
    run(tasks, chosen.blocks.nbytes)


def tally(batch: Sequence[tuple[Tails, Partials | Bins]]) -> None:
    """Count a batch's samples: of each layer its partials, or its `bins`. See kernels/reference/tally.py."""
    for state, given in batch:
        if isinstance(given, Partials):
            if state.pair is None:
                state.pair = state.counts(2)
            for values, counts in zip((given.sample_mean, given.sample_max), state.pair, strict=True):
                count(bins(values, None), counts)
        else:
            if state.single is None:
                state.single = state.counts(1)
            count(given, state.single[0])


def read_tails(states: Sequence[Tails]) -> list[Array]:
    """The histograms on the host, int32 `[2, BINS, channels]` each; where samples have one position, one histogram seen twice."""
    found = []
    for state in states:
        held = [
            np.ascontiguousarray(counts[:, : state.channels, :BINS].transpose(0, 2, 1))
            for counts in (state.single, state.pair)
            if counts is not None
        ]
        total = held[0] if len(held) == 1 else sum(held, np.zeros((1, BINS, state.channels), np.int32))
        found.append(np.broadcast_to(total, (2, BINS, state.channels)))
    return found
