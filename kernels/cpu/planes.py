"""All that `reduce` knows of a single statistic: planes of power sums about a pivot, and their way into float64 moments.

Values enter them in `step_rows`, or in `step_lanes` where samples' positions are neighbours. A tile's sums live in one flat
array `work` of planes, at offsets known to the compiler: with two-dimensional arrays it cannot prove the planes apart and does
not vectorise. `total` holds the float64 moments of a task in the same fashion.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from naa_fast.kernels.cpu.elements import compiled, value_at
from naa_fast.records import COUNT_FIELDS, MOMENT_FIELDS, Array

LANES = 4096
"""Columns a task takes at a time. The longer a row, the further the processor reads ahead in it: whole rows of [N, 3072] take .8
of the time of pages of 4 KB, though their planes, 120 KB, no longer stay in the nearest cache."""

TILE = 256
"""Additions one accumulator sees before float64 takes over; tests/tolerances.py grants 512. At 128, float64 costs a quarter."""

NARROW = 128
"""Columns whose float64 moments stay in the nearest cache on their way."""

PLANE = LANES + 16
"""Distance of planes: at a distance of 4 KB all would compete for the same few lines of the first-level cache."""

# Planes of `work`: pivot, power sums about it, extremes and positives of a tile; then those of one sample inside it.
PIVOT, S1, S2, S3, S4, LOW, HIGH, POSITIVE, TILE_S1, TILE_HIGH = (PLANE * plane for plane in range(10))
WORK_SIZE = PLANE * 10
SHARED = {"s2": S2, "s3": S3, "s4": S4, "positive": POSITIVE, "low": LOW}
"""What `step_lanes` keeps of several samples together, and its planes of `work`; the others are each sample's own."""
SHARED_PLANES = tuple(SHARED.values())

# Planes of `total`, all float64: integers up to 2^53 are exact in it.
TOTAL = {name: PLANE * plane for plane, name in enumerate((COUNT_FIELDS[0], *MOMENT_FIELDS, *COUNT_FIELDS[1:]))}
COUNT, POSITIVES, NONFINITE = (TOTAL[name] for name in ("count", "positives", "nonfinite"))
MEAN, M2, M3, M4, MINIMUM, MAXIMUM = (TOTAL[name] for name in ("mean", "m2", "m3", "m4", "minimum", "maximum"))
TOTAL_SIZE = PLANE * len(TOTAL)
MOMENTS = len(MOMENT_FIELDS)
COUNTED = tuple(TOTAL[name] for name in COUNT_FIELDS)

SMALL = 2.0**-100
"""Least trustworthy fourth-power sum: above it, what float32 underflow takes away stays below 2^-40 of each sum."""


@compiled
def median(a: Any, b: Any, c: Any) -> Any:
    """Middle of three. A NaN among them may or may not come out; the sums about it then say so."""
    low = a if a < b else b
    high = b if a < b else a
    top = high if high < c else c
    return low if low > top else top


@compiled
def clear(total: Array, width: int) -> None:
    """No observation in the first `width` columns."""
    for c in range(width):
        total[COUNT + c] = 0.0
        total[MEAN + c] = 0.0
        total[M2 + c] = 0.0
        total[M3 + c] = 0.0
        total[M4 + c] = 0.0
        total[MINIMUM + c] = np.inf
        total[MAXIMUM + c] = -np.inf
        total[POSITIVES + c] = 0.0
        total[NONFINITE + c] = 0.0


@compiled
def begin(x: Array, rows: Array, n: int, column: int, width: int, work: Array) -> None:
    """Empty sums, and as pivot the median of three rows: an outlier or NaN in one of them does no harm.

    Not the first row: in language models it is often the one with the massive activations.
    """
    # Odd steps apart: at quarters of a tile of whole samples all three would be the same position of each.
    a, b, c = rows[n // 4] + column, rows[min(n // 2 + 1, n - 1)] + column, rows[min((3 * n) // 4 + 2, n - 1)] + column
    for lane in range(width):
        work[PIVOT + lane] = median(value_at(x, a + lane), value_at(x, b + lane), value_at(x, c + lane))
        work[S2 + lane] = 0
        work[S3 + lane] = 0
        work[S4 + lane] = 0
        work[LOW + lane] = np.inf
        work[POSITIVE + lane] = 0
        work[TILE_S1 + lane] = 0
        work[TILE_HIGH + lane] = -np.inf


@compiled
def begin_sample(width: int, work: Array) -> None:
    for lane in range(width):
        work[S1 + lane] = 0
        work[HIGH + lane] = -np.inf


@compiled
def end_sample(width: int, work: Array) -> None:
    """What was summed for one sample joins its tile."""
    for lane in range(width):
        work[TILE_S1 + lane] += work[S1 + lane]
        high = work[HIGH + lane]
        work[TILE_HIGH + lane] = high if high > work[TILE_HIGH + lane] else work[TILE_HIGH + lane]


@compiled
def step_rows(x: Array, starts: tuple[int, ...], width: int, work: Array) -> None:
    """Enter the values of `width` columns of the rows that begin at `starts` into the planes of `work`.

    Their own sums are made first: with 16-bit values one long sum rounds the same way too often, and the variance came out 9e-7
    too small.
    """
    nil, one = work.dtype.type(0), work.dtype.type(1)
    for c in range(width):
        pivot = work[PIVOT + c]
        s1 = s2 = s3 = s4 = nil
        low, high, positive = work[LOW + c], work[HIGH + c], work[POSITIVE + c]
        for start in starts:
            v = value_at(x, start + c)
            d = v - pivot
            d2 = d * d
            low = v if v < low else low
            high = v if v > high else high
            positive = positive + one if v > 0 else positive
            s1, s2, s3, s4 = s1 + d, s2 + d2, s3 + d2 * d, s4 + d2 * d2
        work[S1 + c] += s1
        work[S2 + c] += s2
        work[S3 + c] += s3
        work[S4 + c] += s4
        work[LOW + c], work[HIGH + c], work[POSITIVE + c] = low, high, positive


def step_lanes(lanes: Any, values: Iterable[Any], pivots: Any, active: Any, own: Any, shared: dict[str, Any]) -> None:
    """`step_rows` in vector IR (`lanes.Lanes`): of each sample a vector of values into its `own` sums and into SHARED.

    `active`: which lanes hold values, None for all; the others were loaded as zero, which is not positive.
    """
    powers: dict[str, Any] = {}
    for (total, highest), v in zip(own, values, strict=True):
        d = lanes.where(active, lanes.minus(v, pivots), lanes.zero)
        d2 = lanes.times(d, d)
        lanes.add_to(total, d)
        for power, term in (("s2", d2), ("s3", lanes.times(d2, d, "contract")), ("s4", lanes.times(d2, d2, "contract"))):
            powers[power] = lanes.plus(powers[power], term, "contract") if power in powers else term
        floor, roof = lanes.where(active, v, lanes.most), lanes.where(active, v, lanes.least)
        lanes.store(lanes.smaller(floor, lanes.load(shared["low"])), shared["low"])
        lanes.store(lanes.larger(roof, lanes.load(highest)), highest)
        lanes.count_above_zero(shared["positive"], v)
    for power, term in powers.items():
        lanes.add_to(shared[power], term)


@compiled
def trusted(s4: Any, low: Any, high: Any) -> bool:
    """Whether a tile's sums may be used: nothing non-finite, no overflow, no underflow; all-equal values are always fine."""
    return (s4 < np.inf) & ((s4 >= SMALL) | ((low == high) & (s4 == 0)))


@compiled
def join(total: Array, c: int, n_b: float, mean_b: float, m2_b: float, m3_b: float, m4_b: float) -> None:
    """Merge moments into column `c` of `total`: `records.Moments.merge`, same terms and same care for constants."""
    n_a = total[COUNT + c]
    mean_a = total[MEAN + c]
    m2_a = total[M2 + c]
    m3_a = total[M3 + c]
    m4_a = total[M4 + c]
    n = n_a + n_b
    divisor = n if n > 1.0 else 1.0
    share_a = n_a / divisor
    share_b = n_b / divisor
    delta = mean_b - mean_a if (n_a > 0) & (n_b > 0) else 0.0
    both = n_a * share_b
    delta2 = delta * delta
    total[COUNT + c] = n
    mean = share_a * mean_a + share_b * mean_b
    total[MEAN + c] = mean_a if mean_a == mean_b else mean
    total[M2 + c] = m2_a + m2_b + delta2 * both
    total[M3 + c] = m3_a + m3_b + delta2 * delta * both * (share_a - share_b) + 3.0 * delta * (share_a * m2_b - share_b * m2_a)
    total[M4 + c] = (
        m4_a
        + m4_b
        + delta2 * delta2 * both * ((share_a - share_b) * (share_a - share_b) + share_a * share_b)
        + 6.0 * delta2 * (share_a * share_a * m2_b + share_b * share_b * m2_a)
        + 4.0 * delta * (share_a * m3_b - share_b * m3_a)
    )


@compiled
def settle(work: Array, n: int, width: int, total: Array) -> int:
    """Merge a tile's sums into `total`; returns how many columns were not trusted and were left out.

    Everything is loaded before it is chosen from: a load inside a condition keeps LLVM from making vectors of the loop.
    """
    observations, nil = np.float64(n), np.float64(0)
    inverse = 1.0 / observations
    bad = 0
    for c in range(width):
        pivot, low, high, positive = work[PIVOT + c], work[LOW + c], work[TILE_HIGH + c], work[POSITIVE + c]
        s1, s2, s3, s4 = work[TILE_S1 + c], work[S2 + c], work[S3 + c], work[S4 + c]
        minimum, maximum, mean_before, positives = total[MINIMUM + c], total[MAXIMUM + c], total[MEAN + c], total[POSITIVES + c]
        good = trusted(s4, low, high)
        bad += 0 if good else 1
        n_b = observations if good else 0.0
        shift = np.float64(s1) * inverse
        p2, p3, p4 = np.float64(s2), np.float64(s3), np.float64(s4)
        shift2 = shift * shift
        m2 = p2 - observations * shift2
        m3 = p3 - 3.0 * shift * p2 + 2.0 * observations * shift * shift2
        m4 = p4 - 4.0 * shift * p3 + 6.0 * shift2 * p2 - 3.0 * observations * shift2 * shift2
        m2 = m2 if good & (m2 > 0.0) else nil
        m3 = m3 if good else nil
        m4 = m4 if good & (m4 > 0.0) else nil
        mean = np.float64(pivot) + shift
        mean = mean if good else mean_before
        join(total, c, n_b, mean, m2, m3, m4)
        total[MINIMUM + c] = low if good & (low < minimum) else minimum
        total[MAXIMUM + c] = high if good & (high > maximum) else maximum
        total[POSITIVES + c] = positives + (np.float64(positive) if good else 0.0)
    return bad


@compiled
def settle_alone(work: Array, n: int, width: int, reals: Array, counts: Array) -> int:
    """Write a tile's sums to `reals` and `counts` [fields, width], where nothing was before; returns how many columns were not
    trusted, of which nothing is written that counts.

    What `clear`, `settle` and `keep_part` give, in a third of their time: merging with nothing is no arithmetic.
    """
    observations = np.float64(n)
    inverse = 1.0 / observations
    bad = 0
    part = np.empty(MOMENTS * NARROW)
    for start in range(0, width, NARROW):
        few = min(NARROW, width - start)
        tile = work[start:]  # an index is `c` and a constant: Numba tests others for being negative, which stops the vectoriser
        for c in range(few):
            low, high = tile[LOW + c], tile[TILE_HIGH + c]
            s1, s2, s3, s4 = tile[TILE_S1 + c], tile[S2 + c], tile[S3 + c], tile[S4 + c]
            bad += 0 if trusted(s4, low, high) else 1
            shift = np.float64(s1) * inverse
            p2, p3, p4 = np.float64(s2), np.float64(s3), np.float64(s4)
            shift2 = shift * shift
            m2 = p2 - observations * shift2
            m4 = p4 - 4.0 * shift * p3 + 6.0 * shift2 * p2 - 3.0 * observations * shift2 * shift2
            part[c] = np.float64(tile[PIVOT + c]) + shift
            part[NARROW + c] = m2 if m2 > 0.0 else 0.0
            part[2 * NARROW + c] = p3 - 3.0 * shift * p2 + 2.0 * observations * shift * shift2
            part[3 * NARROW + c] = m4 if m4 > 0.0 else 0.0
            part[4 * NARROW + c] = low
            part[5 * NARROW + c] = high
        for field in range(MOMENTS):  # one by one: LLVM does not vectorise what it writes to nine places
            real, values = reals[field, start : start + few], part[field * NARROW :]
            for c in range(few):
                real[c] = values[c]
        seen, positive, broken = counts[0, start : start + few], counts[1, start : start + few], counts[2, start : start + few]
        for c in range(few):
            seen[c] = n
        for c in range(few):
            positive[c] = np.int64(np.int32(tile[POSITIVE + c]))
        for c in range(few):
            broken[c] = 0
    return bad


@compiled
def careful(x: Array, rows: Array, start: int, stop: int, column: int, width: int, part: Array) -> None:
    """Moments in `part` of columns `column:column + width` of `rows[start:stop]`, value by value in float64, by two passes.

    For tiles that hold NaN, infinities, or values too large or too small for float32 powers. About five times slower.
    """
    clear(part, width)
    for r in range(start, stop):
        row = rows[r] + column
        for c in range(width):
            v = np.float64(value_at(x, row + c))
            finite = abs(v) < np.inf
            # MEAN holds the first finite value until the end: a constant then has deviations of exactly zero.
            pivot = v if finite & (part[COUNT + c] == 0) else part[MEAN + c]
            part[MEAN + c] = pivot
            part[M2 + c] += v - pivot if finite else 0.0
            part[COUNT + c] += 1.0 if finite else 0.0
            part[NONFINITE + c] += 0.0 if finite else 1.0
            part[POSITIVES + c] += 1.0 if finite & (v > 0) else 0.0
            part[MINIMUM + c] = v if finite & (v < part[MINIMUM + c]) else part[MINIMUM + c]
            part[MAXIMUM + c] = v if finite & (v > part[MAXIMUM + c]) else part[MAXIMUM + c]
    for c in range(width):
        count = part[COUNT + c]
        part[MEAN + c] += part[M2 + c] / (count if count > 0 else 1.0)
        part[M2 + c] = 0.0
    for r in range(start, stop):
        row = rows[r] + column
        for c in range(width):
            v = np.float64(value_at(x, row + c))
            d = v - part[MEAN + c] if abs(v) < np.inf else 0.0
            d2 = d * d
            part[M2 + c] += d2
            part[M3 + c] += d2 * d
            part[M4 + c] += d2 * d2


@compiled
def add_part(total: Array, at: int, part: Array, c: int) -> None:
    """Merge column `c` of `part` into column `at` of `total`."""
    join(total, at, part[COUNT + c], part[MEAN + c], part[M2 + c], part[M3 + c], part[M4 + c])
    total[MINIMUM + at] = min(total[MINIMUM + at], part[MINIMUM + c])
    total[MAXIMUM + at] = max(total[MAXIMUM + at], part[MAXIMUM + c])
    total[POSITIVES + at] += part[POSITIVES + c]
    total[NONFINITE + at] += part[NONFINITE + c]


@compiled
def untrusted_run(work: Array, column: int, width: int, most: int) -> tuple[int, int]:
    """First run of at most `most` neighbouring columns at or after `column` that `settle` left out, as (start, stop)."""
    start = column
    while start < width and trusted(work[S4 + start], work[LOW + start], work[TILE_HIGH + start]):
        start += 1
    stop = start
    while stop < width and stop - start < most and not trusted(work[S4 + stop], work[LOW + stop], work[TILE_HIGH + stop]):
        stop += 1
    return start, stop


@compiled
def keep_part(total: Array, start: int, stop: int, reals: Array, counts: Array, column: int) -> None:
    """Write columns `start:stop` of `total` to `reals` and `counts` [fields, channels], from `column` on."""
    for field in range(MOMENTS):  # one by one: LLVM does not vectorise what it writes to nine places
        real, values = reals[field, column + start : column + stop], total[MEAN + field * PLANE + start :]
        for c in range(stop - start):
            real[c] = values[c]
    for field in range(len(COUNTED)):
        number, values = counts[field, column + start : column + stop], total[COUNTED[field] + start :]
        for c in range(stop - start):
            number[c] = np.int64(values[c])
