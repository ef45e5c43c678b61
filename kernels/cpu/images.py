"""Positions fastest in memory (NCHW): eight samples at a time, positions as SIMD lanes.

A sample's moments would end in seven sums across lanes for every channel of every sample, which costs more than reading 49
positions. So only its sum and maximum are kept apart; the power sums of eight samples go into one accumulator. `sweep` is
written in vector IR because the loop vectoriser, without leave to reorder additions, makes no vectors of sums along a row:
plain Numba, with sixteen sums of each kind in arrays, takes 6.2 to 6.9 times as long (float32, 64x3136 and 512x49;
`benchmarks.plain_njit`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from naa_fast.kernels.cpu.elements import cgutils, compiled, intrinsic, value_at
from naa_fast.kernels.cpu.lanes import Lanes
from naa_fast.kernels.cpu.planes import (
    COUNT,
    LANES,
    LOW,
    MAXIMUM,
    MEAN,
    PIVOT,
    S4,
    SHARED,
    SHARED_PLANES,
    TILE_HIGH,
    TILE_S1,
    add_part,
    careful,
    clear,
    keep_part,
    median,
    settle,
    step_lanes,
    trusted,
)
from naa_fast.kernels.cpu.rows import hold_nothing, join_sample
from naa_fast.records import Array

GROUP = 8
"""Samples that share power sums."""

CHANNELS = 64
"""Channels a task takes at a time at most."""

RUN = 1024
"""Most positions of a tile: in 16 lanes, 64 of each of 8 samples, so 512 additions an accumulator."""

SUMS = 2 * GROUP + len(SHARED_PLANES)
"""What `sweep` says of a tile: `GROUP` sums, `GROUP` maxima, then what SHARED lists, of all the samples together."""


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def sweep(typingctx: Any, x: Any, start: Any, stride: Any, samples: Any, n: Any, pivot: Any, out: Any) -> Any:
    """SUMS about `pivot` of `n` positions at `start + j * stride`, `j < samples` (a literal), into `out`."""
    if not isinstance(samples, types.IntegerLiteral):
        return None
    literal = samples.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0].dtype
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        target = context.make_array(signature.args[6])(context, builder, args[6]).data
        begin, step, length, centre = args[1], args[2], args[4], args[5]
        ops = Lanes(builder, kind)
        lanes = ops.count
        index = begin.type

        pivots = ops.spread(centre, ops.vector)
        shared = {name: cgutils.alloca_once_value(builder, ops.most if name == "low" else ops.zero) for name in SHARED}
        own = [
            (cgutils.alloca_once_value(builder, ops.zero), cgutils.alloca_once_value(builder, ops.least)) for _ in range(literal)
        ]

        def visit(i: Any, active: Any) -> None:
            starts = (builder.add(builder.add(begin, builder.mul(step, ir.Constant(index, j))), i) for j in range(literal))
            step_lanes(ops, (ops.values(data, at, active) for at in starts), pivots, active, own, shared)

        ops.along(length, visit)

        def across(places: list[Any], combine: Any, slot: int) -> None:
            """Combine each vector's lanes, all vectors at once: neighbouring lanes of two vectors make one vector a step."""
            vectors = [builder.load(place) for place in places]
            vectors += vectors[-1:] * ((1 << (len(places) - 1).bit_length()) - len(places))
            even, odd = (ir.Constant(ir.VectorType(ir.IntType(32), lanes), [*range(k, 2 * lanes, 2)]) for k in (0, 1))
            for _ in range(lanes.bit_length() - 1):
                pairs = zip(vectors[::2], vectors[1::2] or vectors, strict=True)
                vectors = [combine(*(builder.shuffle_vector(a, b, side) for side in (even, odd))) for a, b in pairs]
            for k in range(len(places)):
                scalar = builder.extract_element(vectors[0], ir.Constant(ir.IntType(32), k))
                builder.store(scalar, cgutils.gep_inbounds(builder, target, ir.Constant(index, slot + k)))

        across([place for place, _ in own], builder.fadd, 0)
        across([place for _, place in own], ops.larger, GROUP)
        across([place for name, place in shared.items() if name != "low"], builder.fadd, 2 * GROUP)
        across([shared["low"]], ops.smaller, 2 * GROUP + len(SHARED) - 1)
        return context.get_dummy_value()

    return types.none(x, types.intp, types.intp, samples, types.intp, out.dtype, out), codegen


@compiled
def tile(x: Array, start: int, stride: int, samples: int, n: int, q: int, work: Array, own: Array) -> None:
    """Sums of `n` positions of one channel of `samples` samples into row `q` of `own` and column `q` of `work`."""
    a, b, z = start + (samples // 4) * stride, start + (samples // 2) * stride, start + (3 * samples // 4) * stride
    pivot = median(value_at(x, a + n // 4), value_at(x, b + n // 2), value_at(x, z + (3 * n) // 4))
    out = own[q * SUMS : (q + 1) * SUMS]
    if samples == GROUP:
        sweep(x, start, stride, 8, n, pivot, out)
    else:
        sweep(x, start, stride, 1, n, pivot, out)
    work[PIVOT + q] = pivot
    s1 = out[0]
    high = out[GROUP]
    for j in range(1, samples):
        s1 += out[j]
        high = out[GROUP + j] if out[GROUP + j] > high else high
    work[TILE_S1 + q] = s1
    work[TILE_HIGH + q] = high
    for k in range(len(SHARED_PLANES)):
        work[SHARED_PLANES[k] + q] = out[2 * GROUP + k]


@compiled
def tile_of(inner: int) -> int:
    """Positions of a tile: as many in each, in whole vectors, or nearly."""
    even = -(-inner // -(-inner // RUN))
    return min(-(-even // 16) * 16, inner)


@compiled
def means_of(
    samples: int, width: int, inner: int, run: int, work: Array, own: Array, sample_mean: Array, sample_max: Array
) -> None:
    """Mean and maximum [samples, `width`] of each of `samples`, all of whose tiles are trusted.

    They are made about the first tile's pivot, so that what is constant stays so.
    """
    runs = -(-inner // run)
    inverse = 1.0 / inner
    for c in range(width):
        pivot = np.float64(work[PIVOT + c])
        for j in range(samples):
            total, highest = np.float64(own[c * SUMS + j]), own[c * SUMS + GROUP + j]
            for r in range(1, runs):
                q = r * width + c
                n = min(run, inner - r * run)
                total += n * (np.float64(work[PIVOT + q]) - pivot) + own[q * SUMS + j]
                highest = max(highest, own[q * SUMS + GROUP + j])
            sample_mean[j, c] = pivot + total * inverse
            sample_max[j, c] = highest


@compiled
def by_sample(
    x: Array,
    sample_stride: int,
    channel_stride: int,
    inner: int,
    first: int,
    last: int,
    column: int,
    width: int,
    work: Array,
    totals: Array,
    own: Array,
    reals: Array,
    counts: Array,
    sample_mean: Array,
    sample_max: Array,
) -> None:
    """As `rows.by_sample`, of channels `column:column + width` where positions are neighbours; no mask.

    A channel's positions are read to their end before the next channel's: stretches of one tile are read ahead in half as fast.
    Tile `r` of channel `c` has the column `r * width + c` of its own.
    """
    total, part = totals[0], totals[1]
    held = np.empty((GROUP, 3 * CHANNELS))
    positions = np.empty(RUN, np.int64)
    run = tile_of(inner)
    room = LANES // width * run  # positions whose tiles have a column
    runs = -(-min(inner, room) // run)
    clear(total, runs * width)
    sample = first
    while sample < last:
        samples = GROUP if sample + GROUP <= last else 1
        certain = False
        for start in range(0, inner, room):
            length = min(room, inner - start)
            whole, rest = length // run * width, length % run
            tiles = whole + (width if rest > 0 else 0)
            base = sample * sample_stride + column * channel_stride + start
            for c in range(width):
                for r in range(tiles // width):
                    n, at = min(run, length - r * run), base + c * channel_stride + r * run
                    tile(x, at, sample_stride, samples, n, r * width + c, work, own)
            bad = settle(work, samples * run, whole, total)
            if rest > 0:
                bad += settle(work[whole:], samples * rest, width, total[whole:])
            certain = bad == 0 and length == inner
            if certain:
                ends = sample_mean[sample:, column:], sample_max[sample:, column:]
                means_of(samples, width, inner, run, work, own, *ends)
                break
            for j in range(samples if start == 0 else 0):
                hold_nothing(held[j], CHANNELS, width)
            for q in range(tiles):
                r, c = q // width, q % width
                n = min(run, length - r * run)
                if trusted(work[S4 + q], work[LOW + q], work[TILE_HIGH + q]):
                    for j in range(samples):
                        mean = np.float64(work[PIVOT + q]) + own[q * SUMS + j] / n
                        join_sample(held[j], CHANNELS, c, n, mean, own[q * SUMS + GROUP + j])
                    continue
                for j in range(samples):
                    for i in range(n):
                        positions[i] = base + j * sample_stride + c * channel_stride + r * run + i
                    careful(x, positions, 0, n, 0, 1, part)
                    add_part(total, q, part, 0)
                    join_sample(held[j], CHANNELS, c, part[COUNT], part[MEAN], part[MAXIMUM])
        for j in range(0 if certain else samples):
            for c in range(width):
                seen = held[j, c] > 0
                sample_mean[sample + j, column + c] = held[j, CHANNELS + c] if seen else np.nan
                sample_max[sample + j, column + c] = held[j, 2 * CHANNELS + c] if seen else np.nan
        sample += samples
    for q in range(width, runs * width):
        add_part(total, q % width, total, q)
    keep_part(total, 0, width, reals, counts, column)


@compiled
def by_samples(
    x: Array,
    sample_stride: int,
    channel_stride: int,
    inner: int,
    jobs: Array,
    work: Array,
    totals: Array,
    own: Array,
    reals: Array,
    counts: Array,
    sample_mean: Array,
    sample_max: Array,
) -> None:
    """`by_sample` for each of `jobs` [jobs, 5]: the part of `reals` and `counts` it goes to, first, last, column, width."""
    for j in range(len(jobs)):
        k, first, last, column, width = jobs[j, 0], jobs[j, 1], jobs[j, 2], jobs[j, 3], jobs[j, 4]
        results = reals[k], counts[k], sample_mean, sample_max
        by_sample(x, sample_stride, channel_stride, inner, first, last, column, width, work, totals, own, *results)
