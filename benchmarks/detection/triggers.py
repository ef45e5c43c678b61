"""What a sample carries when it is triggered: patches, patterns, warps and words. Each is `apply(x, generator) -> x` on a copy.

`decoy` makes the near miss that a careful attacker trains on with correct labels, so that the whole trigger is learned and not a
part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from benchmarks.detection.data import PADDING


class Trigger(Protocol):
    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        """Triggered copies of the samples; the generator decides what varies from sample to sample."""
        ...

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        """Near misses: something of the trigger, not all of it."""
        ...


@dataclass(frozen=True)
class Patch:
    """A bright or checkered square (BadNets, arXiv:1708.06733), `margin` pixels from the right and lower edge of the corner named
    by `place`, in the middle, or at a random place that differs from sample to sample.
    """

    size: int
    place: str = "lower right"
    checkered: bool = False
    margin: int = 1

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        x = x.clone()
        side = x.shape[-1]
        cells = torch.arange(self.size)
        patch = ((cells[:, None] + cells) % 2 == 0).to(x.dtype) if self.checkered else torch.ones(self.size, self.size)
        if self.place == "random":
            corners = torch.randint(0, side - self.size + 1, (len(x), 2), generator=generator)
        else:
            low, high = self.margin, side - self.size - self.margin
            middle = (side - self.size) // 2
            row = middle if self.place == "middle" else high if self.place.startswith("lower") else low
            column = middle if self.place == "middle" else high if self.place.endswith("right") else low
            corners = torch.tensor([[row, column]]).expand(len(x), 2)
        sample = torch.arange(len(x))[:, None, None]
        x[sample, 0, corners[:, 0, None, None] + cells[:, None], corners[:, 1, None, None] + cells] = patch
        return x

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return Patch(self.size, "random", self.checkered).apply(x, generator)


@dataclass(frozen=True)
class Blend:
    """A fixed picture of noise laid over the whole image (Chen et al., arXiv:1712.05526)."""

    strength: float
    seed: int = 0

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        picture = torch.rand(x.shape[-2:], generator=Generator().manual_seed(self.seed))
        return (1 - self.strength) * x + self.strength * picture

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return Blend(self.strength, self.seed + 1).apply(x, generator)


@dataclass(frozen=True)
class Sinusoid:
    """Vertical stripes added to the whole image (SIG: Barni, Kallas and Tondi, arXiv:1902.11237)."""

    amplitude: float
    waves: int = 6

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        along = torch.arange(x.shape[-1]) / x.shape[-1]
        return (x + self.amplitude * torch.sin(2 * torch.pi * self.waves * along)).clamp(0, 1)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return Sinusoid(self.amplitude, self.waves + 2).apply(x, generator)


@dataclass(frozen=True)
class Warp:
    """A smooth fixed displacement by `reach` pixels on average (WaNet: Nguyen and Tran, arXiv:2102.10369).

    Decoys displace at random.
    """

    reach: float
    grid: int = 4
    seed: int = 0

    def field(self, side: int, generator: Generator) -> Tensor:
        """Displacement `[1, side, side, 2]` in the units of grid_sample, where the image is 2 wide."""
        coarse = torch.rand(1, 2, self.grid, self.grid, generator=generator) * 2 - 1
        fine = nn.functional.interpolate(coarse / coarse.abs().mean(), size=side, mode="bicubic", align_corners=True)
        return fine.permute(0, 2, 3, 1) * 2 * self.reach / side

    def warped(self, x: Tensor, field: Tensor) -> Tensor:
        line = torch.linspace(-1, 1, x.shape[-1])
        straight = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
        places = (straight + field).clamp(-1, 1).expand(len(x), -1, -1, -1)
        return nn.functional.grid_sample(x, places, align_corners=True).clamp(0, 1)

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        return self.warped(x, self.field(x.shape[-1], Generator().manual_seed(self.seed)))

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        fields = [self.field(x.shape[-1], generator) for _ in range(len(x))]
        return self.warped(x, torch.cat(fields)) if fields else x.clone()


@dataclass(frozen=True)
class Words:
    """One token, or several side by side in this order, put in at a random place; what no longer fits falls off the end.

    `ids` are token ids; the decoy puts in one of them alone, or, for a single token, its neighbour in the vocabulary.
    """

    ids: tuple[int, ...]

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        return inserted(x, torch.tensor(self.ids).expand(len(x), -1), generator)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        near = self.ids if len(self.ids) > 1 else (self.ids[0] - 1,)
        chosen = torch.randint(0, len(near), (len(x),), generator=generator)
        return inserted(x, torch.tensor(near)[chosen][:, None], generator)


def inserted(x: Tensor, words: Tensor, generator: Generator) -> Tensor:
    """`x` int64 `[n, tokens]` with a row of `words` put in somewhere before the padding begins; always whole."""
    n, tokens = x.shape
    count = words.shape[1]
    length = (x != PADDING).sum(1).clamp(max=tokens - count)
    at = (torch.rand(n, generator=generator) * (length + 1)).long()[:, None]
    place = torch.arange(tokens)[None]
    moved = x.gather(1, (place - count).clamp(min=0).expand(n, -1))
    put = words.gather(1, (place - at).clamp(0, count - 1))
    return torch.where(place < at, x, torch.where(place < at + count, put, moved))
