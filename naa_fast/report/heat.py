"""`heat_of`: the tokens of a text with how far each deviates, as levels a page can colour."""

from __future__ import annotations

from dataclasses import dataclass

from naa_fast.detect.evidence import Heat
from naa_fast.report.words import printable

LEVELS, STEP = 5, 1.5
"""Colours beyond none, and standard deviations from one to the next."""
TOKEN = 40
"""Characters of one token that are shown."""


@dataclass(frozen=True)
class HeatStrip:
    """`tokens`: text and level 0 to LEVELS of each; `most`: the one that deviates most, in words."""

    tokens: tuple[tuple[str, int], ...]
    most: str


def heat_of(heat: Heat) -> HeatStrip | None:
    """None for a text without tokens.

    >>> heat_of((("a", 0.2), (" cf", 6.4)))
    HeatStrip(tokens=((' a', 0), (' cf', 4)), most="most: 'cf' by 6.4 σ")
    """
    if not heat:
        return None
    tokens = tuple((spaced(words), min(LEVELS, max(0, int(z / STEP)))) for words, z in heat)
    words, z = max(heat, key=lambda token: token[1])
    return HeatStrip(tokens, f"most: '{printable(words.strip(), TOKEN)}' by {z:.1f} σ")


def spaced(words: str) -> str:
    """A token safe to show, with a space in front where it continues no word."""
    shown = printable(words.strip(), TOKEN)
    if words.startswith("##"):
        return shown.removeprefix("##")
    return f" {shown}" if words[:1].isspace() or shown.isalnum() else shown
