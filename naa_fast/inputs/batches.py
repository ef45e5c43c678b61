"""`Batch`, one forward's worth of data, and `Source`, a set that gives them: arrays, iterables, and parts of a set."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from naa_fast.errors import InputError
from naa_fast.inputs.identity import identity_of_array, identity_of_file
from naa_fast.inputs.labels import KEYS, class_numbers
from naa_fast.inputs.masks import mask_beside
from naa_fast.inputs.tensors import Column, MemoryColumn, as_mask, as_tensor, check_columns, describe, is_number_dtype

TOLD = ("labelled", "label_names", "labels_guessed", "reading", "left_out", "hint", "feeding", "identity", "read_as")
"""What a source may say of itself."""
LAST_KEYWORDS = ("attention_mask", "labels")
DECODER = "decoder_"


@dataclass(frozen=True)
class Rejected:
    """An item that could not be used: its `index` in the set, the `file` if it is one of its own, and why. Hostile text, both."""

    index: int
    file: str | None
    reason: str


@dataclass(frozen=True)
class Batch:
    """One forward's worth of data: the model is called as `model(*arguments, **keywords)`.

    `size` samples; `mask` (bool `[size]` or `[size, positions]`) marks with False what no statistic may count, and the model
    sees all the same. `rejected`: items left out as unusable since the previous batch. The first tensor of `arguments`, then
    of `keywords`, is the input proper. `labels`, int64 `[size]`: the class each sample is said to be of, negative where unknown.
    `items`, int64 `[size]`: the samples' places in the set, where they come in another order. `decoder_mask`: the same of the
    positions a decoder is given.
    """

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    size: int
    mask: Tensor | None
    rejected: tuple[Rejected, ...] = ()
    labels: Tensor | None = None
    items: Tensor | None = None
    decoder_mask: Tensor | None = None

    @property
    def score_mask(self) -> Tensor | None:
        """The mask of the positions that class scores may be given for: the decoder's, where there is one."""
        return self.mask if self.decoder_mask is None else self.decoder_mask

    @property
    def skipped(self) -> int:
        return len(self.rejected)


@runtime_checkable
class Source(Protocol):
    """A set of samples. `name` is what a person calls it and is hostile text; `samples` how many items it has, unusable ones
    among them, None while unknown. One with a true `read_ahead` is read by a thread of its own while the model runs.

    Optional: `labelled` says in words what the labels of its batches are, and `label_names` are their names where they are
    places in a list, `labels_guessed` whether they may be something else; `reading` and `left_out` say in sentences how it is
    read, and what of it is not; `hint`, what to try where the model does not take its batches; `feeding`, who reads it;
    `identity()`, a digest of what the whole set holds, the same wherever it lies (`identity.py`); `read_as`, the options
    that it is read by, in words: a checkpoint is of these alone.
    """

    name: str
    samples: int | None

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Items `start:stop` of the set in order, undecodable ones counted among them; a range may be asked for again.

        A batch of size 0 only tells what was rejected. Raises InputError at the first sample that cannot be used and must not be
        left out.
        """
        ...


class ArraySource:
    """`x` cut along its first axis, `mask` with it. `y` is held to the same length and otherwise left alone."""

    def __init__(self, name: str, x: Column, mask: Column | None, y: Column | None, batch_size: int) -> None:
        check_columns(name, x, mask, y)
        self.name = name
        self.samples: int | None = x.shape[0]
        self.x = x
        self.mask = mask
        self.y = y if y is not None and is_number_dtype(y.dtype) else None
        self.labelled = f"y of {name}"
        self.batch_size = batch_size
        self.in_memory = isinstance(x, MemoryColumn)
        self.read_ahead = not self.in_memory

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        length = self.x.shape[0]
        span = min(start, length), length if stop is None else min(stop, length)
        masks = repeat(None) if self.mask is None else self.mask.read(self.batch_size, *span)
        labels = repeat(None) if self.y is None else self.y.read(self.batch_size, *span)
        for values, mask, y in zip(self.x.read(self.batch_size, *span), masks, labels, strict=False):
            kept = None if mask is None else as_mask(mask, f"mask of {self.name}")
            yield Batch((values,), {}, len(values), kept, labels=class_numbers(y))

    def identity(self) -> str:
        """Of the file, or of the array."""
        if isinstance(self.x, MemoryColumn):
            return identity_of_array(self.x.values)
        place = getattr(self.x, "path", None)
        return "" if place is None else identity_of_file(place)


class IterableSource:
    """Batches as somebody else cut them. A one-shot iterator serves once, from the front."""

    def __init__(self, data: Iterable[Any]) -> None:
        self.name = type(data).__name__
        self.labelled = f"what {self.name} gives beside the inputs"
        self.samples = announced_samples(data)
        self.data = data
        # Whatever gives the batches may be bound to the thread it was made on (sqlite, signals, a stream of the device, random
        # numbers, thread-locals): it is read there. A loader with workers reads ahead by itself.
        self.read_ahead = False
        self.parameters: tuple[str, ...] = ()  # what the model takes, where that is known
        self.reading: tuple[str, ...] = ()
        self._running: Iterator[Batch] | None = None
        self._waiting: Batch | None = None
        self._at = 0

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """As `Source.batches`. Ascending ranges are one pass over the data; what lies between them is read and dropped."""
        if self._running is None or start < self._at:
            self._running, self._waiting, self._at = self._all(), None, 0
        end = float("inf") if stop is None else stop
        while self._at < end:
            batch = self._waiting or next(self._running, None)
            self._waiting = None
            if batch is None:
                return
            for edge in (start, end):  # cut where a range begins or ends inside the batch
                if self._at < edge < self._at + batch.size:
                    batch, self._waiting = cut(batch, int(edge) - self._at)
                    break
            self._at += batch.size
            if self._at > start:
                yield batch

    def _with_mask(self, batch: Batch, x: Tensor, beside: Sequence[Any]) -> Batch:
        """The batch with the mask that comes beside its input; the report says what else there is not given to the model."""
        mask = mask_beside(beside, x, self.parameters)
        unused = [f"item {place + 1}" for place in range(len(beside)) if mask is None or place != mask[0]]
        lines = []
        if mask is not None:
            place, name, ones = mask
            to_model = f"given to the model as {name}" if name else "not given to the model, which takes none"
            lines.append(f"item {place + 1} of each batch is the mask of its input ({to_model})")
            given = {name: torch.as_tensor(beside[place])} if name else {}
            batch = replace(batch, keywords=given, mask=ones)
        if unused and (mask is not None or len(beside) > 1):
            labelled = " (labels tell clean accuracy alone)" if batch.labels is not None else ""
            lines.append(f"{', '.join(unused)} of each batch: not given to the model{labelled}")
        self.reading = tuple(dict.fromkeys((*self.reading, *lines)))
        return batch

    def _all(self) -> Iterator[Batch]:
        shape: torch.Size | None = None
        for index, item in enumerate(self.data):
            batch, x = batch_of(item, f"batch {index} of {self.name}")
            if isinstance(item, tuple | list) and not batch.keywords:
                batch = self._with_mask(batch, x, item[1:])
            if shape is not None and len(shape) != x.ndim:
                raise InputError(
                    f"batch {index} of {self.name} has shape {list(x.shape)}",
                    f"expected {len(shape)} axes as in the first batch, {list(shape)}",
                    "if the data is one pair (inputs, labels), pass the inputs alone",
                )
            shape = x.shape if shape is None else shape
            if batch.size:  # an empty last batch holds nothing to observe, and many models reject it
                yield batch
        if shape is None:
            raise InputError(
                f"{self.name} gave no batch", "expected at least one", "an iterator can be read once: make a new one for each use"
            )


class PartOfSource:
    """Items `start:stop` of a source, as a set of its own whose items count from 0."""

    def __init__(self, whole: Source, start: int, stop: int) -> None:
        self.whole = whole
        self.start, self.stop = start, stop
        self.name = whole.name
        self.samples: int | None = stop - start
        for what in ("read_ahead", "in_memory", "batch_size", "data"):
            if hasattr(whole, what):
                setattr(self, what, getattr(whole, what))

    def __getattr__(self, name: str) -> Any:
        """What the whole says of itself by then."""
        if name in TOLD:
            return getattr(self.whole, name)
        raise AttributeError(name)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        last = self.stop if stop is None else min(self.start + stop, self.stop)
        if self.start + start >= last:
            return
        for batch in self.whole.batches(self.start + start, last):
            rejected = tuple(replace(bad, index=bad.index - self.start) for bad in batch.rejected)
            yield replace(batch, rejected=rejected) if rejected else batch


def selected(batch: Batch, rows: slice | Tensor, size: int, rejected: tuple[Rejected, ...]) -> Batch:
    """`rows` of a batch, `size` of them; tensors with one row a sample are cut, all else is shared."""

    def part(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[rows] if value.ndim and value.shape[0] == batch.size else value
        if isinstance(value, dict):
            return {key: part(item) for key, item in value.items()}
        return type(value)(part(item) for item in value) if type(value) in (list, tuple) else value

    rest = part(batch.labels), part(batch.items), part(batch.decoder_mask)
    return Batch(part(batch.arguments), part(batch.keywords), size, part(batch.mask), rejected, *rest)


def cut(batch: Batch, at: int) -> tuple[Batch, Batch]:
    """The first `at` samples of a batch, and the rest."""
    first = selected(batch, slice(0, at), at, batch.rejected)
    return first, selected(batch, slice(at, None), batch.size - at, ())


def announced_samples(data: Iterable[Any]) -> int | None:
    """How many samples a DataLoader will give, as far as its sampler says; None for anything else."""
    try:
        return len(data.sampler) if isinstance(data, DataLoader) else None  # type: ignore[arg-type]
    except (TypeError, AttributeError, NotImplementedError):
        return None


def batch_of(item: Any, where: str) -> tuple[Batch, Tensor]:
    """A batch in any accepted form, and its input proper. `where` opens the error messages."""
    first = item[0] if isinstance(item, tuple | list) and item else item
    beside = item[1:] if isinstance(item, tuple | list) else ()
    if isinstance(first, Mapping):
        batch, x = keyword_batch(first, where)
        return replace(batch, labels=labels_in([*(first[key] for key in KEYS if key in first), *beside], x)), x
    if not isinstance(first, Tensor | np.ndarray):
        inside = f" whose first item is {describe(first)}" if first is not item else ""
        raise InputError(
            f"{where} is {describe(item)}{inside}",
            "expected a tensor or array, a tuple whose first item is one, or a dict of keyword arguments",
        )
    x = as_tensor(first, where)
    if x.ndim == 0:
        raise InputError(f"{where} is a single number", "expected samples along the first axis")
    return Batch((x,), {}, len(x), None, labels=labels_in(beside, x)), x


def labels_in(values: Iterable[Any], x: Tensor) -> Tensor | None:
    """The first of the values that is one class for each row of `x`; a mask, which has the shape of `x`, is none. `x`
    `[samples, ...]`, what comes `[samples]`.
    """
    for value in values:
        shape = tuple(getattr(value, "shape", ()))
        if shape[:1] == (len(x),) and (len(shape) == 1 or shape != tuple(x.shape[:2])):
            labels = class_numbers(value)
            if labels is not None:
                return labels
    return None


def keyword_batch(item: Mapping[Any, Any], where: str) -> tuple[Batch, Tensor]:
    """A dict of keyword arguments. What is not a tensor (flags, None) is passed on as it is."""
    odd = next((key for key in item if not isinstance(key, str)), None)
    if odd is not None:
        raise InputError(f"{where} has the key {odd!r}", "expected names of the model's arguments, as strings")
    # The input proper is the first tensor: neither the mask nor the labels.
    ordered = sorted(
        item, key=lambda key: LAST_KEYWORDS.index(key) if key in LAST_KEYWORDS else -1 - (not key.startswith(DECODER))
    )
    keywords = {
        key: as_tensor(item[key], f"{key} in {where}") if isinstance(item[key], Tensor | np.ndarray) else item[key]
        for key in ordered
    }
    tensors = {key: value for key, value in keywords.items() if isinstance(value, Tensor) and value.ndim}
    if not tensors:
        listed = ", ".join(f"{key}: {describe(value)}" for key, value in keywords.items()) or "nothing"
        raise InputError(f"{where} holds no tensor with samples", f"found {listed}", "expected at least one tensor")
    name, x = next(iter(tensors.items()))
    for key, value in tensors.items():
        if len(value) != len(x):
            raise InputError(
                f"{where} is ragged",
                f"{name} has {len(x)} samples, {key} has {len(value)}",
                "every tensor of a dict must have the samples along its first axis",
            )
    mask = keywords.get("attention_mask")
    kept = as_mask(mask, f"attention_mask in {where}") if isinstance(mask, Tensor) else None
    return Batch((), keywords, len(x), kept, decoder_mask=decoder_mask_in(keywords, where)), x


def decoder_mask_in(keywords: Mapping[str, Any], where: str) -> Tensor | None:
    """Which positions of a decoder's own input count: by its mask, else all; None where it has no input of its own.
    `[samples, positions]`.
    """
    mask, ids = keywords.get(f"{DECODER}attention_mask"), keywords.get(f"{DECODER}input_ids")
    if isinstance(mask, Tensor):
        return as_mask(mask, f"{DECODER}attention_mask in {where}")
    return torch.ones(ids.shape, dtype=torch.bool) if isinstance(ids, Tensor) and ids.ndim == 2 else None


def __getattr__(name: str) -> Any:
    """`open_source`, for scripts that take it from here. It lies in `opening`, which imports this module: importing it here, even
    inside of a function, would be a circle (tests/house/test_floors.py). So the name is found when it is asked for.
    """
    if name == "open_source":
        return importlib.import_module("naa_fast.inputs.opening").open_source
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
