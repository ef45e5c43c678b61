"""`Evidence`: what ranking the samples adds to the statistics, and the findings it makes. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from naa_fast.detect.checks import Check
from naa_fast.detect.directions import Direction
from naa_fast.detect.enrichment import TAIL_P, Enrichment, OutlierCluster, enrichment, hypergeometric_tail
from naa_fast.detect.interim import Interim
from naa_fast.detect.inversion import Inversion
from naa_fast.detect.names import Names
from naa_fast.detect.proof import Proof
from naa_fast.records import Array

PLACE_IN_SET = "samples by their place in the set"
TAIL = 0.01
"""Share of clean samples beyond the limit that suspects are counted against."""
MOST_RANKED = 1000
MOST_LISTED = 100_000
"""Samples report.json lists where every one is asked for: some 25 MB. Beyond, a table is the form; it holds them all."""
Deviating = tuple[tuple[str, int, float], ...]
"""The neurons that deviate most in a sample, strongest first: `(layer, neuron, z)`."""
HARMLESS = 0.7
"""Share of a shift of the inputs that harmless changes explain beyond which it is one. Brightness, contrast and the like come
to .8 and more."""
CONCENTRATED_TOP, FEWEST_OUTSIDE = 20, 8
"""Highest-ranked samples whose predicted classes are compared: so many, or all that lie beyond every clean sample where these are
fewer, but so many at least. Of 300 samples with the trigger on 5 % no 20 can be of one class."""

OUT_OF_PLACE = 5 * TAIL
"""Share of the samples of a class that has become frequent that must lie beyond the clean limit: a class of which there simply is
more stays at TAIL."""


@dataclass(frozen=True)
class RankedSample:
    """A suspect sample: its index in the set, score, predicted class (-1: none), the neurons that deviate most in it as `(layer,
    neuron, z)`, its file if it has one, and whether it carries a proven trigger and is predicted as its target (None: unknown).
    """

    sample: int
    score: float
    predicted: int
    deviating: Deviating = ()
    file: str | None = None
    triggered: bool | None = False


def nameless(item: int) -> str | None:
    """The file of an item where items have none."""
    return None


def highest_first(scores: Array) -> Array:
    """Sample numbers, the highest score first, ties by place in the set, NaN last: int64 `[samples]`."""
    return np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")


def in_layers(deviating: Iterable[Sequence[float]], layers: Sequence[tuple[str, int]]) -> Deviating:
    """What deviates in a sample, `(layer number, feature, z)` each, by names: `layers` are each a name and how many neurons it
    has, and features beyond these are the maxima of the same neurons. `[layers shown, 3]`.
    """
    return tuple(
        (layers[int(layer)][0], int(feature) % max(layers[int(layer)][1], 1), float(z)) for layer, feature, z in deviating
    )


@dataclass(frozen=True)
class Ranking:
    """How far every suspect sample lies outside what clean samples do under the same predicted class.

    `scores` float64 and `predicted` int64 (-1: none) `[suspect samples]`, in the order of the set; `null_scores`,
    `null_predicted` the same of clean samples that fixed nothing; `triggered` bool, which samples carry a proven trigger and are
    predicted as its target, `uncertain` bool, of which others that is unknown. `items` int64, each sample's place in the set
    (None: none was left out), `file_of` the file at a place; `deviating` by sample number, of the retained samples. `whole`:
    reports list every sample. `numbering`: what a sample's number means.
    """

    scores: Array
    predicted: Array
    null_scores: Array
    null_predicted: Array
    triggered: Array | None = None
    uncertain: Array | None = None
    items: Array | None = None
    deviating: Mapping[int, Deviating] = field(default_factory=dict)
    file_of: Callable[[int], str | None] = nameless
    whole: bool = False
    numbering: str = PLACE_IN_SET

    @classmethod
    def unproved(cls, scores: Array, predicted: Array, null_scores: Array, null_predicted: Array, **more: Any) -> Ranking:
        """Before a proof was tried: of no sample it is known whether it is triggered. `[samples]` each, as of the class."""
        nothing = np.zeros(len(scores), bool)
        return cls(scores, predicted, null_scores, null_predicted, triggered=nothing, uncertain=~nothing, **more)

    @cached_property
    def ranked(self) -> Array:
        """The scores to order samples by: those with a proven trigger before all others. float64 `[suspect samples]`."""
        if self.triggered is None or not self.triggered.any():
            return self.scores
        finite = self.scores[np.isfinite(self.scores)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        within = np.nan_to_num(self.scores, nan=low - 1, posinf=high + 1, neginf=low - 1)
        return within + np.where(self.triggered, high - low + 3.0, 0.0)

    @cached_property
    def order(self) -> Array:
        """Sample numbers, highest-ranked first: the one order of every list, table and picture. int64 `[suspect samples]`."""
        return highest_first(self.ranked)

    def rows(self, most: int | None = None) -> Iterator[RankedSample]:
        """The samples, highest-ranked first, `most` at most; one at a time, as there may be millions."""
        for number in islice(self.order, most):
            yield self.row(int(number))

    def row(self, number: int) -> RankedSample:
        """What is known of a sample of this number."""
        item = number if self.items is None else int(self.items[number])
        called, score = int(self.predicted[number]), float(self.scores[number])
        return RankedSample(item, score, called, self.deviating.get(number, ()), self.file_of(item), self.is_triggered(number))

    def is_triggered(self, number: int) -> bool | None:
        """Whether a sample carries a proven trigger; None: unknown."""
        if self.triggered is not None and self.triggered[number]:
            return True
        return None if self.uncertain is not None and self.uncertain[number] else False

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row a sample, highest-ranked first: sample, score, predicted, triggered, file, deviating.

        `triggered` is nullable, NA where it is unknown; `deviating` holds `(layer, neuron, z)` of the neurons that deviate most.

        >>> audit.ranking.to_frame().columns[:2].tolist()  # doctest: +SKIP
        ['sample', 'score']

        Raises:
            UsageError: pandas is not installed.
        """
        from naa_fast.detect.frames import ranking_frame

        return ranking_frame(self)

    @property
    def listed(self) -> Iterator[RankedSample]:
        """The samples a report lists."""
        return self.rows(MOST_LISTED if self.whole else MOST_RANKED)

    @cached_property
    def top(self) -> tuple[RankedSample, ...]:
        """The MOST_RANKED highest-ranked samples."""
        return tuple(self.rows(MOST_RANKED))

    def __repr__(self) -> str:
        return f"Ranking({len(self.scores)} samples, {self.beyond} beyond the clean limit)"

    @cached_property
    def not_finite(self) -> tuple[RankedSample, ...]:
        """The samples whose activations are NaN or infinite somewhere: their score is infinite."""
        return tuple(self.row(int(number)) for number in np.flatnonzero(np.isposinf(self.scores)))

    @cached_property
    def limit(self) -> float:
        """Score that TAIL of the clean samples exceed; infinite if there are too few of them to say."""
        known = self.null_scores[~np.isnan(self.null_scores)]
        return float(np.quantile(known, 1 - TAIL, method="higher")) if len(known) * TAIL >= 1 else float("inf")

    @cached_property
    def beyond(self) -> int:
        """Suspect samples above `limit`."""
        with np.errstate(invalid="ignore"):
            return int((self.scores > self.limit).sum())

    @cached_property
    def outside(self) -> int:
        """Suspect samples above every clean one."""
        with np.errstate(invalid="ignore"):
            return int((self.scores > np.nanmax(self.null_scores, initial=-np.inf)).sum()) if len(self.null_scores) else 0

    @cached_property
    def p_value(self) -> float:
        """Probability that two clean sets differ as much in their tails: Fisher's exact test, one-sided, of those beyond `limit`,
        of those outside all clean samples, and of those beyond clean samples of their class; the smallest thrice (Bonferroni).
        """
        sizes = int((~np.isnan(self.scores)).sum()), int((~np.isnan(self.null_scores)).sum())
        inside = int((self.null_scores > self.limit).sum())
        chances = [hypergeometric_tail(self.outside, sizes[0], 0, sizes[1])]
        if np.isfinite(self.limit):
            chances.append(hypergeometric_tail(self.beyond, sizes[0], inside, sizes[1]))
        if self.enriched is not None:
            chances.append(self.enriched.p_value)
        return min(1.0, 3 * min(chances))

    @cached_property
    def enriched(self) -> Enrichment | None:
        """The predicted class whose suspects lie beyond its clean samples most; None without classes."""
        return enrichment(self.scores, self.predicted, self.null_scores, self.null_predicted)

    def out_of_place(self, cls: int) -> bool:
        """Whether suspects of a predicted class lie beyond `limit` far more often than by chance; true where none can be told."""
        scores = self.scores[self.predicted == cls]
        with np.errstate(invalid="ignore"):
            return not np.isfinite(self.limit) or bool((scores > self.limit).mean() >= OUT_OF_PLACE if len(scores) else True)

    @property
    def farthest(self) -> int:
        """How many of the highest scores are looked at for one predicted class."""
        return min(self.outside, CONCENTRATED_TOP) if self.outside >= FEWEST_OUTSIDE else CONCENTRATED_TOP

    @cached_property
    def concentration(self) -> tuple[int, float]:
        """The class most often predicted among the `farthest` samples, and its share beyond its share of the whole set."""
        chosen = self.predicted[highest_first(self.scores)[: self.farthest]]
        known = chosen[chosen >= 0]
        if len(known) < self.farthest:
            return -1, 0.0
        target = int(np.bincount(known).argmax())
        return target, float((known == target).mean() - (self.predicted == target).mean())


Heat = tuple[tuple[str, float], ...]
"""The tokens of a text, each with by how many standard deviations its neurons lie beyond those of clean tokens."""


@dataclass(frozen=True)
class Evidence:
    """What ranking the samples told: a `ranking`, `proof` strongest first, how many samples ran through the model for the proofs
    (`forwards`), `checks` that say which of checks.OF_SAMPLES ran (what they do not name did not), `notes` on what else was not
    done and why, `gaps` where it failed. `pictures` (float32 `[samples, channels, height,
    width]`) or `texts` show the first samples of `ranking.top`. `harmless`, 0 to 1: how much of the shift of the inputs
    brightness, contrast, blur or a shift by a pixel explain. `cluster`: None where there is none, or inputs cannot be compared.
    `directions` of every layer, the farthest above chance first. `names`
    of the classes. `inversion`: what the search without suspect samples came to, None where there were suspects.
    `heat`: of the first of the `texts` which tokens deviate. `interim`: when the scan was judged while it ran, None where it was
    judged at its end alone.
    """

    ranking: Ranking | None = None
    proof: tuple[Proof, ...] = ()
    forwards: int = 0
    notes: tuple[str, ...] = ()
    pictures: Array | None = None
    texts: tuple[str, ...] = ()
    harmless: float = 0.0
    cluster: OutlierCluster | None = None
    gaps: tuple[str, ...] = ()
    directions: tuple[Direction, ...] = ()
    checks: tuple[Check, ...] = ()
    names: Names = field(default_factory=Names)
    inversion: Inversion | None = None
    heat: tuple[Heat, ...] = ()
    interim: Interim | None = None

    @property
    def share(self) -> float:
        """The part of each chance of a false alarm that may be spent: all of it where the scan is judged at its end alone."""
        return 1.0 if self.interim is None else self.interim.share

    @property
    def turned(self) -> OutlierCluster | None:
        """The cluster, if it is backdoor-like."""
        cluster = self.cluster
        return cluster if cluster is not None and cluster.turned and cluster.p_value < TAIL_P * self.share else None
