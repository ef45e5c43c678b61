"""`compare` on a CUDA device: every layer's difference, standardised difference and top-k in one launch.

`compare` has the reference's signature for one layer; `compare_all` takes many; `compare_states` reads them from the states that
`fold` keeps, so that nothing but the finished vectors and indices crosses the bus.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from naa_fast.kernels.cuda.compile import Kernel, Runtime, runtime
from naa_fast.kernels.cuda.fold import State
from naa_fast.kernels.reference.compare import Comparison, top_k
from naa_fast.records import VIEWS

KERNEL = Kernel("compare", "compare", threads=512)
LAYERS = 36
"""Layers a launch (compare.cu)."""

MOST = 1024
"""The largest k that is selected on the device; beyond it the host sorts the vector it has received anyway."""


class Side(NamedTuple):
    """One set's statistics of a layer: float64 `mean`, `spread`, and int64 `observed`, all `[channels]`.

    `observed` None: `spread` is the variance; else it is the centred square sum, and what was never observed has no mean.
    """

    mean: Tensor
    spread: Tensor
    observed: Tensor | None = None


def launch(layers: Sequence[tuple[Side, Side]], resolutions: Sequence[float], k: int, device: Runtime | None) -> list[Comparison]:
    """Compare every pair; one launch for up to 36 layers, one copy back."""
    if not layers:
        return []
    sizes = [clean.mean.shape[0] for clean, _ in layers]
    picks = [min(k, size) if k <= MOST else 0 for size in sizes]
    like = layers[0][0].mean
    out = torch.empty(
        sum(2 * size + pick for size, pick in zip(sizes, picks, strict=True)), dtype=torch.int64, device=like.device
    )
    table = np.zeros((len(layers), 14), np.int64)
    at = out.data_ptr()
    for row, sides, size, pick, resolution in zip(table, layers, sizes, picks, resolutions, strict=True):
        row[:6] = [0 if array is None else array.data_ptr() for side in sides for array in side]
        row[6:9] = at, at + 8 * size, at + 16 * size
        row[9:11] = size, pick
        row[11:12].view(np.float64)[:] = resolution
        at += 8 * (2 * size + pick)
    for start in range(0, len(layers), LAYERS):
        part = table[start : start + LAYERS]
        words = np.zeros(1 + 14 * LAYERS, np.int64)
        words[0] = len(part)
        words[1 : 1 + part.size] = part.ravel()
        (device or runtime(like)).launch(KERNEL, len(part), words)
    host, found, first = out.cpu().numpy(), [], 0
    for size, pick in zip(sizes, picks, strict=True):
        reals = host[first : first + 2 * size].view(np.float64).reshape(2, size)
        top = host[first + 2 * size : first + 2 * size + pick] if k <= MOST else top_k(reals[0], k)
        found.append(Comparison(reals[0].copy(), reals[1].copy(), top.copy()))
        first += 2 * size + pick
    return found


def compare_all(
    layers: Sequence[tuple[Any, Any, Any, Any]], resolutions: Sequence[float], k: int, device: Runtime | None = None
) -> list[Comparison]:
    """Compare many layers, each `(clean_mean, clean_variance, suspect_mean, suspect_variance)` float64 `[channels]`.

    Tensors are read where they lie; NumPy arrays are first copied to the current CUDA device.
    """
    home = next((array.device for layer in layers for array in layer if isinstance(array, Tensor)), None)
    home = home or torch.device("cpu" if device else "cuda")
    held = [[torch.as_tensor(array, dtype=torch.float64, device=home).contiguous() for array in layer] for layer in layers]
    return launch([(Side(a, b), Side(c, d)) for a, b, c, d in held], resolutions, k, device)


def compare(
    clean_mean: Any,
    clean_variance: Any,
    suspect_mean: Any,
    suspect_variance: Any,
    resolution: float,
    k: int,
) -> Comparison:
    """Compare one layer; host arrays, to the bit those of kernels/reference/compare.py."""
    return compare_all([(clean_mean, clean_variance, suspect_mean, suspect_variance)], [resolution], k)[0]


def compare_states(
    clean: Sequence[State],
    suspect: Sequence[State],
    view: str,
    resolutions: Sequence[float],
    k: int,
    device: Runtime | None = None,
) -> list[Comparison]:
    """Compare the states of two scans layer by layer in one of `records.VIEWS`; a neuron never observed has no mean: NaN."""
    index = VIEWS.index(view)

    def side(state: State) -> Side:
        return Side(state.moments[index, 0], state.moments[index, 1], state.counts[index, 0])

    return launch([(side(a), side(b)) for a, b in zip(clean, suspect, strict=True)], resolutions, k, device)
