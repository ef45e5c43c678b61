"""`samples` on the host: each sample's mean and maximum in every layer, out of what `reduce` was given once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from naa_fast.kernels.cpu.reduce import Partials, reduce
from naa_fast.kernels.reference.samples import values_of
from naa_fast.records import Array


class SampleViews(NamedTuple):
    """Means and maxima of samples `[samples, channels]`, NaN where a position was not finite; both the values themselves, in the
    layer's own type (uint16: bfloat16 bits), where samples have one position.
    """

    mean: Array
    maximum: Array


def reduce_kept(x: Array, mask: Array | None, phase: int) -> tuple[Partials, SampleViews]:
    """`reduce`, and what `samples` reads of it; see kernels/reference/samples.py.

    Layers with values that are not finite are read once more, to see which samples have them.
    """
    partials = reduce(x, mask, phase)
    if not partials.per_sample:
        values = values_of(x, mask) if x.shape[2] == 1 else np.full(x.shape[:2], np.nan)
        return partials, SampleViews(values, values)
    mean, maximum = partials.sample_mean, partials.sample_max
    if partials.counts[:, 2].any():
        finite = x & 0x7F80 != 0x7F80 if x.dtype == np.uint16 else np.isfinite(x)
        known = (finite if mask is None else finite | ~mask[:, None]).all(2)
        mean, maximum = np.where(known, mean, np.nan), np.where(known, maximum, np.nan)
    return partials, SampleViews(mean, maximum)


def real(values: Array) -> Array:
    """Values `[samples, channels]` that NumPy can convert: bfloat16 bits become float32."""
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values


def samples(layers: Sequence[tuple[Sequence[SampleViews], bool]], wide: bool) -> Array:
    """Views of a batch's samples, `[samples, features + 1]`; see kernels/reference/samples.py. Written once, in place."""
    features = sum(calls[0].mean.shape[1] * (1 + several) for calls, several in layers)
    found = np.empty((len(layers[0][0][0].mean), features + 1), np.float64 if wide else np.float32)
    found[:, features] = 0.0
    at = 0
    with np.errstate(over="ignore"):
        for calls, several in layers:
            for view in range(1 + several):
                parts = [real(call[view]) for call in calls]
                width = parts[0].shape[1]
                if len(parts) == 1:
                    found[:, at : at + width] = parts[0]
                else:
                    stacked = np.asarray(parts, np.float64)
                    found[:, at : at + width] = stacked.max(0) if view else stacked.mean(0)
                at += width
    return found
