"""`Numbers`: which item of a set each sample is."""

from __future__ import annotations

import numpy as np

from naa_fast.inputs.batches import Rejected
from naa_fast.records import Array


class Numbers:
    """Which item of a set each sample is: usable ones come in order, and those left out are told before the next one comes."""

    def __init__(self) -> None:
        self.next = 0
        self._bad: set[int] = set()

    def left_out(self, rejected: tuple[Rejected, ...]) -> None:
        self._bad = {item for item in self._bad if item >= self.next} | {bad.index for bad in rejected}

    def start(self, item: int) -> None:
        """Say which item comes next."""
        self.next = item

    def of(self, samples: int) -> Array:
        """The items of the next samples, int64 `[samples]`."""
        items = self.next + np.arange(samples + len(self._bad))
        items = items[~np.isin(items, list(self._bad))][:samples] if self._bad else items
        self.next = int(items[-1]) + 1 if samples else self.next
        return items
