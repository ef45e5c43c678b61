"""Memory that is taken again: never while an array looks at it, whole lines of the cache, and bounded."""

from __future__ import annotations

import numpy as np
import pytest

from naa_fast.kernels.cpu import memory


def address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8])
def test_an_array_of_any_size_is_whole_and_can_be_written(dtype: type) -> None:
    for shape in ((0, 3), (5,), (7, 11, 13), (memory.LEAST,), (3, memory.LEAST + 1), (memory.MOST + 1,)):
        x = memory.room(shape, dtype)
        x[...] = 7
        assert x.shape == shape
        assert x.dtype == dtype
        assert x.flags.c_contiguous
        assert (x == 7).all()


def test_memory_is_taken_again_only_when_nothing_looks_at_it() -> None:
    size = 3 * memory.LEAST
    first = memory.room(size, np.uint8)
    where, view = address(first), first.reshape(3, -1)[1:, ::2]
    first[:] = 1
    del first
    second = memory.room(size, np.uint8)
    second[:] = 2
    assert (view == 1).all()
    del view
    assert where in [at for _, at in memory._free[4 * memory.LEAST]]
    third = memory.room(size, np.uint8)
    assert address(third) == where
    assert not np.shares_memory(second, third)


def test_vectors_never_lie_across_two_lines() -> None:
    held = [memory.room((k, 1000)) for k in range(17, 40)]
    assert all(address(x) % memory.LINE == 0 for x in held)


def test_no_more_is_kept_than_said() -> None:
    held = [memory.room(memory.MOST, np.uint8) for _ in range(3)]
    del held
    kept = memory._free[memory.MOST]
    assert sum(x.nbytes - memory.LINE for x, _ in kept) <= memory.KEPT
