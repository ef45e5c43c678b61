"""Per-neuron numbers of one layer: the difference signature and its standardised forms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from naa_fast.kernels.reference.compare import standardised, top_k
from naa_fast.records import Array, LayerRecord, Moments

RESOLUTION = {"float64": 2.0**-48, "float32": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Relative rounding noise of activations: a few units in the last place, which batch size and summation order change."""


@dataclass(frozen=True)
class LayerComparison:
    """One layer of a clean and a suspect set.

    `limit` is what `abnormal` neurons exceed, `limit_on` which of the two numbers it applies to: "difference" or "z".
    """

    name: str
    clean: LayerRecord
    suspect: LayerRecord
    limit: float = np.inf
    limit_on: str = "z"

    @property
    def neurons(self) -> int:
        return self.clean.channels

    @cached_property
    def single(self) -> bool:
        """Whether both views' histograms are the same, as where a sample has one position."""
        tails = (self.clean.tails, self.suspect.tails)
        return all(view.strides[0] == 0 or np.array_equal(view[0], view[1]) for view in tails)

    @cached_property
    def difference(self) -> Array:
        """|mean_suspect - mean_clean| over all positions, in the layer's own units: float64 `[neurons]`.

        NaN where a set has no finite value of the neuron.
        """
        return np.abs(known_mean(self.suspect.positions) - known_mean(self.clean.positions))

    @cached_property
    def z_mean(self) -> Array:
        """Standardised difference of the per-sample means (Cohen's d, >= 0): float64 `[neurons]`."""
        return self._standardised("sample_mean")

    @cached_property
    def z_max(self) -> Array:
        """Standardised difference of the per-sample maxima, `[neurons]`, where a small patch shows that a mean drowns."""
        return self._standardised("sample_max")

    @cached_property
    def z(self) -> Array:
        """The larger of `z_mean` and `z_max`: float64 `[neurons]`, in pooled standard deviations of a sample."""
        return np.maximum(self.z_mean, self.z_max)

    def view_of(self, neuron: int) -> str:
        """Which view the neuron's `z` is of, "mean" or "maximum" of its samples; empty where it has none."""
        z = self.z_mean[neuron], self.z_max[neuron]
        return "" if not np.isfinite(z).all() else "mean" if z[0] >= z[1] else "maximum"

    @property
    def measure(self) -> Array:
        """The number the limit applies to: float64 `[neurons]`."""
        return self.difference if self.limit_on == "difference" else self.z

    @cached_property
    def abnormal(self) -> Array:
        """Indices of the neurons above the limit, ascending: int64 `[abnormal neurons]`. One that cannot be compared is not
        among them.
        """
        with np.errstate(invalid="ignore"):
            return np.flatnonzero(self.measure > self.limit).astype(np.int64)

    @cached_property
    def unknown(self) -> Array:
        """Indices of neurons of which a set has no finite value, or whose numbers are beyond float64: int64 `[count]`."""
        return np.flatnonzero(~np.isfinite(self.difference) | ~np.isfinite(self.z)).astype(np.int64)

    def top(self, k: int) -> Array:
        """Indices of the `k` most abnormal neurons, most abnormal first: int64 `[at most k]`."""
        return top_k(self.measure, k).astype(np.int64)

    def _standardised(self, view: str) -> Array:
        """The view's difference of means in its own standard errors, float64 `[neurons]`."""
        clean, suspect = getattr(self.clean, view), getattr(self.suspect, view)
        resolution = RESOLUTION.get(self.clean.dtype, RESOLUTION["float32"])
        with np.errstate(over="ignore", invalid="ignore"):
            variances = [np.where(np.isfinite(m.variance), m.variance, np.nan) for m in (clean, suspect)]
            return standardised(known_mean(clean), variances[0], known_mean(suspect), variances[1], resolution)


def known_mean(moments: Moments) -> Array:
    """The mean, float64 `[neurons]`; NaN where nothing finite was observed."""
    return np.where(moments.count > 0, moments.mean, np.nan)
