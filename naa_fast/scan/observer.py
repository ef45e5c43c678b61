"""`Observer`: what sees each sample while a set is measured; a ranking is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from naa_fast.accumulate import Views
from naa_fast.inputs.batches import Batch, Rejected


class Observer:
    """Sees each sample's own views of the layers while a set is run; does nothing with them by itself."""

    def begin(self, start: int, neurons: dict[str, int]) -> None:
        """A chunk begins, at item `start` of the set; `neurons` will hold how many each layer has, as soon as it was seen."""

    def left_out(self, rejected: tuple[Rejected, ...]) -> None:
        """Items that could not be used; told before the samples behind them."""

    def wanted(self, batch: Batch) -> Batch:
        """Of a pass of its own: the samples of a batch that are to be run, of which there may be none."""
        return batch

    def take(self, part: Batch, views: Views, scores: Tensor | None) -> bool:
        """See samples whose forward succeeded, in order and each once, with their views and class scores (`ClassScores`; None
        without). False where it has seen enough: no more are brought then. `scores` `[samples, classes]`.
        """
        return False

    def snapshot(self) -> Callable[[], bytes] | None:
        """Gives what it has learned until now as bytes, later, for a checkpoint; None where it keeps nothing."""
        return None

    def restore(self, contents: Sequence[bytes]) -> None:
        """Go on from what the snapshots of one rank or more gave."""
