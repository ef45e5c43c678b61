"""A panel as the shapes of a page: `chart_of`. The template draws them, the stylesheet colours them.

The bars lie in a box of WIDTH x HEIGHT that is stretched to the page; labels lie over it, so that no text is scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log10

import numpy as np

from naa_fast.report.panel import Bars, Panel, Signature, panel_of
from naa_fast.report.units import percent
from naa_fast.report.words import counted, number

WIDTH, HEIGHT = 400, 100
LEAST_WIDE = 3.0
"""Units a bar above the limit is wide at least: of 4,096 neurons one is a tenth of a unit."""
LABELS = 4
ROOM = 4.0
"""Times the space of a label on the signature chart, which is that much wider than a telephone."""


@dataclass(frozen=True)
class Mark:
    """A label over a bar, and where: percent from the left and from the top."""

    text: str
    left: float
    top: float


@dataclass(frozen=True)
class Chart:
    """`dim` and `above` the bars below and above the limit as SVG paths in the box; `limit` the line's place in percent from the
    top, None where it is off the chart; `marks` over the tallest bars above it; `words` what there is to see.
    """

    dim: str
    above: str
    limit: float | None
    marks: tuple[Mark, ...]
    last: int
    words: str


def chart_of(layer: Signature) -> Chart:
    """The chart of a layer's numbers. Every neuron above the limit is under a bar above it."""
    panel = panel_of(layer, WIDTH, LABELS, ROOM)
    width = max(layer.neurons, 1) - 1 + 2 * margin(layer)
    marks = tuple(
        Mark(label.text, round(100 * (label.neuron + margin(layer)) / width, 2), round(100 - high(panel, label.height), 2))
        for label in panel.labels
    )
    limit = round(100 - high(panel, layer.limit), 2) if np.isfinite(layer.limit) else None
    least = LEAST_WIDE * width / WIDTH
    above = Bars(panel.above.centre, panel.above.height, max(panel.above.width, least))
    return Chart(path(panel, panel.dim, width), path(panel, above, width), limit, marks, layer.neurons - 1, words_of(panel))


def margin(layer: Signature) -> float:
    return max(0.5, 0.006 * layer.neurons)


def high(panel: Panel, value: float) -> float:
    """How high a value stands, in percent of the axis; beyond the limit by its logarithm where the axis is logarithmic."""
    if not panel.logarithmic:
        return 100 * min(value / panel.top, 1.0)
    limit = panel.layer.limit

    def steps(v: float) -> float:
        return v / limit if v <= limit else 1 + log10(v / limit)

    return 100 * min(steps(value) / steps(panel.top), 1.0)


def path(panel: Panel, bars: Bars, width: float) -> str:
    """The bars as one SVG path in the box, in whole and half units; neighbours of one height are one bar."""
    scale, shift = WIDTH / width, margin(panel.layer)
    pieces: list[str] = []
    end, last = -1.0, -1.0
    for centre, height in zip(bars.centre.tolist(), bars.height.tolist(), strict=True):
        y = round(high(panel, height), 1)
        if y <= 0:
            continue
        left, right = ((centre + side * bars.width / 2 + shift) * scale for side in (-1, 1))
        if pieces and abs(left - end) < 0.01 and y == last:
            pieces[-1] = f"H{right:.4g}"
        else:
            pieces += [f"V100M{left:.4g} 100V{100 - y:.4g}", f"H{right:.4g}"]
        end, last = right, y
    return ("".join(pieces) + "V100").removeprefix("V100") if pieces else ""


def words_of(panel: Panel) -> str:
    """The chart in a sentence: what is above the limit, the largest, and where the axis ends."""
    layer = panel.layer

    def shown(value: float) -> str:
        short = f"{value:.3g}" if 1e-3 <= abs(value) < 1e6 else number(value)
        return percent(value) if layer.limit_on == "tail" else f"{short} σ" if layer.limit_on == "z" else short

    known = np.where(np.isfinite(layer.measure), layer.measure, -np.inf)
    parts = [f"{len(layer.abnormal) or 'none'} of {counted(layer.neurons, 'neuron')} above the limit"]
    if np.isfinite(layer.limit):
        parts[0] += f" of {shown(layer.limit)} (dashed)"
    if layer.neurons and np.isfinite(known).any():
        parts.append(f"largest {shown(float(known.max()))}, neuron {int(known.argmax())}")
    if len(layer.unknown):
        parts.append(f"{len(layer.unknown)} cannot be compared")
    parts.append(f"the axis ends at {shown(panel.top)}" + (" and is logarithmic above the limit" if panel.logarithmic else ""))
    if panel.merged > 1:
        parts.append(f"a grey bar is the largest of {panel.merged}")
    return "; ".join(parts)
