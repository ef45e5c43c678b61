"""`fold`, the definition: the partials of a batch enter the state of every layer, in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naa_fast.kernels.reference.reduce import Partials
from naa_fast.records import FOLDS, Array, Folds, LayerRecord, Moments, fold_of


class State:
    """A layer's running record; `fold` replaces it."""

    def __init__(self, channels: int) -> None:
        self.record = LayerRecord.zero(channels, "", "")

    def sample_means(self) -> tuple[Array, Array, Array]:
        """Count, mean and m2 of the samples' means so far."""
        means = self.record.sample_mean
        return means.count, means.mean, means.m2


def empty(channels: int, like: Array) -> State:
    """State of a layer of which nothing was seen; `like` tells other backends the device."""
    return State(channels)


def items_merged(moments: Moments) -> Moments:
    """Moments over the items, merged first to last."""
    total = Moments.zero(moments.count.shape[1])
    for item in range(moments.count.shape[0]):
        total = total.merge(Moments(**{name: field[item] for name, field in moments.fields().items()}))
    return total


def folds_of_samples(x: Array, observed: Array, phase: int) -> Folds:
    """Split the samples' observations `x` `[samples, channels]` into folds."""
    folds = fold_of(phase + np.arange(len(x)))
    parts = [Moments.of(x[folds == f], observed[folds == f]) for f in range(FOLDS)]
    return Folds(*(np.stack([getattr(p, name) for p in parts]).astype(np.float64) for name in ("count", "mean", "m2")))


def batch_record(partials: Partials, phase: int) -> LayerRecord:
    """One batch's record.

    A sample whose positions are all masked is not observed. One whose observed positions are all NaN or infinite is
    observed as one non-finite sample.
    """
    m = partials.moments
    positions = items_merged(m)
    if not partials.per_sample:
        folds = Folds(m.count.astype(np.float64), m.mean, m.m2)
        return LayerRecord("", "", positions, positions, positions, folds, folds)
    observed = (m.count + m.nonfinite) > 0
    mean = np.where(m.count > 0, m.mean, np.nan)
    maximum = np.where(m.count > 0, m.maximum, np.nan)
    return LayerRecord(
        "",
        "",
        positions,
        Moments.of(mean, observed),
        Moments.of(maximum, observed),
        folds_of_samples(mean, observed, phase),
        folds_of_samples(maximum, observed, phase),
    )


def fold(batch: Sequence[tuple[State, Partials]], phase: int) -> None:
    """Add a batch's partials to the states; a state named twice (a module called twice) takes both, in order."""
    for state, partials in batch:
        state.record = state.record.merge(batch_record(partials, phase))


def read(states: Sequence[State]) -> list[tuple[Array, Array, Array]]:
    """The states' packed arrays (`LayerRecord.packed`) on the host."""
    return [state.record.packed() for state in states]
