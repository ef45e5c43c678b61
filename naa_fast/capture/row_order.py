"""Which sample a row belongs to, where a layer gives several rows a sample: told by running a few samples in two orders."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

PROBED = 8
"""Samples that are run twice."""


class RowOrder(Enum):
    """Of `k` rows a sample: the `k` of one sample follow one another (windows, flattened tokens), or row `i` of every sample does
    (time first, views joined along the batch); UNKNOWN where neither can be shown.
    """

    SAMPLE_FIRST = "sample first"
    SAMPLE_LAST = "sample last"
    UNKNOWN = "unknown"


class Recorder:
    """Keeps what the hooks see of some layers, or of all (None), by layer and number of the call, and counts nothing."""

    def __init__(self, layers: frozenset[str] | None) -> None:
        self.layers = layers
        self.seen: dict[tuple[str, int], Tensor] = {}
        self._calls: dict[str, int] = {}

    def observe(self, layer: str, x: Tensor, layout: str) -> None:
        """Keep a copy of a layer's output `[outer, channels, inner]`."""
        call = self._calls[layer] = self._calls.get(layer, -1) + 1
        if self.layers is None or layer in self.layers:
            self.seen[layer, call] = x.detach().clone()


def row_order(forward: Tensor | None, backward: Tensor | None, samples: int) -> RowOrder:
    """The order of rows `[k * samples, channels, inner]`, seen of the samples in their order and in the opposite one.

    Equal to rounding; rows that all samples share tell nothing, and are UNKNOWN as those that chance or the batch enters.
    """
    if forward is None or backward is None or forward.shape != backward.shape or samples < 2 or len(forward) % samples:
        return RowOrder.UNKNOWN
    straight, other = forward.float(), backward.float()
    first = straight.reshape(samples, -1), other.reshape(samples, -1).flip(0)
    last = straight.reshape(-1, samples, *straight.shape[1:]), other.reshape(-1, samples, *straight.shape[1:]).flip(1)
    is_first, is_last = alike(*first), alike(*last)
    if is_first == is_last:
        return RowOrder.UNKNOWN
    return RowOrder.SAMPLE_FIRST if is_first else RowOrder.SAMPLE_LAST


def alike(x: Tensor, y: Tensor) -> bool:
    """`[...]` equal but for the rounding of another order of the batch, of half precision too; NaN in the same places."""
    size = float(torch.nan_to_num(x.abs(), 0.0, 0.0, 0.0).max()) if x.numel() else 0.0
    return torch.allclose(x, y, rtol=1e-3, atol=1e-3 * size + 1e-12, equal_nan=True)


def with_samples_first(x: Tensor, samples: int) -> Tensor:
    """Rows `[k * samples, channels, inner]` in SAMPLE_LAST order as `[samples, channels, k * inner]`; a view for one position."""
    parted = x.reshape(-1, samples, *x.shape[1:]).permute(1, 2, 0, 3)
    return parted.reshape(samples, x.shape[1], -1) if x.shape[2] > 1 else parted[..., 0]
