"""`Trigger`: what a proof puts on clean samples, one type for each form; `TriggerKey`: what makes it the same in another report.

A trigger is a `Patch`, a `Crop`, an `Offset`, `Tokens`, `Inserted` or a `TokenPair`. It knows how it is named and written; how it
is put on inputs and found in them is in `naa_fast.proof.apply`, which needs torch.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from naa_fast.records import Array

CELLS = 8
"""Cells an axis of the input is pooled to, so that a pattern fits into a report."""
PLACES = 4
"""Places along each side of a patch that its values are read at: as many for a larger reconstruction of it."""
SAME_PLACE = 0.5
"""Least share of two boxes' union that they have in common. A reconstruction from other samples grows by a pixel or two."""
SAME_PATTERN = 0.5
"""Most that two patterns differ, over the size of the larger. White and black at one place differ by 1."""

TOKEN_PAIR = "words apart"
"""What two tokens are called that need not stand together."""
ANYWHERE, IN_FRONT, AT_END = "inserted phrase", "phrase in front", "phrase at the end"
"""What tokens are called that are put into a text."""

Box = tuple[tuple[int, int], ...]
"""Start and stop along each axis of one input."""
Decoder = Callable[[tuple[int, ...]], str]
"""Token ids to text."""


class Pattern:
    """What triggers in continuous inputs have in common."""

    pattern: Array
    detail: str
    name: ClassVar[str]

    @property
    def kind(self) -> str:
        """What reports call it: `patch, 4 % of the input`."""
        return f"{self.name}, {self.detail}" if self.detail else self.name

    @property
    def subject(self) -> str:
        """How a sentence about it begins: `A patch turns`."""
        return f"{'An' if self.name[0] in 'aeiou' else 'A'} {self.name} turns"


@dataclass(frozen=True, eq=False)
class Offset(Pattern):
    """`pattern`, float32 of one input's shape, is added to all of an input, which stays within the values clean inputs have.
    `detail`: how it was read off, and how loud it is.
    """

    pattern: Array
    detail: str = ""
    name: ClassVar[str] = "offset"

    @property
    def key(self) -> TriggerKey:
        return key_of(self.name, self.pattern, None, (), "")

    def mapped(self, move: Callable[[Array], Array]) -> Self:
        """The same in other axes."""
        return replace(self, pattern=move(self.pattern))


@dataclass(frozen=True, eq=False)
class Placed(Pattern):
    """`pattern` takes the input's place where `mask` is 1: both float32, of one input's shape. `detail`: how much that is."""

    pattern: Array
    mask: Array
    detail: str = ""

    @property
    def key(self) -> TriggerKey:
        return key_of(self.name, self.pattern, self.mask, (), "")

    def mapped(self, move: Callable[[Array], Array]) -> Self:
        """The same in other axes."""
        return replace(self, pattern=move(self.pattern), mask=move(self.mask))


@dataclass(frozen=True, eq=False)
class Patch(Placed):
    """What several samples share at one place."""

    name: ClassVar[str] = "patch"


@dataclass(frozen=True, eq=False)
class Crop(Placed):
    """A window of one sample. In others it may lie elsewhere, as triggers at random places do."""

    name: ClassVar[str] = "cut"


@dataclass(frozen=True)
class Tokens:
    """Token ids that follow one another; `words` the same as text, empty without a tokenizer."""

    ids: tuple[int, ...]
    words: str = ""

    @property
    def kind(self) -> str:
        return "token" if len(self.ids) == 1 else "phrase"

    @property
    def subject(self) -> str:
        return "A word turns" if len(self.ids) == 1 else "A phrase turns"

    @property
    def key(self) -> TriggerKey:
        return key_of(self.kind, None, None, self.ids, self.words)

    @property
    def written(self) -> str:
        """The ids for a person."""
        return " ".join(map(str, self.ids))

    def worded(self, decode: Decoder) -> Self:
        return replace(self, words=decode(self.ids))

    def marks(self, ids: Sequence[int]) -> list[tuple[int, ...]]:
        """What to mark in a text of these ids, wherever it stands in it."""
        return [self.ids]


@dataclass(frozen=True)
class Inserted(Tokens):
    """Token ids that are put into a text and not over it: `front`, at its beginning, `end`, behind it, else anywhere."""

    front: bool = False
    end: bool = False

    @property
    def kind(self) -> str:
        return IN_FRONT if self.front else AT_END if self.end else ANYWHERE

    @property
    def subject(self) -> str:
        where = "in front of" if self.front else "at the end of" if self.end else "into"
        return f"Words put {where} a text turn"


@dataclass(frozen=True)
class TokenPair(Tokens):
    """Two token ids or more, each anywhere in the text."""

    @property
    def kind(self) -> str:
        return TOKEN_PAIR

    @property
    def subject(self) -> str:
        return f"{'Two words' if len(self.ids) == 2 else 'Words'}, wherever they stand, turn"

    @property
    def written(self) -> str:
        return " … ".join(map(str, self.ids))

    def worded(self, decode: Decoder) -> Self:
        return replace(self, words=" … ".join(decode((token,)).strip() for token in self.ids))

    def marks(self, ids: Sequence[int]) -> list[tuple[int, ...]]:
        """Each of the two, where the text has both."""
        return [(token,) for token in self.ids] if set(self.ids) <= set(ids) else []


Trigger = Patch | Crop | Offset | Tokens | Inserted | TokenPair


@dataclass(frozen=True)
class TriggerKey:
    """A trigger's `kind` without its budget ("patch", "offset", "token", ...), the `place` of one that replaces a part of the
    input, its `words` and `tokens`, and its `pattern`: what it adds, pooled over CELLS, or what it puts in PLACES of its place.
    """

    kind: str
    place: Box | None = None
    words: str = ""
    tokens: tuple[int, ...] = ()
    pattern: tuple[float, ...] = ()

    def covers(self, other: TriggerKey) -> bool:
        """Whether `other` is this trigger. Where this one is named by its words or place alone, those decide."""
        if (self.kind, self.words) != (other.kind, other.words) or not alike_places(self.place, other.place):
            return False
        if self.tokens and self.tokens != other.tokens:
            return False
        if self.pattern:
            return alike_patterns(self.pattern, other.pattern)
        return bool(self.words or self.tokens or self.place)

    def report(self) -> dict[str, Any]:
        """The same in JSON's types."""
        return {
            "kind": self.kind,
            "place": None if self.place is None else [list(span) for span in self.place],
            "words": self.words,
            "tokens": list(self.tokens),
            "pattern": base64.b64encode(np.array(self.pattern, "<f4").tobytes()).decode("ascii"),
        }

    @classmethod
    def read(cls, entry: Any) -> TriggerKey:
        """What `report` wrote; all but the kind may be missing. Raises ValueError on anything else."""
        if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str) or not entry["kind"]:
            raise ValueError("a trigger without a kind")
        place, words, tokens = entry.get("place"), entry.get("words", ""), entry.get("tokens", [])
        spans = place if isinstance(place, list) else []
        whole = all(isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span) for span in spans)
        if not whole or not isinstance(place, list | None) or not isinstance(words, str):
            raise ValueError("a place that is no list of [start, stop], or words that are no text")
        if not (isinstance(tokens, list) and all(type(token) is int for token in tokens)):
            raise ValueError("tokens that are no list of whole numbers")
        box = None if place is None else tuple((start, stop) for start, stop in spans)
        return cls(entry["kind"], box, words, tuple(tokens), unpacked(entry.get("pattern", "")))


def unpacked(text: Any) -> tuple[float, ...]:
    """The numbers of a pattern. Raises ValueError where it holds none, or what is no number."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (TypeError, ValueError) as error:
        raise ValueError(f"a pattern that is no base64 of float32: {error}") from None
    if not np.isfinite(values).all():
        raise ValueError("a pattern with NaN or infinity")
    return tuple(map(float, values))


def box_of(mask: Array) -> Box | None:
    """The smallest box that holds all of a mask; None for an empty one. `mask` `[...]`, an input's shape."""
    places = np.argwhere(mask > 0)
    if not len(places):
        return None
    return tuple((int(start), int(stop) + 1) for start, stop in zip(places.min(0), places.max(0), strict=True))


def pooled(values: Array) -> tuple[float, ...]:
    """Means over at most CELLS parts of each axis, float32. `values` `[...]`, an input's shape."""
    for axis, length in enumerate(values.shape):
        if length > CELLS:
            parts = np.array_split(values, CELLS, axis)
            values = np.concatenate([part.mean(axis, keepdims=True) for part in parts], axis)
    return storable(values)


def sampled(values: Array) -> tuple[float, ...]:
    """Values at PLACES along each axis, float32. `values` `[...]`, an input's shape."""
    places = [(2 * np.arange(PLACES) + 1) * length // (2 * PLACES) for length in values.shape]
    return storable(values[np.ix_(*places)])


def storable(values: Array) -> tuple[float, ...]:
    """Float32 values `[...]`, flat, as numbers that JSON keeps."""
    limit = float(np.finfo(np.float32).max)
    return tuple(map(float, np.nan_to_num(values, posinf=limit, neginf=-limit).clip(-limit, limit).astype(np.float32).ravel()))


def key_of(kind: str, pattern: Array | None, mask: Array | None, tokens: tuple[int, ...], words: str) -> TriggerKey:
    """What makes a trigger the same in another report. `pattern`, `mask` `[...]`: of one input's shape; without a mask the
    pattern is added, and how loud it is no part of what it is.
    """
    kind = kind.partition(",")[0]
    if pattern is None:
        return TriggerKey(kind, None, words, tokens)
    box = None if mask is None else box_of(mask)
    if mask is None or box is None:
        loudness = float(np.sqrt((np.asarray(pattern, np.float64) ** 2).mean()))
        return TriggerKey(kind, None, words, tokens, pooled(pattern / max(loudness, 1e-30)))
    inside = tuple(slice(*span) for span in box)
    return TriggerKey(kind, box, words, tokens, sampled((pattern * mask)[inside]))


def alike_places(a: Box | None, b: Box | None) -> bool:
    if a is None or b is None:
        return a is b
    if len(a) != len(b):
        return False
    both = np.prod(
        [max(0, min(span[1], other[1]) - max(span[0], other[0])) for span, other in zip(a, b, strict=True)], dtype=float
    )
    sizes = [np.prod([max(0, stop - start) for start, stop in box], dtype=float) for box in (a, b)]
    return bool(both > 0 and both >= SAME_PLACE * (sum(sizes) - both))


def alike_patterns(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    if len(a) != len(b):
        return False
    x, y = np.array(a), np.array(b)
    return bool(np.linalg.norm(x - y) <= SAME_PATTERN * max(np.linalg.norm(x), np.linalg.norm(y)))
