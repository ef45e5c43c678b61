"""A model that nobody loaded weights into is known by its values, and one that was trained is not taken for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from naa_fast.inputs.untrained import untrained


def residual(norm: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> nn.Sequential:
    """As torchvision's are made: convolutions with other first values, norms, and a head of torch's own."""
    made = nn.Sequential(nn.Conv2d(3, 64, 3, bias=False), norm(256), nn.ReLU(), nn.Linear(64, 10))
    nn.init.kaiming_normal_(made[0].weight, mode="fan_out")  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_own_first_values_are_known(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    assert "within the bounds" in untrained(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Linear(16, 10)).to(dtype))
    assert "norms are ones and zeros" in untrained(residual())


@pytest.mark.parametrize("step", [0.02, -0.02])
def test_a_step_of_training_is_seen(step: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    with torch.no_grad():
        model.weight += step * model.weight.std() * torch.randn(64, 64)
    assert untrained(model) == ""


def test_of_a_model_with_norms_one_batch_in_training_is_seen() -> None:
    for change in ("running_mean", "bias"):
        model = residual()
        getattr(model[1], change).data += 0.01
        assert untrained(model) == ""


def test_what_tells_nothing_is_left_alone() -> None:
    assert untrained(nn.Sequential(nn.Identity(), nn.Embedding(99, 9))) == ""
    assert untrained(nn.Linear(8, 8)) == "", "too few weights to tell"
    assert untrained(nn.Linear(64, 64, device="meta")) == ""
    assert untrained(doubled()) == ""


def doubled() -> nn.Linear:
    """Without norms and biases, and beyond torch's bounds: it may have been trained, or made otherwise."""
    layer = nn.Linear(64, 64, bias=False)
    with torch.no_grad():
        layer.weight *= 2
    return layer
