"""`rises`: predicted classes, or next tokens, that the model gives oftener to the suspect than to the clean set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from naa_fast.detect.enrichment import hypergeometric_tail
from naa_fast.measurement import Measurement

CHANCE = 1e-3
"""Chance of a false finding on a fresh clean set."""


@dataclass(frozen=True)
class Rise:
    """`cls` was predicted for `suspects` of `suspect` suspect samples and `cleans` of `clean` clean ones; `p_value`: that chance
    does as much to any class.
    """

    cls: int
    suspects: int
    suspect: int
    cleans: int
    clean: int
    p_value: float

    @property
    def share(self) -> float:
        """By how much its share rose."""
        return self.suspects / self.suspect - self.cleans / self.clean


def rises(clean: Measurement, suspect: Measurement, *, share: float = 1.0) -> list[Rise]:
    """The classes that rose by more than chance, the largest rise first: Fisher's exact test of each class that either set has,
    one-sided, Bonferroni over these. Empty without class predictions. `share`: the part of CHANCE that may be spent.
    """
    low, high = (measured.predictions[:-1].astype(np.int64) for measured in (clean, suspect))
    if len(low) != len(high) or not len(low) or not low.sum() or not high.sum():
        return []
    sizes = int(high.sum()), int(low.sum())
    tests = int(((low + high) > 0).sum())
    risen = []
    for cls in np.flatnonzero(high / sizes[0] > low / sizes[1]).tolist():
        chance = tests * hypergeometric_tail(int(high[cls]), sizes[0], int(low[cls]), sizes[1])
        if chance < CHANCE * share:
            risen.append(Rise(cls, int(high[cls]), sizes[0], int(low[cls]), sizes[1], chance))
    return sorted(risen, key=lambda rise: -rise.share)
