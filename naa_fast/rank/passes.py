"""How samples get to a `Ranker`: in passes of their own (`Watch`), or while the sets are measured (`Clean`, `Suspect`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from naa_fast.accumulate import Samples, Views, chosen_classes
from naa_fast.inputs.batches import Batch, Rejected, Source
from naa_fast.rank.keep import main_tensor, taken
from naa_fast.records import Array, fold_of
from naa_fast.scan.chunk import Onlooker, Runner

MOST_CLEAN = 1 << 16
"""Clean samples looked at: means, deviations and the null are no better with more."""
HELD_BYTES = 256 << 20
"""Most that views and inputs of clean samples may take on the host until what they are scored by is known."""

Take = Callable[[Batch, Views, Array], None]
"""Is given some samples, their views, and the class predicted for each (int64; -1: none)."""


class Numbers:
    """Which item of a set each sample is: usable ones come in order, and those left out are told before the next one comes."""

    def __init__(self) -> None:
        self.next = 0
        self._bad: set[int] = set()

    def left_out(self, rejected: tuple[Rejected, ...]) -> None:
        self._bad = {item for item in self._bad if item >= self.next} | {bad.index for bad in rejected}

    def all_told(self, start: int) -> bool:
        """Whether every item before `start` was a sample or left out; item `start` is the next then."""
        told = start >= self.next and self._bad.issuperset(range(self.next, start))
        self.next = start
        return told

    def of(self, samples: int) -> Array:
        """The items of the next samples, int64."""
        items = self.next + np.arange(samples + len(self._bad))
        items = items[~np.isin(items, list(self._bad))][:samples] if self._bad else items
        self.next = int(items[-1]) + 1 if samples else self.next
        return items


class Through(Onlooker):
    """Hands on all there is."""

    def __init__(self, take: Take) -> None:
        self.hand = take
        self.largest = 0

    def take(self, part: Batch, views: Views, scores: Tensor | None) -> bool:
        self.largest = max(self.largest, part.size)
        self.hand(part, views, classes_of(part, scores))
        return True


class Watch(Runner):
    """Runs a set past `take` and keeps no statistics of its own."""

    def watch(self, source: Source, most: int | None, take: Take, half: int | None) -> tuple[Array, int]:
        """The items (int64) that were used and the most that ran at once. `half`: of even (0) or odd (1) folds alone."""
        self.source, self.onlooker = source, Through(take)
        self.stage = self.capture.observer = Samples()
        onlooker, numbers, items = self.onlooker, Numbers(), [np.zeros(0, np.int64)]
        at = self.done = 0
        for batch in self.readable_batches(0, most):
            numbers.left_out(batch.rejected)
            own, wanted = numbers.of(batch.size), observed_in(batch)
            if half is not None:
                wanted = wanted & (half_of(at, batch.size) == half)
            items.append(own[wanted])
            part = batch if wanted.all() else taken(batch, np.flatnonzero(wanted))
            at += batch.size
            if part.size:
                self.run_batch(part, 0, 0)
            self.done += batch.size
            if self.progress is not None and batch.size:
                self.progress(f"ranking by {source.name}", self.done, source.samples)
        return np.concatenate(items), onlooker.largest


class Alongside(Onlooker):
    """A set seen while it is measured. Whatever goes wrong ends the looking and never the measuring.

    `whole(samples)`: whether all was seen that a pass of its own would see, of a measurement with so many samples. `items` the
    samples that were used; `largest` the most that ran at once.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.items: list[Array] = []
        self.largest = 0
        self.neurons: dict[str, int] = {}
        self._numbers = Numbers()
        self._at = 0
        self._failed = self._enough = False

    def begin(self, start: int, neurons: dict[str, int]) -> None:
        self.neurons = neurons
        self._failed = self._failed or not self._numbers.all_told(start)

    def left_out(self, rejected: tuple[Rejected, ...]) -> None:
        self._numbers.left_out(rejected)

    def whole(self, samples: int) -> bool:
        return not self._failed and (self._enough or self._at == samples)

    def take(self, part: Batch, views: Views, scores: Tensor | None) -> bool:
        if self._failed:
            return False
        items = self._numbers.of(part.size)
        wanted = observed_in(part) & (items < (self.most or np.inf))
        self._enough = self.most is not None and self._numbers.next >= self.most
        try:
            self.see(part, views, scores, wanted, half_of(self._at, part.size))
        except Exception:  # a pass of its own will say what it was
            self._failed = True
        self._at += part.size
        self.largest = max(self.largest, part.size)
        self.items.append(items[wanted])
        return not (self._failed or self._enough)

    def see(self, part: Batch, views: Views, scores: Tensor | None, wanted: Array, half: Array) -> None:
        raise NotImplementedError


class Clean(Alongside):
    """The clean set: samples of even folds go to `fit`, those of odd folds are held for later, as far as HELD_BYTES allow.

    `held` None: there were too many, and they have to be run once more.
    """

    def __init__(self, fit: Callable[[Batch, Views, Array, int], None]) -> None:
        super().__init__(MOST_CLEAN)
        self.fit = fit
        self.held: list[tuple[Batch, Views, Array]] | None = []
        self._bytes = 0

    def see(self, part: Batch, views: Views, scores: Tensor | None, wanted: Array, half: Array) -> None:
        predicted, classes = classes_of(part, scores), 0 if scores is None else scores.shape[1]
        even, odd = (np.flatnonzero(wanted & (half == number)) for number in (0, 1))
        if len(even):
            own = taken(part, even)
            self.fit(own, rows_of(views, even), predicted[even], classes)
        if not len(odd) or self.held is None:
            return
        own, seen = taken(part, odd), {name: view.cpu() for name, view in rows_of(views, odd).items()}
        self._bytes += main_tensor(own).nbytes + sum(view.nbytes for view in seen.values())
        self.held = None if self._bytes > HELD_BYTES else [*self.held, (own, seen, predicted[odd])]


class Suspect(Alongside):
    """The suspect set, sample by sample to `rank`."""

    def __init__(self, rank: Take) -> None:
        super().__init__()
        self.rank = rank

    def see(self, part: Batch, views: Views, scores: Tensor | None, wanted: Array, half: Array) -> None:
        rows = np.flatnonzero(wanted)
        if len(rows) == part.size:
            self.rank(part, views, classes_of(part, scores))
        elif len(rows):
            self.rank(taken(part, rows), rows_of(views, rows), classes_of(part, scores)[rows])


def rows_of(views: Views, rows: Array) -> Views:
    return {name: view[rows] for name, view in views.items()}


def half_of(at: int, samples: int) -> Array:
    """Whether each of the next samples after the first `at` is of an even (0) or an odd (1) fold."""
    return fold_of(at + np.arange(samples)) % 2


def classes_of(part: Batch, scores: Tensor | None) -> Array:
    """The predicted class of each sample, -1 where there is none: int64."""
    return np.full(part.size, -1, np.int64) if scores is None else chosen_classes(scores).cpu().numpy()


def observed_in(batch: Batch) -> Array:
    """Which samples of a batch its mask leaves anything of: bool `[size]`."""
    if batch.mask is None:
        return np.ones(batch.size, bool)
    mask = batch.mask.cpu()
    whole: Array = (mask if mask.ndim == 1 else mask.any(1)).numpy()
    return whole
