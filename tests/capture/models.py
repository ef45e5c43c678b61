"""Small models whose outputs take every form the hooks must read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class ResBlock(nn.Module):
    """One ReLU module serves twice, as in ResNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.conv2(self.relu(self.bn1(self.conv1(x)))))


def resnet(channels: int = 6) -> nn.Module:
    """A ResNet-like classifier of `[n, 1, h, w]` images."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3),
        nn.Sequential(ResBlock(channels), ResBlock(channels)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 4),
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 5))


class Shared(nn.Module):
    """One activation after layers of different width, as in torchvision's Bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.act = nn.Linear(3, 4), nn.Linear(4, 8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.wide(self.act(self.narrow(x))))


@dataclass
class Answer:
    loss: None
    hidden: Tensor


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Structured(nn.Module):
    """Gives its input back in the form it was built for."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> object:
        forms = {
            "tuple": (x, -x),
            "list": [x, -x],
            "dict": {"ids": torch.zeros(1, dtype=torch.int64), "hidden": x, "other": -x},
            "dataclass": Answer(None, x),
            "namedtuple": Pair(x, -x),
            "text": "no tensor",
        }
        return forms[self.form]


class Holder(nn.Module):
    """Calls a module whose output nobody can chain, and returns the input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        return x


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("the roof is on fire\nsecond line")


def hook_count(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
