"""Merging float64 moments that already stand in arrays: parts of a batch, and a batch into the state."""

from __future__ import annotations

import numpy as np

from naa_fast.kernels.cpu.planes import compiled
from naa_fast.records import FOLDS, Array


@compiled
def join_one(reals: Array, counts: Array, more: Array, more_counts: Array) -> None:
    """Merge `more` [6, channels] into `reals`, `more_counts` [3, channels] into `counts`."""
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
        for k in range(3):
            counts[k, c] += more_counts[k, c]


@compiled
def join_parts(reals: Array, counts: Array, more: Array, more_counts: Array) -> None:
    """Merge every part of `more` [parts, 6, channels] into the same part of `reals`; likewise the counts."""
    for part in range(reals.shape[0]):
        join_one(reals[part], counts[part], more[part], more_counts[part])


@compiled
def together(reals: Array, counts: Array) -> tuple[Array, Array]:
    """All parts of `reals` [parts, 6, channels], merged first to last, as [6, channels]; likewise the counts."""
    if len(reals) == 0:
        return np.empty((6, reals.shape[2])), np.empty((3, reals.shape[2]), np.int64)
    whole, whole_counts = reals[0].copy(), counts[0].copy()
    for part in range(1, len(reals)):
        join_one(whole, whole_counts, reals[part], counts[part])
    return whole, whole_counts


@compiled
def join_folds(folds: Array, first: int, more: Array, more_counts: Array) -> None:
    """Merge moments `more` [parts, 6, channels] of folds `first`, `first` + 1, ... into `folds` [3, FOLDS, channels].

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
def join_alike(moments: Array, counts: Array, folds: Array, first: int, more: Array, more_counts: Array) -> None:
    """Merge moments of folds `first`, `first` + 1, ... (`join_folds`) into all views of a state, for which they are the same."""
    if len(more) == 0:
        return
    whole, whole_counts = together(more, more_counts)
    for view in range(len(moments)):
        if view > 0:
            join_folds(folds[view - 1], first, more, more_counts)
        join_one(moments[view], counts[view], whole, whole_counts)
