"""`classes`, the definition: the class each sample's scores choose."""

from __future__ import annotations

import numpy as np

from naa_fast.kernels.reference.reduce import to_float64
from naa_fast.records import Array


def classes(scores: Array, none: int) -> Array:
    """The place of the largest score in each row, the first of equals (+0 equals -0), int64 `[samples]`.

    `scores` `[samples, classes]`, any float dtype (uint16: bfloat16 bits), any strides, one class at least. `none` for a row
    with a score that is not finite.
    """
    values = to_float64(scores)
    return np.where(np.isfinite(values).all(1), values.argmax(1), none).astype(np.int64)
