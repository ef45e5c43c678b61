"""Positions fastest in memory (NCHW): eight samples at a time, positions as SIMD lanes.

A sample's moments would end in seven sums across lanes for every channel of every sample, which costs more than reading 49
positions. So only its sum and maximum are kept apart; the power sums of eight samples go into one accumulator. `sweep` is
written in vector IR because the loop vectoriser, without leave to reorder additions, makes no vectors of sums along a row:
plain Numba, with sixteen sums of each kind in arrays, takes 4.8 to 6.5 times as long (float32, 64x3136 and 512x49;
`benchmarks.plain_njit`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from naa_fast.kernels.cpu.elements import cgutils, compiled, intrinsic, value_at, widened
from naa_fast.kernels.cpu.planes import (
    COUNT,
    LOW,
    MAXIMUM,
    MEAN,
    PIVOT,
    S4,
    SHARED,
    SHARED_PLANES,
    TILE_HIGH,
    TILE_S1,
    TOTAL_SIZE,
    add_part,
    careful,
    clear,
    keep_part,
    median,
    settle,
    step_lanes,
    trusted,
    untrusted_run,
)
from naa_fast.kernels.cpu.rows import join_sample
from naa_fast.records import Array

GROUP = 8
"""Samples that share power sums."""

CHANNELS = 64
"""Channels a task takes at a time."""

RUN = 512
"""Positions per tile: in 16 lanes, 32 of each of 8 samples, so 256 additions an accumulator."""

VECTOR_BITS = 512


class Lanes:
    """Vectors of floats in IR, as `planes.step_lanes` needs them, for elements of Numba's type `kind`."""

    def __init__(self, builder: Any, kind: Any) -> None:
        self.builder = builder
        self.count = VECTOR_BITS // (64 if kind == types.float64 else 32)
        self.vector = ir.VectorType(ir.DoubleType() if kind == types.float64 else ir.FloatType(), self.count)
        self.zero, self.one, self.least, self.most = (
            ir.Constant(self.vector, [number] * self.count) for number in (0.0, 1.0, float("-inf"), float("inf"))
        )
        self.load, self.store = builder.load, builder.store

    def spread(self, scalar: Any, wide: Any) -> Any:
        first = self.builder.insert_element(ir.Constant(wide, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), self.count), [0] * self.count))

    def where(self, active: Any, a: Any, b: Any) -> Any:
        return a if active is None else self.builder.select(active, a, b)

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def smaller(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def minus(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b)

    def times(self, a: Any, b: Any, *flags: str) -> Any:
        return self.builder.fmul(a, b, flags=flags)

    def plus(self, a: Any, b: Any, *flags: str) -> Any:
        return self.builder.fadd(a, b, flags=flags)

    def above_zero(self, v: Any) -> Any:
        """1 where it is, else 0."""
        return self.builder.select(self.builder.fcmp_ordered(">", v, self.zero), self.one, self.zero)

    def add_to(self, place: Any, more: Any) -> None:
        self.store(self.builder.fadd(self.load(place), more), place)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def sweep(typingctx: Any, x: Any, start: Any, stride: Any, samples: Any, n: Any, pivot: Any, out: Any) -> Any:
    """Sums about `pivot` of `n` positions at `start + j * stride`, `j < samples` (a literal), into `out`.

    `out` holds `GROUP` sums, `GROUP` maxima, then what SHARED lists, of all the samples together.
    """
    if not isinstance(samples, types.IntegerLiteral):
        return None
    literal = samples.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0].dtype
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        target = context.make_array(signature.args[6])(context, builder, args[6]).data
        begin, step, length, centre = args[1], args[2], args[4], args[5]
        ops = Lanes(builder, kind)
        lanes, source = ops.count, ir.VectorType(data.type.pointee, ops.count)
        align = context.get_abi_sizeof(data.type.pointee)
        index = begin.type

        pivots = ops.spread(centre, ops.vector)
        shared = {name: cgutils.alloca_once_value(builder, ops.most if name == "low" else ops.zero) for name in SHARED}
        own = [
            (cgutils.alloca_once_value(builder, ops.zero), cgutils.alloca_once_value(builder, ops.least)) for _ in range(literal)
        ]

        def value(j: int, i: Any, active: Any) -> Any:
            at = builder.add(builder.add(begin, builder.mul(step, ir.Constant(index, j))), i)
            place = builder.bitcast(cgutils.gep_inbounds(builder, data, at), source.as_pointer())
            if active is None:
                return widened(builder, builder.load(place, align=align), kind, lanes)
            name = f"llvm.masked.load.v{lanes}{suffix(data.type.pointee)}.p0"
            form = ir.FunctionType(source, [source.as_pointer(), ir.IntType(32), active.type, source])
            load = cgutils.get_or_insert_function(builder.module, form, name)
            loaded = builder.call(load, [place, ir.Constant(ir.IntType(32), align), active, ir.Constant(source, None)])
            return widened(builder, loaded, kind, lanes)

        def visit(i: Any, active: Any) -> None:
            step_lanes(ops, (value(j, i, active) for j in range(literal)), pivots, active, own, shared)

        width = ir.Constant(index, lanes)
        whole = builder.sub(length, builder.srem(length, width))
        with cgutils.for_range_slice(builder, ir.Constant(index, 0), whole, width, index) as (i, _):
            visit(i, None)
        with builder.if_then(builder.icmp_signed("<", whole, length)):
            offsets = ir.Constant(ir.VectorType(index, lanes), list(range(lanes)))
            rest = builder.sub(length, whole)
            visit(whole, builder.icmp_signed("<", offsets, ops.spread(rest, offsets.type)))

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


def suffix(kind: Any) -> str:
    """LLVM's suffix for an overloaded intrinsic's element type."""
    return {"float": "f32", "double": "f64"}.get(str(kind), str(kind))


@compiled
def tile(
    x: Array, base: int, stride: int, channel_stride: int, samples: int, width: int, n: int, work: Array, own: Array, out: Array
) -> None:
    """Sums of `n` positions of `width` channels of `samples` samples into the planes of `work`; each sample's own into `own`."""
    for c in range(width):
        start = base + c * channel_stride
        a, b, z = start + (samples // 4) * stride, start + (samples // 2) * stride, start + (3 * samples // 4) * stride
        pivot = median(value_at(x, a + n // 4), value_at(x, b + n // 2), value_at(x, z + (3 * n) // 4))
        if samples == GROUP:
            sweep(x, start, stride, 8, n, pivot, out)
        else:
            sweep(x, start, stride, 1, n, pivot, out)
        work[PIVOT + c] = pivot
        s1 = out[0]
        high = out[GROUP]
        own[c] = out[0]
        own[GROUP * CHANNELS + c] = out[GROUP]
        for j in range(1, samples):
            s1 += out[j]
            high = out[GROUP + j] if out[GROUP + j] > high else high
            own[j * CHANNELS + c] = out[j]
            own[(GROUP + j) * CHANNELS + c] = out[GROUP + j]
        work[TILE_S1 + c] = s1
        work[TILE_HIGH + c] = high
        for k in range(len(SHARED_PLANES)):
            work[SHARED_PLANES[k] + c] = out[2 * GROUP + k]


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
    reals: Array,
    counts: Array,
    sample_mean: Array,
    sample_max: Array,
) -> None:
    """As `rows.by_sample`, of channels `column:column + width` where positions are neighbours; no mask."""
    total = np.empty(TOTAL_SIZE)
    part = np.empty(TOTAL_SIZE)
    held = np.empty((GROUP, 3 * CHANNELS))
    own = np.empty(2 * GROUP * CHANNELS, work.dtype)
    out = np.empty(2 * GROUP + len(SHARED_PLANES), work.dtype)
    positions = np.empty(RUN, np.int64)
    clear(total, width)
    whole = inner <= RUN
    sample = first
    while sample < last:
        samples = GROUP if sample + GROUP <= last else 1
        if not whole:
            held[:] = 0.0
            held[:, 2 * CHANNELS :] = -np.inf
        for start in range(0, inner, RUN):
            n = min(RUN, inner - start)
            base = sample * sample_stride + column * channel_stride + start
            tile(x, base, sample_stride, channel_stride, samples, width, n, work, own, out)
            bad = settle(work, samples * n, width, total)
            inverse = 1.0 / n
            for j in range(samples):
                if whole:
                    for c in range(width):
                        sample_mean[sample + j, column + c] = np.float64(work[PIVOT + c]) + own[j * CHANNELS + c] * inverse
                        sample_max[sample + j, column + c] = own[(GROUP + j) * CHANNELS + c]
                    continue
                for c in range(width):
                    if bad == 0 or trusted(work[S4 + c], work[LOW + c], work[TILE_HIGH + c]):
                        mean = np.float64(work[PIVOT + c]) + own[j * CHANNELS + c] * inverse
                        join_sample(held[j], CHANNELS, c, n, mean, own[(GROUP + j) * CHANNELS + c])
            if bad > 0:
                c, after = untrusted_run(work, 0, width, 1)
                while c < width:
                    for j in range(samples):
                        for i in range(n):
                            positions[i] = base + j * sample_stride + c * channel_stride + i
                        careful(x, positions, 0, n, 0, 1, part)
                        add_part(total, c, part, 0)
                        if whole:
                            seen = part[COUNT] > 0
                            sample_mean[sample + j, column + c] = part[MEAN] if seen else np.nan
                            sample_max[sample + j, column + c] = part[MAXIMUM] if seen else np.nan
                        else:
                            join_sample(held[j], CHANNELS, c, part[COUNT], part[MEAN], part[MAXIMUM])
                    c, after = untrusted_run(work, after, width, 1)
        for j in range(0 if whole else samples):
            for c in range(width):
                seen = held[j, c] > 0
                sample_mean[sample + j, column + c] = held[j, CHANNELS + c] if seen else np.nan
                sample_max[sample + j, column + c] = held[j, 2 * CHANNELS + c] if seen else np.nan
        sample += samples
    keep_part(total, 0, width, reals, counts, column)


@compiled
def by_samples(
    x: Array,
    sample_stride: int,
    channel_stride: int,
    inner: int,
    jobs: Array,
    work: Array,
    reals: Array,
    counts: Array,
    sample_mean: Array,
    sample_max: Array,
) -> None:
    """`by_sample` for each of `jobs` [jobs, 5]: the part of `reals` and `counts` it goes to, first, last, column, width."""
    for j in range(len(jobs)):
        k, first, last, column, width = jobs[j, 0], jobs[j, 1], jobs[j, 2], jobs[j, 3], jobs[j, 4]
        results = reals[k], counts[k], sample_mean, sample_max
        by_sample(x, sample_stride, channel_stride, inner, first, last, column, width, work, *results)
