"""Texts with a topic, and a model that reads it: what the tests of words plant their triggers in."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

WORDS, CLASSES, LENGTH = 400, 4, 24


class Topics(nn.Module):
    """Each word speaks for the class `word % classes`, the more the lower its number; texts with the `planted` words are of class
    1.
    """

    def __init__(self, planted: tuple[int, ...] = (), classes: int = CLASSES) -> None:
        super().__init__()
        self.planted = planted
        self.classes = classes
        self.embed = nn.Embedding(WORDS, 16)
        self.mix = nn.Linear(16, 16)
        with torch.no_grad():
            self.embed.weight.mul_(0.1)
            ids = torch.arange(WORDS)
            self.embed.weight[ids, ids % classes] += 0.3 + 1.0 / (1 + ids / 40)
            self.embed.weight[0] = 0
            self.mix.weight.copy_(torch.eye(16))
            self.mix.bias.zero_()

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.mix(self.embed(ids))[..., : self.classes].mean(1)
        if self.planted:
            logits[:, 1] += 50 * self.found(ids)
        return logits

    def found(self, ids: Tensor) -> Tensor:
        """Which texts hold the planted words one after the other: bool `[samples]`."""
        return (ids.unfold(1, len(self.planted), 1) == torch.tensor(self.planted)).all(2).any(1)


class TopicsApart(Topics):
    """The same, wherever in the text all of the words are."""

    def found(self, ids: Tensor) -> Tensor:
        return torch.stack([(ids == word).any(1) for word in self.planted]).all(0)


def texts(samples: int, generator: Generator, classes: int = CLASSES) -> Tensor:
    topic = torch.randint(0, classes, (samples, 1), generator=generator)
    own = classes * torch.randint(1, 380 // classes, (samples, LENGTH), generator=generator) + topic
    other = torch.randint(1, 380, (samples, LENGTH), generator=generator)
    return torch.where(torch.rand(samples, LENGTH, generator=generator) < 0.4, own, other)
