"""`Sizes`: on how many samples, and in how many layers, a repair is tried within a budget."""

from __future__ import annotations

from dataclasses import dataclass

WHOLE = 12_000
"""Samples from which on a budget holds all; with fewer everything shrinks alike, down to what still tells something."""


@dataclass(frozen=True)
class Sizes:
    """`fix`, `choose`, `measure`: clean samples that fix what changes do, choose one and measure it. `fixing` of the first fix a
    change before it is tuned, `screening` of the second tell whether it is worth trying on all that choose. `layers`: those that
    are looked at, the ones with the largest z, one change in each; `tuned`: of those the ones in which it is tuned, where it
    left least as it was found; `batch`: samples of each kind in one step of that. `whole`: a change that cures is tuned all the
    same, as it may do so just barely.
    """

    fix: int = 900
    choose: int = 300
    measure: int = 600
    fixing: int = 200
    screening: int = 96
    layers: int = 24
    tuned: int = 3
    batch: int = 32
    whole: bool = True

    @classmethod
    def within(cls, budget: int) -> Sizes:
        """Those that so many samples through the model are enough for.

        >>> Sizes.within(60_000) == Sizes(), Sizes.within(3000).measure, Sizes.within(3000).layers
        (True, 150, 8)
        """
        if budget >= WHOLE:
            return cls()
        share = budget / WHOLE

        def part(of: int, least: int) -> int:
            return max(least, round(share * of))

        sizes = part(900, 100), part(300, 60), part(600, 100), part(200, 48), part(96, 24), part(24, 8)
        return cls(*sizes, tuned=1, batch=16, whole=False)
