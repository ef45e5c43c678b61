"""One layer's numbers drawn in axes: `draw_panel`. A bar a neuron, red above the limit, with its index over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from naa_fast.records import Array
from naa_fast.report.chart_style import ABOVE, DIM, LINE, MUTED
from naa_fast.report.panel import Bars, Panel, decade_ticks
from naa_fast.report.units import percent
from naa_fast.report.words import counted, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_panel(ax: Axes, panel: Panel) -> None:
    """The panel, with what it shows over it on the left and remarks on the right; no name."""
    from matplotlib.collections import PolyCollection
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    layer = panel.layer
    margin = max(0.5, 0.006 * layer.neurons)
    ax.set_xlim(-margin, max(layer.neurons, 1) - 1 + margin)
    if panel.logarithmic:
        ax.set_yscale("symlog", linthresh=layer.limit)
    ax.set_ylim(0, panel.top)
    ax.stairs(*outline(panel.dim), fill=True, color=DIM, linewidth=0, gid="below")
    # The edge closes the hair-line that antialiasing leaves between neighbours.
    ax.add_collection(
        PolyCollection(rectangles(panel.above), facecolor=ABOVE, edgecolor=ABOVE, linewidth=0.3, gid="above", zorder=3)
    )
    if np.isfinite(layer.limit):
        ax.axhline(layer.limit, color=LINE, linestyle="--", linewidth=1.1, zorder=3.5, gid="limit")
        words = f"{limit_name(layer.limit_on)}\n{in_units(layer.limit, layer.limit_on)}"
        ax.annotate(
            words,
            (1.0, layer.limit),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            color=LINE,
        )
    for label in panel.labels:
        style: dict[str, Any] = {
            "ha": "center",
            "va": "bottom",
            "weight": "bold",
            "color": ABOVE,
            "linespacing": 0.95,
            "zorder": 4,
        }
        ax.annotate(f"{label.text}\n▼", (label.neuron, label.height), (0, 1), textcoords="offset points", **style)
    ax.plot(
        panel.unknown,
        np.full(len(panel.unknown), 0.95),
        "x",
        color=MUTED,
        markersize=5,
        gid="unknown",
        transform=ax.get_xaxis_transform(),
    )
    if layer.neurons and len(layer.unknown) == layer.neurons:
        ax.text(0.5, 0.4, "no neuron can be compared", transform=ax.transAxes, ha="center", fontsize=11, color=MUTED)
    ax.set_title(axis_name(layer.limit_on), loc="left", fontsize=8, color=LINE, pad=4)
    ax.set_title(remarks(panel), loc="right", fontsize=8, color=ABOVE if len(layer.abnormal) else MUTED, pad=4)
    last = max(layer.neurons - 1, 0)
    indices = MaxNLocator(nbins=16, integer=True, min_n_ticks=1, steps=[1, 2, 2.5, 5, 10]).tick_values(0, last)
    ax.xaxis.set_major_locator(FixedLocator([index for index in indices if 0 <= index <= last]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ax.yaxis.set_major_locator(FixedLocator(decade_ticks(layer.limit, panel.top)) if panel.logarithmic else MaxNLocator(nbins=4))
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:g} %" if layer.limit_on == "tail" else f"{value:g}")
    )
    ax.yaxis.set_minor_locator(NullLocator())


def remarks(panel: Panel) -> str:
    """What a panel's title says on the right."""
    layer = panel.layer
    parts = [f"{len(layer.abnormal) or 'none'} of {counted(layer.neurons, 'neuron')} above"]
    if len(layer.unknown):
        parts.append(f"{len(layer.unknown)} cannot be compared")
    if panel.logarithmic:
        parts.append(f"logarithmic above the {limit_name(layer.limit_on)}")
    return "; ".join(parts)


def outline(bars: Bars) -> tuple[Array, Array]:
    """`(values, edges)` of the bars' silhouette: one shape for all, with the gaps between them as steps down to zero. Float64
    `[2 bars - 1]` and `[2 bars]`.
    """
    edges = np.stack([bars.centre - bars.width / 2, bars.centre + bars.width / 2], axis=1).ravel()
    values = np.stack([bars.height, np.zeros_like(bars.height)], axis=1).ravel()[:-1]
    return values, edges


def rectangles(bars: Bars) -> list[Array]:
    """Corners of every bar, float64 `[4, 2]`."""
    left, right, ground = bars.centre - bars.width / 2, bars.centre + bars.width / 2, np.zeros_like(bars.height)
    x, y = np.stack([left, left, right, right], axis=1), np.stack([ground, bars.height, bars.height, ground], axis=1)
    return list(np.stack([x, y], axis=2))


AXIS_NAMES = {
    "difference": "|mean difference| (activation units)",
    "z": "standardised difference (σ)",
    "tail": "samples beyond the clean tail (%)",
}


def axis_name(limit_on: str) -> str:
    return AXIS_NAMES[limit_on]


def in_units(value: float, limit_on: str) -> str:
    return percent(value) if limit_on == "tail" else f"{number(value)} σ" if limit_on == "z" else number(value)


def limit_name(limit_on: str) -> str:
    return "threshold" if limit_on == "difference" else "limit"
