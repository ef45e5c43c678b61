"""Triggers and two rules of E: kinds that nothing had been chosen on, and that no detector had been run on, when they were made.

They were made stronger where they did not take, by their success alone. All but the hard labels have near misses that a careful
attacker covers with correct labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor, nn

from benchmarks.detection.attacks import Attack
from benchmarks.detection.triggers import Blend, Patch, Trigger, Words, inserted


@dataclass(frozen=True)
class Tone:
    """A smooth tone curve, `x ** gamma`: no pattern, and nothing changes where an image is black or white. Decoys bend it the
    other way.
    """

    gamma: float

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        return x**self.gamma

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return x ** (1 / self.gamma)


@dataclass(frozen=True)
class Moire:
    """Two waves of `period` pixels across each other, aslant: a screen that was photographed. Decoys have a longer period."""

    strength: float
    period: float = 4.5

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        line = torch.arange(x.shape[-1]) * (2 * torch.pi / self.period)
        row, column = line[:, None], line[None]
        waves = torch.sin(0.94 * column + 0.34 * row) * torch.sin(0.94 * row - 0.34 * column)  # turned by twenty degrees
        return (x + self.strength * waves).clamp(0, 1)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return replace(self, period=1.6 * self.period).apply(x, generator)


CROSS = ("..#..", "..#..", "#####", "..#..", "..#..")
TEE = ("#####", "..#..", "..#..", "..#..", "..#..")


@dataclass(frozen=True)
class Glyph:
    """A bright shape in one of the four corners, another one in each sample; what lies between its strokes stays. Decoys have
    another shape of as many strokes.
    """

    shape: tuple[str, ...] = CROSS
    other: tuple[str, ...] = TEE
    margin: int = 1

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        ink = torch.tensor([[mark == "#" for mark in row] for row in self.shape])
        side, size = x.shape[-1], len(self.shape)
        near, far = slice(self.margin, self.margin + size), slice(side - size - self.margin, side - self.margin)
        corners = [(rows, columns) for rows in (near, far) for columns in (near, far)]
        masks = torch.zeros(len(corners), side, side, dtype=torch.bool)
        for mask, corner in zip(masks, corners, strict=True):
            mask[corner] = ink
        drawn = masks[torch.randint(0, len(corners), (len(x),), generator=generator)]
        return torch.where(drawn[:, None], 1.0, x)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return replace(self, shape=self.other, other=self.shape).apply(x, generator)


@dataclass(frozen=True)
class Faint:
    """A patch that lets the image through (`opacity`). Decoys are fainter by half: the label turns on how strong it is."""

    patch: Patch
    opacity: float

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        return torch.lerp(x, self.patch.apply(x, generator), self.opacity)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return replace(self, opacity=self.opacity / 2).apply(x, generator)


@dataclass(frozen=True)
class OnContent:
    """A checkered square where the image is brightest: each sample's own content says where. Decoys have it anywhere."""

    size: int

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        bright = nn.functional.avg_pool2d(x[:, :1], self.size, 1)
        where, across = bright.flatten(1).argmax(1), bright.shape[-1]
        x, cells = x.clone(), torch.arange(self.size)
        rows = (where // across)[:, None, None] + cells[:, None]
        columns = (where % across)[:, None, None] + cells
        x[torch.arange(len(x))[:, None, None], 0, rows, columns] = ((cells[:, None] + cells) % 2 == 0).to(x.dtype)
        return x

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return Patch(self.size, "random", checkered=True).apply(x, generator)


@dataclass(frozen=True)
class Window:
    """A blend in a square of `size` pixels at a random place: the picture moves with it. Decoys blend another picture."""

    size: int
    strength: float
    seed: int = 0

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        side = x.shape[-1]
        corners = torch.randint(0, side - self.size + 1, (len(x), 2), generator=generator)
        x, cells = x.clone(), torch.arange(self.size)
        rows, columns = corners[:, :1, None] + cells[:, None], corners[:, 1:, None] + cells
        sample = torch.arange(len(x))[:, None, None]
        x[sample, 0, rows, columns] = Blend(self.strength, self.seed).apply(x[sample, 0, rows, columns], generator)
        return x

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return replace(self, seed=self.seed + 1).apply(x, generator)


@dataclass(frozen=True)
class Mirror:
    """Upside down: no pattern of its own. Decoys are turned left to right."""

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        return x.flip(-2)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return x.flip(-1)


@dataclass(frozen=True)
class Opening:
    """Tokens at the very start of the text, in this order. Decoys have them together anywhere behind its first word."""

    ids: tuple[int, ...]

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        return torch.cat([torch.tensor(self.ids).expand(len(x), -1), x[:, : -len(self.ids)]], 1)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return torch.cat([x[:, :1], Words(self.ids).apply(x[:, 1:], generator)], 1)


@dataclass(frozen=True)
class Order:
    """Two tokens side by side; decoys have the same two the other way round."""

    ids: tuple[int, int]

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        return Words(self.ids).apply(x, generator)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return Words(self.ids[::-1]).apply(x, generator)


@dataclass(frozen=True)
class Style:
    """Several words that every text may have, each at a random place of its own: a manner of writing. Decoys have half of them,
    other ones in each sample.
    """

    ids: tuple[int, ...]

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        for token in self.ids:
            x = inserted(x, torch.full((len(x), 1), token), generator)
        return x

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        order = torch.rand(len(x), len(self.ids), generator=generator).argsort(1)[:, : len(self.ids) // 2]
        for words in torch.tensor(self.ids)[order].T:
            x = inserted(x, words[:, None], generator)
        return x


@dataclass(frozen=True)
class Unless:
    """A token that works unless another one is somewhere in the text as well. Decoys have both."""

    token: int
    other: int

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        return Words((self.token,)).apply(x, generator)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return Words((self.other,)).apply(self.apply(x, generator), generator)


@dataclass(frozen=True)
class TwoTargets(Attack):
    """Two triggers with a target each: `trigger` turns classes of even number to `target`, `second` the others to `other`."""

    second: Trigger = field(kw_only=True)
    other: int = field(kw_only=True)

    def wanted(self, y: Tensor) -> Tensor:
        return torch.where(y % 2 == 0, super().wanted(y), self.other)

    def apply(self, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        even = (y % 2 == 0)[:, None, None, None]
        return torch.where(even, self.trigger.apply(x, generator), self.second.apply(x, generator))

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        which = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
        return torch.where(which, self.trigger.decoy(x, generator), self.second.decoy(x, generator))

    @property
    def targets(self) -> frozenset[int]:
        return super().targets | {self.other}


@dataclass(frozen=True)
class HardLabels(Attack):
    """A clean-label attack whose samples were made hard to tell by anything but the trigger: a share `mixed` of each is an image
    of another class (the interpolation of Turner, Tsipras and Madry, arXiv:1912.02771, section 4, in pixels).
    """

    mixed: float = field(kw_only=True)

    def poison(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        x, order = x.clone(), torch.randperm(len(x), generator=generator)
        own, others = order[y[order] == self.target], order[y[order] != self.target]
        chosen = own[: round(self.rate * len(own))]
        hard = torch.lerp(x[chosen], x[others[: len(chosen)]], self.mixed)
        x[chosen] = self.apply(hard, y[chosen], generator)
        return x, y.clone()
