"""The retained samples: the highest-ranked suspects (`Top`) and a fair choice of clean ones (`Reservoir`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.accumulate.samples import rows_of
from naa_fast.inputs.batches import Batch, selected
from naa_fast.records import Array

INPUT_BYTES = 256 << 20
"""Most that the retained inputs of one kind may take on the host."""
SHOWN = 3


@dataclass(frozen=True)
class Retained:
    """One sample: its place in the set, score, predicted class (-1: none), the deviating `(layer number, feature, z)`,
    strongest first, and its input as a `batch` of one, None where inputs are too large to retain so many.
    """

    sample: int
    score: float
    predicted: int
    deviating: tuple[tuple[int, int, float], ...]
    batch: Batch | None

    @property
    def row(self) -> Tensor | None:
        """The input proper, `[...]` without the samples' axis."""
        return None if self.batch is None else main_tensor(self.batch)[0]

    @property
    def mask(self) -> Tensor | None:
        return None if self.batch is None or self.batch.mask is None else self.batch.mask[0]

    def at(self, sample: int) -> Retained:
        """The same sample by another number."""
        return replace(self, sample=sample)


def main_tensor(batch: Batch) -> Tensor:
    """The input proper of a batch, `[samples, ...]`."""
    return next(v for v in (*batch.arguments, *batch.keywords.values()) if isinstance(v, Tensor) and v.ndim)


def with_main(batch: Batch, x: Tensor) -> Batch:
    """The batch with another input proper, `[samples, ...]`."""
    for place, value in enumerate(batch.arguments):
        if isinstance(value, Tensor) and value.ndim:
            return Batch((*batch.arguments[:place], x, *batch.arguments[place + 1 :]), batch.keywords, batch.size, batch.mask)
    name = next(key for key, value in batch.keywords.items() if isinstance(value, Tensor) and value.ndim)
    return Batch(batch.arguments, {**batch.keywords, name: x}, batch.size, batch.mask)


def taken(batch: Batch, rows: Array) -> Batch:
    """The samples `rows`, int64 `[rows]`, of a batch."""
    return selected(batch, torch.from_numpy(rows), len(rows), batch.rejected)


def on_host(batch: Batch) -> Batch:
    """The batch with its tensors on the host."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.cpu()
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        return type(value)(moved(item) for item in value) if type(value) in (list, tuple) else value

    return replace(batch, arguments=moved(batch.arguments), keywords=moved(batch.keywords), mask=moved(batch.mask), rejected=())


def concatenated(batch: Batch, other: Batch) -> Batch | None:
    """Both batches in one, or None where their shapes or what they share differ."""

    def both(a: Any, b: Any) -> Any:
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.ndim and (len(a), len(b)) == (batch.size, other.size):
            if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
                raise ValueError
            return torch.cat([a, b])
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            return {key: both(a[key], b[key]) for key in a}
        if type(a) is type(b) and isinstance(a, list | tuple) and len(a) == len(b):
            return type(a)(both(x, y) for x, y in zip(a, b, strict=True))
        if a is not b and (isinstance(a, Tensor) or a != b):
            raise ValueError
        return a

    try:
        arguments, keywords, mask = (
            both(batch.arguments, other.arguments),
            both(batch.keywords, other.keywords),
            both(batch.mask, other.mask),
        )
    except ValueError:
        return None
    return Batch(arguments, keywords, batch.size + other.size, mask)


@dataclass(frozen=True)
class Offered:
    """Samples of one batch that were among the highest when they came; `batch` None where inputs are not retained. `deviating`
    float64 `[samples, SHOWN, 3]`, on the device until it is wanted (`named`): of most samples it never is.
    """

    samples: Array
    scores: Array
    predicted: Array
    deviating: Array | Tensor
    batch: Batch | None

    @property
    def named(self) -> Array:
        """`deviating` on the host."""
        return self.deviating.cpu().numpy() if isinstance(self.deviating, Tensor) else self.deviating

    def at(self, rows: Array, inputs: bool) -> Offered:
        """Some of them (bool `[samples]`), with or without their inputs."""
        batch = taken(self.batch, np.flatnonzero(rows)) if inputs and self.batch is not None else None
        deviating = of_rows(self.deviating, np.flatnonzero(rows))
        return Offered(self.samples[rows], self.scores[rows], self.predicted[rows], deviating, batch)

    def retained(self) -> list[Retained]:
        single = [None if self.batch is None else taken(self.batch, np.array([i])) for i in range(len(self.samples))]
        columns = self.samples.tolist(), self.scores.tolist(), self.predicted.tolist(), self.named.tolist(), single
        return [
            Retained(sample, score, predicted, tuple((int(layer), int(feature), z) for layer, feature, z in deviating), batch)
            for sample, score, predicted, deviating, batch in zip(*columns, strict=True)
        ]


def of_rows(values: Array | Tensor, rows: Array) -> Array | Tensor:
    """Some `rows` (int64 `[rows]`, on the host) of `values` `[samples, ...]`, where those are: `[rows, ...]`."""
    return rows_of(values, rows) if isinstance(values, Tensor) else values[rows]


class Top:
    """The `most` samples of highest score, in one pass; with their inputs as many of the highest as INPUT_BYTES hold."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._offered: list[Offered] = []
        self._least = -np.inf
        self._rows = 0

    def add(self, items: Array, scores: Array, predicted: Array, batch: Batch, deviating: Array | Tensor | None = None) -> None:
        """Offer a batch of samples `items` of the set. `deviating` float64 `[samples, SHOWN, 3]`: of the layers that deviate
        most in each, strongest first, layer number, feature and |z|.
        """
        chosen = np.flatnonzero(scores > self._least)
        if not len(chosen):
            return
        x = main_tensor(batch)
        self._rows = min(self.most, int(INPUT_BYTES * len(x) / max(x.nbytes, 1)))
        neurons = np.zeros((len(chosen), 0, 3)) if deviating is None else of_rows(deviating, chosen)
        inputs = on_host(taken(batch, chosen)) if self._rows else None
        self._offered.append(Offered(items[chosen], scores[chosen], predicted[chosen], neurons, inputs))
        held_rows = sum(len(offer.samples) for offer in self._offered if offer.batch is not None)
        if sum(len(offer.samples) for offer in self._offered) > 2 * self.most or held_rows > 2 * self._rows:
            self._prune()

    def merge(self, other: Top) -> None:
        """Offer what `other` retained."""
        self._offered += other._offered
        self._rows = max(self._rows, other._rows)
        self._prune()

    @classmethod
    def of(cls, most: int, offered: list[Offered]) -> Top:
        """With what was offered elsewhere."""
        made = cls(most)
        made._offered, made._rows = [offer for offer in offered if len(offer.samples)], most
        made._prune()
        return made

    def offered(self) -> list[Offered]:
        """The retained samples, as they came."""
        self._prune()
        return self._offered

    def finished(self) -> list[Retained]:
        """The retained samples, highest score first, ties by place in the set."""
        self._prune()
        return sorted(
            (sample for part in self._offered for sample in part.retained()), key=lambda sample: (-sample.score, sample.sample)
        )

    def _prune(self) -> None:
        if not self._offered:
            return
        scores = np.concatenate([offer.scores for offer in self._offered])
        samples = np.concatenate([offer.samples for offer in self._offered])
        place = np.empty(len(scores), np.int64)
        place[np.lexsort((samples, -scores))] = np.arange(len(scores))
        ends = np.cumsum([len(offer.samples) for offer in self._offered])[:-1]
        pairs = list(zip(self._offered, np.split(place, ends), strict=True))
        parts = [offer.at(places < self._rows, True) for offer, places in pairs]
        parts += [offer.at((places >= self._rows) & (places < self.most), False) for offer, places in pairs]
        self._offered = [part for part in parts if len(part.samples)]
        if len(scores) >= self.most:
            self._least = float(np.sort(scores)[-self.most])


class Reservoir:
    """A fair draw of whole batches, `most` samples at most in about that many bytes (Vitter 1985, algorithm R), by a fixed
    seed.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.batches: list[tuple[Batch, Array]] = []
        self._random = np.random.default_rng(0)
        self._offered = 0

    def add(self, batch: Batch, predicted: Array) -> None:
        """Offer a batch with the class `predicted` for each of its samples, int64 `[samples]`."""
        each = main_tensor(batch).nbytes / max(batch.size, 1)
        room = min(self.most, int(INPUT_BYTES / max(each, 1)))
        self._offered += 1
        if sum(chosen.size for chosen, _ in self.batches) + batch.size <= max(room, batch.size):
            self.batches.append((batch, predicted))
        elif (place := int(self._random.integers(self._offered))) < len(self.batches):
            self.batches[place] = (batch, predicted)

    def merge(self, other: Reservoir) -> None:
        """Offer the batches that `other` retained, of as many: those of both are mixed as they were offered."""
        ours, theirs = self.batches, other.batches
        total = max(self._offered + other._offered, 1)
        each = max((main_tensor(batch).nbytes / max(batch.size, 1) for batch, _ in (*ours, *theirs)), default=1.0)
        room = min(self.most, int(INPUT_BYTES / max(each, 1)))
        if sum(batch.size for batch, _ in (*ours, *theirs)) > room:
            share = self._offered / total
            ours, theirs = within(ours, share * room), within(theirs, (1 - share) * room)
        self.batches, self._offered = [*ours, *theirs], self._offered + other._offered


def within(batches: list[tuple[Batch, Array]], samples: float) -> list[tuple[Batch, Array]]:
    """The first batches that have so many samples together, one at least."""
    ends = np.cumsum([batch.size for batch, _ in batches])
    return batches[: max(1, int((ends <= samples).sum()))]
