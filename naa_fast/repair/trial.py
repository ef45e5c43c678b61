"""`Trial`: what a change leaves of the trigger and of clean predictions, on samples that choose and on others that measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from naa_fast.detect.change import Change
from naa_fast.detect.evidence import Ranking
from naa_fast.detect.proof import Proof
from naa_fast.inputs.batches import Batch
from naa_fast.proof.apply import candidate_of
from naa_fast.proof.images import CleanImages
from naa_fast.proof.transplant import Candidate, PredictedSamples, Transplant, flipped, moved_by_rule, rule_of, samples_of
from naa_fast.proof.trials import dealt
from naa_fast.rank.retained import INPUT_BYTES, main_tensor
from naa_fast.rank.suspects import SuspectReader
from naa_fast.records import Array
from naa_fast.repair.change import applied
from naa_fast.repair.sizes import Sizes

DEALT = ((0, 2), (1,), (3,))
"""Which of every four suspects fix, choose and measure."""
MOST_SUSPECTS = 400
LEAST = 10
"""Highest-ranked suspect samples that stand for the trigger: at least these; half of them fix, a quarter chooses."""
RISEN, MIXED = 4, 0.25
"""A target that has become so many times as frequent has nearly all of its samples from the trigger: all but MIXED of them."""


@dataclass(frozen=True)
class Known:
    """What a repair is tried with: clean samples, in batches as they were `drawn` with the class predicted for each, at most
    `largest` a forward; `chose` (int64), numbers of those that had a part in making the trigger, None for those that choose a
    scan's proofs; `images`, the clean inputs where they are continuous values; `suspect`, the samples in question, None where
    there are none.
    """

    drawn: Sequence[tuple[Batch, Array]]
    largest: int
    chose: Array | None = None
    images: CleanImages | None = None
    suspect: SuspectReader | None = None


class AsItIs:
    """No trigger."""

    kind = budget = "none"

    def put_on(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`x` `[samples, ...]` as it is."""
        return x


def most_general(proofs: Sequence[Proof]) -> Proof | None:
    """The first that stands, one that is not of a single source class if there is such: an all-to-all attack is as well one of
    each class, and what silences one of them leaves the others.
    """
    standing = [proof for proof in proofs if proof.stands]
    return min(standing, key=lambda proof: proof.source is not None, default=None)


def with_trigger(transplant: Transplant, samples: PredictedSamples, candidate: Candidate) -> PredictedSamples:
    """The samples with the trigger on them, and what was predicted for each without it."""
    return PredictedSamples([(transplant.placed(candidate, batch), predicted) for batch, predicted in samples.batches])


@dataclass(frozen=True)
class Part:
    """`clean` samples; `onto`, those of the proof's source class, or all; `triggered`, these with the trigger on them (None
    without a proof); `shown`, suspects (None without).
    """

    clean: PredictedSamples
    onto: PredictedSamples
    triggered: PredictedSamples | None
    shown: PredictedSamples | None

    @property
    def price(self) -> int:
        """Samples that run to tell what a change leaves of the trigger and of clean predictions."""
        return sum(len(part.predicted) for part in (self.clean, self.triggered, self.shown) if part is not None)

    @property
    def price_to_measure(self) -> int:
        """The same to measure one: before it, with it and with its control."""
        on = self.triggered or self.shown
        return 2 * len(self.clean.predicted) + 3 * (0 if on is None else len(on.predicted))


@dataclass(frozen=True)
class Residual:
    """Residual attack success, 0 to 1: the share of clean samples that the trigger still turns, and of suspects that keep their
    prediction."""

    triggered: float | None
    shown: float | None

    @property
    def mean(self) -> float:
        """Over both, as far as they are known: a reconstruction is not quite the trigger, and suspects are not all of them with
        it."""
        return float(np.mean([share for share in (self.triggered, self.shown) if share is not None]))

    @property
    def surely(self) -> float:
        """What is left although some suspects may not carry the trigger: on clean samples each one with it on has it."""
        return self.mean if self.triggered is None else max(self.triggered, (self.shown or 0.0) - MIXED)


class Trial:
    """Parts that fix, choose and measure, and the shares that are counted on them."""

    def __init__(self, transplant: Transplant, fix: Part, choose: Part, measure: Part, proof: Proof | None) -> None:
        self.transplant = transplant
        self.fix, self.choose, self.measure = fix, choose, measure
        self.proof = proof
        self.rule: dict[int, int] = {}
        if choose.triggered is not None and proof is not None and not isinstance(proof.target, int):
            self.rule = rule_of(choose.triggered.predicted, self.predictions(choose.triggered))

    def predictions(self, samples: PredictedSamples, changes: Sequence[Change] = ()) -> Array:
        """The class of each sample under the `changes`, int64 `[samples]`."""
        with applied(self.transplant.model, changes):
            return self.transplant.predictions(samples, AsItIs())

    def kept(self, samples: PredictedSamples, changes: Sequence[Change]) -> float:
        """Share of the predictions that stay."""
        return float((self.predictions(samples, changes) == samples.predicted).mean())

    def turns(self, samples: PredictedSamples, changes: Sequence[Change]) -> tuple[float, int]:
        """Share of the samples with the trigger that it turns, and of how many."""
        assert self.proof is not None
        after = self.predictions(samples, changes)
        if isinstance(self.proof.target, int):
            return flipped(samples.predicted, after, self.proof.target)
        return moved_by_rule(samples.predicted, after, self.rule)

    def residual(self, part: Part, changes: Sequence[Change]) -> Residual:
        return Residual(
            None if part.triggered is None else self.turns(part.triggered, changes)[0],
            None if part.shown is None else self.kept(part.shown, changes),
        )


def trial_of(transplant: Transplant, known: Known, ranking: Ranking | None, proof: Proof | None, sizes: Sizes) -> Trial | None:
    """Samples for a repair: clean ones that had no part in choosing the proof (of one class: hardly any) measure. None if nothing
    shows the trigger.
    """
    drawn = PredictedSamples(list(known.drawn))
    predicted = drawn.predicted
    order = np.random.default_rng(1).permutation(np.flatnonzero(predicted >= 0))
    chose = np.isin(order, dealt(predicted)[0] if known.chose is None else known.chose)  # the proof
    order = np.concatenate([order[chose], order[~chose]])
    shown_by = None
    if known.suspect is not None and ranking is not None:
        bytes_each = max((main_tensor(batch).nbytes // max(batch.size, 1) for batch, _ in known.drawn), default=0)
        shown_by = suspects(known.suspect, ranking, proof, max(LEAST, min(4 * sizes.choose, INPUT_BYTES // max(bytes_each, 1))))
    values = (known.images.low, known.images.high) if known.images is not None else ()
    candidate = None if proof is None else candidate_of(proof.trigger, *values)
    parts, mosts = [], (sizes.fix, sizes.choose, sizes.measure)
    for rows, places, most in zip(np.split(order, parted(len(order))), DEALT, mosts, strict=True):
        clean = drawn.of(rows[:most])
        shown = None if shown_by is None else shown_by.of(np.flatnonzero(np.isin(np.arange(len(shown_by.predicted)) % 4, places)))
        onto = clean if proof is None or proof.source is None else drawn.of(rows[predicted[rows] == proof.source][:most])
        put = None if candidate is None or not len(onto.predicted) else with_trigger(transplant, onto, candidate)
        parts.append(Part(clean, onto, put, shown))
    if any(not len(part.clean.predicted) or (part.triggered is None and part.shown is None) for part in parts):
        return None
    fix, choose, measure = parts
    return Trial(transplant, fix, choose, measure, proof if candidate is not None else None)


def parted(count: int) -> list[int]:
    """Where so many samples are cut: half of them fix, a fifth chooses, the rest measures."""
    return [count // 2, count // 2 + count // 5]


def risen(ranking: Ranking) -> int | None:
    """The commonest predicted class, if it has become RISEN times as frequent; else None."""
    wanted = ranking.predicted[ranking.predicted >= 0]
    if not len(wanted):
        return None
    most = int(np.bincount(wanted).argmax())
    known = (ranking.null_predicted == most).mean() if len(ranking.null_predicted) else 0.0
    return most if known > 0 and (ranking.predicted == most).mean() >= RISEN * known else None


def suspects(
    reader: SuspectReader, ranking: Ranking, proof: Proof | None, most_held: int = MOST_SUSPECTS
) -> PredictedSamples | None:
    """At most MOST_SUSPECTS suspects, and `most_held`, from the first to the last of those that carry a proven trigger or lie
    beyond what clean samples score; of one target (a proof's, or without one a class that has risen), those predicted as it, all
    of them where it has become RISEN times as frequent. None if there are too few. Reads the set once more, or the retained
    samples alone where it cannot be read again.

    The most extreme ones alone say little about the others.
    """
    triggered = 0 if ranking.triggered is None else int(ranking.triggered.sum())  # these are ranked before all others
    most = max(LEAST, triggered, ranking.beyond)
    wanted = ranking.predicted >= 0
    target = risen(ranking) if proof is None else proof.target
    if isinstance(target, int):
        wanted = ranking.predicted == target
        if wanted.mean() >= RISEN * (ranking.null_predicted == target).mean():
            most = len(wanted)
    numbers = ranking.order[:most]
    numbers = numbers[wanted[numbers]]
    numbers = numbers if reader.complete else numbers[np.isin(numbers, reader.retained)]
    if len(numbers) < LEAST:
        return None
    most = min(most_held, MOST_SUSPECTS, len(numbers))
    chosen = np.sort(numbers[np.linspace(0, len(numbers) - 1, most).round().astype(int)])
    return samples_of(reader, chosen, ranking.predicted)
