"""The class that scores choose: every backend against the definition, and the definition against plain words."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from kernels.test_backends import DTYPES, stored, torch_tensor

from naa_fast.accumulate import chosen_classes
from naa_fast.kernels import cpu, cuda, portable, reference
from naa_fast.records import Array

BACKENDS: dict[str, tuple[Any, Any]] = {"cpu": (cpu, lambda x: x), "portable": (portable, torch_tensor)}


def hard_scores() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((37, 1000)).astype(np.float32)
    ties = rng.integers(-2, 3, (50, 600)).astype(np.float32)
    zeros = np.where(rng.random((30, 9)) < 0.5, -0.0, 0.0).astype(np.float32)
    negative = -np.abs(normal[:, :513]) - 1
    broken = normal[:, :300].copy()
    broken[0, 0], broken[3, 299], broken[5, 7], broken[9] = np.nan, np.inf, -np.inf, np.nan
    broken[11, 4] = -np.nan
    last = np.zeros((4, 257), np.float32)
    last[:, -1] = [1, 1e-41, 3e38, -1]  # behind the first run; subnormal; nearly too large
    most = np.finfo(np.float32).max
    large = np.array([[most, most, 0], [-most, -most, -most], [0, -most, most]], np.float32)
    return {"normal": normal, "ties": ties, "zeros of both signs": zeros, "negative": negative, "not finite": broken} | {
        "the last of a row": last,
        "too large to add up": large,
        "one class": normal[:, :1],
        "no sample": normal[:0],
        "many rows": rng.standard_normal((9000, 40)).astype(np.float32),
    }


def plainly(row: Array, none: int) -> int:
    """In Python, value by value."""
    values = [float(v) for v in row]
    if not all(np.isfinite(values)):
        return none
    return values.index(max(values))


@pytest.mark.parametrize("name", list(hard_scores()))
def test_the_definition_is_the_first_of_the_largest(name: str) -> None:
    scores = hard_scores()[name][:60]
    assert reference.classes(scores, -1).tolist() == [plainly(row, -1) for row in scores]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", list(BACKENDS))
def test_every_backend_chooses_what_the_definition_does(backend: str, dtype: str) -> None:
    module, wrap = BACKENDS[backend]
    for name, scores in hard_scores().items():
        x = stored(scores, dtype)
        padded = np.zeros((2 * len(x), x.shape[1] + 3), x.dtype)[::2, 1:-2]
        padded[:] = x
        for view in (x, padded, np.asfortranarray(x), x[:, ::-1].copy()[:, ::-1]):
            got = np.asarray(module.classes(wrap(view), 7777))
            assert got.dtype == np.int64
            assert np.array_equal(got, reference.classes(view, 7777)), name


def test_every_backend_has_the_signature_of_the_reference() -> None:
    for module in (cpu, portable, cuda):
        assert list(inspect.signature(module.classes).parameters) == ["scores", "none"]


def test_scores_of_a_type_without_a_kernel_are_widened_and_none_is_changed() -> None:
    scores = torch.tensor([[0.0, 2.0, 1.0], [4.0, 2.0, 4.0]])
    assert chosen_classes(scores.to(torch.float8_e5m2)).tolist() == [1, 0]
    kept = scores.clone()
    assert chosen_classes(scores.T.contiguous().T).tolist() == [1, 0]
    assert torch.equal(scores, kept)
