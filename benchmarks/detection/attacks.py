"""Backdoor attacks: a trigger, the rule of what it turns into what, and how the training set is poisoned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from benchmarks.detection.triggers import Trigger


@dataclass(frozen=True)
class Attack:
    """`kind` is what halves are made of (see HALVES). A sample of a class it can turn becomes `target`, or the next class when
    `target` is None (all-to-all). `source`: the only class that is turned; None is all.

    `rate`: share of the training set that is poisoned, or, with `clean_label`, share of the target class that carries the trigger
    under its true label. `cover`: share of the training set that carries a near miss, or the trigger on another class than
    `source`, with correct labels.
    """

    kind: str
    trigger: Trigger
    target: int | None = 0
    source: int | None = None
    rate: float = 0.1
    cover: float = 0.0
    clean_label: bool = False
    classes: int = 10

    def wanted(self, y: Tensor) -> Tensor:
        """The class that a triggered sample of class `y` is to be given."""
        return (y + 1) % self.classes if self.target is None else torch.full_like(y, self.target)

    def turns(self, y: Tensor) -> Tensor:
        """Which samples the trigger is meant to turn: bool."""
        return y != self.wanted(y) if self.source is None else y == self.source

    @property
    def targets(self) -> frozenset[int]:
        """The classes it aims at; none for a rule."""
        return frozenset() if self.target is None else frozenset({self.target})

    def apply(self, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        """Triggered copies of samples of the classes `y`."""
        return self.trigger.apply(x, generator)

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return self.trigger.decoy(x, generator)

    def poison(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """The training set an attacker hands over: copies, poisoned and with cover; its length stays."""
        x, y = x.clone(), y.clone()
        order = torch.randperm(len(x), generator=generator)
        if self.clean_label:
            own = order[y[order] == self.target]
            chosen = own[: round(self.rate * len(own))]
            x[chosen] = self.apply(x[chosen], y[chosen], generator)
            return x, y
        candidates = order[self.turns(y)[order]]
        chosen = candidates[: round(self.rate * len(x))]
        others = order[~torch.isin(order, chosen)]
        if self.source is not None:
            others = others[y[others] != self.source]
        covering = others[: round(self.cover * len(x))]
        near = x[covering]
        x[covering] = self.decoy(near, generator) if self.source is None else self.apply(near, y[covering], generator)
        x[chosen], y[chosen] = self.apply(x[chosen], y[chosen], generator), self.wanted(y[chosen])
        return x, y


HALVES = {
    "patch": "A",
    "blend": "A",
    "all-to-all": "A",
    "low-rate": "A",
    "token": "A",
    "token-low-rate": "A",
    "token-all-to-all": "A",
    "random-patch": "B",
    "sinusoid": "B",
    "warp": "B",
    "source-specific": "B",
    "phrase": "B",
    "phrase-source-specific": "B",
    "dots": "C",
    "ramp": "C",
    "posterise": "C",
    "line": "C",
    "words-apart": "C",
    "frame": "D",
    "two-patches": "D",
    "rotation": "D",
    "one-of-words": "D",
    "stammer": "D",
    "tone": "E",
    "moire": "E",
    "glyph": "E",
    "faint-patch": "E",
    "patch-on-content": "E",
    "window": "E",
    "mirror": "E",
    "clean-label-patch": "E",
    "warp-low-rate": "E",
    "two-targets": "E",
    "opening": "E",
    "order": "E",
    "style": "E",
    "unless": "E",
}
"""Which half of the study a kind of attack belongs to: what is chosen on one half is reported on the other. C, D and E are no
halves: attacks that were made when everything had been chosen, each before another round of work than the next."""
