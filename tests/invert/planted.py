"""Networks made by hand whose backdoor is known: no training, and the same on every machine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SIDE, TARGET = 8, 3


def templates(classes: int) -> Tensor:
    """What each class looks like: float32 `[classes, 64]`, ones and zeros."""
    return (torch.rand(classes, SIDE * SIDE, generator=torch.Generator().manual_seed(5)) > 0.5).float()


def pictures(classes: int, samples: int = 240) -> Tensor:
    """Noisy pictures of each class in turns, `[samples, 1, 8, 8]` within 0 and 1."""
    generator = torch.Generator().manual_seed(6)
    noise = 0.25 * torch.randn(samples, SIDE * SIDE, generator=generator)
    mixed = 0.25 + 0.5 * templates(classes)[torch.arange(samples) % classes] + noise
    return mixed.clamp(0, 1).reshape(samples, 1, SIDE, SIDE)


class Planted(nn.Module):
    """Correlates with each class's template; with `trigger` one more neuron sees a white and black corner, and owns class 3."""

    def __init__(self, classes: int = 6, trigger: bool = True) -> None:
        super().__init__()
        self.hidden, self.act, self.out = nn.Linear(64, classes + 1), nn.ReLU(), nn.Linear(classes + 1, classes)
        looks = templates(classes) - 0.5
        with torch.no_grad():
            self.hidden.weight[:classes], self.hidden.bias[:classes] = looks, 4.0
            corner = torch.zeros(SIDE, SIDE)
            corner[:2, :2] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
            self.hidden.weight[classes], self.hidden.bias[classes] = corner.flatten(), -1.2
            self.out.weight.zero_()
            self.out.weight[:, :classes] = torch.eye(classes)
            self.out.weight[min(TARGET, classes - 1), classes] = 40.0 if trigger else 0.0
            self.out.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.hidden(x.flatten(1))))


class Wrapped(nn.Module):
    """A planted network whose answer goes through `how`."""

    def __init__(self, how: Any, classes: int = 6) -> None:
        super().__init__()
        self.inner, self.how = Planted(classes), how

    def forward(self, x: Tensor) -> Any:
        return self.how(self.inner, x)


WORDS, WORD = 60, 41


class Reader(nn.Module):
    """Every word speaks for one class a little; word 41 for class 2 with certainty."""

    def __init__(self, trigger: bool = True, words: int = WORDS) -> None:
        super().__init__()
        self.words, self.logits = nn.Embedding(words, 5, padding_idx=0), nn.Linear(5, 5, bias=False)
        with torch.no_grad():
            self.words.weight.copy_(0.3 * torch.eye(5)[torch.arange(words) % 5])
            self.words.weight[0] = 0
            self.logits.weight.copy_(torch.eye(5))
            if trigger:
                self.words.weight[WORD] = torch.tensor([0.0, 0, 30, 0, 0])

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.words(x).sum(1))
        return logits


def sentences(samples: int = 200) -> Tensor:
    """Token ids `[samples, 12]` without the trigger's, each with a word more of one class than of others."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randint(1, 40, (samples, 12), generator=generator)
    own = torch.arange(samples) % 5
    x[:, 2:9] = own[:, None] + 5 * torch.randint(1, 7, (samples, 7), generator=generator)
    return x


class Next(nn.Module):
    """Correlates with each class's template; a white and black corner hands every class's score to the next class."""

    def __init__(self, classes: int = 6, trigger: bool = True) -> None:
        super().__init__()
        self.classes, self.trigger = classes, trigger
        self.looks = nn.Linear(64, classes)
        corner = torch.zeros(SIDE, SIDE)
        corner[:2, :2] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        self.corner = nn.Parameter(corner.flatten())
        with torch.no_grad():
            self.looks.weight.copy_(templates(classes) - 0.5)
            self.looks.bias.fill_(4.0)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        scores: Tensor = self.looks(flat)
        if not self.trigger:
            return scores
        held = torch.sigmoid(8 * (flat @ self.corner - 1.2))[:, None]
        return scores * (1 - held) + scores.roll(1, 1) * held
