"""`Budget`: how many samples proof and repair may run through the model together, and what is said where that was too few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from naa_fast.errors import NaaError

TIMES = 1.5
"""Samples of both sets, times which proof and repair run at most by default."""
LEAST = 6000
"""The least that is allowed by default: the controls of one target take some thousand."""
SMALL, PLENTY = 2e10, 80_000
"""Samples times parameters that a small model may run however few samples there are, some minutes of a processor, and the most
samples that makes."""


class BudgetSpent(NaaError):
    """The next samples would be more than proof and repair may run."""


@dataclass
class Budget:
    """`most` samples for proof and repair together; `spent` so far. `told` hears `spent` and may end all by raising."""

    most: int
    spent: int = 0
    told: Callable[[int], None] | None = None

    def take(self, samples: int) -> None:
        """Enter samples that are about to run; raises BudgetSpent where they are too many."""
        if self.spent + samples > self.most:
            raise BudgetSpent(f"the budget of {self.most:,} samples is spent")
        self.spent += samples
        if self.told is not None:
            self.told(self.spent)

    @property
    def left(self) -> int:
        return self.most - self.spent

    @property
    def halfway(self) -> bool:
        """Whether more than half is spent: once a proof stands, the rest is for the repair."""
        return 2 * self.spent > self.most


def default_budget(model: nn.Module, samples: int) -> int:
    """What proof and repair may run where nothing else was asked for: TIMES as many as both sets have, LEAST at least, and for a
    small model, whose forwards cost next to nothing, up to PLENTY.

    >>> from torch.nn import Linear
    >>> default_budget(Linear(10_000, 2_000), samples=600), default_budget(Linear(10_000, 2_000), samples=10_000)
    (6000, 15000)
    >>> default_budget(Linear(4, 2), samples=600)
    80000
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return max(int(TIMES * samples), LEAST, int(min(PLENTY, SMALL / max(parameters, 1))))
