"""`Calls`: what the calls of a layer in one forward say of each sample; `Several`: the state of a layer that is called often.

A forward's calls are parts of the same samples. Their positions all count, but a sample is observed once: by the mean of its
means in the calls and by the largest of its maxima.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from naa_fast.kernels.portable.reduce import home
from naa_fast.ops import Chosen
from naa_fast.records import LayerRecord


@dataclass
class Several:
    """State of the forwards that called a layer more than once, beside that of the others: of all positions (`parts`, whose other
    views mean nothing), of samples' means and maxima, each a layer with one position a sample; `tails` of the latter two.
    """

    parts: Any
    mean: Any
    maximum: Any
    tails: tuple[Any, Any] | None

    @classmethod
    def of(cls, module: Chosen, channels: int, like: Tensor, tails: bool) -> Several:
        """Nothing yet, on the device that `like` `[...]` lies on."""
        states = [module.empty(channels, like=like) for _ in range(3)]
        histograms = (module.tails(channels, like=like), module.tails(channels, like=like)) if tails else None
        return cls(states[0], states[1], states[2], histograms)

    @staticmethod
    def record(parts: LayerRecord, mean: LayerRecord, maximum: LayerRecord) -> LayerRecord:
        """The record of the three states' records."""
        tails = mean.tails.copy()
        tails[1] = maximum.tails[1]
        folds = mean.mean_folds, maximum.max_folds
        return LayerRecord(parts.layout, parts.dtype, parts.positions, mean.sample_mean, maximum.sample_max, *folds, tails)


class Calls:
    """One forward's calls of one layer. Memory: three numbers a neuron and sample from the second call on."""

    def __init__(self) -> None:
        self._first: tuple[Tensor, Tensor | None] | None = None
        self._sums: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def keep(self, x: Tensor, mask: Tensor | None) -> None:
        """A call with one position a sample: `x` `[samples, channels]`, which the model may overwrite afterwards."""
        if self._first is None and self._sums is None:
            self._first = x.clone(), mask
        else:
            self._add_single(x, mask)

    def _add_single(self, x: Tensor, mask: Tensor | None) -> None:
        observed = torch.ones(len(x), dtype=torch.bool, device=x.device) if mask is None else mask
        values = x.to(home(x.device), torch.float64)
        observed = observed.to(values.device)
        values = torch.where(torch.isfinite(values) & observed[:, None], values, torch.nan)
        self.add(values, values, observed)

    def add(self, mean: Tensor, maximum: Tensor, observed: Tensor) -> None:
        """A call: float64 `[samples, channels]`, NaN where nothing finite was observed; `observed` bool `[samples]`."""
        if self._first is not None:
            first, self._first = self._first, None
            self._add_single(*first)
        known = ~mean.isnan()
        total, times, most, seen = self._sums or (0.0, 0, maximum, observed)
        most = torch.fmax(most, maximum)  # a number rather than NaN
        self._sums = total + torch.where(known, mean, 0.0), times + known.to(torch.int32), most, seen | observed

    def samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """The mean over the calls, the maximum, and which samples were observed; as `add` takes them. `[samples, channels]` twice
        and `[samples]`.
        """
        if self._first is not None:
            first, self._first = self._first, None
            self._add_single(*first)
        assert self._sums is not None
        total, times, most, seen = self._sums
        return total / times, most, seen  # 0 / 0 is the NaN that is wanted


def samples_in(partials: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Of any backend's partials of samples, what `Calls.add` takes. On a CUDA device no sync. `[samples, channels]` twice and
    `[samples]`.
    """
    if hasattr(partials, "sample_mean"):  # cpu
        arrays = partials.sample_mean, partials.sample_max, partials.observed
        return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1]), torch.from_numpy(arrays[2])
    if hasattr(partials, "moments"):  # reference
        m = partials.moments
        return known(*(torch.from_numpy(array) for array in (m.mean, m.maximum, m.count, m.nonfinite)))
    if hasattr(partials, "reals"):  # portable
        reals, counts = partials.reals, partials.counts
        return known(reals[0], reals[5], counts[0], counts[2])
    shape = (partials.samples, partials.tiles, partials.channels)  # cuda: see kernels/cuda/common.cuh
    pivot, first, high, count = partials.real(0), partials.real(1), partials.real(6), partials.half("count")
    sums = torch.ldexp(first, partials.half("exponent"))
    total = torch.where(count > 0, count * pivot + sums, 0.0).view(shape).sum(1)
    most = torch.where(count > 0, high, -torch.inf).view(shape).amax(1)
    times = count.view(shape).sum(1)
    return known(total / times, most, times, partials.half("nonfinite").view(shape).sum(1))


def known(mean: Tensor, maximum: Tensor, count: Tensor, nonfinite: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """NaN where nothing was counted; a mask speaks of positions, so a sample is observed in all its channels or in none.
    `[samples, channels]` all, what was observed `[samples]`.
    """
    empty = count == 0
    observed = (count + nonfinite)[:, :1].sum(1) > 0
    return mean.masked_fill(empty, torch.nan), maximum.masked_fill(empty, torch.nan), observed
