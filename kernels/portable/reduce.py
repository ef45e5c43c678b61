"""`reduce` in plain torch: moments of every sample, or of every fold, in about 25 operations.

Start with `tile`, which is `records.Moments.of`; `merged` adds tiles up. Nothing here waits for the device: shapes decide
every branch, never values.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from naa_fast.records import COUNT_FIELDS, FOLD_BLOCK, FOLDS, MOMENT_FIELDS

TILE_VALUES = {"cpu": 1 << 20, "": 1 << 24}
"""Values worked on at a time, on the host and on other devices: about four float64 or bool temporaries of them are alive at
once, 25 and 400 MB. A larger layer is read in pieces, each of which takes its own operations: dear on a device, and cheaper on
the host than memory that no cache holds."""

FLOAT32_ROWS = 512
"""Values of a tile where the device has no float64: as many additions as tests/tolerances.py grants float32."""

PERIOD = FOLDS * FOLD_BLOCK

Moments = tuple[Tensor, Tensor]
"""`(reals [6, ...], counts [3, ...])`: float64 and int64, `records.MOMENT_FIELDS` and `COUNT_FIELDS`. The extremes of no
observation mean nothing, all else is 0 then."""


class Partials(NamedTuple):
    """`reals` [6, items, channels] and `counts` [3, items, channels], see `Moments`.

    Items are samples if `per_sample`, else folds: that of the first row first, cyclically, and those that rows reach.
    """

    reals: Tensor
    counts: Tensor
    per_sample: bool


def has_float64(device: torch.device) -> bool:
    """False on Apple's MPS, and on Intel's GPUs for laptops and desks."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def tile_values(x: Tensor) -> int:
    return TILE_VALUES.get(x.device.type, TILE_VALUES[""])


def arithmetic(x: Tensor) -> torch.dtype:
    """What sums are formed in; values that are float64 already stay so."""
    return torch.float64 if x.dtype == torch.float64 or has_float64(x.device) else torch.float32


def home(device: torch.device) -> torch.device:
    """Where partials and state live: on the device, or on the host where the device cannot hold float64."""
    return device if has_float64(device) else torch.device("cpu")


def tile(v: Tensor, observed: Tensor | None, dims: tuple[int, ...], exact: bool) -> Moments:
    """Moments of `v` (float64 or float32, overwritten) over `dims`.

    `observed`: how many values were observed at all, where not all were; those that were not are NaN. `exact`: sums of equal
    values do not round, as those of float32 values in float64: else the centre of equal values has to be looked up.
    """
    spread = [1 if dim in dims else size for dim, size in enumerate(v.shape)]
    rows = prod(v.shape[dim] for dim in dims)
    invalid = (v - v).ne(0)  # of NaN and infinities it is NaN
    broken = invalid.sum(dims)
    count = rows - broken
    if not exact:
        low, high = v.masked_fill(invalid, torch.inf).amin(dims), v.masked_fill(invalid, -torch.inf).amax(dims)
    v = v.masked_fill_(invalid, 0.0)
    n = count.clamp(min=1)
    mean = v.sum(dims) / n
    positives = v.gt(0).sum(dims)
    if exact:  # the mean lies between the extremes, so that what stands in for no value moves neither
        centre = mean.view(spread)
        v = torch.where(invalid, centre, v)
        low, high = v.amin(dims), v.amax(dims)
        d = v.sub_(centre)
    else:
        mean = torch.where(low == high, low, mean)
        d = v.sub_(mean.view(spread)).masked_fill_(invalid, 0.0)
    counts = torch.stack([count, positives, broken if observed is None else observed - count])
    if v.dtype == torch.float32:
        return about(mean, d, n, low, high, dims, spread), counts.to(home(v.device))
    square = d * d
    m2 = square.sum(dims)
    m3 = d.mul_(square).sum(dims)
    m4 = square.mul_(square).sum(dims)
    return torch.stack([mean, m2, m3, m4, low, high]), counts


def about(mean: Tensor, d: Tensor, n: Tensor, low: Tensor, high: Tensor, dims: tuple[int, ...], spread: list[int]) -> Tensor:
    """The `reals` of a tile in float32, of deviations `d` (overwritten) from its mean as far as float32 knows it.

    Powers are formed of deviations over the largest one, so that they cannot overflow; what the mean is off is taken out again in
    float64.
    """
    scale = d.abs().amax(dims).clamp_(min=1e-37)
    d = d.div_(scale.view(spread))
    s1 = d.sum(dims)
    square = d * d
    s2 = square.sum(dims)
    s3 = d.mul_(square).sum(dims)
    s4 = square.mul_(square).sum(dims)
    held = torch.stack([mean, scale, s1, s2, s3, s4, low, high, n.to(torch.float32)]).to(home(d.device), torch.float64)
    mean, scale, s1, s2, s3, s4, low, high, observations = held.unbind()
    shift = s1 / observations
    square = shift * shift
    m2 = (s2 - observations * square).clamp_(min=0) * scale**2
    m3 = (s3 - 3 * shift * s2 + 2 * observations * square * shift) * scale**3
    m4 = (s4 - 4 * shift * s3 + 6 * square * s2 - 3 * observations * square * square).clamp_(min=0) * scale**4
    return torch.stack([mean + shift * scale, m2, m3, m4, low, high])


def merged(reals: Tensor, counts: Tensor, dim: int) -> Moments:
    """Moments of all the parts along `dim` of `reals` [6, ...] and `counts` [3, ...] together; extremes of nothing are infinite.

    All parts at once, centred on the common mean: the many-part form of `Moments.merge`, and like it exact on constants.
    """
    along = dim - 1
    mean, m2, m3, m4, low, high = reals.unbind()
    empty = counts[0].eq(0)
    n = counts[0].to(torch.float64)
    low = low.masked_fill(empty, torch.inf).amin(along, keepdim=True)
    high = high.masked_fill(empty, -torch.inf).amax(along, keepdim=True)
    centre = (n * mean).sum(along, keepdim=True) / n.sum(along, keepdim=True).clamp_(min=1)
    centre = torch.where(low == high, low, centre)  # of equal values the sum rounds
    d = (mean - centre).masked_fill_(empty, 0.0)
    nd2 = (n * d).mul_(d)
    d2 = d * d
    sums = [
        (m2 + nd2).sum(along, keepdim=True),
        m3.addcmul(m2, d, value=3).addcmul_(nd2, d).sum(along, keepdim=True),
        m4.addcmul(m3, d, value=4).addcmul_(m2, d2, value=6).addcmul_(nd2, d2).sum(along, keepdim=True),
    ]
    return torch.stack([centre, *sums, low, high]).squeeze(dim), counts.sum(dim)


def nothing(items: int, channels: int, device: torch.device) -> Moments:
    """Moments of no observation."""
    shape = (items, channels)
    return (
        torch.zeros((len(MOMENT_FIELDS), *shape), dtype=torch.float64, device=device),
        torch.zeros((len(COUNT_FIELDS), *shape), dtype=torch.int64, device=device),
    )


def spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    step = max(step, 1)
    for start in range(0, length, step):
        yield start, min(start + step, length)


def joined(parts: list[Moments], dim: int) -> Moments:
    """Parts next to each other along `dim`."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part[0] for part in parts], dim), torch.cat([part[1] for part in parts], dim)


def summed(parts: list[Moments]) -> Moments:
    """Parts of the same items, together."""
    if len(parts) == 1:
        return parts[0]
    return merged(torch.stack([part[0] for part in parts], 1), torch.stack([part[1] for part in parts], 1), 1)


def folds_in(rows: int, lead: int) -> int:
    """How many folds so many rows reach, of which the first is the `lead`-th of its block."""
    return min(FOLDS, -(-(lead + rows) // FOLD_BLOCK))


def rows_by_fold(x: Tensor, mask: Tensor | None, lead: int, exact: bool) -> Moments:
    """`by_fold` in one tile; the first row is the `lead`-th of its block.

    Rows are laid into blocks of FOLD_BLOCK, so that a fold is an axis and not an index.
    """
    (rows, channels), work = x.shape, arithmetic(x)
    folds = folds_in(rows, lead)
    period = folds * FOLD_BLOCK
    observed = None
    if lead == 0 and rows % period == 0:
        held = x.to(work, copy=True, memory_format=torch.contiguous_format)
    else:
        held = x.new_full((-(-(lead + rows) // period) * period, channels), torch.nan, dtype=work)
        held[lead : lead + rows] = x
        # Of each fold's rows, those that end before a row: whole periods, and what is left.
        starts = torch.arange(0, period, FOLD_BLOCK, device=x.device)
        last = (lead + rows) // period * FOLD_BLOCK
        observed = ((lead + rows) % period - starts).clamp_(0, FOLD_BLOCK).add_(last).sub_((lead - starts).clamp_(0, FOLD_BLOCK))
    if mask is not None:
        seen = mask.new_zeros(len(held))
        seen[lead : lead + rows] = mask
        held.masked_fill_(~seen[:, None], torch.nan)
        observed = seen.view(-1, folds, FOLD_BLOCK).sum((0, 2))
    return tile(held.view(-1, folds, FOLD_BLOCK, channels), None if observed is None else observed[:, None], (0, 2), exact)


def by_fold(x: Tensor, mask: Tensor | None, phase: int) -> Moments:
    """Moments `[folds, channels]` of the rows of `x` `[rows, channels]` by the fold of `phase` + row.

    The first row's fold comes first, cyclically, and folds the rows do not reach are left out.
    """
    rows, channels = x.shape
    lead, exact = phase % FOLD_BLOCK, is_exact(x)
    folds = folds_in(rows, lead)
    if x.numel() == 0:
        return nothing(folds if rows else 0, channels, home(x.device))
    most = tile_values(x)
    wide = max(1, min(channels, most // PERIOD))
    most = most if arithmetic(x) == torch.float64 else min(most, FLOAT32_ROWS * FOLDS * wide)
    tall = max(1, most // wide // PERIOD) * PERIOD
    columns = []
    for left, right in spans(channels, wide):
        parts = []
        for top, bottom in spans(lead + rows, tall):
            start, stop = max(top - lead, 0), min(bottom - lead, rows)
            whole = (start, stop, left, right) == (0, rows, 0, channels)
            part = rows_by_fold(
                x if whole else x[start:stop, left:right],
                mask if whole or mask is None else mask[start:stop],
                start + lead - top,
                exact,
            )
            parts.append(padded(part, folds))
        columns.append(summed(parts))
    return joined(columns, 2)


def padded(part: Moments, items: int) -> Moments:
    """`part` with items of no observation behind its own."""
    missing = items - part[0].shape[1]
    return joined([part, nothing(missing, part[0].shape[2], part[0].device)], 1) if missing else part


def by_sample(x: Tensor, mask: Tensor | None) -> Moments:
    """Moments `[outer, channels]` over the positions of each sample of `x` `[outer, channels, inner]`."""
    outer, channels, inner = x.shape
    if x.numel() == 0:
        return nothing(outer, channels, home(x.device))
    most = tile_values(x)
    long = min(inner, most if arithmetic(x) == torch.float64 else FLOAT32_ROWS)
    wide = max(1, min(channels, most // inner))
    many = max(1, most // (inner * wide))
    rows = []
    for first, last in spans(outer, many):
        columns = []
        for left, right in spans(channels, wide):
            whole = (first, last, left, right) == (0, outer, 0, channels)
            part = x if whole else x[first:last, left:right]
            columns.append(positions(part, None if mask is None else mask[first:last], long))
        rows.append(joined(columns, 2))
    return joined(rows, 1)


def positions(x: Tensor, mask: Tensor | None, long: int) -> Moments:
    """`by_sample` of few enough values, in tiles of at most `long` positions: whole ones together, and what is left."""
    inner = x.shape[2]
    if inner <= long:
        return of_positions(x, mask)
    end = inner // long * long
    seen = None if mask is None else mask[:, :end].reshape(len(mask), -1, long)
    parts = [merged(*of_positions(x[:, :, :end].reshape(*x.shape[:2], -1, long), seen), 3)]
    if end < inner:
        parts.append(of_positions(x[:, :, end:], None if mask is None else mask[:, end:]))
    return summed(parts)


def of_positions(x: Tensor, mask: Tensor | None) -> Moments:
    """Moments over the last axis of `x` `[samples, channels, ...]`."""
    axis = (x.ndim - 1,)
    if mask is None:
        return tile(x.to(arithmetic(x), copy=True), None, axis, is_exact(x))
    missing = torch.full((1,), torch.nan, dtype=arithmetic(x), device=x.device)
    seen = mask.unsqueeze(1)
    return tile(torch.where(seen, x, missing), seen.sum(-1), axis, is_exact(x))


def is_exact(x: Tensor) -> bool:
    """Whether sums of equal values of `x` do not round in its `arithmetic`: their 24 bits leave room for 2^29 of them."""
    return x.dtype != torch.float64 and arithmetic(x) == torch.float64


def reduce(x: Tensor, mask: Tensor | None, phase: int) -> Partials:
    """Partial moments of `x` `[outer, channels, inner]`; see kernels/reference/reduce.py.

    float64 throughout: about a dozen passes over the layer, no host sync. Devices without float64 use float32 tiles.
    """
    x = x.detach() if x.requires_grad else x
    if x.shape[2] == 1:
        return Partials(*by_fold(x[:, :, 0], None if mask is None else mask[:, 0], phase), per_sample=False)
    return Partials(*by_sample(x, mask), per_sample=True)
