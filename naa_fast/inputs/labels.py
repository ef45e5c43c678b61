"""Labels: which class each sample is said to be of. Clean accuracy is told by them; no statistic and no verdict is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST_CLASSES = 10_000
"""Different labels beyond which they are taken for free text or numbers of samples."""
KEYS = ("labels", "label", "y", "target", "targets")
"""Keyword arguments that hold the class of each sample."""
UNKNOWN = -1


@dataclass(frozen=True)
class Labels:
    """`numbers` int64 `[samples]`, UNKNOWN where there is none: classes, or places in `names` where those are all that is
    known of the classes. `words` say where they come from.
    """

    numbers: Tensor
    names: tuple[str, ...]
    words: str

    @classmethod
    def of(cls, names: Sequence[str | None], words: str) -> Labels | None:
        """Labels by name, one a sample. Whole numbers are the classes themselves; any other names are numbered in their
        order. None where fewer than two classes, or too many to be any, are named.
        """
        ordered = tuple(sorted({name for name in names if name is not None}))
        if not 2 <= len(ordered) <= MOST_CLASSES:
            return None
        numbers = {name: place for place, name in enumerate(ordered)}
        if all(name.isascii() and name.isdecimal() and len(name) < 10 for name in ordered):
            numbers, ordered = {name: int(name) for name in ordered}, ()
        values = [UNKNOWN if name is None else numbers[name] for name in names]
        return cls(torch.tensor(values), ordered, words)


def class_numbers(values: Any) -> Tensor | None:
    """Labels of a batch as int64 `[samples]`; None for what is no class a sample.

    Whole numbers, `[samples]` or `[samples, 1]`, or rows of which one value is 1 and the others 0. On another device than the
    CPU the values are not looked at, and must be integers.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
            return None
        values = torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="), order="C"))
    if not isinstance(values, Tensor) or values.is_complex() or values.ndim not in (1, 2) or values.is_quantized:
        return None
    values = values.detach()
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    on_host = values.device.type == "cpu"
    if values.ndim == 2:
        if not on_host or not bool(((values == 0) | (values == 1)).all()) or not bool((values.sum(1) == 1).all()):
            return None
        return values.to(torch.uint8).argmax(1)
    if values.is_floating_point() and not (on_host and bool((values == values.round()).all())):
        return None
    return values.to(torch.int64)


class LabelOrder:
    """Which of a model's classes the labels of a set mean.

    By the names in the model's own configuration (`known`, see `capture.class_names.numbers_by_name`) where it has them all; else
    numbers are classes, and names count in their order, which holds only if there are as many as the model has classes.
    """

    def __init__(self, names: Sequence[str], words: str, known: Mapping[str, Any]) -> None:
        places = [known.get(name.casefold()) for name in names]
        self.names = len(names)
        self.by_name = bool(names) and all(type(place) is int and place >= 0 for place in places)
        self._places = torch.tensor([place for place in places if place is not None]) if self.by_name else None
        how = "by the names in the model's configuration" if self.by_name else "by the order of the names"
        self.words = f"{words}, {how}" if names else words

    def of(self, labels: Tensor) -> Tensor:
        """The model's classes of the labels, int64 `[samples]`; what was negative stays so."""
        if self._places is None:
            return labels
        return torch.where(labels < 0, labels, self._places.to(labels.device)[labels.clamp(min=0)])

    def fits(self, classes: int) -> bool:
        """Whether the labels can be those of a model of that many classes."""
        return self.by_name or self.names in (0, classes)
