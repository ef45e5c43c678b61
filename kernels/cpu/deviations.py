"""How far samples lie from what is expected of them, all layers in one pass over their views: `deviations`, of the ranking.

In torch the same takes twelve operations, each of which reads and writes all columns, and 1.75 times as long (3.5 and 2.0 us a
sample of 784 columns, on one busy core).
What is not a maximum is left as columns, so that sums stay torch's own, in the order that they have on every device.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from naa_fast.kernels.cpu.classes import RUN, larger
from naa_fast.kernels.cpu.elements import compiled
from naa_fast.kernels.cpu.reduce import TASKS, pieces
from naa_fast.kernels.cpu.threads import SERIAL_BYTES, Task, run, threads
from naa_fast.records import Array

INFINITE = 0x7F80 << 16
"""The bits of infinity; those of a magnitude that is NaN are larger."""


@compiled
def deviate_rows(
    values: Array,
    stride: int,
    deal: Array,
    pivot: Array,
    expected: Array,
    member: Array,
    per_deviation: Array,
    scale: Array,
    unknown: Array,
    bounds: Array,
    cut: float,
    farthest: float,
    first: int,
    last: int,
    beyond: Array,
    bits: Array,
    placed: Array,
    most: Array,
    where: Array,
) -> None:
    """Rows `first:last`; all arrays are flat, and `bits` is the memory of `beyond` as int32."""
    columns, layers = len(deal), len(bounds) - 1
    nil, low, high, infinite = np.float32(0), np.float32(-farthest), np.float32(farthest), np.float32(np.inf)
    threshold = np.float32(cut)
    for row in range(first, last):
        source, own, there = row * stride, row * columns, member[row] * columns
        for c in range(columns):
            centred = np.float32(values[np.uintp(source + deal[np.uintp(c)])] - pivot[np.uintp(c)])
            z = expected[np.uintp(there + c)] + centred * per_deviation[np.uintp(c)]
            beyond[np.uintp(own + c)] = abs(z)
            scaled = (centred if abs(centred) < infinite else nil) * scale[np.uintp(c)]
            scaled = low if scaled < low else scaled
            placed[np.uintp(own + c)] = high if scaled > high else scaled
        for k in range(len(unknown)):
            beyond[np.uintp(own + unknown[k])] = nil
        for layer in range(layers):
            start, stop = own + bounds[layer], own + bounds[layer + 1]
            highest, place = bits[np.uintp(start)], start
            for run_start in range(start, stop, RUN):
                largest = bits[np.uintp(run_start)]
                for c in range(run_start, min(run_start + RUN, stop)):
                    largest = larger(largest, bits[np.uintp(c)])
                if largest > highest:
                    highest, place = largest, run_start
            if highest > INFINITE:  # of several NaN the first, whatever its bits
                place = start
                while bits[np.uintp(place)] <= INFINITE:
                    place += 1
            else:
                while bits[np.uintp(place)] != highest:
                    place += 1
            most[row * layers + layer] = beyond[np.uintp(place)]
            where[row * layers + layer] = place - start
        for c in range(columns):
            over = beyond[np.uintp(own + c)] - threshold
            beyond[np.uintp(own + c)] = nil if over < nil else over


def deviations(
    values: Array,
    deal: Array,
    pivot: Array,
    expected: Array,
    member: Array,
    per_deviation: Array,
    scale: Array,
    unknown: Array,
    bounds: Array,
    cut: float,
    farthest: float,
) -> tuple[Array, Array, Array, Array]:
    """Of samples' `values` `[samples, features]` (float32 or float64), in the columns that `deal` (int64 `[columns]`) takes:

    what `|z|` has above `cut`, and values about the pivot in units of `1 / scale`, none beyond `farthest`, 0 where they are not
    finite, float32 `[samples, columns]` both; the largest `|z|` of each layer (float32, NaN if one is) and the column of the
    layer in which the first of them lies (int64), `[samples, layers]`. `z` is `(value - pivot) * per_deviation + expected`.

    `pivot`, `per_deviation` and `scale` float32 `[columns]`; `expected` float32 `[groups, columns]`, of which `member` (int64
    `[samples]`) tells the row; `unknown` int64: columns whose z counts as 0; `bounds` int64 `[layers + 1]`: where layers begin.
    One read of the values.
    """
    samples, layers = len(values), len(bounds) - 1
    beyond, placed = (np.empty((samples, len(deal)), np.float32) for _ in range(2))
    most, where = np.empty((samples, layers), np.float32), np.empty((samples, layers), np.int64)
    data, rows = np.ascontiguousarray(values).reshape(-1), np.ascontiguousarray(expected).reshape(-1)
    about = deal, pivot, rows, member, per_deviation, scale, unknown, bounds, cut, farthest
    out = beyond.reshape(-1), beyond.reshape(-1).view(np.int32), placed.reshape(-1), most.reshape(-1), where.reshape(-1)
    alone = beyond.nbytes < SERIAL_BYTES or threads() == 1  # each call of a kernel with so many arguments costs 6 us
    spans = [(0, samples)] if alone else pieces(samples, 1, TASKS)
    tasks: list[Task] = [partial(deviate_rows, data, values.shape[1], *about, *span, *out) for span in spans]
    run(tasks, beyond.nbytes)
    return beyond, placed, most, where
