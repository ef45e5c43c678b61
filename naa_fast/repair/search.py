"""`cure`: of a bounded number of repairs the one that leaves least of the trigger, measured on samples that chose nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, nn

from naa_fast.capture.selection import unwrapped
from naa_fast.detect.change import Ablate, Change
from naa_fast.detect.comparison import LayerComparison
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.repair import LEAST_HELP, RANKED, TRIGGERED, Repair
from naa_fast.proof.budget import Budget, BudgetSpent
from naa_fast.proof.prove import alike
from naa_fast.proof.transplant import PredictedSamples, Transplant
from naa_fast.rank.attempts import why_it_failed
from naa_fast.repair.candidates import Pair, Seen, candidates, random_like
from naa_fast.repair.change import applied
from naa_fast.repair.fit import FOLLOWS, TUNED, Fit, Lesson
from naa_fast.repair.outputs import Place, in_groups, outputs
from naa_fast.repair.sizes import Sizes
from naa_fast.repair.space import Space
from naa_fast.repair.trial import Known, Part, Residual, Trial, most_general, trial_of
from naa_fast.scan.loop import evaluating
from naa_fast.scan.placement import Placement
from naa_fast.scan.work import Work

CURE = "whether silencing what was found cures the model"
AGREEMENT = 0.97
"""Share of clean predictions that a repair must leave as they are. Those that change were the least sure ones: on half A a third
of what changed was accuracy lost."""
BUDGET, LEAST = 60_000, 1_500
"""Samples through the model that a repair takes at most, and the least that one is tried with."""
TRIED, CURED = 6, 2
"""Where nothing can be tuned, all changes are tried in the TRIED layers where the first left least of the trigger, or in CURED
once a repair ends it."""
STEPS, MORE = 40, 60
"""By how many steps a change is tuned, and the best of them again."""
SLACK = 0.1
GOOD, HARMLESS = 0.03, 0.99
"""What is left of the trigger, and kept of the clean predictions, where no other layer is tried."""
SURER = 0.01
"""How much worse a tuned change may be than an untuned one: both may leave nothing of these samples, but that one just so,
and less extreme ones than the highest-ranked suspects slip through."""
STRAYS = 0.1
"""Suspects that may stay what they are called there: a twentieth or a tenth of them are not triggered."""
AGAIN, CHANGES = 0.06, 3
"""With more left of the trigger than AGAIN another change is sought on top of the best, up to CHANGES."""


@dataclass(frozen=True)
class Tried:
    """Changes with their control, and what they leave of the trigger and keep of the clean predictions."""

    changes: tuple[Change, ...]
    control: tuple[Change, ...]
    residual: Residual
    kept: float

    @property
    def words(self) -> str:
        """How far they came, on the samples that chose them."""
        left = [
            f"{100 * share:.0f} % of {what}"
            for share, what in (
                (self.residual.triggered, "clean samples turned by the trigger"),
                (self.residual.shown, "suspects as they were predicted"),
            )
            if share is not None
        ]
        return f"the best leaves {' and '.join(left)}, and {100 * self.kept:.1f} % of clean predictions as they are"

    @property
    def loss(self) -> float:
        """The residual attack success rate, and twice what is lost of the predictions."""
        return self.residual.mean + 2 * (1 - self.kept) + (0 if self.gentle else 1)

    @property
    def gentle(self) -> bool:
        """Whether clean predictions stay as they are."""
        return self.kept >= AGREEMENT

    @property
    def cures(self) -> bool:
        return self.residual.surely <= GOOD and self.kept >= HARMLESS

    @property
    def enough(self) -> bool:
        return self.cures and (self.residual.triggered is None or (self.residual.shown or 0.0) <= STRAYS)


class Search:
    """The changes tried so far, the best of them, and the samples that ran."""

    def __init__(self, trial: Trial, layers: Mapping[str, LayerComparison], sizes: Sizes) -> None:
        self.trial = trial
        self.sizes = sizes
        self.layers = layers
        self.random = Generator().manual_seed(0)
        self.tried = 0
        self.best: Tried | None = None
        part = trial.choose
        screening, fixing, fix = sizes.screening, sizes.fixing, trial.fix
        self.screen = Part(part.clean, part.onto, some(part.triggered, screening), some(part.shown, screening))
        self.few = {"known": some(fix.onto, fixing), "triggered": some(fix.triggered, fixing), "shown": some(fix.shown, fixing)}
        self.lesson = Lesson.of(trial.transplant, fix.clean, fix.triggered, fix.shown)

    def judge(self, pair: Pair, base: Tried | None) -> float:
        """What a change leaves of the trigger on the samples that screen, on top of `base`; one that may be the best is tried
        on all that choose.
        """
        made = (pair[0],), (pair[1],)
        changes, control = made if base is None else (base.changes + made[0], base.control + made[1])
        residual = self.trial.residual(self.screen, changes).mean
        if self.best is not None and residual > self.best.loss + SLACK:
            self.tried += 1
            return residual
        return residual + 2 * (1 - self.weighed(changes, control).kept)

    def weighed(self, changes: tuple[Change, ...], control: tuple[Change, ...], slack: float = 0.0) -> Tried:
        """Try changes on all samples that choose; they are the best so far if they are worse than the best before by less than
        `slack`.
        """
        self.tried += 1
        part = self.trial.choose
        tried = Tried(changes, control, self.trial.residual(part, changes), self.trial.kept(part.clean, changes))
        if self.best is None or tried.loss < self.best.loss + slack:
            self.best = tried
        return tried

    def seen(self, names: Mapping[str, Place], base: Tried | None) -> Iterator[Seen]:
        """What the layers give for the samples that fix a change."""
        with applied(self.trial.transplant.model, () if base is None else base.changes):
            outputs_of = {kind: None if b is None else outputs(self.trial.transplant, b, names) for kind, b in self.few.items()}
        for name, place in names.items():
            given = {kind: None if by_layer is None else by_layer[name] for kind, by_layer in outputs_of.items()}
            if any(inputs is not None and not (inputs.usable and inputs.parts) for inputs in given.values()):
                continue
            parts = {kind: None if inputs is None else inputs.parts for kind, inputs in given.items()}
            if not all(part.isfinite().all() for some_parts in parts.values() for part in some_parts or ()):
                continue
            assert parts["known"] is not None
            z = torch.from_numpy(np.nan_to_num(self.layers[name].z).astype(np.float32))
            yield Seen(name, place.axis, z, parts["known"], parts["triggered"], parts["shown"])

    def run(self, places: Mapping[str, Place], base: Tried | None, most: int) -> None:
        """Try one change in every layer and tune it where that left least; where nothing can be tuned, try all changes in the
        `most` layers where the first left least.
        """
        known = self.few["known"]
        assert known is not None
        first: list[tuple[float, Pair]] = []
        for group in in_groups(self.trial.transplant, known, places):
            for seen in self.seen(group, base):
                pair = next(candidates(seen, self.random), None)
                if pair is not None and not self.done:
                    first.append((self.judge(pair, base), pair))
            if self.done:
                first = first[-1:]  # it cures: tuned all the same, as it may do so just barely
                break
        first.sort(key=lambda scored: scored[0])
        if self.done and not self.sizes.whole:
            return
        ablations = distinct(change for _, (change, _) in first if isinstance(change, Ablate))
        if self.tuned(places, base, ablations[: self.sizes.tuned]):
            return
        for number, (_, (change, _)) in enumerate(first[:most]):
            if number >= CURED and self.best is not None and self.best.cures:
                return
            for seen in self.seen({change.layer: places[change.layer]}, base):
                for pair in list(candidates(seen, self.random))[1:]:
                    if self.done:
                        return
                    self.judge(pair, base)

    def tuned(self, places: Mapping[str, Place], base: Tried | None, starts: Sequence[Ablate]) -> bool:
        """Tune the changes, the best of them most. False where that cannot be done."""
        fits: list[tuple[float, Seen, Fit]] = []
        for start in starts:
            for seen in self.seen({start.layer: places[start.layer]}, base):
                space = Space.of(seen.known)
                if self.lesson is None or space is None:
                    continue
                under = () if base is None else base.changes
                fit = Fit(self.trial.transplant, self.lesson, start, space, under, self.sizes.batch)
                step = self.step(fit, seen, base, STEPS)
                if step is not None:
                    fit.weight *= FOLLOWS if not step.gentle else 1 / FOLLOWS if step.kept >= HARMLESS else 1
                    fits.append((step.loss, seen, fit))
                if self.done:
                    return True
        if fits:
            _, seen, fit = min(fits, key=lambda step: step[0])
            self.step(fit, seen, base, MORE)
        return bool(fits)

    def step(self, fit: Fit, seen: Seen, base: Tried | None, steps: int) -> Tried | None:
        """Tune the change by so many steps and try it; None where that cannot be done."""
        fresh = self.best is None or not self.best.changes[-1].choice.endswith(TUNED)
        steps = min(steps, (self.trial.transplant.budget.left - self.trial.choose.price) // fit.price)
        change = fit.run(steps) if steps > 0 else None
        if change is None:
            return None
        random = random_like(change, seen, fit.space, self.random)
        under = ((), ()) if base is None else (base.changes, base.control)
        return self.weighed((*under[0], change), (*under[1], random), SURER if fresh else 0.0)

    @property
    def done(self) -> bool:
        return self.best is not None and self.best.enough


def distinct(changes: Iterable[Ablate]) -> list[Ablate]:
    """Without changes that repeat an earlier one: a block's output is often that of its last activation."""
    kept: list[Ablate] = []
    for change in changes:
        if not any(change.limit == other.limit and np.array_equal(change.gate, other.gate) for other in kept):
            kept.append(change)
    return kept


def some(samples: PredictedSamples | None, most: int) -> PredictedSamples | None:
    """At most so many of the samples, evenly spaced."""
    if samples is None:
        return None
    count = len(samples.predicted)
    return samples.of(np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)))


def places_of(layers: Mapping[str, LayerComparison], model: nn.Module, most: int) -> dict[str, Place]:
    """The layers, `most` of them, with the largest z whose rows belong to samples."""
    modules = dict(unwrapped(model).named_modules())
    whole = {name: layer for name, layer in layers.items() if name and name in modules and not layer.clean.of_rows}
    usable = {name: layer for name, layer in whole.items() if np.isfinite(layer.z).any()}
    strongest = sorted(usable, key=lambda name: -float(np.nanmax(usable[name].z)))[:most]
    return {name: Place.of(usable[name].clean.layout) for name in usable if name in strongest}


def attempt(
    work: Work, known: Known, evidence: Evidence, layers: Mapping[str, LayerComparison], budget: int
) -> tuple[Repair | None, str]:
    """The best repair, or None and why there is none.

    `known`: the samples, without suspects after an inversion; `evidence`: the proofs, and of suspects their ranking. `layers`,
    the comparison of both sets, says where to look. Changes are fixed and chosen on clean samples, with the proven trigger put on
    them, and on the highest-ranked suspects; it is measured on others. Cost: the `budget` at most, of which no more than 60,000
    (`forwards` tells how many; one that a gradient goes back through counts twice), and one more reading of the suspect set. With
    less than 12,000 fewer layers are looked at, on fewer samples (`Sizes`). `work.watch` shows how far it is, and may end it.
    """
    if budget < LEAST:
        return (
            None,
            f"{max(budget, 0):,} samples are left of the budget, and a repair is tried with {LEAST:,} at least: --budget N",
        )
    model, watch, budget = work.model, work.watch, min(budget, BUDGET)
    proof = most_general(evidence.proof)
    drawn = alike(known.drawn)
    sizes = Sizes.within(budget)
    places = places_of(layers, model, sizes.layers)
    if not drawn or not places:
        return None, "no layer's output can be changed" if drawn else "no clean samples were kept"
    tell = None if watch is None else lambda forwards: watch("repairing", forwards, max(forwards, budget))
    place, allowed = Placement.of(model, work.device), Budget(budget)
    company: dict[str, Any] = {"class_scores": work.scores, "watch": tell, "budget": allowed}
    transplant = Transplant(model, place, known.largest, drawn[0][0], **company, whole_outputs=True)
    with evaluating(model):
        trial = trial_of(transplant, replace(known, drawn=drawn), evidence.ranking, proof, sizes)
        if trial is None:
            return None, "nothing shows the trigger: no proof stands, and too few suspects lie outside"
        search = None
        with suppress(BudgetSpent), allowed.until(budget - trial.measure.price_to_measure):
            search = Search(trial, layers, sizes)
            search.run(places, None, TRIED)
            for _ in range(CHANGES - 1):
                base = search.best
                if base is None or base.residual.surely <= AGAIN:
                    break
                changed = {change.layer for change in base.changes}
                search.run({name: place for name, place in places.items() if name not in changed}, base, TRIED // 2)
                if search.best is base:
                    break
        if search is None:
            return None, f"the budget of {budget:,} samples is spent before anything was tried: --budget N"
        if not search.tried:
            return None, "no layer's output can be changed: what was read is the answer itself, runs twice, or does not vary"
        if search.best is None or not search.best.gentle or search.best.residual.surely > 1 - LEAST_HELP:
            far = "" if search.best is None else f"; {search.best.words}"
            return None, f"none of {search.tried} repairs silences it and leaves clean predictions as they are{far}"
        repair = measured(trial, search)
    if not repair.helps:
        what = "of the trigger's success" if repair.on == TRIGGERED else "of suspects as they were"
        left = f"{100 * repair.after:.0f} % of {100 * repair.before:.0f} %, a random one {100 * repair.control:.0f} %"
        return None, f"the best of {search.tried} repairs does no more than a random one: it leaves {left} {what}"
    return repair, ""


def cure(judgement: Judgement, known: Known, work: Work, budget: int = BUDGET) -> tuple[Repair | None, str]:
    """The repair of a model that failed (see `attempt`), or None and why there is none, for the report. Raises nothing: the
    verdict stands without it.
    """
    layers, evidence = judgement.layers, judgement.evidence
    try:
        repair, why = attempt(work, known, evidence, layers, budget)
    except Exception as error:
        repair, why = None, why_it_failed(error)
    return repair, f"{CURE}: {why}" if why else ""


def measured(trial: Trial, search: Search) -> Repair:
    """The best repair on samples that chose nothing."""
    assert search.best is not None
    best, part = search.best, trial.measure
    if part.triggered is not None:
        (before, samples), (after, _), (control, _) = (
            trial.turns(part.triggered, changes) for changes in ((), best.changes, best.control)
        )
    else:
        assert part.shown is not None
        before, after, control = (trial.kept(part.shown, changes) for changes in ((), best.changes, best.control))
        samples = len(part.shown.predicted)
    return Repair(
        best.changes,
        RANKED if part.triggered is None else TRIGGERED,
        before,
        after,
        control,
        samples,
        kept=trial.kept(part.clean, best.changes),
        control_kept=trial.kept(part.clean, best.control),
        clean_samples=len(part.clean.predicted),
        tried=search.tried,
        forwards=trial.transplant.forwards,
        random=best.control,
    )
