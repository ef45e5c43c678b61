"""A change does to rows what it says, wherever a layer's neurons are and whatever its output is wrapped in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from naa_fast.detect.change import Ablate, Change, Clip, Zero
from naa_fast.detect.repair import TRIGGERED, Repair
from naa_fast.errors import InputError, UsageError
from naa_fast.repair import applied, load

ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


def along_first(limit: float) -> Ablate:
    """Turn rows back to 0 in neuron 0 where it exceeds the limit."""
    unit = np.eye(6, dtype=np.float32)[:1]
    nothing = np.zeros(1, np.float32)
    return Ablate("0", -1, "test", np.array([0]), gate=unit[0], limit=limit, along=unit, centres=nothing, pushes=unit)


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
    zeroed = through(Zero("0", -1, "test", neurons), ROWS)
    low, high = np.array([-0.5, -0.1], np.float32), np.array([0.5, 0.1], np.float32)
    clipped = through(Clip("0", -1, "test", neurons, low, high), ROWS)
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
    change = Zero("0", axis, "test", np.array([2]))
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
        applied(model, [Zero("elsewhere", -1, "", np.array([0]))]),
    ):
        pass
    for change in (along_first(0.7), Zero("0", -1, "", np.array([5]))):
        with pytest.raises(InputError, match="has 4 neurons"), applied(model, [change]):
            model(ROWS[:, :4])
    with pytest.raises(InputError, match="has 2 axes"), applied(model, [Zero("0", 2, "", np.array([0]))]):
        model(ROWS)
    good, bad = Zero("0", -1, "", np.array([0])), Zero("0", -1, "", np.array([-1]))
    with pytest.raises(InputError, match="no repair of layer 0\n  neurons that are no list"), applied(model, [good, bad]):
        pass
    assert not model[0]._forward_hooks


def test_a_file_holds_all_of_a_repair_but_its_control(tmp_path: Path) -> None:
    changes = (along_first(0.7), Zero("1", 1, "most", np.array([2, 0])))
    repair = Repair(changes, TRIGGERED, 0.9, 0.1, 0.8, 100, 0.99, 0.98, 200, 5, 4000, random=changes)
    path = tmp_path / "repair.safetensors"
    path.write_bytes(repair.to_bytes())
    loaded = load(path)
    assert loaded.random == ()
    for name, value in vars(repair).items():
        assert name in ("changes", "random") or getattr(loaded, name) == value, name
    for mine, its in zip(changes, loaded.changes, strict=True):
        for name, value in vars(mine).items():
            np.testing.assert_array_equal(getattr(its, name), value)


def written(path: Path, change: Change, **others: object) -> Path:
    """A file of one change, with other figures than a repair's own."""
    figures = Repair((change,), TRIGGERED, 0.9, 0.1, 0.8, 100, 0.99, 0.98, 200, 5, 4000)
    path.write_bytes(replace(figures, **others).to_bytes())  # type: ignore[arg-type]
    return path


UNIT, NUMBERS = np.eye(6, dtype=np.float32)[:1], np.array([0])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"limit": float("nan")}, "no number"),
        ({"limit": float("inf")}, "no number"),
        ({"axis": "1"}, "no number"),
        ({"layer": 3}, "no text"),
        ({"gate": 5}, "expected along, centres, gate, neurons, pushes"),
        ({"pushes": "abc"}, "expected along, centres, gate, neurons, pushes"),
        ({"gate": None}, "expected along, centres, gate, neurons, pushes"),
        ({"gate": UNIT}, "shapes"),
        ({"along": UNIT[0]}, "shapes"),
        ({"centres": np.zeros(3, np.float32)}, "shapes"),
        ({"pushes": UNIT[:, :4]}, "shapes"),
        ({"along": UNIT[:0], "pushes": UNIT[:0], "centres": UNIT[0, :0]}, "directions that the gate does not have"),
        ({"pushes": UNIT * np.float32(np.nan)}, "pushes that is not finite"),
        ({"gate": np.arange(6)}, "gate that is not finite"),
        ({"neurons": np.array([-1])}, "numbers from 0"),
        ({"neurons": np.array([[0]])}, "numbers from 0"),
        ({"neurons": np.array([0.5])}, "numbers from 0"),
        ({"neurons": np.array([6])}, "neurons or directions"),
    ],
)
def test_a_change_whose_parts_do_not_belong_together_is_refused_from_a_file_and_by_a_model(
    wrong: dict[str, object], words: str, tmp_path: Path
) -> None:
    change = replace(along_first(0.7), **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        load(written(tmp_path / "repair.safetensors", change))
    with pytest.raises((InputError, UsageError)), applied(nn.Sequential(Same()), [change]):
        pass


def test_a_change_made_by_hand_with_something_else_than_arrays_is_refused() -> None:
    for wrong in ({"gate": 5}, {"pushes": "abc"}, {"gate": None}):
        change = replace(along_first(0.7), **wrong)
        with pytest.raises(InputError, match=f"{next(iter(wrong))} that is no"), applied(nn.Sequential(Same()), [change]):
            pass


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"after": float("nan")}, "shares that are not between"),
        ({"kept": 7}, "shares that are not between"),
        ({"on": None}, "shares that are not between"),
        ({"forwards": -1}, "counts that are no whole numbers"),
        ({"samples": "many"}, "counts that are no whole numbers"),
        ({"changes": ()}, "its changes are missing"),
    ],
)
def test_a_file_of_impossible_figures_is_refused(others: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        load(written(tmp_path / "repair.safetensors", along_first(0.7), **others))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("[" * 100_000, "RecursionError"),
        ("[]", "no repair"),
        ('{"changes": [], "random": []}', "its changes are missing"),
        ('{"changes": [3]}', "no repair"),
        ('{"changes": {"a": 1}}', "no repair"),
        (
            '{"changes": [{"layer": "0", "axis": 1, "method": "zero", "choice": "", "limit": 1' + "0" * 400 + "}]}",
            "OverflowError",
        ),
    ],
)
def test_metadata_that_describes_no_repair_is_refused(metadata: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "repair.safetensors"
    path.write_bytes(save({"0.neurons": NUMBERS}, {"repair": metadata}))
    with pytest.raises(InputError, match=words):
        load(path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"method": "burn"}, "a repair by 'burn': this version knows zero, clip, turn back"),
        ({"method": ["zero"]}, "a repair by"),
        ({"method": "clip"}, "'clip' with along, centres, gate, neurons, pushes: expected high, low, neurons"),
        ({"gate": 5}, "gate that is no array"),
        ({"pushes": "abc"}, "pushes that is no array"),
        ({"limit": "far"}, "no number"),
        ({"colour": "red"}, "TypeError"),
    ],
)
def test_a_file_whose_change_is_of_no_known_form_is_refused(wrong: dict[str, object], words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "repair.safetensors", along_first(0.7))
    with safe_open(path, "numpy") as file:
        about, tensors = json.loads(file.metadata()["repair"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about["changes"][0] |= wrong
    path.write_bytes(save(tensors, {"repair": json.dumps(about)}))
    with pytest.raises(InputError, match=words):
        load(path)


def test_tensors_of_no_change_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "repair.safetensors", Zero("0", -1, "", NUMBERS))
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    path.write_bytes(save({"0.neurons": NUMBERS, "7.gate": UNIT}, metadata))
    with pytest.raises(InputError, match=r"tensors of no change: 7\.gate"):
        load(path)


def test_an_output_without_values_passes_as_it_is() -> None:
    assert through(along_first(0.7), ROWS[:0]).shape == (0, 6)


def test_half_precision_moves_the_rows_that_full_precision_moves() -> None:
    wide = torch.full((2, 4096), 0.01)
    wide[1] = 0.0101  # sums of 40.96 and 41.37, which float16 sums cannot be trusted to tell from 41.2
    gate = np.ones(4096, np.float32)
    nothing = np.zeros(1, np.float32)
    change = Ablate("0", -1, "", NUMBERS, gate, 41.2, along=gate[None], centres=nothing, pushes=gate[None] / 4096)
    found = through(change, wide.half())
    assert torch.equal(found[0], wide.half()[0])
    assert found[1].abs().max() < 1e-3


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"], ids=["empty", "text", "bare"])
def test_a_file_that_is_no_repair_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"other.safetensors is no repair"):
        load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no repair"):
        load(tmp_path / "none.safetensors")
