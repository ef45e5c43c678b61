"""`compare` in plain torch, on the device of the statistics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Comparison(NamedTuple):
    """Per-neuron float64 `difference` and `z`; `top` int64 indices, largest difference first, ties by lower index."""

    difference: Tensor
    z: Tensor
    top: Tensor


def compare(
    clean_mean: Tensor,
    clean_variance: Tensor,
    suspect_mean: Tensor,
    suspect_variance: Tensor,
    resolution: float,
    k: int,
) -> Comparison:
    """Compare the means of one layer's neurons, all tensors float64 `[channels]`; see kernels/reference/compare.py."""
    difference = (suspect_mean - clean_mean).abs()
    noise = resolution * torch.maximum(clean_mean.abs(), suspect_mean.abs())
    scale = torch.sqrt((clean_variance + suspect_variance) / 2.0 + noise * noise)
    z = torch.where(difference == 0, 0.0 * scale, difference / torch.where(scale == 0, 1.0, scale))
    # torch sorts NaN above every number, which is the rank that what cannot be compared should have.
    top = torch.sort(difference, descending=True, stable=True).indices[:k]
    return Comparison(difference, z, top)
