"""`Trials`: candidate triggers on clean samples, of which one part chooses the best and another measures it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from naa_fast.detect.proof import ALL_TO_ALL
from naa_fast.proof.transplant import SCREEN, Bases, Candidate, Transplant, by_permuted_rules, moved_by_rule, rule_of, turned
from naa_fast.records import Array

CHOOSING, MEASURING = 80, 320
"""Clean samples that choose the best of many candidates, and others that measure the one that was chosen."""
SCREENING = 24
SCREENED = 0.2
"""Most candidates do nothing: a few samples tell, and only what turns this share of them is put on all that choose."""

MEASURED = 3
"""Budgets that are measured at most, those with the widest margins where they were chosen: a phrase may do what its strongest
word does not. The intervals are corrected for so many (Bonferroni)."""

Tried = Sequence[tuple[Candidate, int]]
"""Candidates with the sizes of the groups they came from."""


@dataclass(frozen=True)
class Best:
    """The candidate of one budget that turned most of the choosing part."""

    candidate: Candidate
    chosen_by: float
    group: int


class Trials:
    """Candidates against bases in parts: 0 chooses, 1 measures, SCREEN is the first of those that choose."""

    def __init__(self, transplant: Transplant, bases: Bases, chose: Array | None = None) -> None:
        """`chose` int64: numbers of bases that have had a part in choosing, and so may not measure."""
        self.transplant = transplant
        self.bases = bases
        first, rest = dealt(bases.predicted)
        if chose is not None:
            order = np.concatenate([first, rest])
            order = np.concatenate([order[np.isin(order, chose)], order[~np.isin(order, chose)]])
            cut = max(len(first), len(chose))
            first, rest = order[:cut], order[cut:]
        self.chose = first
        self.parts = tuple(bases.of(rows) for rows in (first, rest[:MEASURING], first[:SCREENING]))
        self._after: dict[tuple[int, int], tuple[Candidate, Array]] = {}

    def of_class(self, source: int) -> Trials:
        """The same on samples of one predicted class; those that chose the class choose again."""
        own = np.flatnonzero(self.bases.predicted == source)
        return Trials(self.transplant, self.bases.of(own), np.flatnonzero(np.isin(own, self.chose)))

    def after(self, candidate: Candidate, part: int) -> Array:
        """Predicted class of a part's samples with the candidate on them, int64; run once."""
        key = id(candidate), part
        if key not in self._after:
            self._after[key] = candidate, self.transplant.predictions(self.parts[part], candidate)  # held: its id stays its own
        return self._after[key][1]

    def forget(self) -> None:
        """Let go of the candidates that were run: pictures are large."""
        self._after.clear()

    def rate(self, candidate: Candidate, target: int | str, part: int) -> tuple[float, int]:
        """Attack success rate of a candidate on a part, and of how many samples. All-to-all has no one target: there a sample
        counts if it goes where most of its class went in the choosing part.
        """
        before = self.parts[part].predicted
        after = self.after(candidate, part)
        if isinstance(target, int):
            return turned(before, after, target)
        return moved_by_rule(before, after, self.rule(candidate))

    def rule(self, candidate: Candidate) -> dict[int, int]:
        """Where the choosing part says each class goes."""
        return rule_of(self.parts[0].predicted, self.after(candidate, 0))

    def screened(self, candidate: Candidate, target: int | str) -> float:
        """Share of the screening samples turned to the target, or for all-to-all to any other class: too few to tell a rule."""
        before, after = self.parts[SCREEN].predicted, self.after(candidate, SCREEN)
        if isinstance(target, int):
            return turned(before, after, target)[0]
        return float(((after != before) & (after >= 0) & (before >= 0)).mean())

    def best(self, tried: Tried, target: int | str) -> dict[tuple[str, str], Best]:
        """The best candidate of each kind and budget."""
        found: dict[tuple[str, str], Best] = {}
        for candidate, group in tried:
            share = self.screened(candidate, target)
            if share >= SCREENED:
                share, _ = self.rate(candidate, target, 0)
            key = (candidate.kind, candidate.budget)
            if key not in found or share > found[key].chosen_by:
                found[key] = Best(candidate, share, group)
        return found

    def settle(self, found: dict[tuple[str, str], Best], controls: Sequence[Control], target: int | str) -> Iterator[Settled]:
        """The MEASURED budgets with the widest margins over their controls, the widest first: the best of each, then rate,
        control and samples on the measuring part. Each is run when it is asked for.
        """

        def margin(key: tuple[str, str]) -> float:
            control = max((one.found[key].chosen_by for one in controls if key in one.found), default=0.0)
            return round(found[key].chosen_by - control, 1)  # of what is as good, the first: the smallest patch

        chosen = sorted(found, key=margin, reverse=True)[:MEASURED]
        for key in chosen:
            best = found[key]
            rate, samples = self.rate(best.candidate, target, 1)
            rivals = [(one.found[key].candidate, one.target) for one in controls if key in one.found]
            shares = [self.rate(candidate, rival, 1)[0] for candidate, rival in rivals]
            if target == ALL_TO_ALL:
                permuted = by_permuted_rules(self.parts[1].predicted, self.after(best.candidate, 1), self.rule(best.candidate))
                shares.append(permuted)
            yield Settled(best, rate, max(shares, default=0.0), samples, len(rivals), len(chosen))


@dataclass(frozen=True)
class Control:
    """The best of the candidates of one clean group, for the target that is its own."""

    target: int | str
    found: dict[tuple[str, str], Best]


@dataclass(frozen=True)
class Settled:
    """A candidate, its `rate` and the highest of the `control` on `samples`, how many `controls` of its kind and budget there
    were (0 is no control), and of how many that may be `measured` it is one.
    """

    best: Best
    rate: float
    control: float
    samples: int
    controls: int
    measured: int = 1


def in_turns(predicted: Array) -> Array:
    """Sample numbers with the predicted classes in turns, in an order that a fixed seed shuffles: sets come sorted by class."""
    shuffled = np.random.default_rng(0).permutation(len(predicted))
    return shuffled[np.argsort(turns(predicted, shuffled)[shuffled], kind="stable")]


def dealt(predicted: Array) -> tuple[Array, Array]:
    """Numbers of the samples that choose, CHOOSING at most, and of the others, the predicted classes in turns in both. Half of a
    class chooses at most, of an odd number the larger: a rare one would have no sample left that measures.
    """
    order = in_turns(predicted)
    samples = np.bincount(predicted + 1, minlength=1)[predicted + 1]
    chooses = (2 * turns(predicted, order) < samples)[order]
    chooses[chooses] = np.arange(chooses.sum()) < min(CHOOSING, len(order) // 2)
    return order[chooses], order[~chooses]


def turns(predicted: Array, order: Array) -> Array:
    """How many samples of the same predicted class come before each, in this order: int64."""
    seen: dict[int, int] = {}
    turn = np.zeros(len(predicted), np.int64)
    for i in order:
        turn[i] = seen[int(predicted[i])] = seen.get(int(predicted[i]), -1) + 1
    return turn
