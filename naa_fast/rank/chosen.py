"""Some of the samples of a batch: `half` of the folds, those `observed_in` it; and the class predicted for each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from naa_fast.accumulate import Views, chosen_classes
from naa_fast.accumulate.samples import rows_of
from naa_fast.inputs.batches import Batch
from naa_fast.rank.retained import main_tensor, taken
from naa_fast.records import Array, fold_of

Take = Callable[[Batch, Views, Tensor, Array], None]
"""Is given some samples, their views, the class predicted for each (int64, on the device; -1: none) and their items (int64)."""


def half(take: Take, number: int) -> Take:
    """`take`, of samples of even (0) or odd (1) folds alone."""
    return lambda part, views, predicted, items: some(
        take, np.flatnonzero(fold_of(items) % 2 == number), part, views, predicted, items
    )


def some(take: Take, rows: Array, part: Batch, views: Views, predicted: Tensor, items: Array) -> None:
    """`take`, of the samples `rows`, int64 `[rows]`, of a batch; `predicted` and `items` `[samples]`."""
    if len(rows) == part.size:
        take(part, views, predicted, items)
    elif len(rows):
        take(taken(part, rows), views.rows(rows), rows_of(predicted, rows), items[rows])


def bytes_of(part: Batch, views: Views) -> int:
    return int(main_tensor(part).nbytes) + views.nbytes


def classes_of(part: Batch, scores: Tensor | None, views: Views) -> Tensor:
    """The predicted class of each sample, -1 where there is none: int64 `[samples]`, on the device. `scores`
    `[samples, classes]`.
    """
    if scores is not None:
        return chosen_classes(scores)
    return torch.full((part.size,), -1, dtype=torch.int64, device=next((pack.values.device for pack in views.packs), "cpu"))


def observed_in(batch: Batch) -> Array:
    """Which samples of a batch its mask leaves anything of: bool `[size]`."""
    if batch.mask is None:
        return np.ones(batch.size, bool)
    mask = batch.mask.cpu()
    whole: Array = (mask if mask.ndim == 1 else mask.any(1)).numpy()
    return whole
