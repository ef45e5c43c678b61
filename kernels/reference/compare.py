"""`compare`, the definition: how far a suspect mean lies from the clean one, and which neurons lie farthest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from naa_fast.records import Array


class Comparison(NamedTuple):
    """Per-neuron float64 `difference` and `z`; `top` int64 indices, largest difference first, ties by lower index."""

    difference: Array
    z: Array
    top: Array


def standardised(
    clean_mean: Array, clean_variance: Array, suspect_mean: Array, suspect_variance: Array, resolution: float
) -> Array:
    """Difference of means over the pooled standard deviation (Cohen 1988, d with equal weights), always >= 0: all `[channels]`.

    `resolution` is the relative rounding noise of the activations: deviations below that share of the mean are rounding, not
    signal, so a neuron that is constant but for its last bit is not called abnormal, and one constant in both sets gets a
    finite value. NaN where a mean or variance is unknown.
    """
    noise = resolution * np.maximum(np.abs(clean_mean), np.abs(suspect_mean))
    scale = np.sqrt((clean_variance + suspect_variance) / 2.0 + noise * noise)
    difference = np.abs(suspect_mean - clean_mean)
    return np.where(difference == 0, 0.0 * scale, difference / np.where(scale == 0, 1.0, scale))


def top_k(score: Array, k: int) -> Array:
    """Indices of the `k` largest of `score` `[channels]`, largest first, ties by lower index; a NaN ranks above every number.

    A neuron that cannot be compared is evidence, so it must not fall off the end of the list.
    """
    ranked = np.where(np.isnan(score), np.inf, score)
    return np.lexsort((np.arange(len(score)), -ranked, ~np.isnan(score)))[:k]


def compare(
    clean_mean: Array,
    clean_variance: Array,
    suspect_mean: Array,
    suspect_variance: Array,
    resolution: float,
    k: int,
) -> Comparison:
    """Compare the means of one layer's neurons, all arrays float64 `[channels]`."""
    difference = np.abs(suspect_mean - clean_mean)
    z = standardised(clean_mean, clean_variance, suspect_mean, suspect_variance, resolution)
    return Comparison(difference, z, top_k(difference, k))
