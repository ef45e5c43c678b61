"""`tally`, the definition: each sample's mean and maximum is counted in its bin of the neuron's histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naa_fast.kernels.reference.reduce import Partials, to_float64
from naa_fast.records import BINS, Array, bin_of, counted, histogram


class Tails:
    """A layer's running histograms of samples' means and maxima, int32 `[2, BINS, channels]`."""

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((2, BINS, channels), np.int32)


def tails(channels: int, like: Array) -> Tails:
    """Histograms of a layer of which nothing was seen, `[2, BINS, channels]`; `like` tells other backends the device."""
    return Tails(channels)


def bins(x: Array, mask: Array | None) -> Array:
    """The bin of every value of a layer with one position a sample, uint8 `[samples, channels]` (`records.bin_of`).

    `x` `[samples, channels]`, any float dtype (uint16: bfloat16 bits), any strides; `mask` (bool `[samples]`): False was not
    observed. A copy of a byte a value, in the hook: the model may overwrite `x` before the batch is tallied.
    """
    return bin_of(to_float64(x), None if mask is None else mask[:, None])


def tally(batch: Sequence[tuple[Tails, Partials | Array]]) -> None:
    """Count a batch's samples. Of each layer: its partials, or its `bins` where a sample has one position, which is its mean and
    its maximum. A sample without a finite value is not counted. Histograms named twice take both.
    """
    for state, given in batch:
        if isinstance(given, Partials):
            moments = given.moments
            seen = moments.count > 0
            state.counts[0] += histogram(moments.mean, seen)
            state.counts[1] += histogram(moments.maximum, seen)
        else:
            state.counts += counted(given)


def read_tails(states: Sequence[Tails]) -> list[Array]:
    """The histograms on the host, int32 `[2, BINS, channels]` each."""
    return [state.counts.copy() for state in states]
