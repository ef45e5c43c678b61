"""`classes` on the host: scores are read once, as integers that are in the order of the values; nothing is converted.

What reads and compares them is written in LLVM IR: with 1,000 classes plain Numba takes 3.5 (float32), 5.3 (bfloat16) and 9.5
(float16) times as long; with ten classes, 23 ns a sample, it takes .44, .51 and 1 of the time (`benchmarks.plain_njit`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from naa_fast.kernels.cpu.elements import cgutils, compiled, intrinsic
from naa_fast.kernels.cpu.reduce import TASKS, elements, flat, pieces
from naa_fast.kernels.cpu.threads import SERIAL_BYTES, Task, run
from naa_fast.records import Array

RUN = 64
"""Scores whose largest is known before it is looked for: the second look at them finds them in the nearest cache."""

LIMITS = {np.float64: 0x7FF0 << 48, np.float32: 0x7F80 << 16, np.uint16: 0x7F80, np.int16: 0x7C00}
"""The bits of infinity in each type of `elements`: those of what is not finite are as large or larger, but for the sign."""


@intrinsic  # type: ignore[untyped-decorator]
def key_at(typingctx: Any, array: Any, index: Any) -> Any:
    """Element of a flat array as an integer of its width: its magnitude's bits, negated for negative values."""
    kind: Any = {64: types.int64, 32: types.int32, 16: types.int16}[array.dtype.bitwidth]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        integer = ir.IntType(kind.bitwidth)
        bits = builder.bitcast(builder.load(cgutils.gep_inbounds(builder, data, args[1])), integer)
        magnitude = builder.and_(bits, ir.Constant(integer, (1 << (kind.bitwidth - 1)) - 1))
        sign = builder.ashr(bits, ir.Constant(integer, kind.bitwidth - 1))
        return builder.sub(builder.xor(magnitude, sign), sign)

    return kind(array, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def larger(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger of two integers of one type, in that type: Numba's own would be 64 bits wide, and half as many in a vector."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed(">", args[0], args[1]), args[0], args[1])

    return a(a, a), codegen


@intrinsic  # type: ignore[untyped-decorator]
def size_of(typingctx: Any, a: Any) -> Any:
    """The magnitude of an integer, in its type."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        negative = builder.icmp_signed("<", args[0], ir.Constant(args[0].type, 0))
        return builder.select(negative, builder.neg(args[0]), args[0])

    return a(a), codegen


@compiled
def choose_rows(x: Array, stride: int, classes: int, first: int, last: int, limit: int, none: int, out: Array) -> None:
    """The classes of rows `first:last` of the flat `x`."""
    for row in range(first, last):
        start = row * stride
        best = key_at(x, start)
        most, where = size_of(best), 0
        for run_start in range(0, classes, RUN):
            highest = key_at(x, start + run_start)
            largest = size_of(highest)
            for c in range(run_start, min(run_start + RUN, classes)):
                key = key_at(x, start + c)
                highest = larger(highest, key)
                largest = larger(largest, size_of(key))
            most = larger(most, largest)
            if highest > best:
                best, where = highest, run_start
        while key_at(x, start + where) != best:
            where += 1
        out[row] = none if most >= limit else where


def classes(scores: Array, none: int) -> Array:
    """The place of the largest score in each row, the first of equals, int64 `[samples]`; see kernels/reference/classes.py.

    One read of `scores`, no copy of rows whose scores are neighbours in memory.
    """
    scores = elements(scores)
    out = np.empty(len(scores), np.int64)
    layout = flat(scores)
    if layout is None or (layout[1][1] != 1 and scores.shape[1] > 1):
        layout = flat(np.ascontiguousarray(scores))
        assert layout is not None
    data, (stride, _) = layout
    limit = LIMITS[scores.dtype.type]
    spans = pieces(len(scores), 1, TASKS) if scores.nbytes >= SERIAL_BYTES else [(0, len(scores))]
    tasks: list[Task] = [partial(choose_rows, data, stride, scores.shape[1], *span, limit, none, out) for span in spans]
    run(tasks, scores.nbytes)
    return out
