"""`AnomalyScale`: one score a sample from all layers' deviations, by how rarely clean samples deviate as much."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from naa_fast.kernels.portable.reduce import home
from naa_fast.rank.reference import PRIOR
from naa_fast.records import Array

PARTS = 3
"""Numbers a layer gives for a sample: the excess of single neurons, the whitened distance, and the margin (`LayerDeviation`)."""
TAIL = 0.1
"""Share of the clean samples, the farthest out, that say how the tail falls off beyond them."""
ALWAYS = 0.01
"""Added to the mean excess of a layer, which may be 0."""
FIRED = 16
"""Clean samples for which a layer must have run: a branch that hardly one took says nothing of others."""
PARTED = 8
"""Parts of the clean samples, each of which is scored by what the others fix."""


def fair(parts: Array, group: Array, groups: int) -> Array:
    """Scores of clean samples as fresh ones would get them (cross-fitting), float64 `[samples]`: each part of them by what the
    others fix.

    By a scale they had fixed themselves clean samples would score lower than fresh ones: with 32 classes 24 % of pairs of sets
    that were alike differed at p < .001 then, and none does with this. Arguments as of `AnomalyScale`.
    """
    scores = np.zeros(len(parts))
    turn = np.arange(len(parts)) % PARTED
    for number in range(PARTED):
        part = turn == number
        if part.any():
            scores[part] = AnomalyScale(parts[~part], group[~part], groups).of(parts[part], group[part])
    return scores


class AnomalyScale:
    """How layers' numbers are distributed over clean samples, and the score of other samples by that.

    Six measures: of each of PARTS the sum over the layers and the largest layer. Excess is taken in its clean mean, distance and
    margin in standard deviations from the mean of the sample's predicted class. Each measure is told as -log of the share of
    clean samples that come as far, beyond the last tenth with an exponential tail of their mean excess (the exceedances' limit
    for a light tail: Pickands, Ann. Statist. 3(1), 1975); the largest of the six is the score. Triggers differ in where they
    show: a patch in single neurons, a warp in no neuron, but in looking like another class to the layers in between.
    """

    def __init__(self, parts: Array, group: Array, groups: int) -> None:
        """`parts` float64 `[samples, layers, PARTS]` of clean samples of `group` (int64); NaN where a layer took no part."""
        excess, rest = parts[..., 0], parts[..., 1:]
        finite, there = np.isfinite(excess), np.isfinite(rest)
        self.fired = there[..., 0].sum(0) >= min(FIRED, len(parts))
        self.known = finite.any(0) & self.fired  # a layer without a finite score would hide what all others say
        usual = np.where(finite, excess, 0.0).sum(0) / finite.sum(0).clip(min=1)
        self.weight = 1.0 / (usual[self.known] + ALWAYS)
        known_values = np.where(there, rest, 0.0)
        overall = known_values.sum(0) / there.sum(0).clip(min=1)
        self.mean = np.empty((groups, *overall.shape))
        for number in range(groups):
            members = group == number
            self.mean[number] = (known_values[members].sum(0) + PRIOR * overall) / (there[members].sum(0) + PRIOR)
        deviations = np.where(there, rest - self.mean[group], 0.0)
        self.deviation = np.sqrt((deviations**2).sum(0) / there.sum(0).clip(min=1))
        self.tails = [Tail(measure) for measure in self._measures(parts, group)]

    def of(self, parts: Array, group: Array) -> Array:
        """The score of samples, float64 `[samples]`; infinite for a value that is not finite."""
        measures = self._measures(parts, group)
        return np.max([tail.anomaly(measure) for tail, measure in zip(self.tails, measures, strict=True)], axis=0)

    def _measures(self, parts: Array, group: Array) -> list[Array]:
        excess = np.nan_to_num(parts[:, self.known, 0], nan=0.0, posinf=np.inf) * self.weight
        deviations = (parts[..., 1:] - self.mean[group]) / np.where(self.deviation > 0, self.deviation, 1.0)
        deviations = np.where(np.isfinite(deviations) & self.fired[:, None], deviations, 0.0)
        measures = [excess, deviations[..., 0], deviations[..., 1]]
        return [measure for values in measures for measure in (values.sum(1), values.max(1, initial=0.0))]


class Tail:
    """The distribution of one measure over clean samples, with an exponential tail beyond its last tenth."""

    def __init__(self, clean: Array) -> None:
        """`clean`: the measure of clean samples, float64 `[samples]`."""
        known = np.sort(clean[np.isfinite(clean)])
        self.cut = float(np.quantile(known, 1 - TAIL)) if len(known) else np.inf
        beyond = known[known > self.cut] - self.cut
        self.scale = float(beyond.mean()) if len(beyond) else 1.0
        values, first = np.unique(known[known <= self.cut], return_index=True)
        tied = len(values) > 0 and values[-1] == self.cut
        self.share = (len(beyond) + 1) / (len(clean) + 1) if tied else TAIL  # where most are 0 the tail is shorter
        # A line between clean samples: a step would turn the rounding of a measure into a jump.
        self.values = values if tied else np.append(values, self.cut)
        self.shares = 1 - first / (len(clean) + 1) if tied else np.append(1 - first / (len(clean) + 1), TAIL)

    def anomaly(self, measure: Array) -> Array:
        """-log of the share of clean samples that come as far: float64 `[samples]`, 0 for the nearest."""
        inside = -np.log(np.interp(measure, self.values, self.shares))
        with np.errstate(invalid="ignore"):
            beyond = -np.log(self.share) + (measure - self.cut) / self.scale
        return np.where(measure > self.cut, beyond, inside)


def scores_on(device: torch.device) -> bool:
    """Whether scores are made where the numbers are: on the host they are at home, and not every device has float64."""
    return device.type != "cpu" and home(device) == device


class ScaleOnDevice:
    """An `AnomalyScale` where the numbers are: the same in torch, so that of a sample its score alone comes home."""

    def __init__(self, scale: AnomalyScale, device: torch.device) -> None:
        def there(values: Array) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        self.known, self.fired = there(np.flatnonzero(scale.known)), there(scale.fired[:, None])
        self.weight, self.mean = there(scale.weight), there(scale.mean)
        self.deviation = there(np.where(scale.deviation > 0, scale.deviation, 1.0))
        self.tails = [(tail, there(tail.values), there(tail.shares)) for tail in scale.tails]

    def of(self, parts: Tensor, group: Tensor) -> Tensor:
        """The score of samples, float64 `[samples]`, of `parts` float64 and `group` int64 as there. No wait for the device."""
        excess = parts[..., 0].index_select(1, self.known).nan_to_num(0.0, torch.inf) * self.weight
        deviations = (parts[..., 1:] - self.mean.index_select(0, group)) / self.deviation
        deviations = torch.where(torch.isfinite(deviations) & self.fired, deviations, 0.0)
        measures = [excess, deviations[..., 0], deviations[..., 1]]
        least = parts.new_zeros(len(parts), 1)
        measures = [one for v in measures for one in (v.sum(1), torch.cat([v, least], 1).amax(1))]
        found = [anomaly_of(*tail, measure) for tail, measure in zip(self.tails, measures, strict=True)]
        return torch.stack(found).amax(0)


def anomaly_of(tail: Tail, values: Tensor, shares: Tensor, measure: Tensor) -> Tensor:
    """`Tail.anomaly` of a `measure` `[samples]` on its device, with the tail's `values` and `shares` there, `[clean samples]`."""
    if len(values) > 1:
        place = torch.searchsorted(values, measure, right=True).clamp_(1, len(values) - 1)
        low, high = values[place - 1], values[place]
        slope = (shares[place] - shares[place - 1]) / (high - low)
        share = shares[place - 1] + slope * (torch.maximum(torch.minimum(measure, values[-1]), values[0]) - low)
    else:
        share = shares.expand_as(measure)
    beyond = (measure - tail.cut) / tail.scale - np.log(tail.share)
    return torch.where(measure > tail.cut, beyond, -torch.log(share))
