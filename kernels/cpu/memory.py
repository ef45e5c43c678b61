"""Memory that a kernel writes to, and that is taken again when nobody holds it.

A page fresh from the system costs some microseconds, as long as reading 100 KB: of the default `measure` of a layer such pages
took a third of the time.
"""

from __future__ import annotations

from collections import deque
from math import prod
from typing import Any

import numpy as np

from naa_fast.records import Array

LINE = 64
"""Bytes of a line of the cache, where all memory here begins: vectors that lie across two of them take .3 more time."""

LEAST, MOST = 1 << 17, 1 << 25
"""Bytes of what is kept: smaller arrays come from pages that the process has, and larger ones are few."""

KEPT = 1 << 25
"""Bytes that are kept of each size at most; sizes are powers of two, of which only what is written to is in memory."""

_free: dict[int, deque[tuple[Array, int]]] = {
    size: deque(maxlen=max(KEPT // size, 1)) for size in (1 << k for k in range(LEAST.bit_length() - 1, MOST.bit_length()))
}


class Lent:
    """Memory of a size, until the last array that looks at it is gone."""

    def __init__(self, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        try:
            self.memory, at = _free[size].pop()
        except IndexError:
            self.memory = np.empty(size + LINE, np.uint8)
            at = -(-self.memory.ctypes.data // LINE) * LINE
        self.size, self.at = size, at
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": (at, False)}

    def __del__(self) -> None:
        _free[self.size].append((self.memory, self.at))


def room(shape: int | tuple[int, ...], dtype: Any = np.float64) -> Array:
    """An array that nothing was written to, as `np.empty`. A thread may let go of what another took."""
    shape, dtype = (shape,) if isinstance(shape, int) else shape, np.dtype(dtype)
    nbytes = prod(shape) * dtype.itemsize
    if not LEAST <= nbytes <= MOST:
        return np.empty(shape, dtype)
    return np.asarray(Lent(1 << (nbytes - 1).bit_length(), shape, dtype))
