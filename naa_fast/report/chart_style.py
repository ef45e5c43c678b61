"""What every drawing shares: colours, matplotlib's settings (`own_style` keeps the user's out), and axes placed in inches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from naa_fast.report.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
WIDTH_INCHES = 12.0
ABOVE = "#d00000"
DIM = "#8e9aaf"
LINE = "#14213d"
MUTED = "#5c6370"
OUTCOME_COLOURS = {"pass": "#1b7f4b", "warn": "#b35900", "fail": ABOVE, "inconclusive": MUTED}
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


@contextmanager
def own_style() -> Iterator[None]:
    """matplotlib's defaults and STYLE, whatever the user's own settings are: theirs may send names of layers through TeX."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        yield


def axes_at(figure: Figure, place: tuple[float, float, float, float], label: str) -> Axes:
    """Axes at `(from the left, from the top, width, height)` in inches; their `label` says what they show."""
    left, top, width, height = place
    whole_width, whole_height = figure.get_size_inches()
    ax: Axes = figure.add_axes(
        (left / whole_width, 1 - (top + height) / whole_height, width / whole_width, height / whole_height), label=label
    )
    return ax


def bare(ax: Axes) -> Axes:
    """The axes without ticks and frame, for a picture."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def drawable(text: str, limit: int = 60) -> str:
    """`printable` in ASCII: the one font that is always there has not every letter, and a missing one is a box."""
    return printable(text.encode("ascii", "backslashreplace").decode("ascii"), limit)
