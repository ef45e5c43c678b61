"""Enrichment of a target class: whether more of its suspects lie outside than by chance (`enrichment`), and whether those are a
cluster of outliers that came from other classes (`OutlierCluster`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

import numpy as np

from naa_fast.records import Array

SHARES = (0.1, 0.05, 0.02, 0.01)
"""Shares of a class's clean samples, the farthest out, that its suspects are counted against: a trigger that leaves the clean
range is seen best against the last, one that only leans out of it, like a warp, against the first."""
FEWEST = 10
"""Clean samples of a class below which nothing is said of it."""
TAIL_P = 1e-3
"""Chance of a false finding on a fresh clean set."""
CHANCE = 2.0
"""Standard errors that other classes' counts may lie above what is expected without telling against the largest."""
PURE, ELSEWHERE, SPREAD = 0.75, 0.3, 0.4
"""What a cluster needs to be backdoor-like. In some 20 sets of backdoors of halves A and B with one target and many sources, on
5 % and all of the samples, the purity was .87 and more (.65 of 450 digits), other classes' share .47 above the usual, their
spread .56. Of 120 sets of eleven clean models all those as pure, beyond chance (black images, blur), resembled their own class
or one other."""
CLUSTER_HARMLESS = 0.8
"""Where brightness, contrast, blur and the like explain this share of what sets a cluster's inputs off, they are the reason: of
black images .96 and more, of backdoors that are told .67 at most."""


@dataclass(frozen=True)
class Enrichment:
    """`beyond` of the `samples` suspects predicted as `target` lie above `limit`, as do `usual` of `clean` clean ones.

    `p_value`: that two clean sets differ as much, over all classes and SHARES. `purity`: their share of what all classes have too
    many of.
    """

    target: int
    limit: float
    beyond: int
    samples: int
    usual: int
    clean: int
    p_value: float
    purity: float

    @property
    def extra(self) -> float:
        """How many more lie beyond than the clean samples of the class let expect."""
        return self.beyond - self.usual * self.samples / self.clean


def enrichment(scores: Array, predicted: Array, null_scores: Array, null_predicted: Array) -> Enrichment | None:
    """The class with the smallest chance of so many suspects beyond its own clean samples. None without classes that have FEWEST.

    Scores float64, classes int64 (-1: none) of suspects and of clean samples that fixed nothing. Fisher's exact test of each
    class and share (Bonferroni over all of them): the limits are those of the class's own clean samples, so that more of a class
    tells nothing, and a few samples on it are held against those of the class and not against all. All are `[samples]`.
    """
    enriched = []
    for target in np.unique(predicted[predicted >= 0]):
        suspects, clean = scores[predicted == target], null_scores[null_predicted == target]
        suspects, clean = suspects[~np.isnan(suspects)], clean[~np.isnan(clean)]
        if len(clean) >= FEWEST and len(suspects):
            enriched.append(min((counted(int(target), suspects, clean, share) for share in usable(len(clean))), key=likelier))
    if not enriched:
        return None
    best = min(enriched, key=likelier)
    others = sum(max(0.0, other.extra - CHANCE * spread_of(other)) for other in enriched if other is not best)
    extra = max(best.extra, 0.0)
    tests = len(enriched) * len(SHARES)
    purity = extra / (extra + others) if extra > 0 else 0.0
    return replace(best, p_value=min(1.0, best.p_value * tests), purity=purity)


def usable(clean: int) -> list[float]:
    """The shares that are at least a whole sample."""
    return [share for share in SHARES if share * clean >= 1]


def counted(target: int, suspects: Array, clean: Array, share: float) -> Enrichment:
    """How many of a target's suspects lie beyond the `share` of its clean samples that lie farthest; scores `[samples]`."""
    limit = float(np.quantile(clean, 1 - share, method="higher"))
    beyond, usual = int((suspects > limit).sum()), int((clean > limit).sum())
    chance = hypergeometric_tail(beyond, len(suspects), usual, len(clean))
    return Enrichment(target, limit, beyond, len(suspects), usual, len(clean), chance, 1.0)


def likelier(enriched: Enrichment) -> tuple[float, float]:
    return enriched.p_value, -enriched.extra


def spread_of(enriched: Enrichment) -> float:
    """Standard error of `extra` by chance: of the suspects' count and of the clean one it is held against."""
    ratio = enriched.samples / enriched.clean
    return float(np.sqrt(max(enriched.usual, 1) * ratio * (1 + ratio)))


@dataclass(frozen=True)
class OutlierCluster:
    """Suspects of one predicted class beyond what clean samples of it reach, and where they come from.

    `extra`, `purity` and `p_value` as of `Enrichment`; `elsewhere`: share of these whose nearest clean input is predicted as
    another class, `usual` the same of clean samples of that class; `spread`: 1 less the share of the commonest of those other
    classes; `harmless`: how much of what sets their inputs off brightness, contrast, blur and the like explain.
    """

    target: int
    extra: float
    purity: float
    p_value: float
    elsewhere: float
    usual: float
    spread: float
    harmless: float

    @property
    def turned(self) -> bool:
        """Whether they look like samples of many classes that something has turned to one.

        Nothing but noise, or blank images, are outside as one too, but resemble no class or one alone; a class that has become
        more frequent resembles itself.
        """
        enriched = self.p_value < TAIL_P and self.purity >= PURE and self.harmless < CLUSTER_HARMLESS
        return enriched and self.elsewhere - self.usual >= ELSEWHERE and self.spread >= SPREAD

    @property
    def strength(self) -> float:
        """How near it comes to such a cluster, 0 to 1."""
        if self.harmless >= CLUSTER_HARMLESS:
            return 0.0
        sure = min(1.0, log(max(self.p_value, 1e-300)) / log(TAIL_P))
        pure, spread = max(0.0, 2 * self.purity - 1), min(1.0, self.spread / SPREAD)
        return sure * pure * spread * max(0.0, self.elsewhere - self.usual)


def hypergeometric_tail(k_a: int, n_a: int, k_b: int, n_b: int) -> float:
    """P(at least `k_a` of the `k_a + k_b` marked among `n_a` of `n_a + n_b`), if the marks fall at random: Fisher's exact test,
    one-sided (Fisher 1934). Accurate to a few 1e-15 of itself, also far out in the tail; .25 ms.
    """
    from scipy.stats import hypergeom  # takes a second to import

    return 1.0 if k_a <= 0 else float(hypergeom.sf(k_a - 1, n_a + n_b, k_a + k_b, n_a))
