"""Shares and probabilities in words, and text as a page shows it: `percent`, `probability`, `web_text`."""

from __future__ import annotations

import unicodedata
from typing import assert_never

from naa_fast.detect.findings import Finding, Unit
from naa_fast.report.words import UNSHOWN, escaped, number

LEAST_P = 1e-6
"""Eight folds and counts of some thousand samples tell nothing of smaller probabilities."""
MOST_MARKS = 4
"""Accents that may stand on one letter: more are drawn over the lines above."""


def percent(share: float) -> str:
    """`4 %`, `0.25 %`, `99.8 %`; never 0 or 100 % of what is not none or all."""
    if share != share:
        return "unknown"
    value = 100 * share
    if 99.5 <= value < 100:
        return f"{min(value, 99.9):.1f} %"
    if 0 < value < 10:
        return f"{value:.2g} %"
    return f"{value:.0f} %"


def interval(ends: tuple[float, float]) -> str:
    """`87 to 94 %`."""
    low, high = ends
    return f"{percent(low).removesuffix(' %')} to {percent(high)}"


def probability(p: float) -> str:
    """`p = 0.03`, `p < 1e-6`, or `p unknown`."""
    if p != p:
        return "p unknown"
    return f"p < {LEAST_P:.0e}".replace("e-0", "e-") if p < LEAST_P else f"p = {p:.2g}"


def measured(finding: Finding) -> tuple[str, str]:
    """A finding's number and limit with their unit: `4 %`, `7.1 σ`, `t 9.2`, `12`."""
    return in_unit(finding.value, finding.unit), in_unit(finding.limit, finding.unit)


def in_unit(value: float, unit: Unit) -> str:
    """A number with its unit."""
    match unit:
        case "share":
            return percent(value)
        case "sigma":
            return f"{number(value)} σ"
        case "t":
            return f"t {number(value)}"
        case "number":
            return number(value)
        case _:
            assert_never(unit)


def web_text(text: str, limit: int | None = None) -> str:
    """`text` on one line for a page, at most `limit` characters, the middle of a longer one left out.

    What is invisible, or turns or moves a line, is shown by its code, as on a terminal; letters of every script stay, also those
    from right to left, which the page keeps apart from what is around them.
    """
    if limit is not None and len(text) > limit:
        head = limit // 3
        text = text[:head] + "…" + text[len(text) - (limit - 1 - head) :]
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        accent = bool(shown) and category in ("Mn", "Me") and marks <= MOST_MARKS
        plain = category not in UNSHOWN and (character == " " or not character.isspace())
        shown.append(character if accent or plain else coded(character))
    return "".join(shown)


def coded(character: str) -> str:
    """A character by its code."""
    shown = escaped(character)
    if shown != character:
        return shown
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
