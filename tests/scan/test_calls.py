"""Calls of a module and rows of data-dependent number, from a model's forward to the verdict."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naa_fast
from naa_fast.records import ROWS, Moments


class Cell(nn.Module):
    """A recurrent cell written as a linear layer in a loop; `steps` None: as many as the batch's largest value says."""

    def __init__(self, steps: int | None) -> None:
        super().__init__()
        self.steps, self.inp, self.cell, self.head = steps, nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.states: list[Tensor] = []
        self.ran = 0

    def forward(self, x: Tensor) -> Tensor:
        z, h = self.inp(x), torch.zeros(len(x), 12)
        calls = []
        for _ in range(self.steps or int(x[0, 0])):
            calls.append(self.cell(h))
            h = torch.tanh(calls[-1] * 0.2 + z)
        self.states.append(torch.stack(calls))
        self.ran += 1
        return self.head(h)


def test_thirty_calls_are_one_observation_and_like_sets_pass() -> None:
    outcomes = []
    for seed in range(4):
        torch.manual_seed(seed)
        model, a, b = Cell(30).eval(), torch.randn(256, 8), torch.randn(256, 8)
        clean = naa_fast.measure(model, a)
        stored = model.states[-1].double()
        assert clean.layers["cell"].sample_mean.count.tolist() == [256] * 12
        assert np.allclose(clean.layers["cell"].sample_mean.m2, 256 * stored.mean(0).var(0, unbiased=False).numpy(), rtol=1e-4)
        assert np.allclose(clean.layers["cell"].sample_max.mean, stored.amax(0).mean(0).numpy(), atol=1e-6)
        assert clean.layers["cell"].positions.count.tolist() == [30 * 256] * 12
        outcomes.append(naa_fast.compare(clean, naa_fast.measure(model, b), accept_unranked=True).verdict.outcome)
    assert outcomes == ["pass"] * 4


@pytest.mark.parametrize("steps", [[1, 3, 2, 1], [4, 1, 2, 6]], ids=str)
def test_a_number_of_calls_that_depends_on_the_data(steps: list[int]) -> None:
    torch.manual_seed(0)
    model = Cell(None).eval()
    x = torch.randn(64, 8)
    x[::16, 0] = torch.tensor(steps, dtype=torch.float32)
    measured = naa_fast.measure(model, x, batch_size=16)
    assert model.ran == 4 + (steps[0] == 1), "the first batch of more calls is run once more, if there was only one before"
    with torch.no_grad():
        model.states.clear()
        for part in x.split(16):
            model(part)
    means = torch.cat([calls.double().mean(0) for calls in model.states]).numpy()
    tops = torch.cat([calls.double().amax(0) for calls in model.states]).numpy()
    record = measured.layers["cell"]
    for view, values in ((record.sample_mean, means), (record.sample_max, tops)):
        want = Moments.of(values)
        assert view.count.tolist() == [64] * 12
        assert np.allclose(view.mean, want.mean, atol=1e-6)
        assert np.allclose(view.m2, want.m2, rtol=1e-4, atol=1e-9)
    assert measured.predictions.sum() == 64
    assert int(measured.layers["head"].sample_mean.count[0]) == 64


class Tokens(nn.Module):
    """A layer applied to the real tokens alone, as packed sequences, box heads and sparse experts do."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.act, self.head = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        h = x.new_zeros(*keep.shape, 5)
        h[keep] = self.act(self.proj(x[keep]))
        return self.head(h.sum(1))


@pytest.mark.parametrize("chunk_size", [None, 8])
@pytest.mark.parametrize("counts", [[21, 19, 26, 13], [24, 19, 26, 13], [24, 16, 40, 13], [8, 16, 24, 13]], ids=str)
def test_rows_whose_number_depends_on_the_data_are_rows_from_the_start(counts: list[int], chunk_size: int | None) -> None:
    torch.manual_seed(0)
    model, batches = Tokens().eval(), []
    for count in counts:
        keep = torch.zeros(48, dtype=torch.bool)
        keep[torch.randperm(48)[:count]] = True
        batches.append({"x": torch.randn(8, 6, 4), "keep": keep.view(8, 6)})
    measured = naa_fast.measure(model, batches, chunk_size=chunk_size)
    with torch.no_grad():
        rows = torch.cat([model.proj(batch["x"][batch["keep"]]) for batch in batches]).double()
    for name, values in (("proj", rows), ("act", rows.relu())):
        record = measured.layers[name]
        assert record.layout == f"axis 1 of 2, {ROWS}"
        for view in (record.positions, record.sample_mean):
            assert view.count.tolist() == [sum(counts)] * 5
            assert np.allclose(view.mean, values.mean(0).numpy(), atol=1e-6)
    assert measured.layers["head"].layout == "axis 1 of 2"
