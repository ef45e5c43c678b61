"""`fold` on a CUDA device: the partials of all layers of a batch enter their states in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from naa_fast.kernels.cuda.compile import Kernel, Runtime, runtime
from naa_fast.kernels.cuda.reduce import Partials, above
from naa_fast.records import COUNT_FIELDS, FOLD_BLOCK, FOLD_FIELDS, FOLDS, MOMENT_FIELDS, VIEWS, Array

KERNEL = Kernel("fold", "fold")
LAYERS = 84
"""Layers a launch: their table travels by value, and a launch may carry 4 KB (fold.cu). More layers, more launches."""

NEURONS = 32
MOMENTS, COUNTS = len(VIEWS) * len(MOMENT_FIELDS), len(VIEWS) * len(COUNT_FIELDS)
WORDS = MOMENTS + COUNTS + 2 * len(FOLD_FIELDS) * FOLDS


class State:
    """A layer's running record on its device: int64 words `[WORDS, channels]`, of which `packed` says what they hold."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self.words = torch.zeros((WORDS, channels), dtype=torch.int64, device=device)
        moments = self.moments
        moments[:, 4].fill_(torch.inf)
        moments[:, 5].fill_(-torch.inf)

    @property
    def channels(self) -> int:
        return self.words.shape[1]

    def sample_means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Count, mean and m2 of the samples' means so far, views of the state."""
        return self.counts[1, 0], self.moments[1, 0], self.moments[1, 1]

    @property
    def moments(self) -> Tensor:
        """float64 `[3 views, 6, channels]`, a view of the state."""
        return self.words[:MOMENTS].view(torch.float64).view(len(VIEWS), len(MOMENT_FIELDS), -1)

    @property
    def counts(self) -> Tensor:
        """int64 `[3 views, 3, channels]`, a view of the state."""
        return self.words[MOMENTS : MOMENTS + COUNTS].view(len(VIEWS), len(COUNT_FIELDS), -1)

    @property
    def folds(self) -> Tensor:
        """float64 `[mean and max, 3, FOLDS, channels]`, a view of the state."""
        return self.words[MOMENTS + COUNTS :].view(torch.float64).view(2, len(FOLD_FIELDS), FOLDS, -1)


def empty(channels: int, like: Tensor) -> State:
    """State of a layer of which nothing was seen, 600 bytes a neuron on the device of `like`."""
    return State(channels, like.device)


def rounds(batch: Sequence[tuple[State, Partials]]) -> list[list[tuple[State, Partials]]]:
    """The batch in launches: no state twice in one, the n-th call of a module before its n+1-th, one device and table each."""
    seen: dict[int, int] = {}
    ranked: dict[tuple[int, torch.device], list[tuple[State, Partials]]] = {}
    for state, partials in batch:
        if partials.items == 0 or partials.channels == 0:
            continue
        rank = seen[id(state)] = seen.get(id(state), -1) + 1
        ranked.setdefault((rank, state.words.device), []).append((state, partials))
    order = sorted(ranked, key=lambda key: key[0])
    return [ranked[key][at : at + LAYERS] for key in order for at in range(0, len(ranked[key]), LAYERS)]


def fold_on(device: Runtime | None, batch: Sequence[tuple[State, Partials]], phase: int) -> None:
    """`fold` with an explicit runtime; None: that of each state's own device."""
    for layers in rounds(batch):
        words = np.zeros(2 + 6 * LAYERS, np.int64)
        words[0], words[1] = len(layers), phase % (FOLDS * FOLD_BLOCK)
        table, blocks = words[2:].reshape(LAYERS, 6), 0
        for row, (state, p) in zip(table, layers, strict=False):
            wide = p.dtype == "float64"
            row[:] = p.buffer.data_ptr(), state.words.data_ptr(), p.channels, p.samples, p.tiles * 2 + wide, blocks
            blocks += above(p.channels, NEURONS)
        (device or runtime(layers[0][0].words)).launch(KERNEL, blocks, words)


def fold(batch: Sequence[tuple[State, Partials]], phase: int) -> None:
    """Add a batch's partials to the states, in double and in a fixed order; a state named twice takes both, in order.

    `phase`: global index of the batch's first sample. One launch for up to 84 layers, no sync, no allocation.
    """
    fold_on(None, batch, phase)


def read(states: Sequence[State]) -> list[tuple[Array, Array, Array]]:
    """The states' packed arrays (`LayerRecord.packed`) on the host: one copy per device for all of them."""
    packed: dict[int, tuple[Array, Array, Array]] = {}
    places: dict[torch.device, list[int]] = {}
    for index, state in enumerate(states):
        places.setdefault(state.words.device, []).append(index)
    for indices in places.values():
        flat = torch.cat([states[index].words.flatten() for index in indices]).cpu().numpy()
        at = 0
        for index in indices:
            channels = states[index].channels
            words = flat[at : at + WORDS * channels].reshape(WORDS, channels)
            at += WORDS * channels
            packed[index] = (
                words[:MOMENTS].view(np.float64).reshape(len(VIEWS), len(MOMENT_FIELDS), channels).copy(),
                words[MOMENTS : MOMENTS + COUNTS].reshape(len(VIEWS), len(COUNT_FIELDS), channels).copy(),
                words[MOMENTS + COUNTS :].view(np.float64).reshape(2, len(FOLD_FIELDS), FOLDS, channels).copy(),
            )
    return [packed[index] for index in range(len(states))]
