"""One layer's signature in somebody's own axes: `plot_layer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from naa_fast.detect.judgement import Judgement
from naa_fast.errors import UsageError
from naa_fast.report.chart_panel import draw_panel
from naa_fast.report.chart_style import LINE, drawable, own_style
from naa_fast.report.panel import COLUMNS, LABELS, Signature, TailSignature, panel_of
from naa_fast.report.strip import strip_of
from naa_fast.report.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OF = ("means", "tails")
HALF = 2
"""A chart of one's own is about half as wide as those of the report: it has as many labels."""


def plot_layer(judgement: Judgement, layer: str | None = None, of: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw a layer's neurons into `ax`, or into a new figure of pyplot's, and return the axes.

    `layer`: its name; None takes the one that stands out most. `of`: "means" for the difference of the sets, "tails" for the
    share of suspect samples beyond each neuron's clean tail; None takes what shows more.

    Raises:
        UsageError: no such layer, another `of`, or tails where no histograms were kept.
    """
    strip = strip_of(judgement)
    name = strip.worst[0].name if layer is None else layer
    if name not in judgement.layers:
        some = ", ".join(printable(known) for known in list(judgement.layers)[:5])
        raise UsageError(f"no layer {printable(name)!r}", f"this audit has {len(judgement.layers)}: {some}, ...")
    if of is not None and of not in OF:
        raise UsageError(f"of is {of!r}", f"expected one of {', '.join(OF)}, or None for what shows more")
    if of == "tails" and not strip.has_tails:
        raise UsageError("no tails to draw", "the measurements have no histograms", "draw the means")
    signature: Signature = judgement.layers[name]
    if of == "tails" or (of is None and strip.rare):
        signature = TailSignature(name, strip.tails[name], strip.tail_limit)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.figure(figsize=(8, 3), layout="constrained").add_subplot()
    with own_style():
        draw_panel(ax, panel_of(signature, COLUMNS, LABELS // HALF, HALF))
        ax.set_title(f"{drawable(name)}\n{ax.get_title(loc='left')}", loc="left", fontsize=8, color=LINE, pad=4)
        ax.set_xlabel("neuron index")
    return ax
