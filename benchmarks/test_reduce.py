"""Micro benchmarks of `reduce` and `fold` at the sizes a hook meets: `pytest benchmarks --benchmark-only`.

Small tensors, where the cost of a call shows; benchmarks/cpu_kernels.py measures bandwidth. The answer is checked first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from naa_fast.kernels import cpu, portable, reference
from naa_fast.records import Array

SHAPES = {
    "[N,D] 32x256": (32, 256, 1),
    "[N,D] 256x4096": (256, 4096, 1),
    "NCHW 32x64x28x28": (32, 64, 784),
    "NCHW 32x512x7x7": (32, 512, 49),
    "[B,T,D] 8x128x768": (8, 768, 128),
}
BACKENDS: dict[str, tuple[Any, Callable[[Array], Any]]] = {"cpu": (cpu, lambda x: x), "portable": (portable, torch.from_numpy)}


@pytest.fixture(params=list(SHAPES))
def x(request: pytest.FixtureRequest) -> Array:
    outer, channels, inner = SHAPES[request.param]
    values = np.random.default_rng(0).standard_normal((outer, inner, channels), dtype=np.float32)
    held = values.transpose(0, 2, 1)
    return np.ascontiguousarray(held) if request.param.startswith("NCHW") else held


def checked(packed: tuple[Array, Array, Array], x: Array) -> None:
    state = reference.empty(x.shape[1], x)
    reference.fold([(state, reference.reduce(x, None, 0))], 0)
    assert np.array_equal(packed[1], state.record.packed()[1])
    assert np.allclose(packed[0][:, :2], state.record.packed()[0][:, :2], rtol=1e-6, atol=1e-6)  # means and square sums


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_reduce(benchmark: Any, backend: str, x: Array) -> None:
    module, wrap = BACKENDS[backend]
    held = wrap(x)
    state = module.empty(x.shape[1], held)
    module.fold([(state, module.reduce(held, None, 0))], 0)
    checked(module.read([state])[0], x)
    benchmark.extra_info["bytes"] = x.nbytes
    benchmark(module.reduce, held, None, 0)


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_fold(benchmark: Any, backend: str, x: Array) -> None:
    module, wrap = BACKENDS[backend]
    held = wrap(x)
    state, partials = module.empty(x.shape[1], held), module.reduce(held, None, 0)
    benchmark(module.fold, [(state, partials)], 0)
