"""`inverted`: model and clean samples in, an `Audit` out: whether a trigger can be made that one class alone falls for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from naa_fast.capture import ClassScores
from naa_fast.capture.runnable import require_runnable
from naa_fast.capture.selection import Request, unwrapped
from naa_fast.detect.checks import Check, did_not_run, ran
from naa_fast.detect.coverage import with_common_layers
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.inversion import FEWEST_CLASSES, NOTABLE, ClassSearch, Inversion, Stimulated, Suspicion
from naa_fast.detect.inverted import judge_inverted
from naa_fast.detect.judgement import judge, require_rules
from naa_fast.detect.proof import Proof
from naa_fast.errors import UsageError
from naa_fast.inputs.batches import Batch
from naa_fast.inputs.images import fit_images
from naa_fast.inputs.names import names_of
from naa_fast.inputs.opening import open_source
from naa_fast.inputs.padding import fitted
from naa_fast.inputs.text import decoder
from naa_fast.invert.descent import GOAL, descend
from naa_fast.invert.drive import Drive
from naa_fast.invert.images import FORMS, WORTH, Searched, Trigger, prove_images, search_images
from naa_fast.invert.pace import STEPS
from naa_fast.invert.rules import search_rule
from naa_fast.invert.setting import Setting, Unsearchable
from naa_fast.invert.stimulate import ranked_classes, stimulate
from naa_fast.invert.texts import prove_texts, search_texts
from naa_fast.invert.triage import triage
from naa_fast.measurement import Measurement
from naa_fast.proof.examples import with_words
from naa_fast.proof.images import CleanImages
from naa_fast.proof.prove import alike
from naa_fast.proof.tokens import Tokens
from naa_fast.proof.transplant import PredictedSamples, Transplant
from naa_fast.rank.attempts import why_it_failed
from naa_fast.rank.passes import SamplePass
from naa_fast.rank.retained import Reservoir, main_tensor
from naa_fast.repair.search import cure
from naa_fast.repair.trial import AsItIs, Known
from naa_fast.report.run import Run, now
from naa_fast.result import Audit
from naa_fast.scan.loop import evaluating
from naa_fast.scan.loop import measure as measured_by
from naa_fast.scan.options import RunOptions
from naa_fast.scan.placement import Placement
from naa_fast.scan.ranks import Ranks
from naa_fast.scan.stopping import StoppableProgress
from naa_fast.scan.times import Times
from naa_fast.scan.work import Work

if TYPE_CHECKING:
    from naa_fast.capture.selection import Layers
    from naa_fast.inputs.preprocessing import ImageOptions
    from naa_fast.scan.chunk import Progress
    from naa_fast.scan.quarantine import Quarantine

RESERVOIR = 1024
RULE = -1
"""Stands for a target where each class goes to another."""
MOST_CLASSES = 100
"""Classes that are searched; of more those that single neurons turn to first, and as many others at even steps: the null."""
NAME = "clean samples with the strongest trigger that was made"
SHOWN = 10
Made = TypeVar("Made")


def inverted(
    model: nn.Module,
    clean: Any,
    *,
    base: nn.Module | None,
    layers: Layers,
    exclude: Layers,
    top_k: int,
    batch_size: int,
    device: str | torch.device,
    backend: str,
    progress: Progress | None,
    steps: int,
    scores: str | None,
    quarantine: Quarantine | None,
    prefetch: int | None,
    images: ImageOptions | None,
    repair: bool,
) -> Audit:
    """See `naa_fast.invert`."""
    began, began_at, seed = perf_counter(), now(), torch.initial_seed()
    require_rules(None, top_k)
    require_runnable(model)
    if base is not None:
        require_runnable(base)
    if steps < 1:
        raise UsageError(f"steps is {steps}", "expected 1 or more, several hundred are better")
    if Ranks.here(model).count > 1:
        raise UsageError("an inversion on several processes", "its searches run on one", "run it without torchrun")
    times, class_scores = Times(), ClassScores(scores)
    source = fitted(model, open_source(clean, batch_size, images=images))
    fit_images(model, (source,), images)
    draw = Reservoir(RESERVOIR)
    seen = SamplePass(lambda part, views, predicted, items: draw.add(part, predicted.cpu().numpy()))
    company: dict[str, Any] = {"progress": progress, "times": times, "scores": class_scores}
    if quarantine is not None:
        quarantine.begin("clean")
    request = Request(layers, exclude)
    running = RunOptions(request, batch_size, device, backend, scores, prefetch=prefetch)
    of_clean = measured_by(model, source, running, quarantine=quarantine, observer=seen, **company)
    if seen.error is not None:
        raise seen.error
    with times.measuring("proof"), evaluating(model), nullcontext() if base is None else evaluating(base):
        search = Search(model, base, draw, seen.classes, class_scores, batch_size, device, steps, progress, of_clean)
        result = search.run()
        decode = decoder(source)
        names = names_of(model, [source], [of_clean.predictions])
        proofs = tuple(with_words(proof, decode) for proof in result.evidence.proof)
        evidence = replace(result.evidence, names=names, proof=proofs)
    triggered = Triggered(result.triggered or [batch for batch, _ in draw.batches])
    of_triggered = measured_by(model, triggered, replace(running, layers=request.without(of_clean.unread)), **company)
    if layers is None:
        of_clean, of_triggered = with_common_layers(of_clean, of_triggered)
    judgement = judge_inverted(judge(of_clean, of_triggered, None, top_k, evidence), evidence, result.checks)
    if repair and judgement.verdict.outcome == "fail" and result.known is not None:
        with times.measuring("repair"):
            work = Work(model, device, class_scores, StoppableProgress(progress))
            judgement = judgement.with_repair(*cure(judgement, result.known, work))
    times.total = perf_counter() - began
    options = running.told() | {"scores": scores, "top_k": top_k}
    options |= {"steps": steps, "base": base is not None, "repair": repair, "search": "without suspect samples"}
    named = Run(type(unwrapped(model)).__qualname__, "", source.name, NAME, (), began_at, now())
    return Audit(judgement, options, times, named, seed)


class Triggered:
    """Batches in memory, as a set to be measured."""

    name = NAME
    read_ahead = False

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.held = batches
        self.samples: int | None = sum(batch.size for batch in batches)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """All of them: whoever measures without chunks asks for no part."""
        return iter(self.held)


@dataclass(frozen=True)
class Outcome:
    """What a search gave: evidence, the checks, clean batches with the strongest trigger on them, none without one, and the
    samples that a repair can be tried with.
    """

    evidence: Evidence
    checks: tuple[Check, ...]
    triggered: list[Batch] | None
    known: Known | None = None


class Search:
    """The steps of an inversion. What goes wrong in one is a check that did not run, and the others go on."""

    def __init__(
        self,
        model: nn.Module,
        base: nn.Module | None,
        draw: Reservoir,
        classes: int,
        scores: ClassScores,
        batch_size: int,
        device: str | torch.device,
        steps: int,
        progress: Progress | None,
        clean: Measurement,
    ) -> None:
        self.model, self.base, self.draw, self.classes, self.scores = model, base, draw, classes, scores
        self.batch_size, self.device, self.steps, self.progress, self.clean = batch_size, device, steps, progress, clean
        self.checks: list[Check] = []
        self.notes: list[str] = []
        self.gaps: list[str] = []
        self.drive: Drive | None = None

    def run(self) -> Outcome:
        """Triage, stimulation, reconstruction, proof."""
        began = perf_counter()
        setting = self.attempt("triage", lambda: self.setting(self.model, self.scores, self.classes))
        if setting is None:
            reason = self.checks[-1].reason
            self.checks = [*did_not_run(reason, "triage", "stimulation", "reconstruction", "proof")]
            return Outcome(Evidence(inversion=Inversion(self.classes)), tuple(self.checks), None)
        suspicions: list[Suspicion] = self.attempt("triage", lambda: triage(setting), ran_by=True) or []
        neurons: list[Stimulated] = self.attempt("stimulation", lambda: self.stimulated(setting), ran_by=True) or []
        inversion = Inversion(self.classes, suspicions=tuple(suspicions), neurons=tuple(neurons[:SHOWN]))
        setting.drive = self.drive = Drive.of(neurons, self.clean)
        targets = self.targets(neurons)
        proofs: list[Proof] = []
        triggers: dict[tuple[str, int], Trigger] = {}
        searched = self.attempt("reconstruction", lambda: self.searched(setting, targets), ran_by=True)
        if searched is not None:
            inversion = replace(inversion, searches=searched.searches)
            triggers = searched.triggers
            proved = self.attempt("proof", lambda: self.proved(setting, inversion, searched))
            if proved is not None:
                inversion, proofs = proved
        else:
            self.checks += did_not_run("there is no reconstruction to prove", "proof")
        spent = setting.transplant.forwards, setting.backwards, round(perf_counter() - began, 2)
        inversion = replace(inversion, forwards=spent[0], backwards=spent[1], seconds=spent[2])
        evidence = Evidence(None, tuple(proofs), spent[0], tuple(self.notes), gaps=tuple(self.gaps), inversion=inversion)
        known = Known(setting.clean.batches, self.batch_size, setting.chose, setting.images)
        return Outcome(evidence, tuple(self.checks), self.with_trigger(setting, inversion, proofs, triggers), known)

    def attempt(self, name: str, step: Callable[[], Made], ran_by: bool = False) -> Made | None:
        """What `step` makes; None where it fails, with a check that did not run. `ran_by`: its end is a check that ran."""
        try:
            made = step()
        except Exception as error:  # whatever the model or the data did
            words = str(error) if isinstance(error, Unsearchable) else why_it_failed(error)
            self.checks += did_not_run(words, name)
            return None
        if ran_by:
            self.checks += ran(name)
        return made

    def setting(self, model: nn.Module, scores: ClassScores, classes: int, predicted: bool = True) -> Setting:
        """The model with the drawn samples. Raises Unsearchable where there are no classes, or nothing to put a trigger on."""
        if classes < 2 or scores.output is None or scores.output.path is None:
            why = "" if scores.output is None else f" ({scores.output.words})"
            raise Unsearchable(f"the model gives no class scores{why}, so there is no class to turn samples to")
        if scores.output.limit is not None:
            self.gaps.append(f"whether the model has classes at all: {scores.output.words}")
        drawn = alike(self.draw.batches)
        if not drawn:
            raise Unsearchable("no clean sample could be kept")
        x = main_tensor(drawn[0][0])
        images = None
        if x.is_floating_point():
            if x.ndim < 2:
                raise Unsearchable("an input is one number")
            rows = np.concatenate([main_tensor(batch).cpu().float().numpy() for batch, _ in drawn])
            finite = np.isfinite(rows.reshape(len(rows), -1)).all(1)
            if not finite.any():
                raise Unsearchable("clean inputs are NaN or infinite")
            images = CleanImages.of(rows[finite])
            drawn = PredictedSamples(drawn).of(np.flatnonzero(finite)).batches
            if images.high <= images.low:
                raise Unsearchable("all clean inputs are the same")
        place = Placement.of(model, self.device)
        watch = None if self.progress is None else self.tell
        last = images is not None and images.last
        transplant = Transplant(model, place, self.batch_size, drawn[0][0], last, scores, watch)
        clean = PredictedSamples(drawn)
        if not predicted:
            called = np.split(transplant.predictions(clean, AsItIs()), np.cumsum([batch.size for batch, _ in clean.batches])[:-1])
            clean = PredictedSamples(
                [(batch, predictions) for (batch, _), predictions in zip(clean.batches, called, strict=True)]
            )
        return Setting.of(transplant, clean, images, classes)

    def tell(self, forwards: int) -> None:
        if self.progress is not None:
            self.progress("inverting", forwards, None)

    def stimulated(self, setting: Setting) -> list[Stimulated]:
        neurons, words = stimulate(setting, self.clean)
        self.notes.append(f"neurons that were not raised: {words}")
        return neurons

    def targets(self, neurons: Sequence[Stimulated]) -> list[int]:
        """The classes to search, in order."""
        if self.classes <= MOST_CLASSES:
            return list(range(self.classes))
        ranked = ranked_classes(neurons, self.classes)
        first, rest = ranked[: MOST_CLASSES // 2], sorted(ranked[MOST_CLASSES // 2 :])
        drawn = [rest[place] for place in np.linspace(0, len(rest) - 1, MOST_CLASSES // 2).astype(int)]
        self.gaps.append(f"triggers of {self.classes - MOST_CLASSES:,} of {self.classes:,} classes, which were not searched")
        return sorted({*first, *drawn})

    def searched(self, setting: Setting, targets: Sequence[int]) -> Searched:
        if setting.images is not None:
            searched = search_images(setting, targets, self.steps)
            if self.steps < STEPS:
                self.gaps.append(f"triggers that a search of {STEPS} steps makes smaller: it had {self.steps}")
            if not any(np.isfinite(search.size) for search in searched.searches):
                raise Unsearchable(f"no trigger turned {100 * GOAL:.0f} % of the samples to any class in {self.steps} steps")
            return searched
        searches, triggers, words = search_texts(setting, targets)
        self.notes.append(f"tokens that were not tried: {words} were, and pairs of the strongest")
        return Searched(searches, {**triggers}, {})

    def proved(self, setting: Setting, inversion: Inversion, searched: Searched) -> tuple[Inversion, list[Proof]]:
        """Proofs of what stands apart, each beside its control, and the searches with what disturbances leave."""
        base = None if self.base is None else self.base_setting()
        if base is not None:
            inversion = replace(inversion, base=self.searched_base(base, sorted({other.target for other in inversion.searches})))
        elif len({other.target for other in inversion.searches}) < FEWEST_CLASSES:
            reason = (
                f"{self.classes} classes: which of so few is turned to more easily says nothing of a backdoor; "
                f"name the model it was fine-tuned from as base"
            )
            self.checks += did_not_run(reason, "proof")
            return inversion, []
        proofs = []
        for standing in inversion.standings:
            if standing.strength < WORTH and standing.chance > NOTABLE:
                continue
            kind = standing.search.kind
            if setting.images is not None:
                proof, search = prove_images(setting, standing, searched.runs[kind], base)
            else:
                trigger = searched.triggers[kind, standing.search.target]
                assert isinstance(trigger, Tokens)
                proof, search = prove_texts(setting, standing, inversion.searches, trigger, base)
            key = search.kind, search.target
            searches = tuple(search if (other.kind, other.target) == key else other for other in inversion.searches)
            inversion = replace(inversion, searches=searches)
            proofs.append(proof)
        if setting.images is not None:
            proofs += self.ruled(setting, searched)
        self.checks += ran("proof")
        return inversion, sorted(proofs, key=lambda proof: (not proof.stands, -proof.margin))

    def ruled(self, setting: Setting, searched: Searched) -> list[Proof]:
        """The proof of an all-to-all rule, if any moves enough, its patch among what was `searched`; what cannot be searched for
        one is a gap.
        """
        if not FEWEST_CLASSES <= self.classes <= MOST_CLASSES:
            self.notes.append(f"triggers that turn each of {self.classes:,} classes to another")
            return []
        try:
            made = search_rule(setting, self.steps)
        except Exception as error:  # whatever the model did
            words = str(error) if isinstance(error, Unsearchable) else why_it_failed(error)
            self.gaps.append(f"triggers that turn each class to another: {words}")
            return []
        if made is None:
            return []
        searched.triggers[made[0].kind, RULE] = made[1]
        return [made[0]]

    def base_setting(self) -> Setting:
        """The base model with the same samples. Raises Unsearchable where it has other classes."""
        assert self.base is not None
        scores = ClassScores(self.scores.key)
        batch = self.draw.batches[0][0]
        place = Placement.of(self.base, self.device)
        with torch.no_grad(), scores.followed(self.base):
            output = self.base(*place.moved(batch.arguments), **place.moved(batch.keywords))
            read = scores.read(output, batch.size, batch.score_mask)
        classes = 0 if read is None else read.shape[1]
        if classes != self.classes:
            raise Unsearchable(f"the base model tells {classes} classes apart, the model {self.classes}: they cannot be compared")
        setting = self.setting(self.base, scores, classes, predicted=False)
        setting.drive = self.drive  # the same search has the same neurons
        return setting

    def searched_base(self, base: Setting, targets: Sequence[int]) -> tuple[ClassSearch, ...]:
        if base.images is None:
            return search_texts(base, targets)[0]
        searches = []
        for form in FORMS:
            for run in descend(base, partial(form.begun, base), targets, self.steps, form.pace):
                searches += [ClassSearch(t, form.kind, float(run.sizes[row]), float("nan")) for row, t in enumerate(run.targets)]
        return tuple(searches)

    def with_trigger(
        self, setting: Setting, inversion: Inversion, proofs: Sequence[Proof], triggers: dict[tuple[str, int], Trigger]
    ) -> list[Batch] | None:
        """The measuring samples with the strongest trigger on them."""
        strongest = next(iter(inversion.standings), None)
        if strongest is None:
            return None
        kind, target = strongest.search.kind, strongest.search.target
        if proofs and isinstance(proofs[0].target, int):
            kind, target = proofs[0].kind.partition(",")[0], proofs[0].target
        elif proofs and proofs[0].stands:
            kind, target = proofs[0].kind, RULE
        trigger = triggers[kind, target]
        return [setting.transplant.placed(trigger, batch) for batch, _ in setting.measure.batches]
