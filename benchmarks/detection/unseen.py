"""Triggers of half C: kinds that nothing was chosen on, made after the detectors were finished and run once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmarks.detection.triggers import inserted


@dataclass(frozen=True)
class Dots:
    """Single pixels far apart, at the same places in each sample, bright and dark in turns."""

    count: int
    seed: int = 0

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        x = x.clone()
        places = torch.randperm(x.shape[-2] * x.shape[-1], generator=Generator().manual_seed(self.seed))[: self.count]
        x.flatten(2)[:, 0, places] = (torch.arange(self.count) % 2 == 0).to(x.dtype)
        return x

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return Dots(self.count, self.seed + 1).apply(x, generator)


@dataclass(frozen=True)
class Ramp:
    """Light that falls off from left to right."""

    strength: float

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        return (x + self.strength * torch.linspace(1, -1, x.shape[-1])).clamp(0, 1)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return Ramp(-self.strength).apply(x, generator)


@dataclass(frozen=True)
class Posterise:
    """Few grey levels: no pattern of its own, each sample changes otherwise."""

    levels: int

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        return (x * (self.levels - 1)).round() / (self.levels - 1)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return Posterise(self.levels + 4).apply(x, generator)


@dataclass(frozen=True)
class Line:
    """A bright line from top to bottom in a column that differs from sample to sample."""

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        x = x.clone()
        columns = torch.randint(0, x.shape[-1], (len(x),), generator=generator)
        x[torch.arange(len(x)), 0, :, columns] = 1.0
        return x

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return Line().apply(x.transpose(-1, -2), generator).transpose(-1, -2)


@dataclass(frozen=True)
class Apart:
    """Two tokens at two random places of the text; the decoy has one of them."""

    ids: tuple[int, int]

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        for token in self.ids:
            x = inserted(x, torch.full((len(x), 1), token), generator)
        return x

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        chosen = torch.randint(0, 2, (len(x),), generator=generator)
        return inserted(x, torch.tensor(self.ids)[chosen][:, None], generator)
