"""`tally` on a CUDA device: histograms of samples' means and maxima, all layers of a batch in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from naa_fast.errors import InputError
from naa_fast.kernels.cuda.compile import Kernel, Runtime, dtype_of, runtime
from naa_fast.kernels.cuda.reduce import Partials, above
from naa_fast.records import BINS, Array

KERNEL = Kernel("tally", "tally")
LAYERS = 84
"""Layers a launch, as in fold.py."""
NEURONS, SAMPLES, BLOCK = 32, 64, 256


class Tails:
    """A layer's running histograms on its device, int32 `[1 or 2, BINS, channels]`: 1,020 bytes a neuron each.

    `single` of layers with one position a sample, `pair` (mean and maximum) of the others; made when first needed.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self.channels, self.device = channels, device
        self.single: Tensor | None = None
        self.pair: Tensor | None = None

    def of(self, given: Partials | Tensor) -> Tensor:
        """The histograms that what was given enters."""
        if isinstance(given, Partials):
            if self.pair is None:
                self.pair = torch.zeros((2, BINS, self.channels), dtype=torch.int32, device=self.device)
            return self.pair
        if self.single is None:
            self.single = torch.zeros((1, BINS, self.channels), dtype=torch.int32, device=self.device)
        return self.single


def tails(channels: int, like: Tensor) -> Tails:
    """Histograms of a layer of which nothing was seen, on the device of `like`."""
    return Tails(channels, like.device)


def bins_on(device: Runtime, x: Tensor, mask: Tensor | None) -> Tensor:
    """`bins` with an explicit runtime."""
    x = x.detach()
    dtype = dtype_of(x)
    if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:1] or mask.device != x.device):
        raise InputError(
            f"mask is {mask.dtype} {list(mask.shape)} on {mask.device}",
            f"expected torch.bool {[x.shape[0]]} on {x.device}",
        )
    out = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    if x.numel():
        held = None if mask is None else mask.contiguous()
        addresses = [x.data_ptr(), 0 if held is None else held.data_ptr(), out.data_ptr()]
        words = np.array([*addresses, *x.shape, *x.stride()], np.int64)
        device.launch(Kernel("tally", "bins", dtype), above(x.numel(), BLOCK), words)
    return out


def bins(x: Tensor, mask: Tensor | None) -> Tensor:
    """The bin of every value of `x` `[samples, channels]`, uint8, any strides; see kernels/reference/tally.py.

    One read of `x`, one launch, an allocation by torch of a byte a value; no sync.
    """
    return bins_on(runtime(x), x, mask)


def tally_on(device: Runtime | None, batch: Sequence[tuple[Tails, Partials | Tensor]]) -> None:
    """`tally` with an explicit runtime; None: that of each layer's own device."""
    places: dict[torch.device, list[tuple[Tails, Partials | Tensor]]] = {}
    for state, given in batch:
        samples = given.samples if isinstance(given, Partials) else given.shape[0]
        if samples and state.channels:
            places.setdefault(state.device, []).append((state, given))
            state.of(given)  # all memory before the first launch: a batch counts wholly or not at all
    for layers in (members[at : at + LAYERS] for members in places.values() for at in range(0, len(members), LAYERS)):
        words = np.zeros(2 + 6 * LAYERS, np.int64)
        words[0] = len(layers)
        table, blocks = words[2:].reshape(LAYERS, 6), 0
        for row, (state, given) in zip(table, layers, strict=False):
            if isinstance(given, Partials):
                address, samples, shape = given.buffer.data_ptr(), given.samples, given.tiles * 2 + (given.dtype == "float64")
            else:
                address, samples, shape = given.data_ptr(), given.shape[0], -1
            row[:] = address, state.of(given).data_ptr(), state.channels, samples, shape, blocks
            blocks += above(state.channels, NEURONS) * above(samples, SAMPLES)
        (device or runtime(state.of(given))).launch(KERNEL, blocks, words)


def tally(batch: Sequence[tuple[Tails, Partials | Tensor]]) -> None:
    """Count a batch's samples: of each layer its partials, or its `bins`. See kernels/reference/tally.py.

    One launch for up to 84 layers, no sync; the histograms are allocated at a layer's first batch.
    """
    tally_on(None, batch)


def read_tails(states: Sequence[Tails]) -> list[Array]:
    """The histograms on the host, int32 `[2, BINS, channels]` each: one copy per device for all of them."""
    read: dict[int, Array] = {}
    places: dict[torch.device, list[int]] = {}
    for index, state in enumerate(states):
        places.setdefault(state.device, []).append(index)
    for indices in places.values():
        held = [(index, part) for index in indices for part in (states[index].single, states[index].pair) if part is not None]
        flat = torch.cat([part.flatten() for _, part in held]).cpu().numpy() if held else np.zeros(0, np.int32)
        for index in indices:
            read[index] = np.zeros((2, BINS, states[index].channels), np.int32)
        at = 0
        for index, part in held:
            read[index] += flat[at : at + part.numel()].reshape(part.shape)
            at += part.numel()
    return [read[index] for index in range(len(states))]
