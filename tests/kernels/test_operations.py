"""How many torch operations the portable backend takes, counted where torch hands them to a device."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from naa_fast.accumulate import Accumulator

BUDGET = 40
"""Operations a layer a batch with histograms, of ten layers or more."""


class Dispatched(TorchDispatchMode):
    """Counts what is run inside it, views of tensors among it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.operations[str(operation)] += 1
        return operation(*arguments, **(keywords or {}))


def operations(x: Tensor, layers: int, mask: Tensor | None = None) -> int:
    """Of a batch that is not the first, in which state and histograms are made."""
    accumulator = Accumulator("portable")
    for batch in range(2):
        with Dispatched() as counted:
            accumulator.begin(len(x), batch * len(x), mask)
            for layer in range(layers):
                accumulator.observe(f"layer {layer}", x, "l")
            accumulator.commit()
    return counted.operations.total()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(64, 5, 49), (8, 12, 700), (256, 33, 1), (32, 33, 1)], ids=str)
def test_a_layer_takes_forty_operations_a_batch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert operations(torch.randn(shape).to(dtype), 10) <= 10 * BUDGET


def test_masks_and_float64_take_as_many_in_larger_models() -> None:
    x = torch.randn(16, 5, 9)
    assert operations(x, 20, torch.rand(16, 9) < 0.5) <= 20 * BUDGET
    assert operations(x.double(), 20) <= 20 * BUDGET


@pytest.mark.parametrize("inner", [1, 9])
def test_their_number_does_not_grow_with_the_size_of_the_layer(inner: int) -> None:
    assert operations(torch.randn(16, 3, inner), 3) == operations(torch.randn(128, 300, inner), 3)


@pytest.mark.parametrize("inner", [1, 9])
def test_folding_and_counting_take_as_many_for_many_layers_as_for_few(inner: int) -> None:
    x = torch.randn(16, 5, inner)
    few, more, many = (operations(x, layers) for layers in (5, 10, 40))
    assert many - more == 6 * (more - few)
    assert more - few <= 5 * 30  # all else is reduce, in the hook
