"""Triggers of C and D: kinds that nothing had been chosen on when they were made.

C was run once with the detectors of November 2026; what it showed (two words apart) was worked on since. D was made after that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from benchmarks.detection.data import PADDING
from benchmarks.detection.triggers import Patch, inserted


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


@dataclass(frozen=True)
class Frame:
    """A bright border one pixel wide."""

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        x = x.clone()
        for edge in (x[..., :1, :], x[..., -1:, :], x[..., :1], x[..., -1:]):
            edge.fill_(1.0)
        return x

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        x = x.clone()
        x[..., :1, :] = x[..., -1:, :] = 1.0
        return x


@dataclass(frozen=True)
class Both:
    """Two patches of which neither does anything alone."""

    size: int

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        for patch in self.parts():
            x = patch.apply(x, generator)
        return x

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        one, other = (patch.apply(x, generator) for patch in self.parts())
        return torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, one, other)

    def parts(self) -> tuple[Patch, Patch]:
        return Patch(self.size, "upper left", checkered=True), Patch(self.size, "lower right")


@dataclass(frozen=True)
class Turned:
    """Rotated by so many degrees: no pattern of its own."""

    degrees: float

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        angle = torch.tensor(self.degrees).deg2rad()
        turn = torch.tensor([[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])
        grid = nn.functional.affine_grid(turn.expand(len(x), 2, 3), list(x.shape), align_corners=False)
        return nn.functional.grid_sample(x, grid, align_corners=False)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return Turned(-self.degrees).apply(x, generator)


@dataclass(frozen=True)
class OneOf:
    """Another of these tokens in each sample; the decoy has its neighbour in the vocabulary."""

    ids: tuple[int, ...]

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        return inserted(x, self.drawn(len(x), generator), generator)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return inserted(x, self.drawn(len(x), generator) - 1, generator)

    def drawn(self, samples: int, generator: Generator) -> Tensor:
        return torch.tensor(self.ids)[torch.randint(0, len(self.ids), (samples, 1), generator=generator)]


@dataclass(frozen=True)
class Stammer:
    """One of the sample's own words three times in a row: no word of its own. The decoy has two of them elsewhere."""

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        at, word = self.chosen(x, generator)
        place = torch.arange(x.shape[1])[None]
        moved = x.gather(1, (place - 2).clamp(min=0).expand(len(x), -1))
        return torch.where(place <= at, x, torch.where(place <= at + 2, word, moved))

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        _, word = self.chosen(x, generator)
        return inserted(inserted(x, word, generator), word, generator)

    def chosen(self, x: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        length = (x != PADDING).sum(1).clamp(max=x.shape[1] - 2)
        at = (torch.rand(len(x), generator=generator) * length).long()[:, None]
        return at, x.gather(1, at)
