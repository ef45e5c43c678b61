"""What chance alone would give: the clean set against itself.

The clean set is cut into folds while it is measured. Each fold against the rest gives one draw of the largest statistic over
all neurons of all layers when nothing is wrong; the largest is what multiple testing is about, so no further correction is due.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from naa_fast.records import Array, Folds, LayerRecord, Moments

MARGIN = 1.25
"""On the largest of the folds' maxima. Eight draws say little about a tail: 1.25 keeps the rate of false alarms of fresh clean
sets near ALPHA in tests/detect/test_null.py, for 1 to 2,000 neurons and normal to heavy-tailed activations."""
ALPHA = 0.01
MIN_FOLD = 4
MIN_FOLDS = 4


@dataclass(frozen=True)
class CleanNull:
    """`maxima`: the largest |t| of each usable fold against the rest; `tests`: how many neuron statistics that is over; `share`:
    the part of ALPHA that may be spent (`Interim`).
    """

    maxima: tuple[float, ...]
    tests: int
    share: float = 1.0

    @property
    def usable(self) -> bool:
        """Whether the clean set was large enough to be cut: MIN_FOLDS folds of MIN_FOLD samples."""
        return len(self.maxima) >= MIN_FOLDS

    @property
    def wild(self) -> bool:
        """Whether the clean set differs from itself by far more than independent samples do: sorted or near-duplicate data."""
        return self.usable and max(self.maxima) > 2 * self.normal_limit

    @property
    def limit(self) -> float:
        """|t| that a clean set exceeds with probability at most about `share` of ALPHA, over all neurons together.

        The larger of the empirical limit (MARGIN times the folds' largest) and the normal one with Bonferroni's correction,
        which is what remains where the eight folds happened to lie close together, or there are too few. Folds tell of ALPHA: for
        a share of it their limit grows as the normal one does.
        """
        normal = self.normal_limit_at(self.share)
        return max(MARGIN * max(self.maxima) * normal / self.normal_limit, normal) if self.usable else normal

    @property
    def normal_limit(self) -> float:
        return self.normal_limit_at(1.0)

    def normal_limit_at(self, share: float) -> float:
        return -NormalDist().inv_cdf(share * ALPHA / (2 * max(self.tests, 1)))

    def p_value(self, largest: float) -> float:
        """Probability that a clean set's largest |t| reaches `largest`: Gumbel's law for maxima, fitted by moments.

        The upper end of the fit and the normal law with Bonferroni's correction, whichever is larger.
        """
        if not self.usable:
            return float("nan")  # nothing to compare with
        if not np.isfinite(largest):
            return 0.0 if largest > 0 else 1.0  # -inf: nothing could be compared, which is no evidence
        bonferroni = min(1.0, 2 * self.tests * (1 - NormalDist().cdf(largest)))
        scale = max(float(np.std(self.maxima, ddof=1)) * np.sqrt(6) / np.pi, 1e-3 * max(self.maxima))
        place = float(np.mean(self.maxima)) - 0.5772156649 * scale
        gumbel = -np.expm1(-np.exp(-(largest - place) / scale))
        return float(max(bonferroni, gumbel))


def clean_null(layers: Iterable[LayerRecord]) -> CleanNull:
    """The null of a clean measurement."""
    per_fold: list[Array] = []
    tests = 0
    for record in layers:
        if record.of_rows:
            continue
        for folds, whole in ((record.mean_folds, record.sample_mean), (record.max_folds, record.sample_max)):
            per_fold.append(folds_against_rest(folds))
            tests += int((whole.m2 > 0).sum())
    if not per_fold:
        return CleanNull((), 0)
    with np.errstate(invalid="ignore"):
        maxima = np.max([np.nanmax(t, axis=1, initial=-np.inf) for t in per_fold], axis=0)
    return CleanNull(tuple(float(m) for m in maxima if m > -np.inf), tests)


def folds_against_rest(folds: Folds) -> Array:
    """|t| of each fold against the rest, float64 `[FOLDS, channels]`; NaN where a fold is too small or nothing varies."""
    total = folds.count.sum(0)
    rest = total - folds.count
    shares = folds.count / np.maximum(total, 1)
    mean = (shares * folds.mean).sum(0)
    rest_mean = mean + (mean - folds.mean) * folds.count / np.maximum(rest, 1)
    spread = folds.m2.sum(0) + (folds.count * (folds.mean - mean) ** 2).sum(0)
    variance = spread / np.maximum(total - 1, 1)
    usable = (folds.count >= MIN_FOLD) & (rest >= MIN_FOLD) & (variance > 0)
    scale = np.sqrt(variance * (1 / np.maximum(folds.count, 1) + 1 / np.maximum(rest, 1)))
    return np.where(usable, np.abs(folds.mean - rest_mean) / np.where(usable, scale, 1.0), np.nan)


def t_statistic(clean: Moments, suspect: Moments, z: Array) -> Array:
    """|t| of a standardised difference `z` `[channels]` (pooled with equal weights) for the sizes of the two sets: float64
    `[channels]`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(z == 0, 0.0, z / np.sqrt(1.0 / clean.count + 1.0 / suspect.count))
