"""`write_repaired`: what silences the trigger as files that people deploy, measured by loading them again."""

from __future__ import annotations

import copy
import importlib.resources
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from naa_fast.accumulate import chosen_classes
from naa_fast.capture import ClassScores
from naa_fast.capture.class_names import numbers_by_name
from naa_fast.capture.fast_path import fast_path_off
from naa_fast.capture.selection import unwrapped
from naa_fast.detect.change import Change
from naa_fast.detect.repair import LEAST_HELP, REPAIR_FILE, Repair
from naa_fast.detect.trigger import Offset, Tokens, Trigger
from naa_fast.errors import InputError, ModelError, UsageError
from naa_fast.files import write_file
from naa_fast.inputs.batches import Batch, Source
from naa_fast.inputs.labels import LabelOrder
from naa_fast.proof.apply import candidate_of
from naa_fast.proof.transplant import Candidate, flipped
from naa_fast.rank.retained import main_tensor, with_main
from naa_fast.records import Array
from naa_fast.repair.change import applied
from naa_fast.repair.fold import NotExact, folded, without_limit
from naa_fast.repair.search import AGREEMENT
from naa_fast.repair.standalone import repaired
from naa_fast.scan.chunk import first_line
from naa_fast.scan.loop import evaluating
from naa_fast.scan.placement import Placement

WEIGHTS = "model.safetensors"
MODULE = "naa_repair.py"
SLACK = 0.03
"""How much more of the trigger may be left, or of the predictions lost, where directions are taken out of every row."""


@dataclass(frozen=True)
class Figures:
    """What a model does: the share of clean samples that are called what they were before (`kept`) and as their labels say
    (`accuracy`), and of suspect samples that carry the trigger and are called its `target` (`success`). NaN where unknown.
    """

    kept: float = nan
    accuracy: float = nan
    success: float = nan
    clean: int = 0
    triggered: int = 0

    def report(self) -> dict[str, Any]:
        """In JSON's types: null where unknown."""
        return {name: None if value != value else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Sets:
    """What a repaired model is measured with: `triggered` bool, which suspect samples hold the trigger, and `target` the class
    it turns them to; None where each class goes to another, or nothing was proved: then `success` is the share of them that are
    called what they were before. `trigger`: without suspects it is put on the clean samples of other classes than `target`, of no
    target on all, and `success` is the share that is no more called what it was without it.
    """

    clean: Source | None = None
    suspect: Source | None = None
    triggered: Array | None = None
    target: int | None = None
    trigger: Trigger | None = None

    @property
    def whole(self) -> bool:
        """Whether clean and triggered samples are measured."""
        return self.clean is not None and (self.suspect is not None or self.trigger is not None)


FORM = ("give --clean in the form in which it was scanned",)


class WithTrigger:
    """A set with a trigger on every sample, whose values stay within those the set has."""

    read_ahead = False

    def __init__(self, source: Source, trigger: Trigger) -> None:
        self.source, self.trigger = source, trigger
        self.name, self.samples = f"{source.name} with the trigger", source.samples

    @cached_property
    def candidate(self) -> Candidate:
        """One reading of the set where something is added to it."""
        if not isinstance(self.trigger, Offset):
            return candidate_of(self.trigger)
        ends = [(float(x.min()), float(x.max())) for x in map(main_tensor, self.source.batches(0)) if x.numel()]
        return candidate_of(self.trigger, min(low for low, _ in ends), max(high for _, high in ends))

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        for batch in self.source.batches(start):
            if isinstance(self.trigger, Tokens) == main_tensor(batch).is_floating_point():
                raise UsageError(f"the trigger of the report does not fit {self.source.name}", *FORM)
            if not isinstance(self.trigger, Tokens) and self.trigger.pattern.shape != main_tensor(batch).shape[1:]:
                found = f"of shape {list(self.trigger.pattern.shape)}, the samples of {list(main_tensor(batch).shape[1:])}"
                raise UsageError(f"the trigger of the report does not fit {self.source.name}", found, *FORM)
            yield with_main(batch, self.candidate.put_on(main_tensor(batch), batch.mask)) if batch.size else batch


@dataclass
class Measure:
    """Runs both sets through models, the first of which is the one that was audited."""

    sets: Sets
    device: str = "auto"
    scores: ClassScores = field(default_factory=ClassScores)
    first: dict[str, Array] = field(default_factory=dict)

    def figures(self, model: nn.Module) -> Figures:
        """One forward over each set.

        Raises:
            UsageError: the suspect set is not the one that was audited. InputError: the model gives no class scores.
        """
        sets, figures = self.sets, Figures()
        if sets.clean is not None:
            called, labels = predicted(model, sets.clean, self.scores, self.device)
            before, known = self.first.setdefault("clean", called), labels >= 0
            accuracy = float((called == labels)[known].mean()) if known.any() else nan
            figures = replace(figures, kept=float((called == before).mean()), accuracy=accuracy, clean=len(called))
        if sets.suspect is not None:
            called, _ = predicted(model, sets.suspect, self.scores, self.device)
            before = self.first.setdefault("suspect", called)
            triggered = np.ones(len(called), bool) if sets.triggered is None else sets.triggered
            if len(triggered) != len(called):
                raise UsageError(
                    f"{sets.suspect.name} has {len(called):,} samples",
                    f"the report is of {len(triggered):,} suspect samples",
                    "give the suspect set that was scanned",
                )
            goal = before if sets.target is None else np.full_like(called, sets.target)
            success = float((called == goal)[triggered].mean())
            figures = replace(figures, success=success, triggered=int(triggered.sum()))
        elif sets.clean is not None and sets.trigger is not None:
            called, _ = predicted(model, WithTrigger(sets.clean, sets.trigger), self.scores, self.device)
            if sets.target is None:  # each class to another: whatever is no more what it was
                success, others = float((called != self.first["clean"]).mean()), len(called)
            else:
                success, others = flipped(self.first["clean"], called, sets.target)
            figures = replace(figures, success=success, triggered=others)
        return figures


def predicted(model: nn.Module, source: Source, scores: ClassScores, device: str) -> tuple[Array, Array]:
    """The class of every sample (-1: none), and the one its label says (-1: none), int64. One forward over the set. `[samples]`
    both.
    """
    place, classes = Placement.of(model, device), 0
    called: list[Tensor] = []
    labels: list[Tensor] = []
    with torch.no_grad(), evaluating(model), scores.followed(model):
        for batch in source.batches(0):
            if not batch.size:
                continue
            try:
                output = model(*place.moved(batch.arguments), **place.moved(batch.keywords))
            except Exception as error:
                shape = list(main_tensor(batch).shape)
                raise ModelError(
                    f"the model raised {type(error).__name__} on a batch of {source.name}",
                    f"shape: {shape}",
                    f"message: {first_line(error)}",
                    "give the sets in the form in which they were scanned",
                ) from error
            class_scores = scores.read(output, batch.size, batch.score_mask)
            if class_scores is None:
                raise InputError(f"the model gives no class scores for {source.name}", "a repair is measured by predictions")
            classes = int(class_scores.shape[1])
            called.append(chosen_classes(class_scores).cpu())
            labels.append(torch.full((batch.size,), -1) if batch.labels is None else batch.labels.cpu())
    if not called:
        raise InputError(f"{source.name} has no samples that can be used")
    names = tuple(getattr(source, "label_names", ()))
    order, numbers = LabelOrder(names, "", numbers_by_name(unwrapped(model))), torch.cat(labels)
    fits = order.fits(classes)
    return torch.cat(called).numpy(), (order.of(numbers) if fits else torch.full_like(numbers, -1)).numpy()


@dataclass(frozen=True)
class Deployed:
    """What was written: `files`, whether the repair is in the weights (`folded`) and does exactly what it did (`exact`), why not
    where it is not, and what the models do: as audited, repaired as the report says, and loaded again from what was written.
    """

    files: tuple[Path, ...]
    folded: bool
    exact: bool
    why: tuple[str, ...]
    before: Figures
    promised: Figures
    after: Figures

    @property
    def holds(self) -> bool | None:
        """Whether what was written does what the report promised; None where it was not measured."""
        if self.after.kept < AGREEMENT:
            return False
        known = self.after.success == self.after.success
        return self.before.success - self.after.success >= LEAST_HELP if known else None

    def report(self) -> dict[str, Any]:
        """For repair.json."""
        figures = {name: getattr(self, name).report() for name in ("before", "promised", "after")}
        return {"folded": self.folded, "exact": self.exact, "why": list(self.why), **figures, "holds": self.holds}


def write_repaired(
    model: nn.Module, repair: Repair, folder: Path, sets: Sets, device: str = "auto", scores: str | None = None
) -> Deployed:
    """Write the weights with the repair in them, WEIGHTS, or where no weights can hold it MODULE and the repair to load it with.

    Weights hold zeroed neurons, and directions that are taken out of every row. Where the repair moves only rows beyond a limit,
    its directions are taken out of every row if both sets, or a trigger, are given and these show that it costs no more than
    SLACK: that is not the same repair, and `exact` says so. Cost: a copy of the model, and up to four forwards over each set.

    Raises:
        UsageError: the repair is of another model, or the suspect set of another report. InputError: it cannot be written.
    """
    measure = Measure(sets, device, ClassScores(scores))
    before = measure.figures(model)
    with applied(model, repair):
        promised = measure.figures(model)
    every = tuple(map(without_limit, repair.changes))
    why: list[str] = []
    for changes, exact in ((repair.changes, True), *([(every, False)] if sets.whole else [])):
        try:
            state = folded(model, changes, sets.clean is not None)
            after = measured_again(model, state, changes, measure)
            if not exact and not as_good(after, promised):
                raise NotExact("taken out of every row its directions cost more than those rows alone")
        except NotExact as error:
            if str(error) not in why:
                why.append(str(error))
            continue
        path = folder / WEIGHTS
        write_file(path, save(state, {"format": "pt"}))
        again = measure.figures(loaded(model, path))
        return Deployed((path,), True, exact, tuple(why), before, promised, again)
    files = (folder / MODULE, folder / REPAIR_FILE)
    write_file(files[0], (importlib.resources.files("naa_fast.repair") / "standalone.py").read_bytes())
    write_file(files[1], repair.to_bytes())
    with fast_path_off():  # which `repaired` switches off for good
        after = measure.figures(repaired(copy.deepcopy(model), files[1]))
    return Deployed(files, False, True, tuple(why), before, promised, after)


def measured_again(model: nn.Module, state: dict[str, Tensor], changes: Sequence[Change], measure: Measure) -> Figures:
    """What the folded weights do. Raises NotExact where they do not give what hooks give."""
    made = with_weights(model, state)
    if measure.sets.clean is not None and not same_outputs(model, made, changes, measure):
        raise NotExact("the weights do not give what the hooks give: the layers are put together in another way than it seems")
    return measure.figures(made)


def same_outputs(model: nn.Module, made: nn.Module, changes: Sequence[Change], measure: Measure) -> bool:
    """Whether both give the same class scores for the first batch of the clean set, to 1e-3 of what they vary by."""
    assert measure.sets.clean is not None
    place = Placement.of(made, measure.device)
    batch = next(batch for batch in measure.sets.clean.batches(0) if batch.size)
    given: list[Tensor] = []
    for either in (model, made):
        with torch.no_grad(), evaluating(either), applied(either, changes if either is model else ()):
            output = either(*place.moved(batch.arguments), **place.moved(batch.keywords))
        scores = measure.scores.read(output, batch.size, batch.score_mask)
        given.append(torch.zeros(1) if scores is None else scores.double().cpu())
    spread = float(given[0].std()) if given[0].numel() > 1 else 0.0
    return bool((given[0] - given[1]).abs().max() <= 1e-3 * max(spread, 1e-6))


def as_good(after: Figures, promised: Figures) -> bool:
    return after.kept >= max(promised.kept - SLACK, AGREEMENT) and after.success <= promised.success + SLACK


def with_weights(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    made = copy.deepcopy(model)
    made.load_state_dict(state)
    return made


def loaded(model: nn.Module, path: Path) -> nn.Module:
    """A copy of the model with the weights of a file that was written, as plain torch loads them."""
    return with_weights(model, load_file(path))
