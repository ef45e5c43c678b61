"""`chances`: the suspects that candidate triggers for a target are read off, and groups of clean samples as their controls.

A control tells something only where it could have come out as the proof did: from a group as large, ranked the same way, for a
class as rare in clean data, as often tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from naa_fast.detect.proof import ALL_TO_ALL
from naa_fast.proof.images import SIZES, CleanImages
from naa_fast.proof.matched_filter import FEWEST
from naa_fast.records import Array

CONTROLS = 2
"""Random groups of the target's own clean samples, beside the highest-ranked of them."""
OTHERS, FEWEST_OTHERS = 8, 4
"""Classes that stand for a target that clean data hardly has, and the fewest: they differ in how easily they are reached."""
AMONG = 100
ALIKE = 0.05
"""Root mean square difference of two samples, over that of clean inputs about their mean, up to which one repeats the other."""

Rows = Sequence[tuple[int, Array]]
"""Predicted class and input of some samples."""


@dataclass(frozen=True)
class Sought:
    """A `group` of samples, the highest-ranked first, that candidate triggers for one target are read off.

    `of_target`: clean inputs of the target's class, of all-to-all all; `usual` their mean, None of all-to-all, or without any.
    """

    target: int | str
    group: Rows
    of_target: Array
    usual: Array | None

    @classmethod
    def of(cls, target: int | str, group: Rows, of_target: Array) -> Sought:
        """With the mean of `of_target` `[samples, ...]`, where one is of use."""
        return cls(target, group, of_target, of_target.mean(0) if target != ALL_TO_ALL and len(of_target) else None)


@dataclass(frozen=True)
class Pool:
    """Clean samples: `ranked` the highest-ranked first, `drawn` a random choice with the class `predicted` for each."""

    ranked: Rows
    drawn: CleanImages
    predicted: Array

    @cached_property
    def by_class(self) -> dict[int, list[Array]]:
        """Inputs of each predicted class, each once: the ranked ones first, then those drawn in an order that a seed fixes. Each
        float32 `[...]`, an input's shape.
        """
        inputs: dict[int, list[Array]] = {}
        known: set[bytes] = set()
        order = np.random.default_rng(0).permutation(len(self.drawn.x))
        for cls, row in [*self.ranked, *((int(self.predicted[i]), self.drawn.x[i]) for i in order)]:
            key = row.tobytes()
            if cls >= 0 and key not in known:
                known.add(key)
                inputs.setdefault(cls, []).append(row)
        return inputs

    @cached_property
    def first(self) -> dict[int, int]:
        """How many of the AMONG highest-ranked are of each class."""
        return {int(c): int(n) for c, n in zip(*np.unique([c for c, _ in self.ranked[:AMONG]], return_counts=True), strict=True)}

    def of_target(self, cls: int) -> Array:
        """The drawn inputs of a class, float32 `[samples, ...]`."""
        return self.drawn.x[self.predicted == cls]


def chances(target: int | str, group: Rows, pool: Pool) -> tuple[Sought, list[Sought]] | None:
    """The suspects that a target's candidates are read off, and the control groups; None where clean data has no group with the
    same chance of a proof.

    The suspects' group is cut to the size that the controls can have. They are of the target's own clean samples, one group the
    highest-ranked and CONTROLS at random, where these are enough for every kind of candidate (SIZES[1]); else of other classes
    (`others`), and of the target's own as far as they go; without other classes of these alone, if they are SIZES[0] or more.
    """
    if target == ALL_TO_ALL:
        size = min(len(group), len(pool.drawn.x))
        return Sought.of(target, group[:size], pool.drawn.x), all_classes(pool, size)
    assert isinstance(target, int)
    known, ranked = pool.of_target(target), pool.by_class.get(target, [])
    enough = min(len(group), SIZES[1])
    if len(ranked) >= enough and len(known) >= enough:
        return controls_of_target(target, group, known, ranked)
    size, controls = others(target, len(group), len(known), pool, OTHERS)
    if not controls:
        return controls_of_target(target, group, known, ranked) if min(len(known), len(ranked)) >= SIZES[0] else None
    if len(ranked) >= FEWEST:
        controls.append(Sought.of(target, of_class(target, ranked[:size]), known))
    return Sought.of(target, group[:size], known), controls


def controls_of_target(target: int, group: Rows, known: Array, ranked: Sequence[Array]) -> tuple[Sought, list[Sought]]:
    """The group and the controls of the target's own clean samples, all of one size. `known` `[samples, ...]`: what is known of
    the target; `ranked`: its highest-ranked inputs, `[...]` each.
    """
    size = min(len(group), len(known), len(ranked))
    random = np.random.default_rng(target)
    groups = [ranked[:size], *(list(known[random.permutation(len(known))[:size]]) for _ in range(CONTROLS))]
    return Sought.of(target, group[:size], known), [Sought.of(target, of_class(target, rows), known) for rows in groups]


def others(target: int, most: int, rare: int, pool: Pool, wanted: int) -> tuple[int, list[Sought]]:
    """The size of group that FEWEST_OTHERS other classes can have, `most` at most, and groups of `wanted` classes at most that
    have so many, each for its own class.

    Each class is made as rare as the target: only `rare` of its clean samples are known as its own, and its group is of the rest.
    Those most frequent among the highest-ranked clean samples go first, as the target does among the suspects. Without
    FEWEST_OTHERS of FEWEST samples there are none.
    """
    left = {cls: len(rows) - rare for cls, rows in pool.by_class.items() if cls != target and len(rows) - rare >= FEWEST}
    if len(left) < FEWEST_OTHERS:
        return 0, []
    size = min(most, sorted(left.values(), reverse=True)[FEWEST_OTHERS - 1])
    able = sorted(
        (cls for cls, count in left.items() if count >= size), key=lambda cls: (-pool.first.get(cls, 0), left[cls], cls)
    )
    controls = []
    for cls in able[:wanted]:
        rows = pool.by_class[cls]
        hidden = np.isin(np.arange(len(rows)), np.random.default_rng(cls).permutation(len(rows))[:rare])
        group = [row for row, known in zip(rows, hidden, strict=True) if not known][:size]
        few = np.stack([row for row, known in zip(rows, hidden, strict=True) if known]) if rare else rows[0][None][:0]
        controls.append(Sought.of(cls, of_class(cls, group), few))
    return size, controls


def all_classes(pool: Pool, size: int) -> list[Sought]:
    """Groups of clean samples of every class: the highest-ranked, and CONTROLS at random."""
    random = np.random.default_rng(0)
    drawn = [
        [(int(pool.predicted[i]), pool.drawn.x[i]) for i in random.permutation(len(pool.drawn.x))[:size]] for _ in range(CONTROLS)
    ]
    return [Sought.of(ALL_TO_ALL, rows, pool.drawn.x) for rows in (*drawn, pool.ranked[:size]) if len(rows) >= FEWEST]


def of_class(cls: int, rows: Sequence[Array]) -> Rows:
    """The rows, `[...]` each, as those of one class."""
    return [(cls, row) for row in rows]


def distinct(rows: Rows, clean: CleanImages) -> Rows:
    """The rows without those that repeat an earlier one: black frames share all they have, and witness nothing for each other."""
    if len(rows) < FEWEST:
        return rows
    x = np.stack([row for _, row in rows]).reshape(len(rows), -1)
    x = x - clean.mean.reshape(1, -1)
    squares = (x**2).sum(1)
    near = squares[:, None] + squares[None] - 2 * x @ x.T < x.shape[1] * (ALIKE * clean.loudness) ** 2
    np.fill_diagonal(near, True)  # whatever rounding says
    first = near.argmax(1) == np.arange(len(rows))
    return [pair for pair, kept in zip(rows, first, strict=True) if kept]
