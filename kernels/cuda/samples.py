"""`samples` on a CUDA device: what ranking needs of a batch, out of what `reduce` was given once, all layers in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from naa_fast.errors import InputError
from naa_fast.kernels.cuda.compile import DTYPES, Kernel, Runtime, dtype_of, runtime
from naa_fast.kernels.cuda.reduce import Partials, above, reduce_on

KERNEL = Kernel("samples", "samples")
LAYERS = 84
"""Layers a launch, as in fold.py."""
NEURONS, SAMPLES = 32, 64

Given = Partials | Tensor


def reduce_kept_on(device: Runtime, x: Tensor, mask: Tensor | None, phase: int) -> tuple[Partials, Given]:
    """`reduce_kept` with an explicit runtime."""
    if x.shape[2] != 1:
        partials = reduce_on(device, x, mask, phase)
        return partials, partials
    values = torch.empty(x.shape[:2], dtype=x.dtype, device=x.device)
    return reduce_on(device, x, mask, phase, values), values


def reduce_kept(x: Tensor, mask: Tensor | None, phase: int) -> tuple[Partials, Given]:
    """`reduce`, and what `samples` reads of it; see kernels/reference/samples.py. The one read of `x`: what samples with one
    position were is written by it too.
    """
    return reduce_kept_on(runtime(x), x, mask, phase)


def samples_on(device: Runtime | None, layers: Sequence[tuple[Sequence[Given], bool]], wide: bool) -> Tensor:
    """`samples` with an explicit runtime; None: that of the layers' own device."""
    first = layers[0][0][0]
    rows, where = (first.samples, first.buffer.device) if isinstance(first, Partials) else (len(first), first.device)
    launches: dict[int, list[list[int]]] = {}
    column = 0
    for calls, several in layers:
        for call, given in enumerate(calls):
            if isinstance(given, Partials):
                held, channels, many = given.buffer.data_ptr(), given.channels, given.samples
                shape = given.tiles * 2 + (given.dtype == "float64")
            else:
                held, (many, channels), shape = given.data_ptr(), given.shape, -1 - DTYPES[dtype_of(given)]
            if many != rows:
                raise InputError(f"a layer gave {many} samples, another one of the same batch {rows}")
            last = len(calls) if call + 1 == len(calls) else 0
            if channels:
                launches.setdefault(call, []).append([held, channels, shape, column, last * 2 + several])
        column += channels * (1 + several)
    out = torch.empty((rows, column + 1), dtype=torch.float64 if wide else torch.float32, device=where)
    for call, members in sorted(launches.items()):
        for at in range(0, len(members) if rows else 0, LAYERS):
            part = members[at : at + LAYERS]
            words = np.zeros(6 + 6 * LAYERS, np.int64)
            words[:6] = len(part), rows, out.data_ptr(), column + 1, wide, call
            table, blocks = words[6:].reshape(LAYERS, 6), 0
            for row, member in zip(table, part, strict=False):
                row[:] = *member, blocks
                blocks += above(member[1], NEURONS) * above(rows, SAMPLES)
            (device or runtime(out)).launch(KERNEL, blocks, words)
    return out


def samples(layers: Sequence[tuple[Sequence[Given], bool]], wide: bool) -> Tensor:
    """Views of a batch's samples, `[samples, features + 1]`, on their device; see kernels/reference/samples.py.

    One launch for up to 84 layers that were called once, one allocation by torch, no sync.
    """
    return samples_on(None, layers, wide)
