"""`Predictions`: how often the model chose each class, counted on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from naa_fast.accumulate.samples import HOST_BACKENDS, host_array
from naa_fast.ops import choose
from naa_fast.records import Array

PLAIN = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Types of scores that are read as they are; others become float32 first."""


class Predictions:
    """Counts of the predicted class over a set, int64 `[classes + 1]`: the last bin holds rows with a non-finite score.

    Stays empty for models whose output is not one row of class scores a sample. No host sync.
    """

    def __init__(self, varied: bool = False) -> None:
        self.counts: Tensor | None = None
        self.labelled: Tensor | None = None
        self.varied = varied  # the width of the scores was seen to change: they are no classes

    def observe(self, scores: Tensor | None, mask: Tensor | None, labels: Tensor | None = None) -> None:
        """Count one batch by its class scores `[size, classes]` (None: the model gives none); `mask` (bool `[size]` or `[size,
        positions]`) leaves out unobserved samples. `labels` (int64 `[size]`, negative: unknown) say which of them are right.
        """
        if scores is None:
            return
        classes = scores.shape[1]
        if self.counts is None and not self.varied:
            self.counts = torch.zeros(classes + 1, dtype=torch.int64, device=scores.device)
        if self.counts is None or len(self.counts) != classes + 1:
            self.counts, self.labelled, self.varied = (
                None,
                None,
                True,
            )  # a width that changes from batch to batch is a length, not a set of classes
            return
        chosen = chosen_classes(scores, classes)
        counted = torch.ones_like(chosen)
        if mask is not None:
            valid = mask if mask.ndim == 1 else mask.any(1)
            counted = valid.to(scores.device, torch.int64, non_blocking=True)
        self.counts.scatter_add_(0, chosen, counted)
        if labels is not None:
            self._compare(chosen, counted, labels.to(scores.device, torch.int64, non_blocking=True), classes)

    def _compare(self, chosen: Tensor, counted: Tensor, labels: Tensor, classes: int) -> None:
        if self.labelled is None:
            self.labelled = torch.zeros((2, classes + 1), dtype=torch.int64, device=labels.device)
        places = labels.clamp(0, classes)
        known = counted * (labels >= 0)
        right = known * (labels == chosen) * (labels < classes)
        self.labelled[0].scatter_add_(0, places, known)
        self.labelled[1].scatter_add_(0, places, right)

    def read(self) -> Array:
        """The counts on the host, int64 `[classes + 1]`; empty if the model gave no class scores."""
        return np.zeros(0, np.int64) if self.counts is None else self.counts.cpu().numpy()

    def read_labelled(self) -> Array:
        """Samples labelled with each class, and those of them that were predicted right: int64 `[2, classes + 1]`, the last
        column for labels beyond the model's classes; `[2, 0]` without labels.
        """
        return np.zeros((2, 0), np.int64) if self.labelled is None else self.labelled.cpu().numpy()


def chosen_classes(scores: Tensor, none: int = -1) -> Tensor:
    """The class of highest score in each row of `scores` `[samples, classes]`, the first of equals, int64 `[samples]`; `none`
    for a row with a score that is not finite.

    One read on the host (kernels/cpu/classes.py); on a device four operations and no wait.
    """
    scores = scores if scores.dtype in PLAIN else scores.float()
    choice = choose("classes", scores)
    if choice.backend in HOST_BACKENDS:
        return torch.from_numpy(choice.module.classes(host_array(scores), none))
    chosen: Tensor = choice.module.classes(scores, none)
    return chosen
