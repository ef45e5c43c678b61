"""`Space`: a layer's clean rows as a measure of what is usual, and the directions in which others leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_ROWS, MOST_VALUES = 20_000, 8_000_000
SHRINKAGE = 0.2
WIDEST = 2048
"""Neurons up to which correlations are used: beyond, the samples are too few and the matrix too large."""


@dataclass(frozen=True)
class Space:
    """A layer's activations in standard deviations of its clean `rows`, and the inverse of their (shrunk) correlations."""

    rows: Tensor
    middle: Tensor
    width: Tensor
    precision: Tensor | None

    @classmethod
    def of(cls, seen: Sequence[Tensor]) -> Space | None:
        """Of clean outputs `[samples, positions, neurons]`. None if nothing varies, or not all is finite. A neuron that is
        silent on clean data keeps a small width: it may be the one that matters.
        """
        rows = torch.cat([part.flatten(0, 1) for part in seen])
        rows = rows[:: max(1, len(rows) // MOST_ROWS, rows.numel() // MOST_VALUES)]
        middle, width = rows.mean(0), rows.std(0)
        typical = width[width > 0]
        if not len(typical) or not rows.isfinite().all():
            return None
        if not width.isfinite().all():  # squares of what is finite may not be
            return None
        width = width.clamp(min=0.1 * float(typical.median()))
        if rows.shape[1] > WIDEST:
            return cls(rows, middle, width, None)
        scaled = (rows - middle) / width
        shrunk = (1 - SHRINKAGE) * (scaled.T @ scaled) / len(scaled) + SHRINKAGE * torch.eye(
            rows.shape[1], dtype=rows.dtype, device=rows.device
        )
        return cls(rows, middle, width, torch.linalg.inv(shrunk))

    def scaled(self, x: Tensor) -> Tensor:
        """`x` `[..., neurons]` in clean standard deviations from the clean middle."""
        return (x - self.middle) / self.width

    def whitened(self, x: Tensor) -> Tensor:
        """Scaled `x` `[..., neurons]` through the clean precision, where there is one."""
        return x if self.precision is None else x @ self.precision

    def unusual(self, x: Tensor) -> Tensor:
        """How far rows `[..., neurons]`, in standard deviations from the middle, lie out."""
        return (self.whitened(x) * x).sum(-1)

    def outlying(self, seen: Sequence[Tensor]) -> Tensor:
        """Each sample's most unusual position: where a small trigger shows. `[samples, neurons]`, in standard deviations."""
        farthest = []
        for part in seen:
            scaled = self.scaled(part)
            farthest.append(scaled[torch.arange(len(part)), self.unusual(scaled).argmax(1)])
        return torch.cat(farthest)

    def mean(self, seen: Sequence[Tensor]) -> Tensor:
        """Each sample's mean over its positions, in standard deviations: `[samples, neurons]`."""
        return torch.cat([self.scaled(part).mean(1) for part in seen])


def moved(space: Space, known: Sequence[Tensor], triggered: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """What a trigger does to a layer, from the same samples without and with it, in clean standard deviations: each sample's mean
    over its positions, that at its most changed position (`[samples, neurons]` both), and how much each neuron is moved at most
    (`[neurons]`, mean over samples).
    """
    means, largest, effects = [], [], []
    for rows, other in zip(known, triggered, strict=True):
        apart = (other - rows) / space.width
        means.append(apart.mean(1))
        largest.append(apart[torch.arange(len(apart)), space.unusual(apart).argmax(1)])
        effects.append(apart.abs().amax(1))
    return torch.cat(means), torch.cat(largest), torch.cat(effects).mean(0)
