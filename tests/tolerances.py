"""The one tolerance table: how far a result may lie from the float64 definition, derived from rounding, never tuned.

Notation: `u` unit roundoff (2^-24 for float32 accumulators, 2^-53 for float64), `L` the number of additions one accumulator
sees, `d = x - p` the distance to the pivot, `D` its bound.

* A sum of L rounded terms is off by at most about LAMBDA * sqrt(L) * u * sum|terms|: rounding errors of independent sign add
  like a random walk (Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019, theorem 2.4, where LAMBDA sets the probability of
  failure, 2 exp(-LAMBDA^2 / 2) = 3e-8 for 6; times the number of entries compared this stays below 1e-3 a run).
* float32 accumulators see at most 512 additions (a tile), after which float64 takes over, so L = min(n, 512) for them.
* The pivot is a median of the tile's own values: D = min(range, 8 standard deviations).
* Power sum k about the pivot is then off by g_k = (LAMBDA * sqrt(L) + 2k) * u * n * E|d|^k (2k: roundings of the product and
  of d itself), with E|d|^k <= (E|x - mean|^k)^(1/k) and D joined by Minkowski's inequality.
* Centring in float64 adds no float32 error but carries each g_k over, times binomial weights and powers of D.
* The mean also has the float64 error 4 * sqrt(n) * u64 * max|x| of its offset.
* Histograms of samples' maxima are exact; a sample's mean, off by `e` (below), may fall into the bin beside.
* A sample's mean is itself such a result: as an observation it is off by e = g_1 of the sample's positions, so in that view
  minimum and maximum are off by e, power sum k by another k * E|d|^(k-1) * e, and a mean within e of zero may count as
  positive or not (at most about n * e / sigma of them).

Otherwise counts, positives, non-finite, minimum and maximum have no tolerance: they are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from naa_fast.records import COUNT_FIELDS, Folds, LayerRecord, Moments, histogram

LAMBDA = 6.0
TILE = 512
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
EXACT = (*COUNT_FIELDS, "minimum", "maximum")


def observation_error(positions: Moments, arithmetic: str) -> np.ndarray:
    """`e`: how far one sample's mean over its positions may be off."""
    return budget(positions, arithmetic)["mean"]


def budget(expected: Moments, arithmetic: str, e: np.ndarray | float = 0.0) -> dict[str, np.ndarray]:
    """Absolute tolerance per field of `expected`, for accumulators of the given arithmetic and observations off by `e`."""
    n = np.maximum(expected.count, 1).astype(np.float64)
    u, u64 = UNIT[arithmetic], UNIT["float64"]
    adds = np.minimum(n, TILE) if arithmetic == "float32" else n
    seen = expected.count > 0
    with np.errstate(invalid="ignore"):
        extent = np.where(seen, expected.maximum - expected.minimum, 0.0)
        largest = np.where(seen, np.maximum(np.abs(expected.maximum), np.abs(expected.minimum)), 0.0)
    sigma = np.sqrt(np.maximum(expected.m2, 0.0) / n)
    fourth = (np.maximum(expected.m4, 0.0) / n) ** 0.25
    reach = np.minimum(extent, 8.0 * sigma)
    offset = 4.0 * np.sqrt(n) * u64 * largest
    g = {k: (LAMBDA * np.sqrt(adds) + 2 * k) * u * (fourth + reach) ** k for k in (1, 2, 3, 4)}  # per observation
    g = {k: g[k] + k * (fourth + reach + e) ** (k - 1) * e for k in g}
    # The state's mean is rounded to u64 * largest: that much false shift enters every centred sum. Between two parts that are
    # merged it meets a distance of about sigma, so m2 is off in first order, by 2 * sigma * u64 * largest an observation.
    drift = offset + g[1]
    return {
        "mean": g[1] + offset,
        "minimum": e + offset * (e > 0),
        "maximum": e + offset * (e > 0),
        "positives": np.ceil(n * e / np.maximum(sigma, e + 1e-300)),
        "m2": n * (g[2] + 2 * reach * g[1] + drift * drift + 2 * (sigma + drift) * u64 * largest),
        "m3": n * (g[3] + 3 * reach * g[2] + 3 * reach**2 * g[1] + 3 * sigma**2 * drift),
        "m4": n * (g[4] + 4 * reach * g[3] + 6 * reach**2 * g[2] + 4 * reach**3 * g[1] + 4 * fourth**3 * drift),
    }


def assert_moments(actual: Moments, expected: Moments, arithmetic: str, where: str = "", e: np.ndarray | float = 0.0) -> None:
    """Every field inside its budget; a NaN fails, and the worst element is named with the share of budget it used."""
    allowed = budget(expected, arithmetic, e)
    for name, want in expected.fields().items():
        got = np.asarray(getattr(actual, name))
        assert got.shape == want.shape, f"{where} {name}: shape {got.shape}, expected {want.shape}"
        if name in EXACT and not (np.any(e > 0) and name in allowed):
            wrong = ~(got == want)
            assert not wrong.any(), (
                f"{where} {name}: {int(wrong.sum())} of {wrong.size} differ; "
                f"first {first(wrong)}: {got[wrong][0]} != {want[wrong][0]}"
            )
            continue
        assert_within(got, want, allowed[name], f"{where} {name}")


def assert_within(got: np.ndarray, want: np.ndarray, allowed: Any, where: str) -> None:
    with np.errstate(invalid="ignore"):
        error = np.where(got == want, 0.0, np.abs(got - want))
    allowed = np.broadcast_to(allowed, want.shape)
    over = ~(error <= allowed)
    if over.any():
        share = np.where(over, error / np.maximum(allowed, 1e-300), 0.0)
        share = np.where(np.isnan(share), np.inf, share)
        worst = np.unravel_index(int(share.argmax()), share.shape)
        spot = [int(i) for i in worst]
        raise AssertionError(
            f"{where}: {int(over.sum())} of {over.size} over; worst {spot}: {share[worst]:.3g}x budget "
            f"({got[worst]!r}, expected {want[worst]!r})"
        )


def assert_folds(
    actual: Folds, expected: Folds, whole: Moments, arithmetic: str, where: str = "", e: np.ndarray | float = 0.0
) -> None:
    """Fold counts exact; means and square sums inside the budget of the whole set they are part of."""
    assert np.array_equal(actual.count, expected.count), f"{where} fold counts differ"
    allowed = budget(whole, arithmetic, e)
    assert_within(actual.mean, expected.mean, 2 * allowed["mean"], f"{where} fold mean")
    assert_within(actual.m2, expected.m2, allowed["m2"], f"{where} fold m2")


def assert_record(actual: LayerRecord, expected: LayerRecord, arithmetic: str, where: str = "") -> None:
    """A whole layer record inside its budget."""
    same = np.array_equal(expected.positions.count, expected.sample_mean.count)  # one position a sample: nothing averaged
    e = 0.0 if same else observation_error(expected.positions, arithmetic)
    assert_moments(actual.positions, expected.positions, arithmetic, f"{where} positions")
    assert_moments(actual.sample_mean, expected.sample_mean, arithmetic, f"{where} sample_mean", e)
    assert_moments(actual.sample_max, expected.sample_max, arithmetic, f"{where} sample_max")
    assert_folds(actual.mean_folds, expected.mean_folds, expected.sample_mean, arithmetic, f"{where} mean", e)
    assert_folds(actual.max_folds, expected.max_folds, expected.sample_max, arithmetic, f"{where} max")


def assert_tails(got: np.ndarray, moments: Moments, e: np.ndarray | float, where: str = "") -> None:
    """Histograms int32 `[2, BINS, channels]` of a batch of samples with these `moments` `[samples, channels]`.

    Maxima to the sample; means as far as values off by at most `e` may move: at every edge the share below it lies between that
    of the means plus `e` and that of the means minus `e`.
    """
    seen = moments.count > 0
    want = histogram(moments.maximum, seen)
    assert got.dtype == np.int32
    assert got.shape == (2, *want.shape), f"{where}: shape {got.shape}"
    assert np.array_equal(got[1], want), f"{where}: histogram of maxima"
    with np.errstate(over="ignore", invalid="ignore"):
        least, most = (histogram(moments.mean + off, seen).cumsum(0) for off in (e, -np.asarray(e)))
    held = got[0].cumsum(0)
    over = ~((least <= held) & (held <= most))
    assert not over.any(), f"{where}: histogram of means, first off at bin and neuron {first(over)}"


def first(wrong: np.ndarray) -> list[int]:
    return [int(i) for i in np.argwhere(wrong)[0]]
