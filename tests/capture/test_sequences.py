"""Neurons of 1-D convolutional nets are channels, whatever changes the length between a convolution and its activation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import naa_fast


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Net(nn.Module):
    def __init__(self, conv: nn.Module, between: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.between, self.act, self.head = conv, between, act, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.between(self.conv(x))).mean(2))


CONV: Callable[[], nn.Module] = lambda: nn.Conv1d(2, 6, 3, padding=2)  # noqa: E731
NETS: dict[str, Callable[[], tuple[nn.Module, nn.Module, nn.Module]]] = {
    "chomp": lambda: (CONV(), Function(lambda x: x[:, :, :-2]), nn.ReLU()),
    "pooling": lambda: (CONV(), Function(lambda x: F.max_pool1d(x, 2)), nn.Tanh()),
    "up-sampling": lambda: (CONV(), nn.Upsample(scale_factor=2), nn.ReLU()),
    "padding": lambda: (CONV(), nn.ConstantPad1d(3, 0.0), nn.GELU()),
    "gated": lambda: (nn.Conv1d(2, 12, 3), nn.Identity(), nn.GLU(dim=1)),
    "a slope a channel": lambda: (CONV(), Function(lambda x: x[:, :, 1:]), nn.PReLU(6)),
    "dropout and chomp": lambda: (CONV(), nn.Sequential(nn.Dropout1d(), Function(lambda x: x[..., ::2])), nn.SiLU()),
}


@pytest.mark.parametrize("name", NETS)
def test_neurons_are_channels(name: str) -> None:
    torch.manual_seed(0)
    net = Net(*NETS[name]()).eval()
    x = torch.randn(64, 2, 20)
    record = naa_fast.measure(net, x).layers["act"]
    with torch.no_grad():
        stored = net.act(net.between(net.conv(x)))
    assert np.allclose(record.positions.mean, stored.double().mean((0, 2)), atol=1e-6)


def test_another_length_is_no_other_layer() -> None:
    torch.manual_seed(0)
    net = Net(*NETS["chomp"]()).eval()
    measured = naa_fast.measure(net, [torch.randn(8, 2, 20), torch.randn(8, 2, 24)])
    assert [name for name in measured.layers if name.startswith("act")] == ["act"]
    assert measured.layers["act"].positions.count.tolist() == [8 * 20 + 8 * 24] * 6


def test_tokens_that_are_pooled_keep_their_last_axis() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.act, self.head = nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.up(x)[:, ::2]).mean(1))

    assert naa_fast.measure(Pooled(), torch.randn(32, 12, 4)).layers["act"].channels == 10
