"""The arithmetic that `rows` and `images` share: planes of power sums about a pivot, and their way into float64 moments.

A tile's sums live in one flat array `work` of planes, at offsets known to the compiler: with two-dimensional arrays
it cannot prove the planes apart and does not vectorise. `total` holds the float64 moments of a task in the same fashion.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils as numba_cgutils
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import overload

from naa_fast import records
from naa_fast.records import Array

# Numba types these in part only, and `intrinsic` as if the typing context were an argument of the call.
cgutils: Any = numba_cgutils
intrinsic: Any = numba_intrinsic

LANES = 1024
"""Columns a task takes at a time: a row is then a page of 4 KB, long enough for the processor to read ahead in."""

TILE = 256
"""Additions one accumulator sees before float64 takes over; tests/tolerances.py grants 512. At 128, float64 costs a quarter."""

NARROW = 128
"""Columns whose float64 moments stay in the nearest cache on their way."""

PLANE = LANES + 16
"""Distance of planes: at a distance of 4 KB all would compete for the same few lines of the first-level cache."""

# Planes of `work`: pivot, power sums about it, extremes and positives of a tile; then those of one sample inside it.
PIVOT, S1, S2, S3, S4, LOW, HIGH, POSITIVE, TILE_S1, TILE_HIGH = (PLANE * plane for plane in range(10))
WORK_SIZE = PLANE * 10
# Planes of `total`, all float64: integers up to 2^53 are exact in it.
COUNT, MEAN, M2, M3, M4, MINIMUM, MAXIMUM, POSITIVES, NONFINITE = (PLANE * plane for plane in range(9))
TOTAL_SIZE = PLANE * 9
COUNTED = (COUNT, POSITIVES, NONFINITE)

SMALL = 2.0**-100
"""Least trustworthy fourth-power sum: above it, what float32 underflow takes away stays below 2^-40 of each sum."""

# not "nnan", "ninf" or "reassoc": NaN is looked for, and the order of additions is the promise
OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}

SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in (*sorted(Path(__file__).parent.glob("*.py")), Path(records.__file__)))
).hexdigest()


def compiled(function: Any) -> Any:
    """`function` through Numba, kept on disk where a folder can be written: 16 s of compiling, of one element type, once.

    Numba drops a kept kernel when the file it stands in has changed, but not when one has changed that it takes constants or
    functions from; so the stamp is that of all of them. Where Numba no longer has the stamp at this place, nothing is kept.
    """
    kept = unspecialised(njit(**OPTIONS)(function))
    try:
        kept.enable_caching()
        stamped = kept._cache._cache_file
        assert stamped._source_stamp
        stamped._source_stamp = SOURCES
    except (AttributeError, AssertionError, RuntimeError):  # RuntimeError: no folder to write to
        return unspecialised(njit(**OPTIONS)(function))
    return kept


def unspecialised(kernel: Any) -> Any:
    """`kernel`, compiled once for an int, not once more for each constant that another kernel calls it with.

    With a signature for every 0 and every LANES the kernels take 1.4 times as long to compile (22 s, not 16: the last line of
    `benchmarks.plain_njit`), for the same machine code: they are inlined where they are called.
    """
    typed = kernel.get_call_template

    def plainly(arguments: Any, keywords: Any) -> Any:
        return typed(tuple(map(types.unliteral, arguments)), keywords)

    kernel.get_call_template = plainly
    return kernel


def widened(builder: Any, value: Any, kind: Any, lanes: int = 0) -> Any:
    """IR for `value` as float32 or float64: uint16 holds bfloat16 bits, int16 holds float16 bits. One instruction or two."""

    def shaped(element: Any) -> Any:
        return ir.VectorType(element, lanes) if lanes else element

    if kind == types.int16:
        return builder.fpext(builder.bitcast(value, shaped(ir.HalfType())), shaped(ir.FloatType()))
    if kind == types.uint16:
        wide = builder.zext(value, shaped(ir.IntType(32)))
        sixteen = ir.Constant(shaped(ir.IntType(32)), [16] * lanes if lanes else 16)
        return builder.bitcast(builder.shl(wide, sixteen), shaped(ir.FloatType()))
    return value


def value_at(array: Any, index: Any) -> Any:
    """Element of a flat array as a float, for kernels: uint16 holds bfloat16 bits, int16 holds float16 bits.

    The index is taken as unsigned: Numba tests others for being negative, which stops the vectoriser. LLVM IR is no faster:
    of its time `reduce` of [N, 1024] takes .91 (float32), .85 (bfloat16) and 1.04 (float16) so.
    """
    raise NotImplementedError


@overload(value_at)
def value_of_type(array: Any, index: Any) -> Any:
    """`value_at` by the type of the elements."""
    return {types.uint16: bfloat16_at, types.int16: float16_at}.get(array.dtype, real_at)


def real_at(array: Any, index: Any) -> Any:
    return array[np.uintp(index)]


def bfloat16_at(array: Any, index: Any) -> Any:
    return np.uint32(np.uint32(array[np.uintp(index)]) << np.uint32(16)).view(np.float32)


def float16_at(array: Any, index: Any) -> Any:
    """Exponent and mantissa moved to where float32 has them, and 2^112 for the exponents' other zero: exact, subnormals too."""
    half = np.uint16(array[np.uintp(index)])
    bits = np.uint32((np.uint32(half) & np.uint32(0x7FFF)) << np.uint32(13))
    finite = bits.view(np.float32) * np.float32(2.0**112)
    size = np.uint32(bits | np.uint32(0x7F800000)).view(np.float32) if (half & 0x7C00) == 0x7C00 else finite
    return -size if half & 0x8000 else size


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
    """Write a tile's sums to `reals` [6, width] and `counts` [3, width], where nothing was before; returns how many columns were
    not trusted, of which nothing is written that counts.

    What `clear`, `settle` and `keep_part` give, in a third of their time: merging with nothing is no arithmetic.
    """
    observations = np.float64(n)
    inverse = 1.0 / observations
    bad = 0
    part = np.empty(6 * NARROW)
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
        for field in range(6):  # one by one: LLVM does not vectorise what it writes to nine places
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
    """Write columns `start:stop` of `total` to `reals` [6, channels] and `counts` [3, channels], from `column` on."""
    for field in range(6):  # one by one: LLVM does not vectorise what it writes to nine places
        real, values = reals[field, column + start : column + stop], total[MEAN + field * PLANE + start :]
        for c in range(stop - start):
            real[c] = values[c]
    for field in range(len(COUNTED)):
        number, values = counts[field, column + start : column + stop], total[COUNTED[field] + start :]
        for c in range(stop - start):
            number[c] = np.int64(values[c])
