"""`reduce`, the definition: one batch of one layer, read once, becomes partial moments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from naa_fast.records import FOLDS, Array, Moments, fold_of


class Partials(NamedTuple):
    """What `reduce` hands to `fold`: `moments` of arrays `[items, channels]`.

    `per_sample` True: item `i` is sample `i` of the batch, its moments those over its positions.
    `per_sample` False (one position a sample): item `f` holds all the samples of fold `f`, and `items == FOLDS`.
    """

    moments: Moments
    per_sample: bool


def to_float64(x: Array) -> Array:
    """Exact. A uint16 array holds the bits of bfloat16 values, which NumPy has no type for."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


def reduce(x: Array, mask: Array | None, phase: int) -> Partials:
    """Partial moments of `x` `[outer, channels, inner]`, any float dtype (uint16: bfloat16 bits), any strides.

    `mask` (bool `[outer, inner]`): False positions were not observed. `phase`: global index of the batch's first sample;
    only its residue modulo FOLDS * FOLD_BLOCK matters, to say which fold a sample belongs to.
    """
    outer, _, inner = x.shape
    values = to_float64(x)
    valid = np.ones((outer, inner), bool) if mask is None else mask
    if inner != 1:
        return Partials(Moments.of(values, valid[:, None, :], axis=2), per_sample=True)
    folds = fold_of(phase + np.arange(outer))
    parts = [Moments.of(values[folds == f, :, 0], valid[folds == f]) for f in range(FOLDS)]
    stacked = {name: np.stack([getattr(part, name) for part in parts]) for name in parts[0].fields()}
    return Partials(Moments(**stacked), per_sample=False)
