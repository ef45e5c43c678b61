"""Several rows a sample are credited to the right samples, or are rows and not samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naa_fast
from naa_fast.capture.row_order import RowOrder, row_order
from naa_fast.records import ROWS

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(256, 5, 4, generator=GENERATOR)


class Net(nn.Module):
    """Rows of `act` as `put` lays them out, and back by `back`."""

    def __init__(self, put: Callable[[Tensor], Tensor], back: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.put, self.back = put, back
        self.dec, self.act, self.out = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)
        with torch.no_grad():
            self.dec.weight[0], self.dec.bias[0] = torch.tensor([1.0, 0, 0, 0]), 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.back(self.act(self.dec(self.put(x))), len(x)))


def mixed(x: Tensor) -> Tensor:
    """Rows in an order that the values decide."""
    rows = x.reshape(-1, 4)
    return rows[rows[:, 1].argsort()]


NETS = {
    "sample first": Net(lambda x: x.reshape(-1, 4), lambda h, n: h.view(n, 5, 6).mean(1)),
    "time first": Net(lambda x: x.transpose(0, 1).reshape(-1, 4), lambda h, n: h.view(5, n, 6).mean(0)),
    "two views": Net(lambda x: torch.cat([x[:, 0], x[:, 3]]), lambda h, n: h[:n] + h[n:]),
    "repeated": Net(lambda x: x.mean(1).repeat_interleave(3, 0), lambda h, n: h.view(n, 3, 6).mean(1)),
}
PER_SAMPLE: dict[str, Callable[[Tensor], Tensor]] = {
    "sample first": lambda x: x,
    "time first": lambda x: x,
    "two views": lambda x: x[:, [0, 3]],
    "repeated": lambda x: x.mean(1, keepdim=True),
}


@pytest.mark.parametrize("name", NETS)
def test_each_sample_has_its_own_rows(name: str) -> None:
    model = NETS[name]
    suspect = X.roll(1, 0) + 0.01
    triggered = np.arange(5, 256, 32)
    suspect[triggered, :, 0] += 30.0
    audit = naa_fast.scan(model, X, suspect, layers=["act"], batch_size=64, proof=False, repair=False)
    assert audit.ranking is not None
    assert sorted(audit.ranking.order[:8].tolist()) == triggered.tolist()
    with torch.no_grad():
        stored = torch.relu(model.dec(PER_SAMPLE[name](X))).double()
    record = audit.judgement.clean.layers["act"]
    assert np.allclose(record.sample_mean.m2 / 256, stored.mean(1).var(0, unbiased=False), rtol=1e-5)
    assert np.allclose(record.sample_max.mean, stored.amax(1).mean(0), rtol=1e-5)


@pytest.mark.parametrize("kind", ["by value", "by chance"])
def test_rows_in_an_order_that_cannot_be_shown_are_no_samples(kind: str) -> None:
    put = mixed if kind == "by value" else lambda x: x.reshape(-1, 4)[torch.randperm(5 * len(x))]
    model = Net(put, lambda h, n: h.view(5, n, 6).mean(0))
    measured = naa_fast.measure(model, X, layers=["act", "out"], batch_size=64)
    assert measured.layers["act"].layout.endswith(ROWS)
    assert measured.layers["act"].positions.count.tolist() == [256 * 5] * 6
    assert not measured.layers["out"].layout.endswith(ROWS)
    assert any("in an order that cannot be shown" in note for note in measured.provenance["notes"])


def test_only_models_that_need_it_run_more_than_their_samples() -> None:
    class Counting(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.samples = inner, 0

        def forward(self, x: Tensor) -> Tensor:
            self.samples += len(x)
            return self.inner(x)

    plain = Counting(nn.Sequential(nn.Flatten(), nn.Linear(20, 3)))
    naa_fast.measure(plain, X, batch_size=64)
    assert plain.samples == 256
    several = Counting(NETS["sample first"])
    naa_fast.measure(several, X, batch_size=64)
    assert several.samples == 256 + 2 * 8


def test_rows_that_all_samples_share_tell_nothing() -> None:
    same = torch.ones(12, 3, 1)
    assert row_order(same, same, 4) is RowOrder.UNKNOWN
    assert row_order(None, same, 4) is RowOrder.UNKNOWN
    broken = torch.arange(12.0).reshape(12, 1, 1).clone()
    broken[5] = torch.nan
    turned = broken.reshape(4, 3).flip(0).reshape(12, 1, 1)
    assert row_order(broken, turned, 4) is RowOrder.SAMPLE_FIRST
