"""How kernels are compiled here, and elements read as floats: float32 and float64, and bits of bfloat16 and float16."""

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

# Numba types these in part only, and `intrinsic` as if the typing context were an argument of the call.
cgutils: Any = numba_cgutils
intrinsic: Any = numba_intrinsic

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
