"""`Transplant`: put a candidate trigger on clean samples and see what the model makes of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.accumulate import chosen_classes
from naa_fast.capture import ClassScores
from naa_fast.capture.positions import positions_of
from naa_fast.capture.selection import unwrapped
from naa_fast.inputs.batches import Batch
from naa_fast.proof.budget import UNLIMITED, Budget
from naa_fast.proof.inserted import Inserted
from naa_fast.rank.retained import concatenated, main_tensor, taken, with_main
from naa_fast.rank.suspects import SuspectReader
from naa_fast.records import Array
from naa_fast.scan.last_logits import LastLogits
from naa_fast.scan.memory import is_out_of_memory, pieces, release
from naa_fast.scan.placement import Placement

FEWEST_RULES = 3
"""Classes that must each go somewhere else before it is called all-to-all."""
LEAST_A_CLASS = 4
"""Samples of a class that say where it goes: of one sample each every rule fits itself. Four are what the choosing part has of
each of twenty classes; with more classes all-to-all is not tried."""
TOLD = 0.8
"""Share of the choosing samples whose classes have so many: an all-to-all trigger is about all classes."""
UNRULED = (
    f"an all-to-all trigger, which sends each class to another: most of the clean samples that choose are of classes with fewer "
    f"than {LEAST_A_CLASS} among them, or of fewer than {FEWEST_RULES} classes, and any rule fits those"
)
"""A limit of the search, as a trigger that no suspect carries is one: with many classes it is the same whatever the sets."""
PERMUTED = 200
"""Rules with the same destinations for other classes: what a trigger does that scatters samples, or sends them to few classes."""
SCREEN = 2
"""The part of the clean samples, the first of those that choose, that every candidate is put on."""
WORTH_A_CONTROL = 0.5
"""Share of the choosing part that a candidate must turn before clean groups are given the same chance: less proves nothing."""


class Candidate(Protocol):
    """A possible trigger. `kind` says how it was made, `budget` how much of the input it may change: like competes with like."""

    @property
    def kind(self) -> str: ...

    @property
    def budget(self) -> str: ...

    def put_on(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """The inputs `x` with the trigger; `valid` (bool `[samples, positions]`) are the positions that may be changed."""
        ...


@dataclass(frozen=True)
class PredictedSamples:
    """Samples in batches as they came, with the class predicted for each as it is, int64 `[samples]`: clean ones, which triggers
    are put on, or suspects.
    """

    batches: list[tuple[Batch, Array]]

    @property
    def predicted(self) -> Array:
        """The class of each, int64 `[samples]`."""
        return np.concatenate([p for _, p in self.batches]) if self.batches else np.zeros(0, np.int64)

    def of(self, numbers: Array) -> PredictedSamples:
        """The samples of these numbers, in as few batches as their shapes allow. Int64 `[samples]`, in the order of the whole."""
        chosen: list[tuple[Batch, Array]] = []
        at = 0
        for batch, predicted in self.batches:
            rows = np.sort(numbers[(numbers >= at) & (numbers < at + batch.size)]) - at
            at += batch.size
            if not len(rows):
                continue
            part = taken(batch, rows)
            whole = concatenated(chosen[-1][0], part) if chosen else None
            if whole is None:
                chosen.append((part, predicted[rows]))
            else:
                chosen[-1] = (whole, np.concatenate([chosen[-1][1], predicted[rows]]))
        return PredictedSamples(chosen)


def samples_of(reader: SuspectReader, numbers: Array, predicted: Array) -> PredictedSamples | None:
    """The samples of these numbers (int64, as of `RankingResult.scores`), in as few batches as their shapes allow; None where
    none can be read again. `predicted`: the class of each of the set. Int64 `[samples of the set]`.
    """
    parts: list[tuple[Batch, Array]] = []
    for batch, places in reader.batches():
        rows = np.flatnonzero(np.isin(places, numbers))
        if len(rows):
            parts.append((taken(batch, rows), predicted[places[rows]]))
    if not parts:
        return None
    read = PredictedSamples(parts)
    return read.of(np.arange(len(read.predicted)))


class Transplant:
    """Runs the model on inputs that were changed, at most `largest` samples at a time; `forwards` counts the samples.

    `template`: a batch of the clean set, whose first sample lends what a forward needs beside the input proper. `last`: the model
    takes images with their channels last, candidates and rows have them first. `class_scores` say which output they are; None: by
    the first one's names and shapes. `watch` is told `forwards` whenever they grow, and may end all by raising. `budget`: what it
    may run, with others; it raises before more is run. `whole_outputs`: a language model gives logits at every position, as what
    is hooked into it expects.
    """

    def __init__(
        self,
        model: nn.Module,
        place: Placement,
        largest: int,
        template: Batch,
        last: bool = False,
        class_scores: ClassScores | None = None,
        watch: Callable[[int], None] | None = None,
        budget: Budget | None = None,
        whole_outputs: bool = False,
    ) -> None:
        self.model = model
        self.budget = budget or Budget(UNLIMITED)
        self.last_logits = LastLogits(None) if whole_outputs else LastLogits.of(model)
        self.room = positions_of(unwrapped(model))
        self.last = last
        self.place = place
        self.largest = largest
        self.template = template
        self.class_scores = class_scores or ClassScores()
        self.forwards = 0
        self.watch = watch

    def count(self, samples: int) -> None:
        """So many more samples ran."""
        self.forwards += samples
        if self.watch is not None:
            self.watch(self.forwards)

    def predictions(self, samples: PredictedSamples, candidate: Candidate) -> Array:
        """Predicted class of every sample with the candidate on it, int64 `[samples]`; -1 without finite scores."""
        self.budget.require(len(samples.predicted))
        chosen = []
        for whole, _ in samples.batches:
            for batch, scores in self.scores(self.placed(candidate, whole)):
                chosen.append(classes_of(batch, scores))
        return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)

    def called(self, rows: Array) -> Array:
        """Predicted class of inputs float32 `[n, ...]`, int64; -1 where the model gives no finite scores."""
        if not len(rows):
            return np.zeros(0, np.int64)
        return np.concatenate([classes_of(batch, scores) for batch, scores in self.scores(self._like(rows))])

    def margins(self, rows: Array, cls: int) -> Array:
        """Score of the class `cls` less the best other one of inputs float32 `[n, ...]`: float64 `[n]`, NaN for none."""
        margins = []
        for batch, scores in self.scores(self._like(rows)):
            if scores is None or scores.shape[1] <= cls or scores.shape[1] < 2:
                margins.append(np.full(batch.size, np.nan))
                continue
            known = scores.double().cpu()
            others = known.clone()
            others[:, cls] = -torch.inf
            margins.append((known[:, cls] - others.amax(1)).numpy())
        return np.concatenate(margins)

    def _like(self, rows: Array) -> Batch:
        """The rows as a batch, with what the template lends. `rows` float32 `[samples, ...]`, channels first."""
        like = taken(self.template, np.zeros(len(rows), np.int64))
        x = main_tensor(like)
        given = torch.from_numpy(np.ascontiguousarray(np.moveaxis(rows, 1, -1)) if self.last else rows)
        return with_main(like, given.to(x.device, x.dtype))

    def placed(self, candidate: Candidate, whole: Batch) -> Batch:
        """A batch with the candidate on its inputs, as the model takes them."""
        if isinstance(candidate, Inserted):
            return candidate.into(whole, self.room)
        x = main_tensor(whole)
        if not self.last:
            return with_main(whole, candidate.put_on(x, whole.mask))
        return with_main(whole, candidate.put_on(x.movedim(-1, 1), whole.mask).movedim(1, -1).contiguous())

    @torch.no_grad()
    def scores(self, whole: Batch) -> Iterator[tuple[Batch, Tensor | None]]:
        """The batch in parts that fit, each with its class scores `[samples, classes]`, None where the model gives none."""
        pending = deque(pieces(whole, self.largest))
        while pending:
            batch = pending.popleft()
            self.budget.take(batch.size)
            try:
                asked, mask = self.last_logits.narrowed(batch)
                output = self.model(*self.place.moved(asked.arguments), **self.place.moved(asked.keywords))
                scores = self.class_scores.read(output, batch.size, mask)
            except Exception as error:
                if batch.size == 1 or not is_out_of_memory(error):
                    raise
                self.largest = batch.size // 2
                pending.extendleft(reversed(pieces(batch, self.largest)))
                release()
                continue
            self.count(batch.size)
            yield batch, scores


def classes_of(batch: Batch, scores: Tensor | None) -> Array:
    """The class of each sample by `scores` `[samples, classes]`, int64 `[samples]`; -1 without scores."""
    return np.full(batch.size, -1) if scores is None else chosen_classes(scores).cpu().numpy()


def flipped(before: Array, after: Array, target: int) -> tuple[float, int]:
    """Share of the samples of other classes that are `target` now, and how many those samples are. `before` and `after` int64
    `[samples]`.
    """
    others = (before != target) & (before >= 0)
    return (float((after[others] == target).mean()) if others.any() else 0.0), int(others.sum())


def moved_by_rule(before: Array, after: Array, rule: dict[int, int]) -> tuple[float, int]:
    """Share of all samples that go where `rule` (class -> another class) sends their class; a class without a rule stays.
    `before` and `after` int64 `[samples]`.
    """
    expected = np.array([rule.get(int(b), -1) for b in before])
    return (float(((after == expected) & (expected >= 0)).mean()) if len(before) else 0.0), len(before)


def can_rule(before: Array) -> bool:
    """Whether samples of these predicted classes can say of an all-to-all rule what it is: TOLD of them are of classes with
    LEAST_A_CLASS, and those are FEWEST_RULES or more. `before` int64 `[samples]`.
    """
    counts = np.unique(before[before >= 0], return_counts=True)[1]
    enough = counts >= LEAST_A_CLASS
    return bool(enough.sum() >= FEWEST_RULES and counts[enough].sum() >= TOLD * len(before))


def by_permuted_rules(before: Array, after: Array, rule: dict[int, int]) -> float:
    """Mean share of the samples that go where the rule sends another class than theirs: the same destinations dealt at random, by
    a fixed seed. 1 over the number of classes where each has a destination of its own. `before` and `after` int64 `[samples]`.
    """
    random, places = np.random.default_rng(0), list(rule.values())
    dealt = [dict(zip(rule, random.permutation(places).tolist(), strict=True)) for _ in range(PERMUTED if rule else 0)]
    return float(np.mean([moved_by_rule(before, after, other)[0] for other in dealt])) if dealt else 0.0


def rule_of(before: Array, after: Array) -> dict[int, int]:
    """Where each class's samples went most often, for classes of LEAST_A_CLASS samples that left home; empty if most of them meet
    in one place. `before` and `after` int64 `[samples]`.
    """
    rule = {}
    for cls in np.unique(before[before >= 0]):
        goes = np.bincount(after[(before == cls) & (after >= 0)], minlength=1)
        if goes.argmax() != cls and goes.sum() >= LEAST_A_CLASS:
            rule[int(cls)] = int(goes.argmax())
    places = np.bincount(list(rule.values()), minlength=1)
    return rule if len(rule) >= FEWEST_RULES and 2 * places.max() <= len(rule) else {}
