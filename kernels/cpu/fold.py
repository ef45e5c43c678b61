"""`fold` on the host: a batch's partials enter the state in a fixed order, by the formulas of `records.Moments.merge`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naa_fast.kernels.cpu.parts import join_even, join_folds, join_one, together
from naa_fast.kernels.cpu.planes import MOMENTS
from naa_fast.kernels.cpu.reduce import Partials, reduce_folds
from naa_fast.records import COUNT_FIELDS, FOLD_BLOCK, FOLDS, Array


class State:
    """A layer's running record: the three arrays of `LayerRecord.packed`.

    `single`: samples had one position so far, so that all views are the same, and only the first, and its folds, are kept up.
    `even`: no value of those was NaN or infinite, so that all neurons have seen as many.
    """

    def __init__(self, channels: int) -> None:
        self.moments = np.zeros((3, MOMENTS, channels))
        self.moments[:, 4] = np.inf
        self.moments[:, 5] = -np.inf
        self.counts = np.zeros((3, len(COUNT_FIELDS), channels), np.int64)
        self.folds = np.zeros((2, 3, FOLDS, channels))
        self.single = self.even = True

    def sample_means(self) -> tuple[Array, Array, Array]:
        """Count, mean and m2 of the samples' means so far."""
        view = 0 if self.single else 1
        return self.counts[view, 0], self.moments[view, 0], self.moments[view, 1]

    def spread(self) -> None:
        """Bring all views up."""
        if self.single:
            self.moments[1:], self.counts[1:], self.folds[1:] = self.moments[0], self.counts[0], self.folds[0]


def empty(channels: int, like: Array) -> State:
    """State of a layer of which nothing was seen; `like` tells other backends the device."""
    return State(channels)


def fold(batch: Sequence[tuple[State, Partials]], phase: int) -> None:
    """Add a batch's partials to the states; a state named twice takes both, in order.

    A sample's mean and maximum are observations like the values of [N, D], and take the same kernel.
    """
    first = (phase // FOLD_BLOCK) % FOLDS
    for state, partials in batch:
        if not partials.per_sample:  # one position a sample: all views are the same
            state.even = state.even and not partials.counts[:, 2].any()
            if state.single and state.even:
                own = state.moments[0], state.counts[0], state.folds[0]
                join_even(*own, first, partials.reals, partials.counts)
            elif len(partials.reals):
                whole = together(partials.reals, partials.counts)
                for view in range(1 if state.single else 3):
                    join_one(state.moments[view], state.counts[view], *whole)
                for folds in state.folds[: 1 if state.single else 2]:
                    join_folds(folds, first, partials.reals, partials.counts)
            continue
        state.spread()
        state.single = False
        seen = None if partials.observed.all() else partials.observed
        parts = [(partials.reals, partials.counts)]
        parts += [reduce_folds(values, seen, phase) for values in (partials.sample_mean, partials.sample_max)]
        for view, (reals, counts) in enumerate(parts):
            if view > 0 and len(reals):
                join_folds(state.folds[view - 1], first, reals, counts)
            if len(reals):
                join_one(state.moments[view], state.counts[view], *together(reals, counts))


def read(states: Sequence[State]) -> list[tuple[Array, Array, Array]]:
    """The states' packed arrays (`LayerRecord.packed`), copied."""
    for state in states:
        state.spread()
    return [(state.moments.copy(), state.counts.copy(), state.folds.copy()) for state in states]
