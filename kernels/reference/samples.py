"""`samples`, the definition: each sample's mean and maximum in every layer, side by side, out of what `reduce` was given once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naa_fast.kernels.reference.reduce import Partials, reduce, to_float64
from naa_fast.records import Array

Given = Partials | Array
"""Of one call of a layer: its partials of samples, or the values `[samples, channels]` of samples with one position."""


def reduce_kept(x: Array, mask: Array | None, phase: int) -> tuple[Partials, Given]:
    """`reduce` of `x` `[samples, channels, inner]`, and what `samples` reads of it: the partials, or, of samples with one
    position, a copy of their values `[samples, channels]`, NaN where the mask hides them (uint16 stays the bits of bfloat16).
    """
    partials = reduce(x, mask, phase)
    if partials.per_sample:
        return partials, partials
    return partials, values_of(x, mask)


def values_of(x: Array, mask: Array | None) -> Array:
    """A copy of `x` `[samples, channels, 1]` without its last axis, NaN where `mask` `[samples, 1]` is False."""
    values = x[:, :, 0].copy()
    if mask is not None:
        values[~mask[:, 0]] = 0x7FC0 if x.dtype == np.uint16 else np.nan
    return values


def mean_and_maximum(given: Given) -> tuple[Array, Array]:
    """Over a sample's positions, float64 `[samples, channels]`; NaN where one of them was not finite, or none was observed. A
    single position's value is what it is.
    """
    if not isinstance(given, Partials):
        return to_float64(given), to_float64(given)
    m = given.moments
    unknown = (m.count == 0) | (m.nonfinite > 0)
    return np.where(unknown, np.nan, m.mean), np.where(unknown, np.nan, m.maximum)


def samples(layers: Sequence[tuple[Sequence[Given], bool]], wide: bool) -> Array:
    """A batch's samples as they are ranked: `[samples, features + 1]`, float64 if `wide`, else float32; the last column is 0.

    Of each layer what its calls gave, and whether a sample's maximum goes beside its mean: its features are the means of all
    channels, then the maxima. Of several calls these are the mean of the means and the largest maximum; NaN if one of them is.
    """
    columns = []
    for calls, several in layers:
        found = [mean_and_maximum(given) for given in calls]
        columns.append(np.mean([mean for mean, _ in found], 0))
        if several:
            columns.append(np.max([maximum for _, maximum in found], 0))
    columns.append(np.zeros((len(columns[0]), 1)))
    with np.errstate(over="ignore"):
        return np.concatenate(columns, 1).astype(np.float64 if wide else np.float32)
