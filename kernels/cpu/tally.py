"""`tally` on the host: histograms of samples' means and maxima, one row of bins a neuron, in threads of columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from naa_fast.kernels.cpu.planes import LANES, compiled, value_at
from naa_fast.kernels.cpu.reduce import TASKS, Partials, blocks, elements, flat, pieces
from naa_fast.kernels.cpu.threads import SERIAL_BYTES, Task, run
from naa_fast.records import BINS, LEFT_OUT, LOWEST, OCTAVE, Array

MIDDLE = BINS // 2
TOGETHER = 8
"""Columns that are counted at a time, a constant: the loop over them is unrolled."""
SOME = 64
"""Rows whose bins are chosen before they are counted: two short loops, of which the first is one of vectors."""
BELOW = (127 + LOWEST) * OCTAVE - 1
"""What the topmost bits of a magnitude are in the bin around zero, at most."""


class Tails:
    """A layer's running histograms, int32 `[1 or 2, channels, BINS + 1]`: a neuron's bins lie together, the last takes what is
    left out. `single` of layers with one position a sample, `pair` (mean and maximum) of the others; made when first needed.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.single: Array | None = None
        self.pair: Array | None = None


@compiled
def bin_at(value: float) -> int:
    """`records.bin_of` of one value."""
    bits = np.float32(value).view(np.uint32)
    steps = np.int32((bits & np.uint32(0x7FFFFFFF)) >> np.uint32(21)) - np.int32(BELOW)
    steps = min(max(steps, np.int32(0)), np.int32(MIDDLE))
    chosen = MIDDLE - steps if bits >> np.uint32(31) else MIDDLE + steps
    return int(chosen) if abs(value) < np.inf else LEFT_OUT


@compiled
def fill_bins(x: Array, stride: int, channels: int, first: int, last: int, out: Array) -> None:
    """Bins of rows `first:last` of the flat `x`."""
    for r in range(first, last):
        for c in range(channels):
            out[r, c] = bin_at(value_at(x, r * stride + c))


@compiled
def count_values(values: Array, stride: int, samples: int, first: int, width: int, out: Array) -> None:
    """Count columns `first:first + width` of the flat `values` in `out` [channels, BINS + 1], SOME rows at a time."""
    chosen = np.empty((SOME, width), np.uint8)
    for start in range(0, samples, SOME):
        rows = min(SOME, samples - start)
        for r in range(rows):
            for c in range(width):
                chosen[r, c] = bin_at(value_at(values, (start + r) * stride + first + c))
        count_bins(chosen[:rows], 0, width, out[first:])


@compiled
def count_bins(chosen: Array, first: int, width: int, out: Array) -> None:
    """Count columns `first:first + width` of `chosen` [samples, channels] in the same rows of `out` [channels, BINS + 1].

    TOGETHER columns at a time: their bins, 8 KB, stay in the nearest cache. A quarter of the time of row after row.
    """
    cells = out.reshape(-1)  # unsigned places: a negative one would be looked at twice
    whole = first + width - width % TOGETHER
    for c in range(first, whole, TOGETHER):
        for r in range(chosen.shape[0]):
            for k in range(TOGETHER):
                cells[np.uint64((c + k) * (BINS + 1)) + np.uint64(chosen[r, c + k])] += 1
    for c in range(whole, first + width):
        for r in range(chosen.shape[0]):
            cells[np.uint64(c * (BINS + 1)) + np.uint64(chosen[r, c])] += 1


def tails(channels: int, like: Array) -> Tails:
    """Histograms of a layer of which nothing was seen; `like` tells other backends the device."""
    return Tails(channels)


def bins(x: Array, mask: Array | None) -> Array:
    """The bin of every value of `x` `[samples, channels]`, uint8; see kernels/reference/tally.py. One read of `x`."""
    x = elements(x)
    out = np.empty(x.shape, np.uint8)
    if x.size == 0:
        return out
    layout = flat(x)
    if layout is None or layout[1][1] != 1:
        layout = flat(np.ascontiguousarray(x))
        assert layout is not None
    data, (stride, _) = layout
    spans = pieces(len(x), 1, TASKS) if x.nbytes >= SERIAL_BYTES else [(0, len(x))]
    run([partial(fill_bins, data, stride, x.shape[1], *span, out) for span in spans], x.nbytes)
    if mask is not None:
        out[~mask] = LEFT_OUT
    return out


def tally(batch: Sequence[tuple[Tails, Partials | Array]]) -> None:
    """Count a batch's samples: of each layer its partials, or its `bins`. See kernels/reference/tally.py."""
    for state, given in batch:
        columns = blocks(state.channels, LANES)
        if isinstance(given, Partials):
            if state.pair is None:
                state.pair = np.zeros((2, state.channels, BINS + 1), np.int32)
            samples, views = len(given.sample_mean), (given.sample_mean, given.sample_max)
            tasks: list[Task] = [
                partial(count_values, values.reshape(-1), state.channels, samples, *block, counts)
                for values, counts in zip(views, state.pair, strict=True)
                for block in columns
            ]
            run(tasks, 2 * given.sample_mean.nbytes)
        else:
            if state.single is None:
                state.single = np.zeros((1, state.channels, BINS + 1), np.int32)
            run([partial(count_bins, given, *block, state.single[0]) for block in columns], given.nbytes)


def read_tails(states: Sequence[Tails]) -> list[Array]:
    """The histograms on the host, int32 `[2, BINS, channels]` each; where samples have one position, one histogram seen twice."""
    found = []
    for state in states:
        held = [
            np.ascontiguousarray(counts[:, :, :BINS].transpose(0, 2, 1))
            for counts in (state.single, state.pair)
            if counts is not None
        ]
        total = held[0] if len(held) == 1 else sum(held, np.zeros((1, BINS, state.channels), np.int32))
        found.append(np.broadcast_to(total, (2, BINS, state.channels)))
    return found
