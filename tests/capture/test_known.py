"""An output of the form a layer's had is read as before; any other is looked at anew. No record shows which way it was."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import naa_fast
from benchmarks.hook_cost import measured
from naa_fast.capture.hooks import Capture
from naa_fast.capture.known import Known


class Shapes(nn.Module):
    """Outputs whose form depends on the batch: longer sequences, channels_last or not, float64, a layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.images, self.act, self.rows, self.twice = nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 4)
        self.sequence = nn.GRU(4, 6)
        self.batches = 0

    def forward(self, x: Tensor) -> Tensor:
        self.batches += 1
        if self.batches % 3 == 0:
            x = x.contiguous(memory_format=torch.channels_last)
        y = self.act(self.images(x))
        y = self.rows(y.flatten(2).transpose(1, 2))
        y = y[:, : 20 + self.batches % 2]
        y = self.twice(y)
        y = self.twice(y) if self.batches % 4 == 0 else y
        return self.sequence(y.transpose(0, 1))[0].mean(0)


def test_records_are_the_same_bytes_whether_forms_are_known_or_not() -> None:
    x = torch.randn(60, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    found = naa_fast.measure(Shapes(), x, batch_size=9)
    taken = []
    read_as_before = Capture._read_as_before

    def never(self: Capture, *arguments: object) -> bool:
        return False

    def counted(self: Capture, index: int, *arguments: object) -> bool:
        taken.append(done := read_as_before(self, index, *arguments))  # type: ignore[arg-type]
        return done

    with mock.patch.object(Capture, "_read_as_before", never):
        want = naa_fast.measure(Shapes(), x, batch_size=9)
    with mock.patch.object(Capture, "_read_as_before", counted):
        again = naa_fast.measure(Shapes(), x, batch_size=9)
    assert found.to_bytes() == want.to_bytes() == again.to_bytes()
    assert 0.2 < sum(taken) / len(taken) < 0.9


def test_a_form_is_known_only_where_its_view_lies_in_the_same_memory() -> None:
    x = torch.randn(4, 3, 2, 2)
    known = Known.of(x, x.flatten(2), "a", "words")
    assert known is not None
    view = known.view(x)
    assert view is not None
    assert torch.equal(view, x.flatten(2))
    assert view.data_ptr() == x.data_ptr()
    for other in (x.double(), x[:2], x.contiguous(memory_format=torch.channels_last), nn.Parameter(x), None, (x,)):
        assert known.view(other) is None
    assert Known.of(x, x.flatten(2).clone(), "a", "words") is None
    assert Known.of(x.to_sparse(), x, "a", "words") is None
    assert Known.of((x,), x, "a", "words") is None
    torch.vmap(lambda row: (_ := Known.of(row, row, "a", "words"), row)[1])(x)
    with_gradient = x.clone().requires_grad_()
    view = known.view(with_gradient)
    assert view is not None
    assert not view.requires_grad


@pytest.mark.parametrize("layers", [3])
def test_the_benchmark_of_hooks_tells_their_cost_as_a_ratio(layers: int) -> None:
    rows = measured(layers, 3)
    assert [row["variant"] for row in rows] == ["bare", "x.mean(0)", "naa-fast"]
    assert rows[-1]["ratio"] != 0
