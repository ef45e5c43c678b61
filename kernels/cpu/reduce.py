"""`reduce` on the host: looks at strides, cuts the tensor into tasks by shape alone, and hands them to threads.

No copy where channels or positions are neighbours in memory, whatever the other strides; else samples are copied a few at a time.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import NamedTuple

import numpy as np

from naa_fast.kernels.cpu import images, rows
from naa_fast.kernels.cpu.memory import room
from naa_fast.kernels.cpu.parts import join_parts
from naa_fast.kernels.cpu.planes import LANES, MOMENTS, TILE, TOTAL_SIZE, WORK_SIZE
from naa_fast.kernels.cpu.threads import SERIAL_BYTES, run, shares
from naa_fast.records import COUNT_FIELDS, FOLD_BLOCK, FOLDS, Array

TASKS = 16
"""Tasks to aim for: enough that an unlucky thread does not keep the others waiting."""

PARTS_SHARE = 0.02
"""Most that the parts of a sum may weigh beside the tensor: memory fresh from the system costs more time than reading as much."""

FOLD_BYTES = 8192
"""Least bytes of a fold's neighbouring rows where folds are tasks of their own: of shorter runs the reading ahead is lost."""

COPIED_BYTES = 8 << 20
"""Most that is copied at a time of a tensor whose layout no kernel reads in place."""

EVERY = np.empty(0, bool)
"""The mask of samples all of which are observed."""

_own = threading.local()


class Partials(NamedTuple):
    """`reals` [parts, moments, channels] float64 and `counts` [parts, counts, channels] int64, fields as in `records`.

    `per_sample` False: parts are the batch's folds, its first row's first; the rest is empty.
    `per_sample` True: parts are runs of samples, whose positions are summed up already. Of single samples only what `fold` takes
    as observations is kept: `sample_mean` and `sample_max` [samples, channels] (NaN where no position was finite), and `observed`
    [samples], which samples had any position at all. All moments of every sample would be as large as an image of 7x7.
    """

    reals: Array
    counts: Array
    per_sample: bool
    sample_mean: Array
    sample_max: Array
    observed: Array


def elements(x: Array) -> Array:
    """`x` in a type the kernels know: float16 as its bits in int16 (uint16 is taken by bfloat16)."""
    if x.dtype in (np.float32, np.float64, np.uint16):
        return x
    if x.dtype == np.float16:
        return x.view(np.int16)
    return x.astype(np.float64)


def flat(x: Array) -> tuple[Array, tuple[int, ...]] | None:
    """One-dimensional view from the lowest address of `x` to its highest, and strides in elements from there.

    None if an axis runs backwards or strides are no multiple of the element: nothing produces these, and they can be copied.
    """
    if x.ndim == 2 and x.flags.c_contiguous and x.shape[1] > 1:  # the most common, in a fifth of the time
        return x.reshape(-1), (x.shape[1], 1)
    size = x.itemsize
    # NumPy gives axes of length 1 any stride at all.
    steps = [stride if length > 1 else size for length, stride in zip(x.shape, x.strides, strict=True)]
    if any(step < 0 or step % size for step in steps):
        return None
    strides = tuple(step // size for step in steps)
    if x.flags.c_contiguous:
        return x.reshape(-1), strides
    span = 1 + sum((length - 1) * stride for length, stride in zip(x.shape, strides, strict=True))
    return np.lib.stride_tricks.as_strided(x, (span,), (size,)), strides


def workspace(x: Array) -> tuple[Array, Array, Array]:
    """This thread's planes of a tile's sums, of the float64 moments of a task and what is added to them, and of sums and maxima
    of single samples.
    """
    kind = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    held: dict[str, tuple[Array, Array, Array]] = _own.__dict__
    if kind.char not in held:
        held[kind.char] = room(WORK_SIZE, kind), room((1 + FOLDS, TOTAL_SIZE)), room(LANES * images.SUMS, kind)
    return held[kind.char]


def pieces(length: int, least: int, most: int) -> list[tuple[int, int]]:
    """`range(length)` in at most `most` runs, each a multiple of `least` but the last."""
    step = -(-length // max(most, 1))
    step = -(-step // least) * least
    return [(start, min(start + step, length)) for start in range(0, length, max(step, 1))]


def blocks(channels: int, widest: int) -> list[tuple[int, int]]:
    """Runs of columns as (first, width)."""
    return [(start, min(widest, channels - start)) for start in range(0, channels, widest)]


def reduce_folds(x: Array, mask: Array | None, phase: int) -> tuple[Array, Array]:
    """Moments of `x` [rows, channels] by fold: `(reals [folds, moments, channels], counts [folds, counts, channels])`.

    The first row's fold comes first, cyclically, and folds the rows do not reach are left out.
    """
    count, channels = x.shape
    layout = flat(x)
    if layout is None or (layout[1][1] != 1):
        layout = flat(np.ascontiguousarray(x))
        assert layout is not None
    data, (row_stride, _) = layout
    columns = blocks(channels, LANES)
    folds = min(FOLDS, -(-(phase % FOLD_BLOCK + count) // FOLD_BLOCK))
    affordable = int(PARTS_SHARE * x.nbytes / (folds * (MOMENTS + len(COUNT_FIELDS)) * 8 * channels))
    alone = x.nbytes < SERIAL_BYTES or FOLD_BLOCK * channels * x.itemsize < FOLD_BYTES
    shared = [(0, folds)] if alone else pieces(folds, 1, -(-TASKS // len(columns)))
    spans = pieces(count, FOLDS * TILE, min(-(-TASKS // (len(columns) * len(shared))), max(affordable, 1)))
    reals = room((len(spans), folds, MOMENTS, channels))
    counts = room((len(spans), folds, len(COUNT_FIELDS), channels), np.int64)
    seen = EVERY if mask is None else np.ascontiguousarray(mask)

    def task(k: int, span: tuple[int, int], some: tuple[int, int], block: tuple[int, int]) -> None:
        rows.by_fold(data, row_stride, *span, seen, phase, *some, *block, *workspace(data)[:2], reals[k], counts[k])

    run([partial(task, k, span, some, block) for k, span in enumerate(spans) for some in shared for block in columns], x.nbytes)
    for k in range(1, len(spans)):
        join_parts(reals[0], counts[0], reals[k], counts[k])
    return reals[0], counts[0]


def reduce_samples(x: Array, mask: Array | None, sample_mean: Array, sample_max: Array) -> tuple[Array, Array] | None:
    """Moments over positions and samples of `x` [samples, channels, inner], in parts; None if no kernel reads the layout."""
    samples, channels, inner = x.shape
    layout = flat(x)
    if layout is None:
        return None
    data, (sample_stride, channel_stride, row_stride) = layout
    across = row_stride == 1 and mask is None
    if not across and channel_stride != 1:
        return None
    wide = LANES
    if across:  # narrower where samples are too few to be tasks of their own
        least = -(-SERIAL_BYTES // (images.GROUP * inner * x.itemsize))
        wide = min(images.CHANNELS, max(-(-channels * -(-samples // images.GROUP) // TASKS), least))
    columns = blocks(channels, wide)
    spans = pieces(samples, images.GROUP if across else 1, -(-TASKS // len(columns)))
    reals = room((len(spans), MOMENTS, channels))
    counts = room((len(spans), len(COUNT_FIELDS), channels), np.int64)
    seen = np.empty((0, inner), bool) if mask is None else np.ascontiguousarray(mask)
    jobs = np.array([(k, *span, *block) for k, span in enumerate(spans) for block in columns])

    def task(own: slice) -> None:
        work, totals, single = workspace(data)
        results = reals, counts, sample_mean, sample_max
        if across:
            images.by_samples(data, sample_stride, channel_stride, inner, jobs[own], work, totals, single, *results)
        else:
            rows.by_samples(data, sample_stride, row_stride, inner, seen, jobs[own], work, totals, *results)

    run([partial(task, own) for own in shares(len(jobs), x.nbytes)], x.nbytes)
    return reals, counts


def reduce(x: Array, mask: Array | None, phase: int) -> Partials:
    """Partial moments of `x` [outer, channels, inner], any strides: one read, no copy of the common layouts.

    Types and meaning as in kernels/reference/reduce.py; only single samples' power sums are not kept, see `Partials`.
    """
    x = elements(x)
    outer, channels, inner = x.shape
    if x.size == 0 or inner == 1:
        reals, counts = np.empty((0, MOMENTS, channels)), np.empty((0, len(COUNT_FIELDS), channels), np.int64)
        if x.size:
            reals, counts = reduce_folds(x[:, :, 0], None if mask is None else mask[:, 0], phase)
        return Partials(reals, counts, False, reals[:0, 0], reals[:0, 0], EVERY)
    observed: Array = np.ones(outer, bool) if mask is None else np.asarray(mask.any(axis=1))
    sample_mean, sample_max = room((2, outer, channels))
    if mask is not None:
        sample_mean[:], sample_max[:] = np.nan, np.nan
    whole = reduce_samples(x, mask, sample_mean, sample_max)
    if whole is None:
        done = []
        step = max(1, COPIED_BYTES // (channels * inner * x.itemsize))
        for start in range(0, outer, step):
            few = slice(start, min(start + step, outer))
            copy = np.ascontiguousarray(x[few].transpose(0, 2, 1)).transpose(0, 2, 1)
            result = reduce_samples(copy, None if mask is None else mask[few], sample_mean[few], sample_max[few])
            assert result is not None
            done.append(result)
        whole = np.concatenate([d[0] for d in done]), np.concatenate([d[1] for d in done])
    return Partials(*whole, True, sample_mean, sample_max, observed)
