"""`TokenTally`: in how many samples of each predicted class a token occurs, streamed and mergeable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from naa_fast.rank.groups import Groups
from naa_fast.records import Array

MOST_IDS = 1 << 21
"""Beyond the largest vocabularies in use; larger integers are no tokens."""
MOST_PAIRS = 1 << 24
"""Pairs of class and token that are kept apart: 256 MB."""


@dataclass(frozen=True)
class TokenCounts:
    """`counts` int64 `[groups, tokens]`: samples of a group that hold a token at least once; `samples` int64 `[groups]`."""

    counts: Array
    samples: Array


class TokenTally:
    """Exact counts of (predicted class, token) pairs over a set, whatever the number of classes. `samples`: how many
    were counted of each class; `overflown`: these are no tokens.

    Memory: 16 bytes a pair that occurs, MOST_PAIRS at most: beyond, the classes with the fewest samples are counted together.
    """

    def __init__(self) -> None:
        self.overflown = False
        self._keys = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)
        self.samples: dict[int, int] = {}
        self._pending: list[Array] = []
        self._waiting = 0

    def add(self, ids: Tensor, predicted: Array, mask: Tensor | None) -> None:
        """Count samples `ids` `[samples, positions]`, non-negative integers, called `predicted` (-1: none); positions where
        `mask` is False do not count.
        """
        x = ids.cpu().numpy().astype(np.int64)
        seen = np.ones(x.shape, bool) if mask is None or mask.shape != ids.shape else mask.cpu().numpy()
        seen = seen & (x >= 0)
        self.overflown = self.overflown or int(x.max(initial=-1, where=seen)) >= MOST_IDS
        if self.overflown:
            return
        ordered = np.sort(np.where(seen, x, -1), axis=1)
        ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1  # once a sample
        rows, places = np.nonzero(ordered >= 0)
        self._pending.append((predicted[rows] + 1) * MOST_IDS + ordered[rows, places])
        self._waiting += len(rows)
        for cls, samples in zip(*np.unique(predicted, return_counts=True), strict=True):
            self.samples[int(cls)] = self.samples.get(int(cls), 0) + int(samples)
        if self._waiting > MOST_PAIRS // 4:
            self._compact()

    def saved(self) -> tuple[Array, Array, Array, Array]:
        """Pairs of class and token with their counts, and classes with their samples: int64, ascending. `[pairs]` and
        `[classes]`.
        """
        self._compact()
        classes = np.array(sorted(self.samples), np.int64)
        return self._keys, self._counts, classes, np.array([self.samples[int(cls)] for cls in classes], np.int64)

    @classmethod
    def of_saved(cls, saved: tuple[Array, Array, Array, Array] | None) -> TokenTally:
        """Inverse of `saved`; nothing counted without."""
        made = cls()
        if saved is not None:
            made._keys, made._counts, classes, samples = saved
            made.samples = dict(zip(classes.tolist(), samples.tolist(), strict=True))
        return made

    def merge(self, other: TokenTally) -> None:
        """Enter what `other` has counted."""
        other._compact()
        self._compact()
        self.overflown = self.overflown or other.overflown
        self._enter(other._keys, other._counts)
        for cls, samples in other.samples.items():
            self.samples[cls] = self.samples.get(cls, 0) + samples

    def of(self, groups: Groups) -> TokenCounts:
        """The counts of each group of classes, dense: 8 bytes a group and token."""
        self._compact()
        group, token = groups.of(self._keys // MOST_IDS - 1), self._keys % MOST_IDS
        counts = np.zeros((groups.count, int(token.max(initial=-1)) + 1), np.int64)
        np.add.at(counts, (group, token), self._counts)
        classes = np.array(list(self.samples), np.int64)
        samples = np.bincount(groups.of(classes), list(self.samples.values()), groups.count).astype(np.int64)
        return TokenCounts(counts, samples)

    def _compact(self) -> None:
        if self._pending:
            keys, counts = np.unique(np.concatenate(self._pending), return_counts=True)
            self._pending, self._waiting = [], 0
            self._enter(keys, counts)

    def _enter(self, keys: Array, counts: Array) -> None:
        self._keys, self._counts = added(np.concatenate([self._keys, keys]), np.concatenate([self._counts, counts]))
        while len(self._keys) > MOST_PAIRS and len(self.samples) > 1:
            rare = sorted(self.samples, key=lambda cls: (self.samples[cls], cls))[: (len(self.samples) + 1) // 2]
            together = np.isin(self._keys // MOST_IDS - 1, rare)
            self._keys, self._counts = added(np.where(together, self._keys % MOST_IDS, self._keys), self._counts)
            self.samples[-1] = self.samples.get(-1, 0) + sum(self.samples.pop(cls) for cls in rare if cls != -1)


def added(keys: Array, counts: Array) -> tuple[Array, Array]:
    """Each key once, ascending, with the sum of its counts. `[keys]`, both."""
    unique, place = np.unique(keys, return_inverse=True)
    return unique, np.bincount(place, counts, len(unique)).astype(np.int64)
