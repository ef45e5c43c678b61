"""`score`, the definition: how much of each sample lies far outside the clean distribution."""

from __future__ import annotations

import numpy as np

from naa_fast.records import Array

CUT = 3.0
"""Deviations below this many clean standard deviations count nothing: most of a clean sample's neurons."""


def score(values: Array, mean: Array, deviation: Array) -> Array:
    """Sum over channels of `max(|z| - CUT, 0)`, float64 `[samples]`.

    `values` `[samples, channels]`: a per-sample view of a layer. `mean`, `deviation` float64 `[channels]`: the frozen clean
    statistics; a channel with `deviation == 0` counts nothing, but any non-finite value makes the sample's score infinite.
    """
    usable = deviation > 0
    with np.errstate(invalid="ignore"):
        z = np.abs(values.astype(np.float64) - mean) / np.where(usable, deviation, 1.0)
    excess = np.where(usable, np.maximum(z - CUT, 0.0), 0.0)
    return np.where(np.isfinite(values), excess, np.inf).sum(axis=1)
