"""Channels fastest in memory: rows of columns, eight rows at a time, columns as SIMD lanes.

`by_fold` for [N, D], where eight consecutive samples share a fold; `by_sample` for [B, T, D] and channels_last. A masked row is
never listed, so it costs nothing.
"""

from __future__ import annotations

import numpy as np

from naa_fast.kernels.cpu.elements import compiled
from naa_fast.kernels.cpu.planes import (
    COUNT,
    HIGH,
    LANES,
    LOW,
    MAXIMUM,
    MEAN,
    PIVOT,
    S1,
    S4,
    TILE,
    TILE_HIGH,
    add_part,
    begin,
    begin_sample,
    careful,
    clear,
    end_sample,
    keep_part,
    settle,
    settle_alone,
    step_rows,
    trusted,
    untrusted_run,
)
from naa_fast.records import FOLD_BLOCK, FOLDS, Array


@compiled
def accumulate(x: Array, rows: Array, start: int, stop: int, column: int, width: int, work: Array) -> None:
    """Add `rows[start:stop]` to the sums: the one read of the tensor, and where the time goes.

    The eight rows taken together lie an eighth of the list apart: each is then the next piece of one of eight long streams.
    Eight neighbours of 1 KB are eight short ones, read ahead in less than half as fast.
    """
    q = (stop - start) // 8
    for r in range(start, start + q):
        r0, r1, r2, r3 = rows[r] + column, rows[r + q] + column, rows[r + 2 * q] + column, rows[r + 3 * q] + column
        r4, r5, r6, r7 = rows[r + 4 * q] + column, rows[r + 5 * q] + column, rows[r + 6 * q] + column, rows[r + 7 * q] + column
        step_rows(x, (r0, r1, r2, r3, r4, r5, r6, r7), width, work)
    for r in range(start + 8 * q, stop):
        step_rows(x, (rows[r] + column,), width, work)


@compiled
def by_fold(
    x: Array,
    row_stride: int,
    first: int,
    last: int,
    mask: Array,
    phase: int,
    lowest: int,
    highest: int,
    column: int,
    width: int,
    work: Array,
    totals: Array,
    reals: Array,
    counts: Array,
) -> None:
    """Moments of columns `column:column + width` of rows `first:last` by fold, into entries `lowest:highest` of `reals`
    [folds, moments, channels] and `counts`.

    Entry `k` is fold `k` from that of the batch's first row on, cyclically: a small batch has only few folds.

    `mask` is bool [rows], or empty for none. Rows come fold after fold out of spans short enough to stay in cache.
    """
    part, total = totals[FOLDS], totals[:FOLDS]
    rows = np.empty(TILE, np.int64)
    period = FOLDS * FOLD_BLOCK
    lead = phase % period
    oldest = first + lead - (first + lead) % period
    alone = oldest + FOLDS * TILE >= last + lead  # a tile a fold
    for k in range(0 if alone else highest - lowest):
        clear(total[k], width)
    for base in range(oldest, last + lead, FOLDS * TILE):
        for k in range(lowest, highest):
            fold = (lead // FOLD_BLOCK + k) % FOLDS
            n = 0
            for block in range(base + fold * FOLD_BLOCK - lead, base + FOLDS * TILE - lead, period):
                for r in range(max(block, first), min(block + FOLD_BLOCK, last)):
                    if len(mask) == 0 or mask[r]:
                        rows[n] = r * row_stride
                        n += 1
            if n > 0:
                begin(x, rows, n, column, width, work)
                begin_sample(width, work)
                accumulate(x, rows, 0, n, column, width, work)
                end_sample(width, work)
            if alone and n > 0:
                own, seen = reals[k, :, column : column + width], counts[k, :, column : column + width]
                if settle_alone(work, n, width, own, seen) == 0:
                    continue
            whole = total[0 if alone else k - lowest]
            if alone:
                clear(whole, width)
            if n > 0 and (alone or settle(work, n, width, whole) > 0):
                start, stop = untrusted_run(work, 0, width, LANES)
                while start < width:
                    careful(x, rows, 0, n, column + start, stop - start, part)
                    for c in range(stop - start):
                        add_part(whole, start + c, part, c)
                    if alone:
                        keep_part(whole, start, stop, reals[k], counts[k], column)
                    start, stop = untrusted_run(work, stop, width, LANES)
            elif alone:
                keep_part(whole, 0, width, reals[k], counts[k], column)
    for k in range(highest if alone else lowest, highest):
        keep_part(total[k - lowest], 0, width, reals[k], counts[k], column)


@compiled
def hold_nothing(held: Array, plane: int, width: int) -> None:
    """No position of a sample yet, in the first `width` columns of `join_sample`'s planes."""
    for c in range(width):
        held[c] = 0.0
        held[plane + c] = 0.0
        held[2 * plane + c] = -np.inf


@compiled
def join_sample(held: Array, plane: int, c: int, n: float, mean: float, high: float) -> None:
    """Add `n` positions of a sample to what is held of it: three planes, count, mean and maximum."""
    before = held[c]
    if n > 0:
        held[c] = before + n
        held[plane + c] += (mean - held[plane + c]) * (n / (before + n))
        held[2 * plane + c] = max(held[2 * plane + c], high)


@compiled
def by_sample(
    x: Array,
    sample_stride: int,
    row_stride: int,
    inner: int,
    first: int,
    last: int,
    mask: Array,
    column: int,
    width: int,
    work: Array,
    totals: Array,
    reals: Array,
    counts: Array,
    sample_mean: Array,
    sample_max: Array,
) -> None:
    """Moments of columns `column:column + width` over samples `first:last`, into `reals` [moments, channels], `counts`.

    Each sample's own mean and maximum go to `sample_mean` and `sample_max` [samples, channels], which hold NaN where a mask
    leaves a sample out. `mask` is bool [samples, inner], or has no rows for none. A tile holds whole samples, or part of one if
    that is long.
    """
    total, part, held = totals[0], totals[1], totals[2]
    rows = np.empty(TILE, np.int64)
    ends = np.empty(TILE, np.int64)  # of sample k of the tile in `rows`
    names = np.empty(TILE, np.int64)  # its index
    clear(total, width)
    hold_nothing(held, LANES, width)
    long = inner > TILE
    sample, position = first, 0
    while sample < last:
        n = 0
        samples = 0
        finished = True
        while sample < last and samples < TILE and n + (1 if long else inner) <= TILE:
            while position < inner and n < TILE:
                if len(mask) == 0 or mask[sample, position]:
                    rows[n] = sample * sample_stride + position * row_stride
                    n += 1
                position += 1
            if n > (ends[samples - 1] if samples > 0 else 0):
                ends[samples] = n
                names[samples] = sample
                samples += 1
            finished = position == inner
            if finished:
                sample += 1
                position = 0
            if long:
                break
        if n > 0:
            begin(x, rows, n, column, width, work)
            start = 0
            for k in range(samples):
                begin_sample(width, work)
                accumulate(x, rows, start, ends[k], column, width, work)
                end_sample(width, work)
                inverse = 1.0 / (ends[k] - start)
                if not long:
                    for c in range(width):
                        sample_mean[names[k], column + c] = np.float64(work[PIVOT + c]) + work[S1 + c] * inverse
                        sample_max[names[k], column + c] = work[HIGH + c]
                start = ends[k]
            bad = settle(work, n, width, total)
            if long:
                for c in range(width):
                    if bad == 0 or trusted(work[S4 + c], work[LOW + c], work[TILE_HIGH + c]):
                        join_sample(held, LANES, c, n, np.float64(work[PIVOT + c]) + work[S1 + c] / n, work[HIGH + c])
            if bad > 0:
                left, right = untrusted_run(work, 0, width, LANES)
                while left < width:
                    start = 0
                    for k in range(samples):
                        careful(x, rows, start, ends[k], column + left, right - left, part)
                        start = ends[k]
                        for c in range(right - left):
                            add_part(total, left + c, part, c)
                            if long:
                                join_sample(held, LANES, left + c, part[COUNT + c], part[MEAN + c], part[MAXIMUM + c])
                            else:
                                seen = part[COUNT + c] > 0
                                sample_mean[names[k], column + left + c] = part[MEAN + c] if seen else np.nan
                                sample_max[names[k], column + left + c] = part[MAXIMUM + c] if seen else np.nan
                    left, right = untrusted_run(work, right, width, LANES)
        if long and finished:
            for c in range(width):
                seen = held[c] > 0
                sample_mean[sample - 1, column + c] = held[LANES + c] if seen else np.nan
                sample_max[sample - 1, column + c] = held[2 * LANES + c] if seen else np.nan
            hold_nothing(held, LANES, width)
    keep_part(total, 0, width, reals, counts, column)


@compiled
def by_samples(
    x: Array,
    sample_stride: int,
    row_stride: int,
    inner: int,
    mask: Array,
    jobs: Array,
    work: Array,
    totals: Array,
    reals: Array,
    counts: Array,
    sample_mean: Array,
    sample_max: Array,
) -> None:
    """`by_sample` for each of `jobs` [jobs, 5]: the part of `reals` and `counts` it goes to, first, last, column, width."""
    for j in range(len(jobs)):
        k, first, last, column, width = jobs[j, 0], jobs[j, 1], jobs[j, 2], jobs[j, 3], jobs[j, 4]
        results = reals[k], counts[k], sample_mean, sample_max
        by_sample(x, sample_stride, row_stride, inner, first, last, mask, column, width, work, totals, *results)
