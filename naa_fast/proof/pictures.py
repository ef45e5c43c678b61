"""`ImageSearch`: triggers read off continuous inputs, tried on clean ones, beside controls read off groups of clean inputs."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np

from naa_fast.detect.evidence import HARMLESS
from naa_fast.detect.proof import ALL_TO_ALL, PROVED_OWN_RATE, Proof
from naa_fast.detect.trigger import Trigger
from naa_fast.proof.apply import trigger_of
from naa_fast.proof.budget import ShareSpent
from naa_fast.proof.chances import FEWEST_OTHERS, Pool, Rows, Sought, chances, distinct, others
from naa_fast.proof.crops import CUT, SEEDS, crops
from naa_fast.proof.erase import erased
from naa_fast.proof.examples import examples_of
from naa_fast.proof.given import read_at, triggers_for
from naa_fast.proof.images import SIZES, CleanImages, Offset, Patch, candidates
from naa_fast.proof.matched_filter import FEWEST, refined_groups
from naa_fast.proof.transplant import SCREEN, WORTH_A_CONTROL, Candidate
from naa_fast.proof.trials import Best, Control, Settled, Trials, Tried, key_of

AS_GOOD = 0.05
"""By how much less of the choosing part a smaller window may turn to be as good."""
GOOD = 0.9
"""Rate of a proof beyond which nothing better is sought: a part of a trigger may stand as a proof, and be no use to repair."""
ONE_SOURCE = 0.7
"""Share of a class's choosing samples that makes it a source: a trigger may be meant to turn one class alone."""
SOURCES = 2
ONE_CLASS = 60
"""Clean samples of a class that choose and measure for it alone."""
OWN = 0.15
"""Most of the input that a patch may cover that clean samples hold too: of 8 x 8 digits 3 x 3 pixels turned .68 at most in clean
models, 4 x 4 turned .99, as they are the better part of a digit."""
SMALL = 0.02
"""Most of the input that a patch against one class may cover: with 4 % and more, or an offset, samples of one class of clean
models were seen to turn to a neighbouring class, which another draw of clean samples need not show."""

PARTS = {"shared_proof": 0.7, "window_proof": 0.7}
"""What each form of trigger may take of what is left for a target; the last all of it."""
FEWEST_SEEDS, A_SEED = 2, 100
"""Samples of a group that windows are cut out of at least, and how many run for each."""


class Later:
    """Controls, made when they are first asked for: the candidates that `make` reads off each clean group, and the best of
    them.
    """

    def __init__(self, trials: Trials, make: Callable[[Sought], Tried], groups: Sequence[Sought]) -> None:
        self._trials, self._make, self._groups = trials, make, groups

    def __call__(self, trials: Trials | None = None, keys: Container[tuple[str, str]] | None = None) -> list[Control]:
        """On samples of their own where `trials` says so; of these kinds and budgets alone, if they are given."""
        trials = trials or self._trials
        asked = [(kind, [pair for pair in tried if keys is None or key_of(pair[0]) in keys]) for kind, tried in self._made]
        return [Control(sought.target, trials.best(tried, sought.target)) for sought, tried in asked]

    @cached_property
    def _made(self) -> list[tuple[Sought, Tried]]:
        return [(sought, self._make(sought)) for sought in self._groups]


def grouped(sought: Sought, clean: CleanImages, most: float) -> Iterator[tuple[Candidate, int]]:
    """Candidates read off the first SIZES rows of a group, as far as there are so many, and off the rows that a matched filter
    picks; `most`: see `naa_fast.proof.images.offsets`.
    """
    rows = [row for _, row in sought.group]
    whole = np.stack(rows) if rows else np.zeros((0, *clean.mean.shape), np.float32)
    for size in sorted({min(size, len(rows)) for size in SIZES}):
        if size >= FEWEST:
            for candidate in candidates(whole[:size], clean, sought.usual, most):
                yield replace(candidate, read_off=tuple(range(size))), size
    for members in refined_groups(whole, clean, sought.usual, sought.of_target):
        for candidate in candidates(whole[members], clean, sought.usual, most):
            yield replace(candidate, read_off=tuple(members.tolist())), len(members)


@dataclass(frozen=True)
class Search:
    """The search for one target's trigger: it is read off the group `sought`, tried on `trials`, beside `controls` with the same
    chance, and taken out of `suspects`, all that are predicted as the target. `given`: triggers from outside that turn to it.
    """

    trials: Trials
    sought: Sought
    controls: Sequence[Sought]
    suspects: Rows
    pool: Pool
    given: Sequence[Trigger] = ()
    made: dict[tuple[str, int], tuple[Sought, Tried]] = field(default_factory=dict)
    turning: set[str] = field(default_factory=set)  # kinds of the form in hand of which one is worth a control

    @property
    def clean(self) -> CleanImages:
        return self.pool.drawn

    def shared(self, sought: Sought) -> Tried:
        """What a harmless change does is no trigger and no control: it is left out of suspects and clean groups alike."""
        at = read_at(self.given, sought, self.clean)
        return self._once("shared", sought, lambda: [*at, *grouped(sought, self.clean, HARMLESS)])

    def windows(self, sought: Sought) -> Tried:
        """Of what is as good, the smallest."""
        rows, margins = sought.group[: self.seeds], self.trials.transplant.margins
        return self._once("windows", sought, lambda: sorted(crops(rows, self.clean, margins), key=covered))

    @cached_property
    def seeds(self) -> int:
        """Samples of every group that windows are cut out of: as many as may run, SEEDS at most and FEWEST_SEEDS at least."""
        left = self.trials.transplant.budget.left
        return min(SEEDS, max(FEWEST_SEEDS, left // (A_SEED * (1 + len(self.controls)))))

    def _once(self, form: str, sought: Sought, make: Callable[[], Tried]) -> Tried:
        """The same candidates whenever it is asked: what is known of them stays known."""
        key = form, id(sought)
        if key not in self.made:
            self.made[key] = sought, make()  # held: its id stays its own
        return self.made[key][1]


class Limit(str):
    """What the search cannot tell of any data like these: no gap, as nothing points at it."""


@dataclass(frozen=True)
class ImageSearch:
    """Looks for what turns clean images. `suspects`: the highest-ranked samples of the suspect set; `pool` clean ones; `given`:
    proofs of another audit; `ordinary`: of a class whether suspects are called that no oftener than clean samples are.
    """

    trials: Trials
    suspects: Rows
    pool: Pool
    ordinary: Callable[[int], bool]
    given: Sequence[Proof] = ()
    begun: dict[int | str, Search] = field(default_factory=dict)

    def __call__(self, target: int | str) -> Iterator[Proof | str]:
        """The proofs for a target, or what came nearest to one, or why there can be none: a `Limit` where nothing points at the
        target. What was found before the budget, or the target's share of it, was spent comes before that is raised; called again
        it goes on there.
        """
        group = distinct([pair for pair in self.suspects if target in (pair[0], ALL_TO_ALL)], self.pool.drawn)
        if len(group) < FEWEST:
            return
        if target not in self.begun:
            chance = chances(target, group, self.pool)
            if chance is None:
                known = len(self.pool.of_target(int(target)))
                reason = (
                    f"a trigger of class {target}, which {len(group)} suspects are called: clean data has {known} of it, "
                    f"and no {FEWEST_OTHERS} other classes with enough, so there is no control with the same chance"
                )
                calm = self.ordinary(int(target))
                yield Limit(f"{reason}; suspects are called that no oftener than clean samples") if calm else reason
                return
            self.begun[target] = Search(self.trials, *chance, group, self.pool, triggers_for(self.given, target))
        proofs: list[Proof | None] = []
        try:
            proofs.extend(tried_for(self.begun[target]))
        finally:
            yield from strongest(proofs)
        del self.begun[target]
        self.trials.forget()

    def turning(self, target: int | str) -> bool:
        """Whether the search of a target has not ended, and something was worth a control."""
        return target in self.begun and bool(self.begun[target].turning)


def tried_for(search: Search) -> Iterator[Proof | None]:
    """The best candidate of each kind for one target, measured: None where it turns too little to be worth a control.

    In this order, the cheapest first, and no further once a proof stands at a rate of GOOD: (1) what the suspects of the target
    share, as a patch or an offset; (2) windows cut out of single suspects; (3) patches that clean samples of the target hold as
    well, and only where nothing stands, small patches against samples of one source class. Each has its part of what those before
    it left of the budget (PARTS), or all of it where that was too small and something is turning clean samples; one that was cut
    short is told by ShareSpent.
    """
    proofs: list[Proof | None] = []
    cut: ShareSpent | None = None
    forms = [shared_proof, window_proof, last_proofs] if isinstance(search.sought.target, int) else [shared_proof]
    budget = search.trials.transplant.budget
    for form in forms:
        if good(proofs):
            return
        search.turning.clear()
        done = 0
        for part in (PARTS.get(form.__name__, 1), 1):
            try:
                with budget.until(budget.spent + int(part * budget.left)):
                    for proof in islice(form(search, proofs), done, None):
                        proofs.append(proof)
                        done += 1
                        yield proof
                break
            except ShareSpent as spent:
                if not search.turning:
                    cut = cut or spent
                    break
                if part == 1:
                    raise
    if cut is not None and not stands(proofs):
        raise cut


def shared_proof(search: Search, proofs: Sequence[Proof | None]) -> Iterator[Proof | None]:
    """Patches, then offsets: what one group shares is loud enough as an offset where it is a large patch, and then it is neither
    all that the samples carry nor taken out by subtracting.
    """
    for form in (Patch, Offset):

        def of_form(sought: Sought, form: type = form) -> Tried:
            return [pair for pair in search.shared(sought) if isinstance(pair[0], form)]

        proof = attempt(search, of_form(search.sought), Later(search.trials, of_form, search.controls))
        yield proof
        if good([proof]):
            return


def window_proof(search: Search, proofs: Sequence[Proof | None]) -> Iterator[Proof | None]:
    yield attempt(search, search.windows(search.sought), Later(search.trials, search.windows, search.controls))


def last_proofs(search: Search, proofs: Sequence[Proof | None]) -> Iterator[Proof | None]:
    tried, target = search.shared(search.sought), search.sought.target
    assert isinstance(target, int)
    shared = held_by_clean(search, [*tried, *search.windows(search.sought)])
    yield shared
    if stands([*proofs, shared]):
        return
    for source in sources(search.trials, small(tried), target):
        narrow = Later(search.trials, lambda sought: small(search.shared(sought)), search.controls)
        proof = attempt(search, small(tried), narrow, source)
        yield None if proof is None else replace(proof, source=source)


def strongest(proofs: Iterable[Proof | None]) -> list[Proof]:
    """The proof that turns most, alone, or all that was tried where none stands."""
    tried = [proof for proof in proofs if proof is not None]
    standing = [proof for proof in tried if proof.stands]
    return [max(standing, key=lambda proof: proof.rate)] if standing else tried


def stands(proofs: Sequence[Proof | None]) -> bool:
    return any(proof is not None and proof.stands for proof in proofs)


def good(proofs: Sequence[Proof | None]) -> bool:
    """Whether a proof stands that a better reconstruction could hardly improve."""
    return any(proof is not None and proof.stands and proof.rate >= GOOD for proof in proofs)


def attempt(search: Search, tried: Tried, controls: Later, source: int | None = None) -> Proof | None:
    """The best of what is tried, on samples of the `source` class alone if there is one, measured; None where it turns too little
    to be worth a control. What turns as a proof does is taken out of the suspects that carry it; where that shows it to be a part
    of what they carry, the next that turns is tried, else the first is what came nearest.
    """
    target = search.sought.target
    trials = search.trials if source is None else search.trials.of_class(source)
    strongest = trials.best(tried, target)
    if max((best.chosen_by for best in strongest.values()), default=0.0) < WORTH_A_CONTROL:
        return None
    strongest = trials.worth_a_control(strongest)
    search.turning.update(kind for kind, _ in strongest)
    chance = controls(trials, strongest)
    nearest: Proof | None = None
    for settled in those_that_turn(trials.settle(strongest, chance, target), target):
        if isinstance(settled.best.candidate, Patch) and settled.best.candidate.kind == CUT:
            settled = tightened(trials, settled, target)
        proof = checked(search, trials, replace(proof_of(settled, target), source=source), settled.best, chance)
        if proof.stands:
            return proof
        nearest = nearest or proof
        if proof.erasure is None or not proof.erasure.part:
            break
    return nearest


def checked(search: Search, trials: Trials, proof: Proof, best: Best, chance: Sequence[Control]) -> Proof:
    """The proof with examples and, if it turns clean samples, with what taking it out of the suspects does."""
    proof = replace(proof, examples=examples_of(trials, best.candidate, search.sought.target))
    if not proof.turns:
        return proof
    key = best.candidate.kind, best.candidate.budget
    instead = [
        (control.bests[key].candidate, group)
        for control, group in zip(chance, search.controls, strict=False)
        if key in control.bests
    ]
    return replace(
        proof, erasure=erased(trials.transplant, best.candidate, search.sought, instead, search.suspects, search.clean)
    )


def tightened(trials: Trials, settled: Settled, target: int | str) -> Settled:
    """The same with the window shaved, side by side, as far as it does as much: what else was cut out with a trigger is different
    in every sample. The whole window where the measuring part says that it does more.
    """
    best = settled.best
    assert isinstance(best.candidate, Patch)
    tight, shaved = best.candidate, True
    while shaved:
        shaved = False
        for other in shavings(tight):
            if (
                trials.screened(other, target) >= best.chosen_by - AS_GOOD
                and trials.rate(other, target, 0)[0] >= best.chosen_by - AS_GOOD
            ):
                tight, shaved = other, True
                break
    rate, samples = trials.rate(tight, target, 1)
    if tight is best.candidate or rate < settled.rate - AS_GOOD:
        return settled
    return replace(settled, best=replace(best, candidate=tight), rate=rate, samples=samples)


def shavings(patch: Patch) -> Iterator[Patch]:
    """A window without a row or column at one of its sides, an eighth of them at once of a large one; none of the last."""
    (rows, columns) = (np.flatnonzero(patch.mask.max(0).max(axis)) for axis in (1, 0))
    for axis, places in ((1, rows), (2, columns)):
        step = max(1, len(places) // 8)
        for gone in (places[:step], places[-step:]) if len(places) > step else ():
            mask = patch.mask.copy()
            np.moveaxis(mask, axis, 0)[gone] = 0
            yield replace(patch, mask=mask)


def proof_of(settled: Settled, target: int | str, shared: bool = False) -> Proof:
    measured = settled.rate, settled.control, settled.samples, settled.best.group
    return Proof(
        trigger_of(settled.best.candidate), target, *measured, own=shared, controls=settled.controls, measured=settled.measured
    )


def those_that_turn(settled_ones: Iterable[Settled], target: int | str, shared: bool = False) -> Iterator[Settled]:
    """Those that turn clean samples as a proof does; without any the first: that with the widest margin where it was chosen."""
    first: Settled | None = None
    turned = False
    for settled in settled_ones:
        first = first or settled
        if proof_of(settled, target, shared).turns:
            turned = True
            yield settled
    if not turned and first is not None:
        yield first


def held_by_clean(search: Search, tried: Tried) -> Proof | None:
    """The patch that turns so many that it is a trigger though clean samples of the target hold it too; None if there is none.

    Those are no control then: clean samples of other classes are, with what they share tried for these classes.
    """
    trials, target = search.trials, search.sought.target
    assert isinstance(target, int)
    patches = trials.best([pair for pair in tried if within(pair[0])], target)
    patches = {key: best for key, best in patches.items() if best.chosen_by >= PROVED_OWN_RATE}
    if not patches:
        return None
    _, groups = others(target, len(search.sought.group), 0, search.pool, FEWEST_OTHERS)

    def like(sought: Sought) -> Tried:
        whole = search.windows(sought) if any(kind == CUT for kind, _ in patches) else []
        return [pair for pair in [*grouped(sought, search.clean, most=0.0), *whole] if within(pair[0])]

    chance = Later(trials, like, groups)()
    settled = next(those_that_turn(trials.settle(patches, chance, target), target, shared=True))
    return checked(replace(search, controls=groups), trials, proof_of(settled, target, shared=True), settled.best, chance)


def within(candidate: Candidate) -> bool:
    """Whether it is a patch that covers OWN of the input at most."""
    return isinstance(candidate, Patch) and bool(candidate.mask[0].mean() <= OWN)


def covered(pair: tuple[Patch, int]) -> float:
    """How much of the input a patch covers."""
    return float(pair[0].mask.sum())


def small(tried: Tried) -> Tried:
    """The patches of SMALL and less."""
    return [
        (candidate, size)
        for candidate, size in tried
        if isinstance(candidate, Patch) and candidate.mask[0].sum() <= max(1, round(SMALL * candidate.mask[0].size))
    ]


def sources(trials: Trials, tried: Tried, target: int) -> list[int]:
    """Classes whose choosing samples some candidate turns although it leaves most others alone, the most often turned first."""
    before = trials.parts[0].predicted
    enough = {int(c) for c, n in zip(*np.unique(trials.clean.predicted, return_counts=True), strict=True) if n >= ONE_CLASS}
    most: dict[int, float] = {}
    for candidate, _ in tried:
        if not (trials.after(candidate, SCREEN) == target)[trials.parts[SCREEN].predicted != target].any():
            continue
        after = trials.after(candidate, 0)
        for source in np.unique(before[(before >= 0) & (before != target)]):
            of_source = before == source
            if of_source.sum() >= FEWEST and int(source) in enough:
                most[int(source)] = max(most.get(int(source), 0.0), float((after[of_source] == target).mean()))
    likely = [source for source, share in most.items() if share >= ONE_SOURCE]
    return sorted(likely, key=lambda source: -most[source])[:SOURCES]
