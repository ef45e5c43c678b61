"""Tails: what the histograms of samples say of a neuron that means and variances do not. NumPy only, vectorised over neurons.

Every function takes histograms `[BINS, channels]` (a view of `LayerRecord.tails`) and is exactly what brute force gives on
values rounded to their bins (`records.bin_values`): within 12.5 % of the values themselves where these lie between 7.6e-6 and
24,576 in magnitude. Of layers with one position a sample they count every sample up to 4,096 and an eighth of the others
(`records.tallied`). A neuron with a large constant offset has few bins to vary in, and its tails are coarse. `mirrored` turns
a histogram round: the upper tail of the mirrored one is the lower tail. Start with `exceeding`, which is the calibrated test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from naa_fast.detect.comparison import RESOLUTION, LayerComparison
from naa_fast.detect.enrichment import TAIL_P, hypergeometric_tail
from naa_fast.records import BINS, Array, LayerRecord, Moments, bin_of, bin_values

BEYOND = 0.001
"""Share of clean samples beyond the clean point that suspects are counted against; beside it, those beyond every clean one."""
STEP = 16
"""Bins that `cumulated` takes at a time: about the root of their number."""


def mirrored(counts: Array) -> Array:
    """The histogram `[BINS, channels]` of the negated values: bins are symmetrical about zero."""
    return counts[::-1]


def quantile_bin(counts: Array, share: float) -> Array:
    """The lowest bin that holds `share` of the samples together with those below it, int64 `[channels]`; 0 of no samples."""
    below = counts.cumsum(0, dtype=np.int64)
    needed = np.maximum(np.ceil(share * below[-1] - 1e-9), 1)
    return (below >= needed).argmax(0)


def quantile(counts: Array, share: float) -> Array:
    """The inverse of the distribution function at `share`, float64 `[channels]`; NaN where nothing was counted."""
    return np.where(counts.sum(0) > 0, bin_values()[quantile_bin(counts, share)], np.nan)


def above(counts: Array, limit: Array) -> Array:
    """Samples in bins above `limit` `[channels]`: int64 `[channels]`."""
    return np.where(np.arange(BINS)[:, None] > limit, counts, 0).sum(0, dtype=np.int64)


def exceedance(clean: Array, suspect: Array, share: float = 0.99) -> Array:
    """Share of suspect samples in bins above the clean `share` quantile, float64 `[channels]`; NaN where a set is empty."""
    return ratio(above(suspect, quantile_bin(clean, share)), np.where(clean.sum(0) > 0, suspect.sum(0), 0))


def ratio(part: Array, whole: Array) -> Array:
    """`part / whole`, float64 `[...]`; NaN where the whole is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


@dataclass(frozen=True)
class Exceeding:
    """Neurons of a layer with more suspect samples beyond the clean tail than chance puts there.

    `neurons` int64, ascending; `strongest` the one with the smallest `p_value` (as it is, not corrected); `share` of its suspect
    samples that lie beyond.
    """

    neurons: Array
    strongest: int
    p_value: float
    share: float


def tests_of(layer: LayerComparison) -> int:
    """How many tests `exceeding` makes of a layer: two sides and two limits of each neuron and view; 0 without histograms."""
    if not layer.clean.bins or not layer.suspect.bins or layer.clean.of_rows:
        return 0
    return 4 * len(views(layer)) * layer.neurons


def views(layer: LayerComparison) -> list[int]:
    """The views to test: means and maxima, or one of them where they coincide, as they do where a sample has one position."""
    return [1] if layer.single else [0, 1]


def exceeding(layer: LayerComparison, limit: float) -> Exceeding | None:
    """Test every neuron, view and side for more suspects beyond the clean tail than chance puts there; None if none has.

    `limit`: on the probability of each test, corrected for their number by the caller. Exact and free of a law for the
    activations: that at least k suspects lie above the r-th largest clean sample means that of the k + r - 1 largest of both
    sets at least k are suspects (Fisher 1934). r is chosen by the number of clean samples alone: 1, and one more than BEYOND of
    them. Samples that share a bin with that clean one are not counted, which can only weaken the test. It takes samples for
    independent.
    """
    if not tests_of(layer):
        return None
    beyond_chance = np.zeros(layer.neurons, bool)
    strongest, least, share = -1, 1.0, 0.0
    for view in views(layer):
        clean_moments = (layer.clean.sample_mean, layer.clean.sample_max)[view]
        clean, suspect = (cumulated(record.tails[view]) for record in (layer.clean, layer.suspect))
        drawn_of, rest_of = suspect[-1], clean[-1]
        known = (drawn_of > 0) & (rest_of > 0)
        limits = [
            (spared, extreme_bins(clean, spared)) for spared in (np.zeros_like(rest_of), (BEYOND * rest_of).astype(np.int64))
        ]
        for place, side in enumerate((1, -1)):
            rounding, still = beyond_rounding(clean_moments, layer.clean.dtype, side)
            for spared, points in limits:
                point = points[place]
                point = np.where(still | (spared == 0), np.maximum(point, rounding), point)
                beyond = np.where(known, beyond_bins(suspect, point, side), 0)
                cases = set(zip(drawn_of[known].tolist(), rest_of[known].tolist(), spared[known].tolist(), strict=True))
                for drawn, rest, r in sorted(cases):
                    alike = known & (drawn_of == drawn) & (rest_of == rest) & (spared == r)
                    needed = critical(drawn, rest, r, limit)
                    beyond_chance |= alike & (beyond >= needed)
                    best = int(np.where(alike, beyond, -1).argmax())
                    if beyond[best] >= needed:
                        p = hypergeometric_tail(int(beyond[best]), drawn, r, rest)
                        if strongest < 0 or p < least:
                            strongest, least, share = best, p, float(beyond[best]) / drawn
    return Exceeding(np.flatnonzero(beyond_chance).astype(np.int64), strongest, least, share) if strongest >= 0 else None


def cumulated(counts: Array) -> Array:
    """`counts.cumsum(0)` of a histogram, int32 `[BINS, channels]` (they count fewer than 2^31 samples), in a fifth of the time:
    rows that lie STEP apart together, then step by step.
    """
    steps = np.zeros((-(-BINS // STEP), STEP, counts.shape[1]), np.int32)
    below = steps.reshape(-1, counts.shape[1])[:BINS]
    below[:] = counts
    for k in range(1, STEP):
        steps[:, k] += steps[:, k - 1]
    for k in range(1, len(steps)):
        steps[k] += steps[k - 1, -1]
    return below


def extreme_bins(below: Array, spared: Array) -> tuple[Array, Array]:
    """The bins of the largest and of the smallest sample but `spared` `[channels]`, of a `cumulated` histogram, each counted from
    its own end: int64 `[channels]`, that of the smallest as in the mirrored histogram.
    """
    wanted = np.stack([below[-1] - spared, spared + 1])
    low, high = np.zeros(wanted.shape, np.int64), np.full(wanted.shape, BINS - 1)
    neurons = np.arange(below.shape[1])
    while (low < high).any():  # of each neuron the lowest bin up to which there are as many as wanted
        middle = (low + high) // 2
        reached = below[middle, neurons] >= wanted
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    return low[0], BINS - 1 - low[1]


def beyond_bins(below: Array, point: Array, side: int) -> Array:
    """Samples of a `cumulated` histogram in bins above `point`, or above it in the mirrored one for side -1: int `[channels]`."""
    neurons = np.arange(below.shape[1])
    if side > 0:
        return below[-1] - below[point, neurons]
    last = BINS - 2 - point
    return np.where(last >= 0, below[last, neurons], 0)


def beyond_rounding(clean: Moments, dtype: str, side: int) -> tuple[Array, Array]:
    """The bin that rounding may carry the largest clean value to, and the neurons whose values differ by no more than that.

    A constant neuron may lie at the edge of a bin, and a batch of another size rounds it to the other side. `[neurons]`, both.
    """
    extremes = (clean.minimum, clean.maximum)
    with np.errstate(invalid="ignore"):
        noise = RESOLUTION.get(dtype, RESOLUTION["float32"]) * np.maximum(*np.abs(extremes))
        still = clean.maximum - clean.minimum <= 2 * noise
        top = np.where(clean.count > 0, extremes[1] + noise if side > 0 else -extremes[0] + noise, 0.0)
    return bin_of(top).astype(np.int64), still


@cache
def critical(drawn: int, rest: int, spared: int, limit: float) -> int:
    """The fewest of `drawn` suspects beyond the clean sample with `spared` above it, of `rest`, whose probability is below
    `limit`; `drawn + 1` if not even all are enough.
    """
    low, high = 0, drawn + 1
    while low < high:
        middle = (low + high) // 2
        if hypergeometric_tail(middle, drawn, spared, rest) < limit:
            high = middle
        else:
            low = middle + 1
    return low


def samples_counted(layers: Sequence[LayerComparison]) -> tuple[int, int]:
    """How many suspect and how many clean samples are counted of the layer whose histograms count fewest (`records.tallied`); 0
    without any.
    """
    tested = [layer for layer in layers if tests_of(layer)]
    suspect, clean = [counted_in(layer.suspect) for layer in tested], [counted_in(layer.clean) for layer in tested]
    return min(filter(None, suspect), default=0), min(filter(None, clean), default=0)


def counted_in(record: LayerRecord) -> int:
    """How many samples' means the histogram counts of the neuron that was finite in most."""
    return int(record.tails[0, :, record.sample_mean.count.argmax()].sum())


def tail_shares(layer: LayerComparison, neurons: Array) -> Array:
    """Largest share of suspect samples beyond the clean 99.9 % point over views and sides, of some `neurons` int64 `[count]`:
    float64 `[count]`; NaN if unknown.
    """
    if not tests_of(layer):
        return np.full(len(neurons), np.nan)
    clean, suspect = (record.tails[:, :, neurons] for record in (layer.clean, layer.suspect))
    shares = [exceedance(clean[view][::side], suspect[view][::side], 1 - BEYOND) for view in (0, 1) for side in (1, -1)]
    return np.max(shares, axis=0)


def tail_signature(layer: LayerComparison) -> Array:
    """Of every neuron the largest share of suspect samples beyond the clean 99.9 % point, over views and sides: float64
    `[neurons]`; NaN where no histograms were kept, or a sample was not finite.

    What a trigger on few samples does to a neuron, which a mean drowns. As `tail_shares`, but a neuron that rounding alone
    moves has no tail. Cost: two sums over each histogram.
    """
    if not tests_of(layer):
        return np.full(layer.neurons, np.nan)
    shares = np.full(layer.neurons, np.nan)
    for view in views(layer):
        clean_moments = (layer.clean.sample_mean, layer.clean.sample_max)[view]
        clean, suspect = (cumulated(record.tails[view]) for record in (layer.clean, layer.suspect))
        known = (suspect[-1] > 0) & (clean[-1] > 0)
        points = extreme_bins(clean, (BEYOND * clean[-1]).astype(np.int64))
        for place, side in enumerate((1, -1)):
            rounding, still = beyond_rounding(clean_moments, layer.clean.dtype, side)
            point = np.where(still, np.maximum(points[place], rounding), points[place])
            beyond = ratio(beyond_bins(suspect, point, side), suspect[-1])
            shares = np.fmax(shares, np.where(known, beyond, np.nan))
    return shares


def tail_limit(layers: Sequence[LayerComparison]) -> float:
    """Share of suspect samples beyond the clean 99.9 % point that chance reaches in one neuron of all `layers` once in 1 / TAIL_P
    pairs of clean sets; infinite where no histograms were kept.
    """
    drawn, rest = samples_counted(layers)
    if not drawn or not rest:
        return float("inf")
    return critical(drawn, rest, int(BEYOND * rest), TAIL_P / sum(map(tests_of, layers))) / drawn
