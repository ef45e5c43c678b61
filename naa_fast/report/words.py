"""Text and numbers as a person reads them, safe on a terminal: `printable`, `number`, `column`, `wrapped`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from math import floor, isfinite, log10

NAME_CELLS = 60

UNSHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn", "Me"}
"""Categories of characters that are invisible, move the cursor, turn the line round, or stack on their neighbours."""
RIGHT_TO_LEFT = {"R", "AL", "AN"}
"""Letters that reorder the numbers after them on their line: in a table that is a forged number."""


def printable(text: str, limit: int = NAME_CELLS) -> str:
    """`text` on one line, safe on a terminal, of at most `limit` cells; the middle of a longer one gives way to an ellipsis.

    Whatever is invisible, moves the cursor or reorders the line is shown by its code (`\\x1b`, `\\u202e`).
    """
    # Cut before escaping as well: a name may have megabytes.
    if len(text) > 2 * limit:
        text = text[:limit] + "…" + text[-limit:]
    shown = [escaped(character) for character in text]
    if sum(map(display_cells, shown)) <= limit:
        return "".join(shown)
    head, tail = limit // 3, limit - 1 - limit // 3
    return "".join(fitting(shown, head)) + "…" + "".join(reversed(fitting(reversed(shown), tail)))


def escaped(character: str) -> str:
    """The character itself, or its code if it could deceive; a whole code is never cut in two."""
    code = ord(character)
    if 0x20 <= code < 0x7F:
        return character
    hidden = unicodedata.category(character) in UNSHOWN or (character != " " and character.isspace())
    if hidden or unicodedata.bidirectional(character) in RIGHT_TO_LEFT:
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def fitting(pieces: Iterable[str], cells: int) -> list[str]:
    """As many of the first pieces as fit into `cells`."""
    taken: list[str] = []
    for piece in pieces:
        cells -= display_cells(piece)
        if cells < 0:
            break
        taken.append(piece)
    return taken


def display_cells(text: str) -> int:
    """Columns `text` takes on a terminal: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def number(value: float) -> str:
    """A number to read: four digits, six from a thousand on, an exponent only far from one."""
    if not isfinite(value):
        return "NaN" if value != value else "infinite" if value > 0 else "-infinite"
    size = abs(value)
    if size == 0 or 1e-3 <= size < 1e6:
        return f"{value:.{4 if size < 1000 else 6}g}"
    return f"{value:.2e}"


def column(values: Sequence[float]) -> list[str]:
    """Numbers for a table: one count of decimals for all where they are of like size, so that the points align."""
    sizes = [abs(v) for v in values if isfinite(v) and v != 0]
    if not sizes or max(sizes) >= 1e6 or max(sizes) < 1e-3 or max(sizes) > 1e4 * min(sizes):
        return [number(v) for v in values]
    decimals = max(0, 3 - floor(log10(max(sizes))))
    return [f"{v:.{decimals}f}" if isfinite(v) else number(v) for v in values]


def counted(how_many: int, what: str) -> str:
    return f"{how_many} {what}{'' if how_many == 1 else 's'}"


def wrapped(text: str, width: int, first: str = "", following: str | None = None) -> list[str]:
    """The words of `text` on lines of at most `width` cells, the first behind `first`, the others behind `following`."""
    following = " " * len(first) if following is None else following
    lines: list[str] = []
    line = ""
    for word in text.split():
        rest = word
        while rest:
            start = following if lines else first
            longer = f"{line} {rest}" if line else rest
            if display_cells(start + longer) <= width:
                line, rest = longer, ""
            elif line:
                lines.append(start + line)
                line = ""
            else:
                part = "".join(fitting(rest, width - display_cells(start)))
                lines.append(start + part)
                rest = rest[len(part) :]
    return [*lines, (following if lines else first) + line] if line else lines
