"""`score` on a CUDA device: how much of each sample lies far outside the clean distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.errors import InputError
from naa_fast.kernels.cuda.compile import Kernel, Runtime, dtype_of, runtime


def score_on(device: Runtime, values: Tensor, mean: Any, deviation: Any) -> Tensor:
    """`score` with an explicit runtime."""
    dtype = dtype_of(values)
    samples, channels = values.shape
    clean = [torch.as_tensor(array, dtype=torch.float64, device=values.device).contiguous() for array in (mean, deviation)]
    if any(array.shape != (channels,) for array in clean):
        raise InputError(f"values have {channels} channels, the clean statistics {[list(array.shape) for array in clean]}")
    out = torch.empty(samples, dtype=torch.float64, device=values.device)
    if samples:
        words = np.array(
            [values.data_ptr(), *(array.data_ptr() for array in clean), out.data_ptr(), samples, channels, *values.stride()],
            np.int64,
        )
        device.launch(Kernel("score", "score", dtype), samples, words)
    return out


def score(values: Tensor, mean: Any, deviation: Any) -> Tensor:
    """Sum over channels of `max(|z| - 3, 0)`, float64 `[samples]` on the device of `values`; see kernels/reference/score.py.

    `values` `[samples, channels]`, any strides; `mean`, `deviation` float64 `[channels]` (keep them on the device: from NumPy
    they are copied at every call). One launch, no sync; the sum's order is fixed, so the same values give the same bits.
    """
    return score_on(runtime(values), values, mean, deviation)
