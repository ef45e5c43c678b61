"""`SuspectReader`: suspect samples once more, after they were ranked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from naa_fast.inputs.batches import Batch, Source
from naa_fast.inputs.order import Order
from naa_fast.inputs.text import TextSource
from naa_fast.rank.chosen import observed_in
from naa_fast.rank.retained import taken
from naa_fast.rank.scorer import RankingResult
from naa_fast.records import Array


@dataclass(frozen=True)
class SuspectReader:
    """Gives the suspects that were ranked once more where the set repeats its order (`complete`); else the highest-ranked samples
    whose inputs were retained. `watch` is told how many were read again, and may end that by raising.
    """

    source: Source
    ranked: RankingResult
    watch: Callable[[str, int, int | None], None] | None = None

    @property
    def complete(self) -> bool:
        return Order.of(self.source).repeats

    @property
    def retained(self) -> Array:
        """Numbers of the samples whose inputs were retained, int64 `[samples]`."""
        return np.array([sample.sample for sample in self.ranked.top if sample.batch is not None], np.int64)

    def batches(self) -> Iterator[tuple[Batch, Array]]:
        """Samples with their numbers (int64, as of `RankingResult.scores`), each at most once, masked ones left out."""
        if not self.complete:
            for sample in self.ranked.top:
                if sample.batch is not None:
                    yield sample.batch, np.array([sample.sample])
            return
        source = self.source.in_order() if isinstance(self.source, TextSource) else self.source
        at = 0
        for batch in source.batches():
            rows = np.flatnonzero(observed_in(batch)) if batch.size else np.zeros(0, np.int64)
            if len(rows):
                yield taken(batch, rows), np.arange(at, at + len(rows))
            at += len(rows)
            if self.watch is not None:
                self.watch(f"again {self.source.name}", at, self.source.samples)
            if at >= len(self.ranked.scores):  # a scan that is judged while it runs has ranked no more than these
                return
