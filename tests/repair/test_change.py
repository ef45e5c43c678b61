"""A change does to rows what it says, wherever a layer's neurons are and whatever its output is wrapped in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from naa_fast.detect.repair import Change, Repair
from naa_fast.errors import InputError, UsageError
from naa_fast.repair import applied, load

ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


def along_first(limit: float) -> Change:
    """Turn rows back to 0 in neuron 0 where it exceeds the limit."""
    unit = np.eye(6, dtype=np.float32)[:1]
    nothing = np.zeros(1, np.float32)
    return Change(
        "0", -1, "turn back", "test", np.array([0]), gate=unit[0], limit=limit, along=unit, centres=nothing, pushes=unit
    )


class Same(nn.Module):
    """Gives its input as it is, or as a tuple with something beside it."""

    def __init__(self, wrapped: bool = False) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Tensor) -> Tensor | tuple[None, Tensor, int]:
        return (None, x, 3) if self.wrapped else x


def through(change: Change, x: Tensor, wrapped: bool = False) -> Tensor:
    model = nn.Sequential(Same(wrapped))
    with applied(model, [change]):
        found = model(x)
    assert torch.equal(x, x.clone())
    if wrapped:
        assert (found[0], found[2]) == (None, 3)
        return found[1]
    return found


def test_zeroing_and_clipping_touch_the_named_neurons_alone() -> None:
    neurons = np.array([4, 1])
    zeroed = through(Change("0", -1, "zero", "test", neurons), ROWS)
    low, high = np.array([-0.5, -0.1], np.float32), np.array([0.5, 0.1], np.float32)
    clipped = through(Change("0", -1, "clip", "test", neurons, low=low, high=high), ROWS)
    others = [0, 2, 3, 5]
    assert torch.equal(zeroed[:, others], ROWS[:, others])
    assert torch.equal(clipped[:, others], ROWS[:, others])
    assert not zeroed[:, [1, 4]].any()
    assert torch.equal(clipped[:, 4], ROWS[:, 4].clamp(-0.5, 0.5))
    assert torch.equal(clipped[:, 1], ROWS[:, 1].clamp(-0.1, 0.1))


def test_turning_back_moves_only_rows_beyond_the_limit() -> None:
    found = through(along_first(0.7), ROWS)
    beyond = ROWS[:, 0] > 0.7
    assert 0 < int(beyond.sum()) < len(ROWS)
    assert torch.equal(found[~beyond], ROWS[~beyond])
    assert not found[beyond, 0].any()
    assert torch.equal(found[:, 1:], ROWS[:, 1:])


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_neurons_may_be_on_any_axis(axis: int) -> None:
    x = ROWS.reshape(2, 4, 5, 6).movedim(-1, axis)
    change = Change("0", axis, "zero", "test", np.array([2]))
    expected = x.clone()
    expected.select(axis, 2).zero_()
    assert torch.equal(through(change, x), expected)


def test_the_tensor_in_a_tuple_is_changed_and_the_rest_left() -> None:
    assert torch.equal(through(along_first(0.7), ROWS, wrapped=True), through(along_first(0.7), ROWS))


def test_half_precision_stays_half_precision() -> None:
    assert through(along_first(0.7), ROWS.bfloat16()).dtype == torch.bfloat16


def test_a_repair_of_another_model_is_refused_and_leaves_no_hook() -> None:
    model = nn.Sequential(Same())
    with (
        pytest.raises(UsageError, match="no layer elsewhere"),
        applied(model, [Change("elsewhere", -1, "zero", "", np.array([0]))]),
    ):
        pass
    for change in (along_first(0.7), Change("0", -1, "zero", "", np.array([5]))):
        with pytest.raises(InputError, match="has 4 neurons"), applied(model, [change]):
            model(ROWS[:, :4])
    with pytest.raises(InputError, match="a repair by 'burn'"), applied(model, [Change("0", -1, "burn", "", np.array([0]))]):
        pass
    assert not model[0]._forward_hooks


def test_a_file_holds_all_of_a_repair_but_its_control(tmp_path: Path) -> None:
    changes = (along_first(0.7), Change("1", 1, "zero", "most", np.array([2, 0])))
    repair = Repair(changes, "x", 0.9, 0.1, 0.8, 100, 0.99, 0.98, 200, 5, 4000, random=changes)
    path = tmp_path / "repair.safetensors"
    path.write_bytes(repair.to_bytes())
    loaded = load(path)
    assert loaded.random == ()
    for name, value in vars(repair).items():
        assert name in ("changes", "random") or getattr(loaded, name) == value, name
    for mine, its in zip(changes, loaded.changes, strict=True):
        for name, value in vars(mine).items():
            np.testing.assert_array_equal(getattr(its, name), value)


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"], ids=["empty", "text", "bare"])
def test_a_file_that_is_no_repair_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"other.safetensors is no repair"):
        load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no repair"):
        load(tmp_path / "none.safetensors")
