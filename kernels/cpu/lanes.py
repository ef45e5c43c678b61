"""Vectors of floats in LLVM IR, which `images` steps along positions with; there is said why not plain Numba."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from naa_fast.kernels.cpu.elements import cgutils, widened

VECTOR_BITS = 512


class Lanes:
    """Vectors of floats in IR, as `planes.step_lanes` needs them, for elements of Numba's type `kind`."""

    def __init__(self, builder: Any, kind: Any) -> None:
        self.builder, self.kind = builder, kind
        self.count = VECTOR_BITS // (64 if kind == types.float64 else 32)
        self.vector = ir.VectorType(ir.DoubleType() if kind == types.float64 else ir.FloatType(), self.count)
        self.zero, self.one, self.least, self.most = (
            ir.Constant(self.vector, [number] * self.count) for number in (0.0, 1.0, float("-inf"), float("inf"))
        )
        self.load, self.store = builder.load, builder.store

    def along(self, length: Any, visit: Any) -> None:
        """Code that calls `visit(first, active)` for each vector of `range(length)`; `active` is None where it is whole."""
        index, builder = length.type, self.builder
        width = ir.Constant(index, self.count)
        whole = builder.sub(length, builder.srem(length, width))
        with cgutils.for_range_slice(builder, ir.Constant(index, 0), whole, width, index) as (i, _):
            visit(i, None)
        with builder.if_then(builder.icmp_signed("<", whole, length)):
            offsets = ir.Constant(ir.VectorType(index, self.count), list(range(self.count)))
            rest = builder.sub(length, whole)
            visit(whole, builder.icmp_signed("<", offsets, self.spread(rest, offsets.type)))

    def values(self, data: Any, at: Any, active: Any) -> Any:
        """The `active` elements from `at` on, as floats; zero elsewhere."""
        builder, element = self.builder, data.type.pointee
        source, align = ir.VectorType(element, self.count), 8 if self.kind == types.float64 else 4
        if element in (ir.IntType(16), ir.HalfType()):
            align = 2
        place = builder.bitcast(cgutils.gep_inbounds(builder, data, at), source.as_pointer())
        if active is None:
            return widened(builder, builder.load(place, align=align), self.kind, self.count)
        name = f"llvm.masked.load.v{self.count}{suffix(element)}.p0"
        form = ir.FunctionType(source, [source.as_pointer(), ir.IntType(32), active.type, source])
        load = cgutils.get_or_insert_function(builder.module, form, name)
        loaded = builder.call(load, [place, ir.Constant(ir.IntType(32), align), active, ir.Constant(source, None)])
        return widened(builder, loaded, self.kind, self.count)

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

    def add_to(self, place: Any, more: Any) -> None:
        self.store(self.builder.fadd(self.load(place), more), place)

    def count_above_zero(self, place: Any, v: Any) -> None:
        """Add 1 to `place` where `v` is above 0: one masked addition."""
        held = self.load(place)
        above = self.builder.fcmp_ordered(">", v, self.zero)
        self.store(self.builder.select(above, self.builder.fadd(held, self.one), held), place)


def suffix(kind: Any) -> str:
    """LLVM's suffix for an overloaded intrinsic's element type."""
    return {"float": "f32", "double": "f64"}.get(str(kind), str(kind))
