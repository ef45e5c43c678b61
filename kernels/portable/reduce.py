"""`reduce` in plain torch: the definition's two passes, tile by tile so that temporaries stay small.

Start with `tile`, which is `records.Moments.of`; `merged` adds tiles up. Nothing here waits for the device: shapes decide
every branch, never values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from naa_fast.records import FOLD_BLOCK, FOLDS

TILE_VALUES = 1 << 20
"""Values in one tile: about six float64 or bool temporaries of it are alive at once, 40 MB."""

FLOAT32_ROWS = 512
"""Rows per tile where the device has no float64: as many additions as tests/tolerances.py grants float32."""


class Partials(NamedTuple):
    """`reals` [6, items, channels] (float64, `records.MOMENT_FIELDS`) and `counts` [3, items, channels] (int64).

    Items are samples if `per_sample`, else folds, as in kernels/reference/reduce.py.
    """

    reals: Tensor
    counts: Tensor
    per_sample: bool


def has_float64(device: torch.device) -> bool:
    """False on Apple's MPS."""
    return device.type != "mps"


def arithmetic(x: Tensor) -> torch.dtype:
    """What sums are formed in; values that are float64 already stay so."""
    return torch.float64 if x.dtype == torch.float64 or has_float64(x.device) else torch.float32


def home(device: torch.device) -> torch.device:
    """Where partials and state live: on the device, or on the host where the device cannot hold float64."""
    return device if has_float64(device) else torch.device("cpu")


def tile(values: Tensor, observed: Tensor | None, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Moments of `values` over `dims`: `(reals [6, ...] float64, counts [3, ...] int64)`. Overwrites `values`.

    `values` is float64 or float32; float32 power sums are formed of deviations over the largest one, so they cannot overflow.
    """
    finite = torch.isfinite(values)
    valid = finite if observed is None else finite & observed
    invalid = ~valid
    nonfinite = (~finite if observed is None else observed & ~finite).sum(dims)
    positives = (valid & (values > 0)).sum(dims)
    count = valid.sum(dims, keepdim=True)
    minimum = values.masked_fill(invalid, torch.inf).amin(dims)
    maximum = values.masked_fill(invalid, -torch.inf).amax(dims)
    n = count.clamp(min=1).to(values.dtype)
    mean = values.masked_fill_(invalid, 0.0).sum(dims, keepdim=True) / n
    centred = values.sub_(mean).masked_fill_(invalid, 0.0)
    shift = centred.sum(dims, keepdim=True) / n  # the digits the plain sum lost
    centred = centred.sub_(shift).masked_fill_(invalid, 0.0)
    where = home(values.device)

    def kept(part: Tensor) -> Tensor:
        return part.to(where, torch.float64)

    scale = torch.ones((), dtype=torch.float64, device=where)
    if values.dtype == torch.float32:
        largest = centred.abs().amax(dims, keepdim=True)
        largest = torch.where(largest > 0, largest, 1.0)
        centred, scale = centred.div_(largest), kept(largest.squeeze(dims))
    square = centred * centred
    m2 = kept(square.sum(dims)) * scale**2
    m3 = kept(centred.mul_(square).sum(dims)) * scale**3
    m4 = kept(square.square_().sum(dims)) * scale**4
    mean = kept(mean.squeeze(dims)) + kept(shift.squeeze(dims))
    reals = torch.stack([mean, m2, m3, m4, kept(minimum), kept(maximum)])
    return reals, torch.stack([count.squeeze(dims), positives, nonfinite]).to(where)


def nothing(items: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Moments of no observation: the identity of `merged`."""
    reals = torch.zeros((6, items, channels), dtype=torch.float64, device=device)
    reals[4].fill_(torch.inf)
    reals[5].fill_(-torch.inf)
    return reals, torch.zeros((3, items, channels), dtype=torch.int64, device=device)


def merged(reals: Tensor, counts: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Moments of all the parts along `dim` of `reals` [6, ...] and `counts` [3, ...] together.

    All parts at once, centred on the common mean: the many-part form of `Moments.merge`, and like it exact on constants.
    """
    n = counts[0].to(torch.float64)
    total = n.sum(dim - 1).clamp(min=1.0)
    means = torch.where(n > 0, reals[0], 0.0)
    mean = (n * means).sum(dim - 1) / total
    mean = mean + (n * (means - mean.unsqueeze(dim - 1))).sum(dim - 1) / total
    delta = torch.where(n > 0, means - mean.unsqueeze(dim - 1), 0.0)
    _, m2, m3, m4, minimum, maximum = reals
    delta2 = delta * delta
    sums = [
        (m2 + n * delta2).sum(dim - 1),
        (m3 + 3.0 * delta * m2 + n * delta2 * delta).sum(dim - 1),
        (m4 + 4.0 * delta * m3 + 6.0 * delta2 * m2 + n * delta2 * delta2).sum(dim - 1),
    ]
    return torch.stack([mean, *sums, minimum.amin(dim - 1), maximum.amax(dim - 1)]), counts.sum(dim)


def spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    step = max(step, 1)
    for start in range(0, length, step):
        yield start, min(start + step, length)


def by_fold(x: Tensor, mask: Tensor | None, phase: int) -> tuple[Tensor, Tensor]:
    """Moments `[FOLDS, channels]` of the rows of `x` `[rows, channels]` by the fold of `phase` + row.

    Rows are laid into blocks of FOLDS * FOLD_BLOCK, so a fold is an axis and not an index.
    """
    rows, channels = x.shape
    period = FOLDS * FOLD_BLOCK
    lead = phase % period
    work = arithmetic(x)
    row_limit = FLOAT32_ROWS * FOLDS if work == torch.float32 else TILE_VALUES
    wide = max(1, min(channels, TILE_VALUES // period))
    tall = max(1, min(row_limit, TILE_VALUES // wide) // period) * period
    columns = []
    for left, right in spans(channels, wide):
        parts = [nothing(FOLDS, right - left, home(x.device))]
        for top, bottom in spans(lead + rows, tall):
            start, stop = max(top - lead, 0), min(bottom - lead, rows)
            if start >= stop:
                continue
            blocks = -(-(bottom - top) // period)
            first = start + lead - top
            held = torch.zeros((blocks * period, right - left), dtype=work, device=x.device)
            held[first : first + stop - start] = x[start:stop, left:right]
            seen = torch.zeros(blocks * period, dtype=torch.bool, device=x.device)
            seen[first : first + stop - start] = True if mask is None else mask[start:stop]
            parts.append(
                tile(held.view(blocks, FOLDS, FOLD_BLOCK, -1), seen.view(blocks, FOLDS, FOLD_BLOCK, 1), (0, 2)),
            )
        columns.append(merged(torch.stack([p[0] for p in parts], 1), torch.stack([p[1] for p in parts], 1), 1))
    if not columns:
        return nothing(FOLDS, channels, home(x.device))
    return torch.cat([c[0] for c in columns], 2), torch.cat([c[1] for c in columns], 2)


def by_sample(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Moments `[outer, channels]` over the positions of each sample of `x` `[outer, channels, inner]`."""
    outer, channels, inner = x.shape
    work = arithmetic(x)
    reals, counts = nothing(outer, channels, home(x.device))
    if inner == 0:
        return reals, counts
    long = min(inner, FLOAT32_ROWS if work == torch.float32 else TILE_VALUES)
    wide = max(1, min(channels, TILE_VALUES // long))
    many = max(1, TILE_VALUES // (long * wide))
    for first, last in spans(outer, many):
        for left, right in spans(channels, wide):
            parts = []
            for start, stop in spans(inner, long):
                held = x[first:last, left:right, start:stop].to(work, copy=True)
                seen = None if mask is None else mask[first:last, None, start:stop]
                parts.append(tile(held, seen, (2,)))
            whole = merged(torch.stack([p[0] for p in parts], 1), torch.stack([p[1] for p in parts], 1), 1)
            reals[:, first:last, left:right], counts[:, first:last, left:right] = whole
    return reals, counts


def reduce(x: Tensor, mask: Tensor | None, phase: int) -> Partials:
    """Partial moments of `x` `[outer, channels, inner]`; see kernels/reference/reduce.py.

    float64 throughout: about a dozen passes over a tile, no host sync. Devices without float64 use float32 tiles.
    """
    x = x.detach()
    if x.shape[2] == 1:
        return Partials(*by_fold(x[:, :, 0], None if mask is None else mask[:, 0], phase), per_sample=False)
    return Partials(*by_sample(x, mask), per_sample=True)
