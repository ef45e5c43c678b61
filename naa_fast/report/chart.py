"""The signature as a picture: one panel a layer, one bar a neuron, what is above the limit in red with its index over it.

`signature_figure` draws it with matplotlib's objects, never pyplot, whose global state belongs to the user; `chart_bytes` is the
file. panel.py decides what is shown.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from naa_fast.detect.judgement import Judgement
from naa_fast.records import Array
from naa_fast.report.panel import Bars, Panel, chosen_layers, decade_ticks, panel_of
from naa_fast.report.words import counted, number, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
WIDTH_INCHES = 12.0
SENTENCE_CHARACTERS = 140
LIT = "#d00000"
DIM = "#8e9aaf"
LINE = "#14213d"
MUTED = "#5c6370"
OUTCOME_COLOURS = {"pass": "#1b7f4b", "warn": "#b35900", "fail": LIT, "inconclusive": MUTED}
STYLE = {
    "text.parse_math": False,  # a $ in a layer's name is a $
    "svg.hashsalt": "naa-fast",  # the same bytes for the same picture
    "svg.fonttype": "path",  # looks alike everywhere, and leaves no text for a viewer to interpret
    "font.size": 9.0,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def signature_figure(judgement: Judgement) -> Figure:
    """The bar chart of the signature, one panel a layer; of many layers the most abnormal, in model order."""
    from matplotlib.figure import Figure

    shown = [panel_of(layer) for layer in chosen_layers(judgement)]
    sentence = textwrap.wrap(drawable(judgement.verdict.sentence, 400), SENTENCE_CHARACTERS, max_lines=2, placeholder=" ...")
    panel_inches = 2.8 if len(shown) == 1 else 1.7 if len(shown) <= 3 else 1.15
    head_inches, foot_inches, gap_inches = 1.27 + 0.18 * len(sentence), 0.62, 0.68
    panels_inches = len(shown) * panel_inches + (len(shown) - 1) * gap_inches
    height = head_inches + panels_inches + foot_inches
    with own_style():
        figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, facecolor="white")
        axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        bottom, top = foot_inches / height, 1 - head_inches / height
        figure.subplots_adjust(left=0.075, right=0.905, bottom=bottom, top=top, hspace=gap_inches / panel_inches)
        for ax, panel in zip(axes, shown, strict=True):
            draw_panel(ax, panel)
        figure.supxlabel("neuron index", x=0.49, y=0.15 / height, fontsize=10, color=LINE)
        figure.supylabel(axis_name(judgement.limit_on), x=0.012, y=(bottom + top) / 2, fontsize=10, color=LINE)
        head(figure, judgement, shown, sentence)
    return figure


def chart_bytes(judgement: Judgement, form: str) -> bytes:
    """The chart as a file, `form` "png" or "svg": the same bytes for the same judgement and matplotlib."""
    figure = signature_figure(judgement)
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    with own_style():
        figure.savefig(buffer, format=form, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


@contextmanager
def own_style() -> Iterator[None]:
    """matplotlib's defaults and STYLE, whatever the user's own settings are: theirs may send names of layers through TeX."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        yield


def head(figure: Figure, judgement: Judgement, shown: list[Panel], sentence: list[str]) -> None:
    """Outcome, sentence, legend and what is not shown, above the panels."""
    height = figure.get_figheight()

    def line(inches: float, x: float, text: str, **style: Any) -> None:
        figure.text(x, 1 - inches / height, text, va="baseline", **style)

    verdict, layers = judgement.verdict, list(judgement.layers.values())
    line(0.38, 0.02, verdict.outcome.upper(), fontsize=17, weight="bold", color=OUTCOME_COLOURS[verdict.outcome])
    line(0.38, 0.98, f"largest z {number(verdict.z)} σ", fontsize=12, ha="right", color=LINE)
    for row, text in enumerate(sentence):
        line(0.63 + 0.18 * row, 0.02, text, fontsize=10, color=LINE)
    below = 0.8 + 0.18 * len(sentence)
    hidden = len(layers) - len(shown)
    if hidden:
        lit_elsewhere = sum(len(layer.abnormal) for layer in layers) - sum(len(panel.layer.abnormal) for panel in shown)
        text = f"{len(shown)} of {len(layers)} layers shown, the most abnormal; {lit_elsewhere or 'no'} lit neurons in the others"
        line(below, 0.98, text, ha="right", color=MUTED)
    legend(figure, judgement, shown, 1 - (below + 0.05) / height)


def legend(figure: Figure, judgement: Judgement, shown: list[Panel], y: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    limit = limit_name(judgement.limit_on)
    lit = sum(len(layer.abnormal) for layer in judgement.layers.values())
    handles: list[Any] = [
        Patch(color=LIT, label=f"▼ above the {limit}: {counted(lit, 'neuron')}"),
        Patch(color=DIM, label="below"),
        Line2D([], [], color=LINE, linestyle="--", label=limit),
    ]
    if any(len(panel.unknown) for panel in shown):
        unknown = sum(len(layer.unknown) for layer in judgement.layers.values())
        handles.append(
            Line2D([], [], color=MUTED, marker="x", linestyle="", label=f"cannot be compared: {counted(unknown, 'neuron')}")
        )
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.013, y), ncols=4, frameon=False, borderaxespad=0)


def draw_panel(ax: Axes, panel: Panel) -> None:
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
    ax.add_collection(PolyCollection(rectangles(panel.lit), facecolor=LIT, edgecolor=LIT, linewidth=0.3, gid="above", zorder=3))
    if np.isfinite(layer.limit):
        ax.axhline(layer.limit, color=LINE, linestyle="--", linewidth=1.1, zorder=3.5, gid="limit")
        words = f"{limit_name(layer.limit_on)}\n{number(layer.limit)}{' σ' if layer.limit_on == 'z' else ''}"
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
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "weight": "bold", "color": LIT, "linespacing": 0.95, "zorder": 4}
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
    ax.set_title(drawable(layer.name), loc="left", fontsize=10, weight="bold", color=LINE, pad=7)
    ax.set_title(remarks(panel), loc="right", fontsize=9, color=LIT if len(layer.abnormal) else MUTED, pad=7)
    last = max(layer.neurons - 1, 0)
    indices = MaxNLocator(nbins=16, integer=True, min_n_ticks=1, steps=[1, 2, 2.5, 5, 10]).tick_values(0, last)
    ax.xaxis.set_major_locator(FixedLocator([index for index in indices if 0 <= index <= last]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ax.yaxis.set_major_locator(FixedLocator(decade_ticks(layer.limit, panel.top)) if panel.logarithmic else MaxNLocator(nbins=4))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def remarks(panel: Panel) -> str:
    """What a panel's title says on the right."""
    layer = panel.layer
    parts = [f"{len(layer.abnormal) or 'none'} of {counted(layer.neurons, 'neuron')} above"]
    if len(layer.unknown):
        parts.append(f"{len(layer.unknown)} cannot be compared")
    if panel.merged > 1 and len(layer.abnormal) + len(layer.unknown) < layer.neurons:
        parts.append(f"a grey bar is the largest of {panel.merged}")
    if panel.logarithmic:
        parts.append(f"logarithmic above the {limit_name(layer.limit_on)}")
    return "; ".join(parts)


def outline(bars: Bars) -> tuple[Array, Array]:
    """`(values, edges)` of the bars' silhouette: one shape for all, with the gaps between them as steps down to zero."""
    edges = np.stack([bars.centre - bars.width / 2, bars.centre + bars.width / 2], axis=1).ravel()
    values = np.stack([bars.height, np.zeros_like(bars.height)], axis=1).ravel()[:-1]
    return values, edges


def rectangles(bars: Bars) -> list[Array]:
    """Corners of every bar, float64 `[4, 2]`."""
    left, right, ground = bars.centre - bars.width / 2, bars.centre + bars.width / 2, np.zeros_like(bars.height)
    x, y = np.stack([left, left, right, right], axis=1), np.stack([ground, bars.height, bars.height, ground], axis=1)
    return list(np.stack([x, y], axis=2))


def axis_name(limit_on: str) -> str:
    return "|mean difference| (activation units)" if limit_on == "difference" else "standardised difference (σ)"


def limit_name(limit_on: str) -> str:
    return "threshold" if limit_on == "difference" else "limit"


def drawable(text: str, limit: int = 60) -> str:
    """`printable` in ASCII: the one font that is always there has not every letter, and a missing one is a box."""
    return printable(text.encode("ascii", "backslashreplace").decode("ascii"), limit)
