"""Parts of a model that no hook sees into, and layers that mix the samples of a batch, stand under what was not checked."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import naa_fast

X = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x))


@pytest.mark.parametrize(
    "make", [lambda: torch.jit.trace(body(), X[:2]), lambda: torch.jit.script(body())], ids=["traced", "scripted"]
)
def test_what_torchscript_hides_is_named(make: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Around(make())  # type: ignore[operator]
        audit = naa_fast.scan(model, X[:100], X[100:], proof=False)
    [line] = [line for line in audit.verdict.not_checked if "TorchScript" in line]
    assert line.startswith("1 TorchScript module with layers inside")
    assert "(inner)" in line


def test_dynamically_quantised_layers_are_read() -> None:
    engines = torch.backends.quantized.supported_engines
    torch.backends.quantized.engine = "onednn" if "onednn" in engines else "fbgemm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(body(), {nn.Linear}, torch.qint8)
        measured = naa_fast.measure(model, X)
        with torch.no_grad():
            stored = model[0](X).double().mean(0).numpy()
    assert list(measured.layers) == ["0", "1", "2"]
    assert np.allclose(measured.layers["0"].positions.mean, stored, atol=1e-6)
    assert "doubts" not in measured.provenance


@pytest.mark.parametrize("kind", ["no running statistics", "kept in training"])
def test_layers_that_normalise_by_the_batch_are_named(kind: str) -> None:
    class Trains(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> Trains:
            return super().train(True)

    norm = nn.BatchNorm1d(16, track_running_stats=False) if kind == "no running statistics" else Trains(16)
    model = nn.Sequential(nn.Linear(8, 16), norm, nn.ReLU(), nn.Linear(16, 3)).eval()
    [line] = naa_fast.measure(model, X).provenance["doubts"]
    assert line.startswith("1 BatchNorm layer normalises by the batch (1)")
    if kind == "no running statistics":
        audit = naa_fast.scan(model, X[:100], X[100:], proof=False)
        assert line in audit.verdict.not_checked


def test_an_ordinary_model_raises_no_doubt() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 3))
    assert "doubts" not in naa_fast.measure(model, X).provenance
