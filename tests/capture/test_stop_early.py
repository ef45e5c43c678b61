"""A forward that ends after the last chosen layer measures the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from capture.models import hook_count, resnet
from torch import Tensor, nn

from naa_fast import audit
from naa_fast.errors import CaptureError

X = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Counts(nn.Module):
    """A model that catches what it can, and knows how often its head ran."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.ran = resnet(), nn.Linear(4, 2), 0

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.body(x)
        except Exception:
            x = torch.zeros(len(x), 4)
        self.ran += 1
        return self.head(x)


@pytest.mark.parametrize("layers", [["body.1.0.relu"], ["body.0", "body.1.*.conv?"]])
def test_records_are_the_same_bits_and_the_rest_does_not_run(layers: list[str]) -> None:
    model = Counts()
    whole = audit.measure(model, X, layers=layers, batch_size=10)
    assert model.ran == 4
    early = audit.measure(model, X, layers=layers, batch_size=10, stop_early=True)
    assert model.ran == 5, "the first batch runs whole"
    assert hook_count(model) == 0
    for name, record in whole.layers.items():
        for ours, theirs in zip(early.layers[name].packed(), record.packed(), strict=True):
            assert np.array_equal(ours, theirs)
    assert (len(whole.predictions), len(early.predictions)) == (3, 0)


class Wanders(nn.Module):
    """Takes another path where the first value is negative."""

    def __init__(self, skips: bool) -> None:
        super().__init__()
        self.a, self.b, self.skips = nn.Linear(4, 4), nn.Linear(4, 4), skips

    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0] < 0:
            return self.a(x) if self.skips else self.a(self.b(x))
        return self.b(self.a(x))


@pytest.mark.parametrize("skips", [False, True])
def test_another_path_than_the_first_batchs_is_an_error(skips: bool) -> None:
    x = torch.cat([torch.ones(8, 4), -torch.ones(8, 4)])
    with pytest.raises(CaptureError, match="reached in another order than in the first batch") as caught:
        audit.measure(Wanders(skips), x, layers=["a", "b"], batch_size=8, stop_early=True)
    assert "leave --stop-early out" in str(caught.value)
    assert audit.measure(Wanders(skips), x, layers=["a"], batch_size=8).samples == 16


def test_a_compiled_model_cannot_stop_early() -> None:
    with pytest.raises(CaptureError, match="a compiled model cannot stop early"):
        audit.measure(torch.compile(resnet(), backend="eager"), X, stop_early=True)  # type: ignore[arg-type]
