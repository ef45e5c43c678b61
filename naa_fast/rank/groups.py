"""`Groups`: which predicted classes get statistics of their own."""

from __future__ import annotations

import numpy as np

from naa_fast.records import Array

MOST = 32
RISEN = 8
FEWEST = 16
"""Clean samples a class needs for a group of its own: fewer say little about a mean."""


class Groups:
    """Predicted classes as group numbers: 0 for every class without statistics of its own, then one each.

    `classes` int64 `[groups - 1]`: all of them up to MOST, whose groups are known before anything was counted; small ones lean on
    the whole set's mean (reference.PRIOR). Of more, samples are scored by codes (`coded`), and words are sought under the clean
    set's most frequent classes and those that rise most from clean to suspect, RISEN of them, MOST together: a backdoor's target
    may be a class that clean data hardly has.
    """

    def __init__(self, clean: Array, suspect: Array) -> None:
        """`clean`, `suspect`: counts per class (`Measurement.predictions`, whose last bin is no class); both may be empty."""
        counts, rises = np.zeros(0), np.zeros(0)
        if len(clean) > 1 and len(clean) == len(suspect) and clean[:-1].sum() and suspect[:-1].sum():
            counts = clean[:-1]
            if len(counts) <= MOST:
                self.classes = np.arange(len(counts))
                return
            rises = suspect[:-1] / suspect[:-1].sum() - clean[:-1] / clean[:-1].sum()
        common = [c for c in np.argsort(-counts, kind="stable")[: MOST - RISEN] if counts[c] >= FEWEST]
        risen = [c for c in np.argsort(-rises, kind="stable")[:RISEN] if rises[c] > 0 or counts[c] >= FEWEST]
        self.classes = np.array(sorted({*common, *risen}), np.int64)

    @classmethod
    def every(cls, classes: int) -> Groups:
        """A group for each of `classes` classes, at most MOST; with 0, one for all samples."""
        return cls(np.ones(classes + 1, np.int64), np.ones(classes + 1, np.int64))

    @property
    def count(self) -> int:
        return len(self.classes) + 1

    @staticmethod
    def coded(classes: int) -> bool:
        """Whether there are too many classes for statistics of each: a layer's mean is expected by the class scores instead."""
        return classes > MOST

    def of(self, predicted: Array) -> Array:
        """Group of each predicted class (-1: none), int64 `[samples]`, both."""
        if not len(self.classes):
            return np.zeros(len(predicted), np.int64)
        place = np.searchsorted(self.classes, predicted).clip(max=len(self.classes) - 1)
        return np.where(self.classes[place] == predicted, place + 1, 0)


def coverage(clean: Array, suspect: Array, coded: bool = True) -> str:
    """Which classes the ranking knows by themselves, in words; empty where it knows all that suspects are called.

    `clean`, `suspect`: counts per class `[classes + 1]`, as of `Groups`. `coded`: false by a reference that has no codes.
    """
    if len(clean) < 2 or len(clean) != len(suspect) or not suspect[:-1].sum():
        return ""
    low, high = clean[:-1], suspect[:-1]
    if len(low) > MOST:
        against = "what clean samples of such class scores do" if coded else "the whole clean set"
        rare, absent = (100 * float(high[low < fewest].sum() / high.sum()) for fewest in (FEWEST, 1))
        return (
            f"classes in the ranking: none of {len(low):,} has statistics of its own, which {MOST} at most get; "
            f"every sample is held against {against}; {rare:.3g} % of the suspects are called a class with fewer than "
            f"{FEWEST} clean samples, {absent:.3g} % one with none"
        )
    few = low < FEWEST
    share = float(high[few].sum() / high.sum())
    if not share:
        return ""
    return (
        f"classes in the ranking: {int((~few).sum())} of {len(low)} have statistics of their own; "
        f"{int((few & (high > 0)).sum())} with fewer than {FEWEST} clean samples, which {100 * share:.3g} % of the suspects are "
        f"called, lean on the whole clean set"
    )
