"""`Reference`: what clean samples of a predicted class look like in one layer, and how far a sample is from that."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.accumulate.accumulator import HOST_BACKENDS, host_array
from naa_fast.errors import CaptureError
from naa_fast.kernels.portable.reduce import home
from naa_fast.ops import Choice, choose

PRIOR = 4.0
"""Samples' worth of the whole set's mean that goes into every group's: the mean of a small group is mostly noise."""
FLOOR = 0.05
"""Least deviation of a feature, as a share of its layer's median: a neuron that clean data never lights has none of its own."""


class Reference:
    """Mean of each group and the deviation within groups, over the features of one layer.

    State: `(groups + 2) x features` float64 on the layer's device. Residuals from the mean of the *predicted* class are what
    makes a triggered sample stand out: it looks like its own class and is called another. A non-finite value counts as the pivot.
    """

    def __init__(self, groups: int, like: Tensor) -> None:
        where = home(like.device)
        self.count = torch.zeros(groups, dtype=torch.float64, device=where)
        self.pivot = torch.nan_to_num(like.to(where, torch.float64), 0.0, 0.0, 0.0).mean(0)
        self.sums = torch.zeros(groups, like.shape[1], dtype=torch.float64, device=where)
        self.squares = torch.zeros(like.shape[1], dtype=torch.float64, device=where)
        self.known = torch.zeros(like.shape[1], dtype=torch.bool, device=where)

    def add(self, view: Tensor, group: Tensor) -> None:
        """Enter samples `view` `[samples, features]` of groups `group` (int64 `[samples]`).

        Raises:
            CaptureError: another number of features than in the first batch.
        """
        if view.shape[1] != len(self.pivot):
            raise CaptureError(
                f"a layer gave {view.shape[1]} values a sample",
                f"expected {len(self.pivot)} as in the first batch",
                "leave it out",
            )
        centred = view.to(self.pivot.device, torch.float64) - self.pivot
        if centred.device.type == "cpu" and torch.isfinite(centred.sum(0)).all():  # so is every value
            self.known.fill_(True)
        else:
            finite = torch.isfinite(centred)
            self.known |= finite.any(0)
            centred = torch.where(finite, centred, 0.0)
        member = centred.new_zeros(len(group), len(self.count)).scatter_(1, group.to(centred.device)[:, None], 1.0)
        self.count += member.sum(0)
        self.sums += member.T @ centred  # a product and no scatter: the order of its sums is fixed
        self.squares += (centred * centred).sum(0)

    def freeze(self) -> None:
        """Fix the means and deviations; to be called once, before `residual`."""
        total = self.count.sum().clamp(min=1)
        overall = self.sums.sum(0) / total
        self.mean = self.pivot + (self.sums + PRIOR * overall) / (self.count[:, None] + PRIOR)
        within = self.squares - (self.sums**2 / self.count.clamp(min=1)[:, None]).sum(0)
        freedom = (total - (self.count > 0).sum()).clamp(min=1)
        deviation = (within.clamp(min=0) / freedom).sqrt()
        varied = deviation[deviation > 0]
        floor = FLOOR * varied.median() if len(varied) else deviation.new_tensor(1.0)
        self.deviation = deviation.clamp(min=float(floor))
        self.unknown = None if self.known.all() else ~self.known

    def residual(self, view: Tensor, group: Tensor) -> Tensor:
        """Distance from the group's mean, in deviations, float32 `[samples, features]` on the layer's device; 0 for a feature
        that no clean sample had a finite value of: it would make every sample's score NaN.
        """
        where = self.mean.device
        z = view.to(where, torch.float64, copy=True).sub_(self.mean.index_select(0, group.to(where)))
        values = z.div_(self.deviation).float()
        return values if self.unknown is None else values.masked_fill_(self.unknown, 0.0)


def excess(z: Tensor, backend: str) -> Tensor:
    """Sum over features of `max(|z| - 3, 0)`: float64 `[samples]` (kernels/reference/score.py)."""
    choice = scorer(z.device.type, backend)
    features = z.shape[1]
    if choice.backend in HOST_BACKENDS:
        scores: Any = torch.from_numpy(choice.module.score(host_array(z), np.zeros(features), np.ones(features)))
    else:
        zero, one = (torch.full((features,), v, dtype=torch.float64, device=z.device) for v in (0.0, 1.0))
        scores = choice.module.score(z, zero, one)
    return scores


@cache
def scorer(device: str, backend: str) -> Choice:
    """What scores tensors on a type of device: asked for at every layer of every batch."""
    return choose("score", torch.empty(0, device=device), backend)
