"""`Part`: which part of a set was measured, and which parts join. NumPy is not needed here, nor the set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from naa_fast.errors import StateMismatch, UsageError

MOST_PARTS = 100_000
CUT_FROM = "cut_from"
"""What a measurement of a part says under this key of its provenance: a digest of the whole set and what it was called there."""
UNKNOWN = "unknown"
UNKNOWN_SET = "whether the merged shards are of one set: not all of them know which one they were cut from"

Told = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, order=True)
class Part:
    """The `number`-th of `count` parts of a set of `items` items: those from `start` on, up to `stop`, which is not in it."""

    start: int
    stop: int
    number: int
    count: int
    items: int

    @classmethod
    def of(cls, number: int, count: int, items: int) -> Part:
        """Parts of like size, in order: part 1 comes first. Raises UsageError unless 1 <= `number` <= `count` <= `items`."""
        if not 1 <= number <= count:
            raise UsageError(f"shard {number}/{count} is none", "expected i/n with i from 1 to n, as in 2/8")
        if count > MOST_PARTS:
            raise UsageError(f"{count} shards", f"expected at most {MOST_PARTS}", "cut the set into fewer")
        if count > items:
            raise UsageError(
                f"a set of {items} items cannot be cut into {count} shards", "each would need at least one", "cut it into fewer"
            )
        return cls(items * (number - 1) // count, items * number // count, number, count, items)

    @classmethod
    def asked(cls, shard: Any, items: int) -> Part:
        """As a person says it: `(i, n)`. Raises UsageError for anything else."""
        if not (isinstance(shard, tuple | list) and len(shard) == 2 and all(type(number) is int for number in shard)):
            raise UsageError(f"shard is {shard!r}", "expected two whole numbers, (i, n) with i from 1 to n, as in (2, 8)")
        number, count = shard
        return cls.of(number, count, items)

    def __str__(self) -> str:
        return f"shard {self.number}/{self.count} (items {self.start} to {self.stop - 1} of {self.items})"


def cut_from(digest: str, name: str) -> dict[str, tuple[str, ...]]:
    """The provenance of a part of a set: the set's digest, "" where that is unknown, and its name."""
    return {CUT_FROM: (f"{digest or UNKNOWN} {name}",)}


def sets_in(provenance: Told) -> dict[str, str]:
    """The sets that parts were cut from, as far as they know: name by digest."""
    told = (words.partition(" ") for words in provenance.get(CUT_FROM, ()))
    return {digest: name for digest, _, name in told if digest != UNKNOWN}


def of_unknown_set(parts: tuple[Part, ...], provenance: Told) -> bool:
    """Whether these are parts of a set, and some do not know of which."""
    told = [words.partition(" ")[0] for words in provenance.get(CUT_FROM, ())]
    return bool(parts) and (not told or UNKNOWN in told)


def require_one_set(mine: Told, theirs: Told) -> None:
    """Raise StateMismatch where both say which set they were cut from, and it is not the same one."""
    cut, other = sets_in(mine), sets_in(theirs)
    if cut and other and not cut.keys() & other.keys():
        raise StateMismatch(
            "cannot merge: these are shards of different sets",
            *(f"cut from {name} (digest {digest[:12]})" for digest, name in (min(cut.items()), min(other.items()))),
            "merge the shards of one set with each other; a set that was changed in between is measured again",
        )


def require_joinable_parts(mine: tuple[Part, ...], theirs: tuple[Part, ...]) -> None:
    """Raise StateMismatch unless both are shards of one cut of one set, and none is in both; or neither is of a cut set."""
    if not mine and not theirs:
        return
    if not mine or not theirs:
        raise StateMismatch(
            "cannot merge: only one of the measurements is a shard",
            f"{(mine or theirs)[0]}, and one of a set that was not cut",
            "merge the shards of one set with each other",
        )
    if (mine[0].count, mine[0].items) != (theirs[0].count, theirs[0].items):
        raise StateMismatch(
            "cannot merge: these are shards of different cuts, which overlap or leave gaps",
            f"{mine[0]} / {theirs[0]}",
            "measure all shards of one set with the same number of them",
        )
    both = set(mine) & set(theirs)
    if both:
        raise StateMismatch(
            "cannot merge: a shard is in both measurements and would count twice", str(min(both)), "merge it once"
        )
