"""A default layer that cannot be read never ends a scan: it is left out, with a note, and nothing of it counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naa_fast
from naa_fast.errors import CaptureError, UsageError
from naa_fast.measurement import Measurement

X = torch.randn(160, 3, 5, 5, generator=torch.Generator().manual_seed(0))
Give = Callable[[Tensor, Tensor], Any]


class Points:
    def __init__(self, features: Tensor) -> None:
        self.features = features


class Block(nn.Module):
    """What `give` makes of its convolution's output and its input."""

    def __init__(self, give: Give) -> None:
        super().__init__()
        self.inner, self.give = nn.Conv2d(6, 6, 1), give

    def forward(self, h: Tensor) -> Any:
        return self.give(self.inner(h), h)


class Net(nn.Module):
    """A classifier that does without what its block gives."""

    def __init__(self, give: Give) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.blocks, self.head = nn.Conv2d(3, 6, 3), nn.ModuleList([Block(give)]), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x))
        self.blocks[0](h)
        scores: Tensor = self.head(h.mean((2, 3)))
        return scores


def in_place(y: Tensor, h: Tensor) -> None:
    h += 0 * y


FORMS: dict[str, Give] = {
    "NoneType": in_place,
    "dict": lambda y, h: {"out": {"x": y}},
    "list": lambda y, h: [{"boxes": y}, {"boxes": h}],
    "tuple": lambda y, h: ((y, h), None),
    "Points": lambda y, h: Points(y),
    "float": lambda y, h: 1.5,
    "tensor of bool": lambda y, h: y > 0,
    "tensor of float32 []": lambda y, h: y.mean(),
    "tensor of int8": lambda y, h: y.to(torch.int8),
    "tensor of int64": lambda y, h: y.argmax(1),
    "tensor of complex64": lambda y, h: torch.fft.fft(y),
    "sparse tensor": lambda y, h: y.flatten(1).to_sparse(),
    "sparse tensor of float32 [": lambda y, h: y.flatten(1).to_sparse_csr(),
    "on meta": lambda y, h: y.to("meta"),
    "nested tensor": lambda y, h: torch.nested.nested_tensor([y[0], y[1]]),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", FORMS)
def test_a_default_layer_of_an_odd_form_is_left_out_with_a_note_and_an_error_where_it_is_asked_for(form: str) -> None:
    model = Net(FORMS[form])
    measured = naa_fast.measure(model, X, batch_size=80)
    assert list(measured.layers) == ["conv", "blocks.0.inner", "head"]
    assert measured.unread == ("blocks.0",)
    [note] = [note for note in measured.provenance["notes"] if "blocks.0" in note]
    assert note.startswith("layer blocks.0 is left out: it ")
    assert form in note
    with torch.no_grad():
        want = model.conv(X).double().mean((0, 2, 3)).numpy()
    assert np.allclose(measured.layers["conv"].positions.mean, want, atol=1e-6)
    with pytest.raises(CaptureError, match=r"layer blocks\.0 (does not give a tensor|gives no activations)"):
        naa_fast.measure(model, X, layers=["blocks.0"])
    assert list(naa_fast.measure(model, X, exclude="blocks.0").layers) == list(measured.layers)


@pytest.mark.parametrize("empty", [lambda y, h: y[:, :0], lambda y, h: y[:0], lambda y, h: y.new_zeros(0)])
def test_a_layer_that_gives_nothing_but_empty_tensors_is_named(empty: Give) -> None:
    measured = naa_fast.measure(Net(empty), X)
    assert "blocks.0" not in measured.layers
    assert "1 default layers gave nothing but empty tensors and are not in the result: blocks.0" in measured.provenance["notes"]
    with pytest.raises(CaptureError, match=r"1 of 1 layers never fired: blocks\.0\n  of these gave empty tensors alone"):
        naa_fast.measure(Net(empty), X, layers=["blocks.0"])


def test_a_model_of_which_nothing_can_be_read_is_an_error_that_says_why() -> None:
    class Only(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x > 0

    with pytest.raises(CaptureError, match=r"none of the 1 chosen layers can be read\n  : it gives no activations"):
        naa_fast.measure(Only(), X)


def test_quantised_values_are_read_as_the_numbers_they_stand_for() -> None:
    model: Any = Net(lambda y, h: torch.quantize_per_tensor(y, 0.1, 0, torch.qint8))
    measured = naa_fast.measure(model, X)
    with torch.no_grad():
        y = torch.quantize_per_tensor(model.blocks[0].inner(torch.relu(model.conv(X))), 0.1, 0, torch.qint8).dequantize()
    assert np.allclose(measured.layers["blocks.0"].positions.mean, y.double().mean((0, 2, 3)).numpy(), atol=1e-6)
    assert "layer blocks.0 gives quantised values, read as the numbers they stand for" in measured.provenance["notes"]


def after(calls: int, odd: Give) -> Give:
    """As it should be for so many calls, `odd` from then on."""
    left = [calls]

    def give(y: Tensor, h: Tensor) -> Any:
        left[0] -= 1
        return y if left[0] >= 0 else odd(y, h)

    return give


LATE: dict[str, Give] = {"none": in_place, "half": lambda y, h: y.half(), "a scalar": lambda y, h: y.mean()}


@pytest.mark.parametrize("odd", LATE)
def test_what_was_counted_of_a_layer_until_it_could_not_be_read_does_not_count(odd: str, tmp_path: Path) -> None:
    want = naa_fast.measure(Net(lambda y, h: None), X, batch_size=20)
    measured = naa_fast.measure(Net(after(3, LATE[odd])), X, batch_size=20)
    assert measured.unread == ("blocks.0",)
    assert list(measured.layers) == list(want.layers)
    for name, record in want.layers.items():
        assert np.array_equal(measured.layers[name].positions.mean, record.positions.mean)
    chunked = naa_fast.measure(Net(after(3, LATE[odd])), X, batch_size=20, chunk_size=40, checkpoint=tmp_path / "c")
    assert list(chunked.layers) == list(want.layers)


def test_a_layer_left_out_of_one_part_is_in_no_merger_of_it(tmp_path: Path) -> None:
    parts = [naa_fast.measure(Net(lambda y, h: y), X[:80]), naa_fast.measure(Net(in_place), X[80:], first_index=80)]
    parts[1].save(tmp_path / "part.naa.safetensors")
    parts[1] = Measurement.load(tmp_path / "part.naa.safetensors")
    assert parts[1].unread == ("blocks.0",)
    one, other = parts[0].merge(parts[1]), parts[1].merge(parts[0])
    assert one.to_bytes() == other.to_bytes()
    assert list(one.layers) == ["conv", "blocks.0.inner", "head"]
    assert one.unread == ("blocks.0",)
    assert "blocks.0" not in naa_fast.compare(*parts).layers


@pytest.mark.parametrize("late", [2, 6], ids=["in the clean set", "in the suspect set"])
def test_samples_are_ranked_as_if_the_layer_had_been_excluded(late: int) -> None:
    suspect = X.flip(0) * 1.5
    want = naa_fast.scan(Net(lambda y, h: y), X, suspect, batch_size=40, exclude=["blocks.0"], proof=False)
    audit = naa_fast.scan(Net(after(late, in_place)), X, suspect, batch_size=40, proof=False)
    assert list(audit.layers) == list(want.layers) == ["conv", "blocks.0.inner", "head"]
    assert audit.ranking is not None
    assert want.ranking is not None
    assert np.allclose(audit.ranking.scores, want.ranking.scores)
    assert any("layers that could not be read (the notes say why): blocks.0" in line for line in audit.verdict.not_checked)
    assert any("layers that were excluded: blocks.0" in line for line in want.verdict.not_checked)


def test_a_layer_that_one_set_alone_reaches_is_left_out_of_both() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(self.a(x) + (self.b(x) if x.mean() > 1 else 0))
            return scores

    rows = torch.randn(200, 4, generator=torch.Generator().manual_seed(2))
    audit = naa_fast.scan(Branch(), rows[:100], rows[100:] + 3)
    assert list(audit.layers) == ["a", "head"]
    assert audit.judgement.clean.unread == ("b",)
    assert "layer b is left out: it fired in the suspect set alone" in audit.judgement.suspect.provenance["notes"]


def test_a_forward_that_ends_early_does_without_the_layer_too() -> None:
    model = Net(after(1, in_place))
    measured = naa_fast.measure(model, X, batch_size=40, stop_early=True)
    assert list(measured.layers) == ["conv", "blocks.0.inner", "head"]


def test_a_compiled_model_goes_on_without_it() -> None:
    model: Any = torch.compile(Net(lambda y, h: y > 0), backend="eager")
    assert list(naa_fast.measure(model, X).layers) == ["conv", "blocks.0.inner", "head"]
    model = torch.compile(Net(lambda y, h: None), backend="eager")
    assert list(naa_fast.measure(model, X).layers) == ["conv", "blocks.0.inner", "head"]


def test_layers_are_excluded_by_name_glob_and_type() -> None:
    model = Net(lambda y, h: y)
    for exclude in ("blocks.0", ["blocks.0"], "*.0", Block, [Block]):
        measured = naa_fast.measure(model, X, exclude=exclude)
        assert list(measured.layers) == ["conv", "blocks.0.inner", "head"]
        assert measured.provenance["excluded"] == ("blocks.0",)
        assert measured.provenance["layers"][0].endswith("; 1 excluded")
    assert list(naa_fast.measure(model, X, exclude=[nn.Conv2d, "head"]).layers) == ["blocks.0"]
    assert list(naa_fast.measure(model, X, layers=["conv", "head:in", "head"], exclude="head:in").layers) == ["conv", "head"]
    assert list(naa_fast.measure(model, X, layers=["conv", "head:in", "head"], exclude="head").layers) == ["conv"]


def test_an_exclusion_that_matches_nothing_names_the_nearest() -> None:
    model = Net(lambda y, h: y)
    with pytest.raises(UsageError, match=r"no layer matches 'blocks.1', which is to be excluded\n.*nearest: blocks.0") as caught:
        naa_fast.measure(model, X, exclude="blocks.1")
    assert caught.value.exit_code == 4
    with pytest.raises(UsageError, match=r"no layer matches 'blocks'.*\n.*nearest: blocks.0, .*\n  for what is.*'blocks\.\*'"):
        naa_fast.measure(model, X, exclude="blocks")
    with pytest.raises(UsageError, match="no layer matches 'ReLU'"):
        naa_fast.measure(model, X, exclude=nn.ReLU)
    with pytest.raises(UsageError, match="every layer is excluded\n  4 were chosen"):
        naa_fast.measure(model, X, exclude="*")
