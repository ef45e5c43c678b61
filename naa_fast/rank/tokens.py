"""`TokenCounts`: in how many samples of each group a token occurs, streamed."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from naa_fast.records import Array

MOST_IDS = 1 << 21
"""Beyond the largest vocabularies in use, and a table of some hundred MB."""


class TokenCounts:
    """`counts` int32 `[groups, tokens]`: samples of a group that hold a token at least once; `samples` int64 `[groups]`.

    Memory: 4 bytes a token and group, grown to the largest token seen. Larger integers than MOST_IDS are no tokens: `overflown`.
    """

    def __init__(self, groups: int) -> None:
        self.counts = np.zeros((groups, 0), np.int32)
        self.samples = np.zeros(groups, np.int64)
        self.overflown = False

    def add(self, ids: Tensor, group: Array, mask: Tensor | None) -> None:
        """Count samples `ids` `[samples, positions]`, non-negative integers; positions where `mask` is False do not count."""
        x = ids.cpu().numpy().astype(np.int64)
        seen = np.ones(x.shape, bool) if mask is None or mask.shape != ids.shape else mask.cpu().numpy()
        seen = seen & (x >= 0)
        width = int(x.max(initial=-1, where=seen)) + 1
        if width > MOST_IDS or self.overflown:
            self.overflown = True
            return
        if width > self.counts.shape[1]:
            grown = np.zeros((len(self.counts), max(width, int(1.5 * self.counts.shape[1]))), np.int32)
            grown[:, : self.counts.shape[1]] = self.counts
            self.counts = grown
        ordered = np.sort(np.where(seen, x, -1), axis=1)
        ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1  # once a sample
        rows, places = np.nonzero(ordered >= 0)
        np.add.at(self.counts.reshape(-1), group[rows] * self.counts.shape[1] + ordered[rows, places], 1)
        self.samples += np.bincount(group, minlength=len(self.samples))
