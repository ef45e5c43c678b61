"""`Trials`: candidate triggers on clean samples, of which one part chooses the best and another measures it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from naa_fast.detect.proof import ALL_TO_ALL
from naa_fast.proof.transplant import (
    SCREEN,
    WORTH_A_CONTROL,
    Candidate,
    PredictedSamples,
    Transplant,
    by_permuted_rules,
    flipped,
    moved_by_rule,
    rule_of,
)
from naa_fast.records import Array

CHOOSING, MEASURING = 80, 320
"""Clean samples that choose the best of many candidates, and others that measure the one that was chosen."""
SCREENING = 24
SCREENED = 0.2
"""Most candidates do nothing: a few samples tell, and only what turns this share of them is put on all that choose."""
GENEROUS = 30_000
"""Samples that proof and repair may run from which on every candidate that passes screening is put on all that choose. With fewer
only the best go on from one round to the next (successive halving: Jamieson and Talwalkar, AISTATS 2016), controls are tried of
what may be measured, and fewer samples measure."""
GLANCED, ALIKE, GO_ON, FEWER_MEASURE = 8, 4, 8, 200
"""The first of the samples that screen, of which a candidate must turn one; how many of a kind and budget are put on all that
choose, and how many of all, twice as many on all that screen; how many samples measure."""

MEASURED = 3
"""Budgets that are measured at most, those with the widest margins where they were chosen: a phrase may do what its strongest
word does not. The intervals are corrected for so many (Bonferroni)."""
RIVALS = 3
"""Controls of a kind and budget that are measured where the budget is small: those that turned most where they were chosen, as
the candidate itself was. A target that clean data hardly has has nine, and to measure all of them took a fifth of a budget."""
GLANCE = 3
"""The part that is the first of those that screen."""

Tried = Sequence[tuple[Candidate, int]]
"""Candidates with the sizes of the groups they came from."""


@dataclass(frozen=True)
class Best:
    """Of the candidates of one kind and budget, the one that turned the largest share of the samples that choose
    (`chosen_by`).
    """

    candidate: Candidate
    chosen_by: float
    group: int


class Trials:
    """Candidates on clean samples, `clean`, in parts: 0 chooses the best, 1 measures it, SCREEN is the first of those that
    choose.
    """

    def __init__(self, transplant: Transplant, clean: PredictedSamples, chose: Array | None = None) -> None:
        """`chose` int64 `[numbers]`: of those that have had a part in choosing, and so may not measure."""
        self.transplant = transplant
        self.clean = clean
        first, rest = dealt(clean.predicted)
        if chose is not None:
            order = np.concatenate([first, rest])
            order = np.concatenate([order[np.isin(order, chose)], order[~np.isin(order, chose)]])
            cut = max(len(first), len(chose))
            first, rest = order[:cut], order[cut:]
        self.chose = first
        cuts = np.split(first, [GLANCED, SCREENING])
        glance, screen, others = (clean.of(rows) for rows in cuts)
        screening = PredictedSamples([*glance.batches, *screen.batches])
        # Each part begins with the one before it: what ran there is not run again.
        self.thrifty = transplant.budget.most < GENEROUS
        measure = clean.of(rest[: FEWER_MEASURE if self.thrifty else MEASURING])
        self.parts = PredictedSamples([*screening.batches, *others.batches]), measure, screening, glance
        self._more = {0: (SCREEN, others), SCREEN: (GLANCE, screen)}
        self._after: dict[tuple[Candidate, int], Array] = {}

    def of_class(self, source: int) -> Trials:
        """The same with the samples of one predicted class alone; those of them that choose here choose there."""
        members = np.flatnonzero(self.clean.predicted == source)
        return Trials(self.transplant, self.clean.of(members), np.flatnonzero(np.isin(members, self.chose)))

    def after(self, candidate: Candidate, part: int) -> Array:
        """Predicted class of a part's samples with the candidate on them, int64 `[samples]`; run once, those that screen with
        them.
        """
        key = candidate, part
        if key not in self._after:
            begun, more = self._more.get(part, (None, self.parts[part]))
            before = [] if begun is None else [self.after(candidate, begun)]
            self._after[key] = np.concatenate([*before, self.transplant.predictions(more, candidate)])
        return self._after[key]

    def forget(self) -> None:
        """Let go of the candidates that were run: pictures are large."""
        self._after.clear()

    def rate(self, candidate: Candidate, target: int | str, part: int) -> tuple[float, int]:
        """Attack success rate of a candidate on a part, and of how many samples. All-to-all has no one target: a sample counts if
        it is turned to the class that most of its own class were turned to in the choosing part (`rule`).
        """
        before = self.parts[part].predicted
        after = self.after(candidate, part)
        if isinstance(target, int):
            return flipped(before, after, target)
        return moved_by_rule(before, after, self.rule(candidate))

    def rule(self, candidate: Candidate) -> dict[int, int]:
        """For each class, the class that most of its choosing samples are turned to."""
        return rule_of(self.parts[0].predicted, self.after(candidate, 0))

    def screened(self, candidate: Candidate, target: int | str, part: int = SCREEN) -> float:
        """Share of the screening samples turned to the target, or for all-to-all to any other class: too few to tell a rule."""
        before, after = self.parts[part].predicted, self.after(candidate, part)
        if isinstance(target, int):
            return flipped(before, after, target)[0]
        return float(((after != before) & (after >= 0) & (before >= 0)).mean())

    def best(self, tried: Tried, target: int | str) -> dict[tuple[str, str], Best]:
        """The best candidate of each kind and budget: of those that turn SCREENED in screening the one that turns most of the
        choosing part; of as good ones the first. Of a kind where none turns so many, the best in screening.
        """
        shares = self._all_screened(tried, target)
        alike: Counter[tuple[str, str]] = Counter()
        going: list[int] = []
        for place in best_first(shares):
            key = key_of(tried[place][0])
            full = self.thrifty and (alike[key] == ALIKE or len(going) == GO_ON)
            if shares[place] >= SCREENED and not full:
                going.append(place)
                alike[key] += 1
        chosen = {place: self.rate(tried[place][0], target, 0)[0] for place in sorted(going)}
        strongest: dict[tuple[str, str], Best] = {}
        for place, (candidate, group) in enumerate(tried):
            share, key = chosen.get(place, 0.0 if alike[key_of(candidate)] else shares[place]), key_of(candidate)
            if key not in strongest or share > strongest[key].chosen_by:
                strongest[key] = Best(candidate, share, group)
        return strongest

    def _all_screened(self, tried: Tried, target: int | str) -> list[float]:
        """What each turns in screening; where the budget is small 0 of what is not among the best at a glance."""
        if not self.thrifty:
            return [self.screened(candidate, target) for candidate, _ in tried]
        glanced = [self.screened(candidate, target, GLANCE) for candidate, _ in tried]
        going = [place for place in best_first(glanced)[: 2 * GO_ON] if glanced[place]]
        return [self.screened(tried[place][0], target) if place in going else 0.0 for place in range(len(tried))]

    def worth_a_control(self, bests: dict[tuple[str, str], Best]) -> dict[tuple[str, str], Best]:
        """Of what was found, what may be measured: all where the budget is generous, else the best few."""
        if not self.thrifty:
            return bests
        able = [key for key, best in bests.items() if best.chosen_by >= WORTH_A_CONTROL]
        first = sorted(able, key=lambda key: -round(bests[key].chosen_by, 1))[:MEASURED]  # of what is as good, the smallest
        return {key: best for key, best in bests.items() if key in first}

    def settle(self, bests: dict[tuple[str, str], Best], controls: Sequence[Control], target: int | str) -> Iterator[Settled]:
        """The MEASURED budgets with the widest margins over their controls, the widest first: the best of each, then rate,
        control and samples on the measuring part. Each is run when it is asked for.
        """

        def margin(key: tuple[str, str]) -> float:
            control = max((tried.bests[key].chosen_by for tried in controls if key in tried.bests), default=0.0)
            return round(bests[key].chosen_by - control, 1)  # of what is as good, the first: the smallest patch

        chosen = sorted(bests, key=margin, reverse=True)[:MEASURED]
        for key in chosen:
            best = bests[key]
            rate, samples = self.rate(best.candidate, target, 1)
            tried_alike = sorted(
                (tried for tried in controls if key in tried.bests), key=lambda tried: -tried.bests[key].chosen_by
            )
            strongest = tried_alike[:RIVALS] if self.thrifty else tried_alike
            rivals = [(tried.bests[key].candidate, tried.target) for tried in strongest]
            shares = [self.rate(candidate, rival, 1)[0] for candidate, rival in rivals]
            if target == ALL_TO_ALL:
                permuted = by_permuted_rules(self.parts[1].predicted, self.after(best.candidate, 1), self.rule(best.candidate))
                shares.append(permuted)
            control = max(shares, default=0.0)
            against = next((one for (one, _), share in zip(rivals, shares, strict=False) if share == control), None)
            yield Settled(best, rate, control, samples, len(tried_alike), len(chosen), against)


@dataclass(frozen=True)
class Control:
    """The best of the candidates of one clean group, for the target that is its own."""

    target: int | str
    bests: dict[tuple[str, str], Best]


@dataclass(frozen=True)
class Settled:
    """A candidate, its `rate` and the highest of the `control` on `samples`, how many `controls` of its kind and budget there
    were (0 is no control; where the budget is small the strongest RIVALS of them were measured), and of how many that may be
    `measured` it is one. `against`: the candidate that has the `control`, None where it is no candidate's.
    """

    best: Best
    rate: float
    control: float
    samples: int
    controls: int
    measured: int = 1
    against: Candidate | None = None


def best_first(shares: Sequence[float]) -> list[int]:
    """Places by share, of as good ones the first before others."""
    return sorted(range(len(shares)), key=lambda place: -shares[place])


def key_of(candidate: Candidate) -> tuple[str, str]:
    """Like competes with like."""
    return candidate.kind, candidate.budget


def in_turns(predicted: Array) -> Array:
    """Sample numbers with the predicted classes in turns, in an order that a fixed seed shuffles: sets come sorted by class.
    `predicted` int64 `[samples]`, as what comes.
    """
    shuffled = np.random.default_rng(0).permutation(len(predicted))
    return shuffled[np.argsort(turns(predicted, shuffled)[shuffled], kind="stable")]


def dealt(predicted: Array) -> tuple[Array, Array]:
    """Numbers of the samples that choose, CHOOSING at most, and of the others, the predicted classes in turns in both. Half of a
    class chooses at most, of an odd number the larger: a rare one would have no sample left that measures. `predicted` int64
    `[samples]`.
    """
    order = in_turns(predicted)
    samples = np.bincount(predicted + 1, minlength=1)[predicted + 1]
    chooses = (2 * turns(predicted, order) < samples)[order]
    chooses[chooses] = np.arange(chooses.sum()) < min(CHOOSING, len(order) // 2)
    return order[chooses], order[~chooses]


def turns(predicted: Array, order: Array) -> Array:
    """How many samples of the same predicted class come before each, in this order: all int64 `[samples]`."""
    seen: dict[int, int] = {}
    turn = np.zeros(len(predicted), np.int64)
    for i in order:
        turn[i] = seen[int(predicted[i])] = seen.get(int(predicted[i]), -1) + 1
    return turn
