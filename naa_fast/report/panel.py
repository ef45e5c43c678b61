"""What a layer's chart shows, before it is drawn: which bars, which labels, which axis. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from naa_fast.records import Array

COLUMNS = 800
"""Most bars drawn side by side: two pixels each of a 12-inch chart at 150 dots an inch."""
ABOVE_WIDTH = 1 / 360
"""Least width of a bar above the limit as a share of the panel: some four pixels, so that one such neuron of 14,336 is seen."""
UNKNOWN_COLUMNS = 100
LABELS = 12
DECADE_TICKS = 5
LOGARITHMIC_FROM = 50.0
"""Above this many times the limit a linear axis would press the limit, and every lesser neuron above it, into the ground."""


class Signature(Protocol):
    """One number a neuron of a layer, `measure`, and the neurons above `limit` and without a number: a `LayerComparison` is one,
    of means; `TailSignature` another.
    """

    @property
    def name(self) -> str: ...
    @property
    def neurons(self) -> int: ...
    @property
    def measure(self) -> Array: ...
    @property
    def limit(self) -> float: ...
    @property
    def limit_on(self) -> str: ...
    @property
    def abnormal(self) -> Array: ...
    @property
    def unknown(self) -> Array: ...


@dataclass(frozen=True)
class TailSignature:
    """Of each neuron the share of suspect samples beyond its clean tail (`naa_fast.detect.tails.tail_signature`)."""

    name: str
    measure: Array
    limit: float
    limit_on: str = "tail"

    @property
    def neurons(self) -> int:
        return len(self.measure)

    @property
    def abnormal(self) -> Array:
        """The neurons at or beyond the limit, int64 `[count]`."""
        with np.errstate(invalid="ignore"):
            return np.flatnonzero(self.measure >= self.limit)

    @property
    def unknown(self) -> Array:
        """The neurons whose share is not known, int64 `[count]`."""
        return np.flatnonzero(np.isnan(self.measure))


@dataclass(frozen=True)
class Bars:
    """Bars of one colour, float64: `centre` in neurons, `height` in units of the axis; all `width` neurons wide."""

    centre: Array
    height: Array
    width: float


@dataclass(frozen=True)
class Label:
    """`text` to stand over `neuron` (the middle of a run such as "10–19") at `height`."""

    text: str
    neuron: float
    height: float


@dataclass(frozen=True)
class Panel:
    """One layer's picture.

    `dim` bars below the limit and those `above` it; `unknown` places of neurons that cannot be compared; `top` the end of the
    axis, which is logarithmic above the limit where `logarithmic`. `merged` neurons share a dim bar, which shows their largest.
    """

    layer: Signature
    dim: Bars
    above: Bars
    unknown: Array
    labels: tuple[Label, ...]
    top: float
    logarithmic: bool
    merged: int


def panel_of(layer: Signature, most: int = COLUMNS, labels: int = LABELS, room: float = 1.0) -> Panel:
    """The picture of `layer`. Every neuron above the limit lies under a bar above it, whatever the layer's width.

    `most` bars side by side; `labels` at most, of which each takes `room` times the space it needs on the signature chart.
    """
    neurons = layer.neurons
    top, logarithmic = axis_end(layer)
    # A number beyond float64 is drawn to the end of the axis; what is NaN has no bar.
    heights = np.minimum(np.nan_to_num(layer.measure, nan=0.0, posinf=np.inf), top)
    is_above = np.zeros(neurons, bool)
    is_above[layer.abnormal] = True
    columns = max(1, min(neurons, most))
    gap = 0.8 if neurons <= most // 4 else 1.0
    everyone = np.arange(neurons)
    dim = tallest_per_column(np.where(is_above, 0.0, heights), everyone, neurons, columns)
    above = tallest_per_column(heights, layer.abnormal, neurons, columns)
    centres = (np.arange(len(dim)) + 0.5) * (neurons / columns) - 0.5
    return Panel(
        layer,
        Bars(centres, heights[dim] * ~is_above[dim], neurons / columns * gap),
        Bars(above.astype(np.float64), heights[above], max(gap, neurons * ABOVE_WIDTH)),
        tallest_per_column(heights, layer.unknown, neurons, min(columns, UNKNOWN_COLUMNS)),
        labels_of(layer.abnormal, heights, neurons, labels, room),
        top,
        logarithmic,
        -(-neurons // columns),
    )


def tallest_per_column(heights: Array, members: Array, neurons: int, columns: int) -> Array:
    """The neuron of `members` with the tallest bar, for each of `columns` equal parts of the layer that has a member. `heights`
    float64 `[neurons]`, `members` int64 `[count]`; int64.
    """
    column = members * columns // max(neurons, 1)
    order = np.lexsort((-heights[members], column))  # the tallest of each column first
    first = np.ones(len(order), bool)
    first[1:] = np.diff(column[order]) > 0
    return members[order[first]]


def labels_of(above: Array, heights: Array, neurons: int, most: int = LABELS, room: float = 1.0) -> tuple[Label, ...]:
    """Labels of the tallest neurons above the limit that have room for one.

    Where bars are too narrow to be labelled one by one, neighbours all lit share a label, such as "10–19". `above` int64
    `[count]`, `heights` float64 `[neurons]`.
    """
    narrow = room * label_room(f"{neurons - 1}") * neurons > 1
    runs = np.split(above, np.flatnonzero(np.diff(above) > (1 if narrow else 0)) + 1) if len(above) else []
    labels: list[Label] = []
    for run in sorted(runs, key=lambda run: -heights[run].max()):
        text = f"{run[0]}" if len(run) == 1 else f"{run[0]}–{run[-1]}"
        label = Label(text, float(run[0] + run[-1]) / 2, float(heights[run].max()))
        if len(labels) < most and all(apart(label, other, neurons * room) for other in labels):
            labels.append(label)
    return tuple(labels)


def label_room(text: str) -> float:
    """Share of the panel's width that a label takes, with some air around it."""
    return 0.012 + 0.009 * len(text)


def apart(a: Label, b: Label, neurons: float) -> bool:
    return abs(a.neuron - b.neuron) >= (label_room(a.text) + label_room(b.text)) / 2 * neurons


def axis_end(layer: Signature) -> tuple[float, bool]:
    """Where the axis ends, with room for labels above the tallest bar and the limit, and whether it is logarithmic."""
    tall = tallest(layer)
    limit = layer.limit if np.isfinite(layer.limit) else 0.0
    highest = min(max(tall, limit), 1e300)
    if highest == 0:
        return 1.0, False
    if limit > 0 and highest > LOGARITHMIC_FROM * limit:
        decades = 1.0 + np.log10(highest / limit)
        return float(highest * 10 ** (0.45 * decades)) if highest < 1e200 else 1e307, True
    return 1.45 * highest, False


def decade_ticks(limit: float, top: float) -> list[float]:
    """Zero, and powers of ten between `limit` and `top`, at most DECADE_TICKS of them."""
    first, last = int(np.ceil(np.log10(limit))), int(np.floor(np.log10(top)))
    step = max(1, -(-(last - first + 1) // DECADE_TICKS))
    return [0.0, *(10.0**power for power in range(first + step - 1, last + 1, step))]


def tallest(layer: Signature) -> float:
    finite = layer.measure[np.isfinite(layer.measure)]
    return float(finite.max(initial=0.0))
