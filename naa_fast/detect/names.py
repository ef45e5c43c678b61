"""`Names`: what people call a model's classes; of a language model, which predicts the next token, that token's text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CLASS, TOKEN = "class", "next token"
SHOWN = 40
"""Characters of a name that are shown: it is the model's, or a stranger's."""


@dataclass(frozen=True)
class Names:
    """`known`: names by class number, of as many as are known; `noun`: CLASS or TOKEN.

    >>> Names({3: "airplane"}).of(3), Names({3: "airplane"}).of(4), Names({10375: " Click"}, "next token").of(10375)
    ("class 3 ('airplane')", 'class 4', "next token ' Click'")
    """

    known: Mapping[int, str] = field(default_factory=dict)
    noun: str = CLASS

    def of(self, cls: int) -> str:
        """A class in a sentence, safe for any terminal."""
        name = self.known.get(cls)
        if name is None:
            return f"{self.noun} {cls}"
        return f"{self.noun} {quoted(name)}" if self.noun == TOKEN else f"{self.noun} {cls} ({quoted(name)})"

    def short(self, cls: int) -> str:
        """A class where there is little room: its name in quotes, or its number."""
        return quoted(self.known[cls]) if cls in self.known else str(cls)

    def called(self, cls: int) -> str:
        """The same, of a prediction that may be none (below 0)."""
        return self.of(cls) if cls >= 0 else f"no {CLASS}"


def quoted(name: str) -> str:
    """The name between quotes, with its spaces, and escapes for what would not print."""
    whole = name.encode("utf-8", "replace").decode()
    short = whole if len(whole) <= SHOWN else f"{whole[: SHOWN - 1]}…"
    return repr("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)).replace("\\\\", "\\")
