"""Merging float64 moments that already stand in arrays: parts of a batch, and a batch into the state."""

from __future__ import annotations

import numpy as np

from naa_fast.kernels.cpu.elements import compiled
from naa_fast.kernels.cpu.planes import MOMENTS, NARROW
from naa_fast.records import COUNT_FIELDS, FOLDS, Array

COUNTED = len(COUNT_FIELDS)
UNEVEN = tuple(k for k, name in enumerate(COUNT_FIELDS) if name not in ("count", "nonfinite"))
"""The counts that differ between neurons even where no value is NaN or infinite."""
INTO, MORE = 0, MOMENTS * NARROW
"""Planes of moments, at offsets known to the compiler (see planes.py): those that are merged into, and those that are merged."""


@compiled
def join_one(reals: Array, counts: Array, more: Array, more_counts: Array) -> None:
    """Merge `more` [moments, channels] into `reals`, `more_counts` [counts, channels] into `counts`."""
    for c in range(reals.shape[1]):
        n_a, n_b = np.float64(counts[0, c]), np.float64(more_counts[0, c])
        divisor = max(n_a + n_b, 1.0)
        share_a, share_b = n_a / divisor, n_b / divisor
        mean_a, mean_b = reals[0, c], more[0, c]
        m2_a, m2_b = reals[1, c], more[1, c]
        m3_a, m3_b = reals[2, c], more[2, c]
        delta = mean_b - mean_a if (n_a > 0) & (n_b > 0) else 0.0
        both = n_a * share_b
        delta2 = delta * delta
        skew = share_a - share_b
        reals[0, c] = mean_a if mean_a == mean_b else share_a * mean_a + share_b * mean_b
        reals[1, c] = m2_a + m2_b + delta2 * both
        reals[2, c] = m3_a + m3_b + delta2 * delta * both * skew + 3.0 * delta * (share_a * m2_b - share_b * m2_a)
        reals[3, c] += (
            more[3, c]
            + delta2 * delta2 * both * (skew * skew + share_a * share_b)
            + 6.0 * delta2 * (share_a * share_a * m2_b + share_b * share_b * m2_a)
            + 4.0 * delta * (share_a * m3_b - share_b * m3_a)
        )
        reals[4, c] = min(reals[4, c], more[4, c])
        reals[5, c] = max(reals[5, c], more[5, c])
        for k in range(COUNTED):
            counts[k, c] += more_counts[k, c]


@compiled
def join_parts(reals: Array, counts: Array, more: Array, more_counts: Array) -> None:
    """Merge every part of `more` [parts, moments, channels] into the same part of `reals`; likewise the counts."""
    for part in range(reals.shape[0]):
        join_one(reals[part], counts[part], more[part], more_counts[part])


@compiled
def together(reals: Array, counts: Array) -> tuple[Array, Array]:
    """All parts of `reals` [parts, moments, channels], merged first to last, as [moments, channels]; likewise the counts."""
    if len(reals) == 0:
        return np.empty((MOMENTS, reals.shape[2])), np.empty((COUNTED, reals.shape[2]), np.int64)
    whole, whole_counts = reals[0].copy(), counts[0].copy()
    for part in range(1, len(reals)):
        join_one(whole, whole_counts, reals[part], counts[part])
    return whole, whole_counts


@compiled
def join_folds(folds: Array, first: int, more: Array, more_counts: Array) -> None:
    """Merge moments `more` [parts, moments, channels] of folds `first`, `first` + 1, ... into `folds` [3, FOLDS, channels].

    As `records.Folds.merge`.
    """
    for k in range(more.shape[0]):
        f = (first + k) % FOLDS
        for c in range(more.shape[2]):
            n_a, n_b = folds[0, f, c], np.float64(more_counts[k, 0, c])
            n = max(n_a + n_b, 1.0)
            mean_a, mean_b = folds[1, f, c], more[k, 0, c]
            delta = mean_b - mean_a if (n_a > 0) & (n_b > 0) else 0.0
            folds[0, f, c] = n_a + n_b
            folds[1, f, c] = mean_a if mean_a == mean_b else (n_a / n) * mean_a + (n_b / n) * mean_b
            folds[2, f, c] += more[k, 1, c] + delta * delta * (n_a * (n_b / n))


@compiled
def take(reals: Array, start: int, few: int, flat: Array, to: int) -> None:
    """Columns `start:start + few` of `reals` [moments, channels] to planes of `flat` from `to` on."""
    for field in range(MOMENTS):
        row, plane = reals[field, start : start + few], flat[to + field * NARROW :]
        for c in range(few):
            plane[c] = row[c]


@compiled
def join_planes(flat: Array, few: int, n_a: float, n_b: float) -> None:
    """`join_one` of the first `few` columns, MORE into INTO, all of which have seen `n_a` and `n_b` values."""
    divisor = max(n_a + n_b, 1.0)
    share_a, share_b = n_a / divisor, n_b / divisor
    both, skew = n_a * share_b, share_a - share_b
    apart = (n_a > 0) & (n_b > 0)
    for c in range(few):
        mean_a, mean_b = flat[INTO + c], flat[MORE + c]
        m2_a, m2_b = flat[INTO + NARROW + c], flat[MORE + NARROW + c]
        m3_a, m3_b = flat[INTO + 2 * NARROW + c], flat[MORE + 2 * NARROW + c]
        m4_a, m4_b = flat[INTO + 3 * NARROW + c], flat[MORE + 3 * NARROW + c]
        low_a, low_b = flat[INTO + 4 * NARROW + c], flat[MORE + 4 * NARROW + c]
        high_a, high_b = flat[INTO + 5 * NARROW + c], flat[MORE + 5 * NARROW + c]
        delta = mean_b - mean_a if apart else 0.0
        delta2 = delta * delta
        mean = share_a * mean_a + share_b * mean_b
        flat[INTO + c] = mean_a if mean_a == mean_b else mean
        flat[INTO + NARROW + c] = m2_a + m2_b + delta2 * both
        m3 = m3_a + m3_b + delta2 * delta * both * skew + 3.0 * delta * (share_a * m2_b - share_b * m2_a)
        flat[INTO + 2 * NARROW + c] = m3
        flat[INTO + 3 * NARROW + c] = m4_a + (
            m4_b
            + delta2 * delta2 * both * (skew * skew + share_a * share_b)
            + 6.0 * delta2 * (share_a * share_a * m2_b + share_b * share_b * m2_a)
            + 4.0 * delta * (share_a * m3_b - share_b * m3_a)
        )
        flat[INTO + 4 * NARROW + c] = low_b if low_b < low_a else low_a
        flat[INTO + 5 * NARROW + c] = high_b if high_b > high_a else high_a


@compiled
def join_even_fold(count: Array, mean: Array, m2: Array, seen: int, means: Array, squares: Array) -> None:
    """`join_folds` of one fold and a few columns, all of which have seen as many values."""
    n_a, n_b = count[0], np.float64(seen)
    n = max(n_a + n_b, 1.0)
    share_a, share_b = n_a / n, n_b / n
    both = n_a * share_b
    apart = (n_a > 0) & (n_b > 0)
    for c in range(len(count)):  # one by one: LLVM does not vectorise what it writes to several places
        delta = means[c] - mean[c] if apart else 0.0
        m2[c] += squares[c] + delta * delta * both
    for c in range(len(count)):
        mean_a, mean_b = mean[c], means[c]
        mixed = share_a * mean_a + share_b * mean_b
        mean[c] = mean_a if mean_a == mean_b else mixed
    for c in range(len(count)):
        count[c] = n_a + n_b


@compiled
def join_even(moments: Array, counts: Array, folds: Array, first: int, more: Array, more_counts: Array) -> None:
    """Merge moments of folds `first`, `first` + 1, ... into one view of a state and into its folds, where all neurons have seen
    as many values: no NaN in the state, none in the batch.

    What `together`, `join_one` and `join_folds` give, in half their time: it divides once a fold, and what it works on, NARROW
    columns, stays in the nearest cache.
    """
    flat = np.empty(2 * MOMENTS * NARROW)
    parts = len(more)
    for start in range(0, moments.shape[1] if parts > 0 else 0, NARROW):
        few = min(NARROW, moments.shape[1] - start)
        stop = start + few
        take(more[0], start, few, flat, INTO)
        seen = more_counts[0, 0, start]
        for part in range(1, parts):
            take(more[part], start, few, flat, MORE)
            join_planes(flat, few, np.float64(seen), np.float64(more_counts[part, 0, start]))
            seen += more_counts[part, 0, start]
        for c in range(MOMENTS * NARROW):
            flat[MORE + c] = flat[INTO + c]
        take(moments, start, few, flat, INTO)
        join_planes(flat, few, np.float64(counts[0, start]), np.float64(seen))
        for field in range(MOMENTS):
            row, plane = moments[field, start:stop], flat[INTO + field * NARROW :]
            for c in range(few):
                row[c] = plane[c]
        count = counts[0, start:stop]
        for c in range(few):
            count[c] += seen
        for part in range(parts):
            for k in UNEVEN:
                some, more_some = counts[k, start:stop], more_counts[part, k, start:stop]
                for c in range(few):
                    some[c] += more_some[c]
            f = (first + part) % FOLDS
            own = folds[0, f, start:stop], folds[1, f, start:stop], folds[2, f, start:stop]
            join_even_fold(*own, more_counts[part, 0, start], more[part, 0, start:stop], more[part, 1, start:stop])
