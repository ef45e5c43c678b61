"""`measure`: how far held-back suspects lie from held-back clean samples along directions that others fixed. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naa_fast.records import Array

KINDS = ("mean difference", "whitened", "spread")
FEWEST = 16
"""Samples of a set that a direction is fixed on, and measured on, at least."""
PERMUTATIONS = 999
"""A direction is one by more than chance where it exceeds all of them: 1 false alarm in 1,000 scans, over all directions."""
DEALT = 37
"""Of them at a time: their labels then stay in the cache."""
BEYOND = 0.99
SHOWN = 5


@dataclass(frozen=True)
class Projected:
    """A unit direction in a layer, `vector` float64 over every `step`-th neuron, and held-back samples along it, from the clean
    mean on: `clean`, `suspect` float64.
    """

    layer: str
    kind: str
    vector: Array
    step: int
    clean: Array
    suspect: Array

    @property
    def sides(self) -> tuple[Array, Array]:
        """What is compared: places along the direction, for a spread the squares of their distances from the clean mean. Float64
        `[clean samples]` and `[suspect samples]`.
        """
        return (self.clean**2, self.suspect**2) if self.kind == "spread" else (self.clean, self.suspect)


@dataclass(frozen=True)
class Direction:
    """A direction with its effect on samples that had no part in it.

    `effect`: difference of the means along it in clean standard deviations. `spread`: root mean square distance of suspects from
    the clean mean over that of clean samples. `auc`: chance that a suspect lies farther out than a clean sample; `beyond`: share
    of suspects farther out than BEYOND of the clean samples. `statistic` is the two sets' t, `limit` the largest, over every
    direction of every layer, when their labels are dealt out at random. `neurons`: those of the largest share, with it.
    """

    layer: str
    kind: str
    effect: float
    spread: float
    auc: float
    beyond: float
    statistic: float
    limit: float
    neurons: tuple[tuple[int, float], ...]
    vector: Array
    step: int = 1

    @property
    def stands(self) -> bool:
        """Whether it is more than chance."""
        return self.statistic > self.limit


def measure(projections: Sequence[Projected]) -> tuple[Direction, ...]:
    """Every direction with its effect sizes, the farthest above chance first.

    The samples had no part in choosing the direction, so under equal distributions their labels are exchangeable, and the largest
    statistic over all directions exceeds its PERMUTATIONS repetitions with probability 1 / (PERMUTATIONS + 1), whatever the
    distributions and however layers depend on each other (Westfall and Young, 1993). That takes samples for independent.
    """
    groups: dict[tuple[int, int], list[Projected]] = {}
    for projected in projections:
        groups.setdefault((len(projected.clean), len(projected.suspect)), []).append(projected)
    statistics: dict[int, float] = {}
    chance = np.full(PERMUTATIONS, -np.inf)
    for (clean, suspect), members in groups.items():
        z = standardised(np.stack([np.concatenate(projected.sides) for projected in members], 1))
        random = np.random.default_rng(0)  # equal sizes in another group would be dealt out alike
        labels = np.repeat(np.array([0, 1]), (clean, suspect))
        t = t_of(labels[None], z, suspect)
        for start in range(0, PERMUTATIONS, DEALT):
            stop = min(start + DEALT, PERMUTATIONS)
            dealt = random.permuted(np.broadcast_to(labels, (stop - start, len(labels))), axis=1)
            chance[start:stop] = np.maximum(chance[start:stop], t_of(dealt, z, suspect).max(1))
        statistics |= {id(projected): float(t[0, place]) for place, projected in enumerate(members)}
    limit = float(chance.max(initial=-np.inf))
    directions = [direction_of(projected, statistics[id(projected)], limit) for projected in projections]
    return tuple(sorted(directions, key=lambda projected: -projected.statistic))


def standardised(values: Array) -> Array:
    """Columns of `values` `[samples, columns]` with mean 0 and deviation 1, or 0 where nothing varies: float32."""
    spread = values.std(0)
    z: Array = np.where(spread > 0, (values - values.mean(0)) / np.where(spread > 0, spread, 1.0), 0.0)
    return z.astype(np.float32)


def t_of(dealt: Array, z: Array, suspects: int) -> Array:
    """t of the mean of those dealt a 1 against the others, float64 `[deals, columns]`; 0 where nothing varies."""
    total = len(z)
    sums = (dealt.astype(np.float32) @ z).astype(np.float64)  # z has mean 0, so the others' sum is its negative
    apart = sums / suspects + sums / (total - suspects)
    between = sums**2 / suspects + sums**2 / (total - suspects)
    within = np.maximum((total - between) / max(total - 2, 1), 1e-12)
    return apart / np.sqrt(within * (1 / suspects + 1 / (total - suspects)))


def direction_of(projected: Projected, statistic: float, limit: float) -> Direction:
    clean, suspect = projected.sides
    deviation = max(float(projected.clean.std()), 1e-30)
    usual = max(float((projected.clean**2).mean()), 1e-30)
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, suspect, "left") + np.searchsorted(ordered, suspect, "right")
    strongest = np.argsort(-np.abs(projected.vector), kind="stable")[:SHOWN]
    return Direction(
        projected.layer,
        projected.kind,
        effect=float(projected.suspect.mean() - projected.clean.mean()) / deviation,
        spread=float(np.sqrt((projected.suspect**2).mean() / usual)),
        auc=float(below.mean() / (2 * len(clean))),
        beyond=float((suspect > np.quantile(clean, BEYOND, method="higher")).mean()),
        statistic=statistic,
        limit=limit,
        neurons=tuple((int(i) * projected.step, float(projected.vector[i])) for i in strongest),
        vector=projected.vector,
        step=projected.step,
    )
