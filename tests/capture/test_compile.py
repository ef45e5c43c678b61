"""Compiled models: the hooks fire, the graph stays whole, the numbers do not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from capture.models import hook_count, mlp, resnet
from torch import nn

import naa_fast


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_compiled_model_gives_the_numbers_of_the_eager_one(backend: str) -> None:
    torch.manual_seed(0)
    model = mlp().eval()
    x = torch.randn(70, 12)
    eager = naa_fast.measure(model, x, batch_size=32)
    compiled: Any = torch.compile(model, backend=backend, fullgraph=True)
    compiled(x[:32])  # hooks attached after a first call are what the compiler would ignore
    measured = naa_fast.measure(compiled, x, batch_size=32)
    assert list(measured.layers) == list(eager.layers)
    for name, record in eager.layers.items():
        assert np.array_equal(measured.layers[name].positions.count, record.positions.count)
        assert np.allclose(measured.layers[name].positions.mean, record.positions.mean, rtol=1e-5, atol=1e-6)
        assert np.allclose(measured.layers[name].positions.m2, record.positions.m2, rtol=1e-4)
    assert any("reset" in note for note in measured.provenance["notes"])
    assert hook_count(model) == 0


def test_after_the_scan_the_compiled_model_no_longer_calls_hooks() -> None:
    from naa_fast.capture import Capture, select

    class Counter:
        calls = 0

        def observe(self, layer: str, x: torch.Tensor, layout: str) -> None:
            self.calls += 1

    model: Any = torch.compile(mlp().eval(), backend="eager", fullgraph=True)
    counter = Counter()
    x = torch.randn(4, 12)
    with torch.no_grad(), Capture(model, select(model), counter) as capture:
        capture.begin(len(x))
        model(x)
        assert counter.calls == 3
    with torch.no_grad():
        model(x)
    assert counter.calls == 3


def test_a_block_compiled_in_place_is_seen_too() -> None:
    model = resnet().eval()
    block = model.get_submodule("1")
    assert isinstance(block, nn.Sequential)
    block[0].compile(backend="eager")
    x = torch.randn(9, 1, 8, 8)
    with torch.no_grad():
        model(x)
    measured = naa_fast.measure(model, x, layers=["1.0.conv1"])
    assert measured.layers["1.0.conv1"].sample_mean.count.tolist() == [9] * 6


def test_compiled_models_read_items_and_layouts_like_eager_ones() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.pair = nn.Conv1d(2, 3, 1), nn.ReLU(), Doubles()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pair(self.act(self.conv(x)))[1]

    torch.manual_seed(0)
    model = Pairs().eval()
    x = torch.randn(30, 2, 7)
    eager = naa_fast.measure(model, x, layers=["act", "pair:1"])
    held: Any = torch.compile(model, backend="eager", fullgraph=True)
    compiled = naa_fast.measure(held, x, layers=["act", "pair:1"])
    assert {name: record.layout for name, record in compiled.layers.items()} == {
        name: record.layout for name, record in eager.layers.items()
    }
    assert compiled.layers["act"].channels == 3
    assert np.allclose(compiled.layers["pair:1"].positions.mean, eager.layers["pair:1"].positions.mean)


class Doubles(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, 2 * x
