"""What the tables are made of: area under the ROC curve, precision at k, and intervals over models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

DRAWS = 1000
Interval = tuple[float, float, float]


def auc(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Chance that a triggered sample scores above another, ties half; a NaN ranks below everything. None without both kinds."""
    positives = int(truth.sum())
    if positives in (0, len(truth)):
        return None
    ranks = rankdata(np.where(np.isnan(scores), -np.inf, scores))
    above = ranks[truth].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(truth) - positives)))


def precision_at_k(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Share of triggered samples among the k highest, where k is how many there are; ties are broken at random, always alike."""
    k = int(truth.sum())
    if k in (0, len(truth)):
        return None
    shuffled = np.random.default_rng(0).permutation(len(scores))
    order = shuffled[np.argsort(-np.where(np.isnan(scores), -np.inf, scores)[shuffled], kind="stable")]
    return float(truth[order[:k]].mean())


def pairwise_auc(positive: Sequence[Sequence[float]], negative: Sequence[Sequence[float]]) -> np.ndarray:
    """`[models, models]`: chance that a score of the one model is above one of the other, ties half."""
    table = np.empty((len(positive), len(negative)))
    for i, ours in enumerate(positive):
        for j, theirs in enumerate(negative):
            a, b = np.asarray(ours)[:, None], np.asarray(theirs)[None]
            table[i, j] = ((a > b) + 0.5 * (a == b)).mean()
    return table


def auc_interval(positive: Sequence[Sequence[float]], negative: Sequence[Sequence[float]]) -> Interval | None:
    """Model-level area under the curve, every model of the same weight, and its 95 % bootstrap interval over models."""
    if not positive or not negative:
        return None
    table = pairwise_auc(positive, negative)
    random = np.random.default_rng(0)
    rows, columns = (random.multinomial(n, np.full(n, 1 / n), DRAWS) / n for n in table.shape)  # how often each is drawn
    drawn = ((rows @ table) * columns).sum(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(table.mean()), float(low), float(high)


def mean_interval(groups: Sequence[Sequence[float]]) -> Interval | None:
    """Mean over all values, and its 95 % bootstrap interval over the groups, which are models."""
    groups = [group for group in groups if len(group)]
    if not groups:
        return None
    sums, counts = np.array([sum(group) for group in groups], float), np.array([len(group) for group in groups], float)
    drawn = np.random.default_rng(0).integers(0, len(groups), (DRAWS, len(groups)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return float(sums.sum() / counts.sum()), float(low), float(high)
