"""`refined_groups`: matched-filter refinement: of a group of suspects, those that hold the pattern they have in common.

A group of high-ranked suspects holds samples without the trigger too, and an average over all of them blurs it. A filter made of
what the highest-ranked share picks out those that hold it; what is averaged over these alone is a cleaner reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from naa_fast.proof.images import CleanImages, axes_of
from naa_fast.records import Array

STARTS = (8, 32)
"""How many of the highest-ranked samples say what is looked for."""
STEPS = 4
FEWEST = 5
"""Samples of one predicted class that make it a target, and that can share something."""
BEYOND = 0.99
"""Share of the clean samples of the class that a member has to exceed."""
FLOOR = 1e-3
"""Least amplitude of a spatial frequency, over the largest: what clean inputs never do would weigh without limit."""


def refined_groups(rows: Array, clean: CleanImages, usual: Array | None, of_target: Array) -> Iterator[Array]:
    """Groups of rows that hold what the highest-ranked rows have in common: their numbers, int64, one group for each of STARTS,
    each once; none where fewer than FEWEST are left, or all rows stay.

    `rows` float32 `[samples, ...]`, the highest-ranked first; `usual`: see `naa_fast.proof.images.offsets`; `of_target`: clean
    inputs of the class. A matched filter (Turin, IRE Transactions on Information Theory 6, 1960): what the members share, each
    frequency over its power in clean inputs, is sought in all rows, and those that hold more than half as much as the members do,
    and more than BEYOND of the clean inputs do, are the members of the next step. No row is told by what it adds itself: it would
    recognise its own noise.
    """
    if not len(of_target):
        return
    sought = Filter(rows, clean, usual, of_target)
    seen: set[tuple[int, ...]] = set()
    for start in STARTS:
        members = np.arange(min(start, len(rows)))
        for _ in range(STEPS):
            if len(members) < FEWEST:
                break
            before, members = members, sought.step(members)
            if np.array_equal(before, members):
                break
        key = tuple(members.tolist())
        if FEWEST <= len(members) < len(rows) and key not in seen:
            seen.add(key)
            yield members


def matched(shared: Array, clean: CleanImages) -> Array:
    """What finds `shared` in an input best: each frequency over its power in clean inputs (Turin 1960). Float64 `[...]`, both of
    an input's shape.
    """
    axes = tuple(axis - 1 for axis in axes_of(clean.x))
    return np.asarray(np.fft.ifftn(np.fft.fftn(shared, axes=axes) / power_of(clean), axes=axes).real)


def power_of(clean: CleanImages) -> Array:
    """The power of each frequency in clean inputs, FLOOR at least. Float64 `[...]`, an input's shape."""
    return np.asarray(np.maximum(clean.spectrum, FLOOR * clean.spectrum.max()) ** 2)


class Filter:
    """Which of the `rows` hold what some of them share."""

    def __init__(self, rows: Array, clean: CleanImages, usual: Array | None, of_target: Array) -> None:
        """`rows` and `of_target` float32 `[samples, ...]`, `usual` `[...]`: see `refined_groups`."""
        self.rows, self.clean, self.usual, self.of_target = rows, clean, usual, of_target
        self.axes = tuple(axis - 1 for axis in axes_of(rows))
        self.power = power_of(clean)
        self._itself: dict[int, float] = {}

    def step(self, members: Array) -> Array:
        """The rows that hold more of what `members` have in common than clean inputs do, int64, those that hold most first.
        `[rows]`, both.
        """
        shared = self.clean.without(self.rows[members].mean(0) - self.clean.mean, self.usual)
        wanted = matched(shared, self.clean)
        matches, base = self.along(self.rows, wanted), self.along(self.of_target, wanted)
        itself = np.array([self.itself(int(i)) for i in members])
        matches[members] = (len(members) * matches[members] - itself) / (len(members) - 1)
        limit = max(float(np.quantile(base, BEYOND)), float(matches[members].mean() + base.mean()) / 2)
        order = np.argsort(-matches, kind="stable")
        return order[matches[order] > limit].astype(np.int64)

    def along(self, x: Array, wanted: Array) -> Array:
        """How much of `wanted` `[...]` each of `x` `[samples, ...]` has: float64 `[samples]`."""
        return np.asarray((x - self.clean.mean).reshape(len(x), -1) @ wanted.ravel(), np.float64)

    def itself(self, row: int) -> float:
        """How strongly a row matches a filter made of itself alone (Parseval)."""
        if row not in self._itself:
            spectrum = np.fft.fftn(self.rows[row] - self.clean.mean, axes=self.axes)
            values = np.prod([self.rows.shape[axis + 1] for axis in self.axes])
            self._itself[row] = float((np.abs(spectrum) ** 2 / self.power).sum() / values)
        return self._itself[row]
