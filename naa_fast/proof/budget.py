"""`Budget`: how many samples proof and repair may run through the model together, and what is said where that was too few.

`rule` tells it before a scan: the likeliest target may take half of what is left while others wait, the last of them all of it;
of that each form of trigger has an equal part of what those before it left over. What a part was too small for goes on in another
round, as long as something is left. Once a trigger is proved nothing more is begun with over half of the budget spent: the rest
is for the repair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from naa_fast.errors import NaaError

TIMES = 1.5
"""Samples of both sets, times which proof and repair run at most by default."""
LEAST = 8000
"""The least that is allowed by default: the controls of one target take some thousand."""
UNLIMITED = 1 << 62
MOST = 150_000
"""The most that is allowed by default: a target's search takes thousands of samples, whatever the size of the sets."""
SMALL, PLENTY = 2e10, 80_000
"""Samples times parameters that a small model may run however few samples there are, some minutes of a processor, and the most
samples that makes."""


class BudgetSpent(NaaError):
    """The next samples would be more than proof and repair may run."""


class ShareSpent(BudgetSpent):
    """The next samples would be more than one target or form of trigger may run in this round; the budget is not spent."""


@dataclass
class Budget:
    """`most` samples for proof and repair together; `spent` so far. `told` hears `spent` and may end all by raising. Not `fair`:
    shares bind no more, as every one was too small.
    """

    most: int
    spent: int = 0
    told: Callable[[int], None] | None = None
    fair: bool = True
    _ends: list[int] = field(default_factory=list)

    def require(self, samples: int) -> None:
        """Raises BudgetSpent where so many samples are too many, ShareSpent where they are for the share that is being spent:
        what is of no use unless all of it runs asks before it begins.
        """
        if self.spent + samples > self.most:
            raise BudgetSpent(f"the budget of {self.most:,} samples is spent")
        if self.fair and self._ends and self.spent + samples > self._ends[-1]:
            raise ShareSpent("what one form may take of the budget is spent")

    def take(self, samples: int) -> None:
        """Enter samples that are about to run; raises as `require` does."""
        self.require(samples)
        self.spent += samples
        if self.told is not None:
            self.told(self.spent)

    @contextmanager
    def share(self, among: int) -> Iterator[None]:
        """Inside of it no more is run than one of so many parts of what is left; all of it for 1."""
        with self.until(self.spent + self.left // max(among, 1)):
            yield

    @contextmanager
    def until(self, end: int) -> Iterator[None]:
        """Inside of it no more is run than makes so many spent."""
        self._ends.append(min(end, self._ends[-1]) if self._ends else end)
        try:
            yield
        finally:
            self._ends.pop()

    @property
    def left(self) -> int:
        """Samples that may run yet, of a share that is being spent if there is one."""
        return (self._ends[-1] if self._ends and self.fair else self.most) - self.spent

    @property
    def halfway(self) -> bool:
        """Whether more than half is spent: once a proof stands, the rest is for the repair."""
        return 2 * self.spent > self.most


def default_budget(model: nn.Module, samples: int) -> int:
    """What proof and repair may run where nothing else was asked for: TIMES as many as both sets have, LEAST at least and MOST
    at most, and for a small model, whose forwards cost next to nothing, up to PLENTY.

    >>> from torch.nn import Linear
    >>> default_budget(Linear(10_000, 2_000), samples=600), default_budget(Linear(10_000, 2_000), samples=10_000)
    (8000, 15000)
    >>> default_budget(Linear(10_000, 2_000), samples=1_000_000)
    150000
    >>> default_budget(Linear(4, 2), samples=600)
    80000
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return max(min(int(TIMES * samples), MOST), LEAST, int(min(PLENTY, SMALL / max(parameters, 1))))


def rule(most: int | None, repair: bool) -> str:
    """What proof and repair will run at most, None for an unknown number of samples, and how they share it.

    >>> rule(6000, repair=True)
    'proof and repair run 6,000 samples at most: half of them for the likeliest target, with as much for each form of trigger'
    """
    what = "proof and repair run" if repair else "proof runs"
    many = f"{TIMES} times both sets at most, and never over {MOST:,} samples" if most is None else f"{most:,} samples at most"
    return f"{what} {many}: half of them for the likeliest target, with as much for each form of trigger"
