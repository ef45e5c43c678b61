"""Hooks see every output rightly, without copies, and never stay behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from capture.models import Holder, Raises, Shared, Structured, hook_count, mlp, resnet
from torch import Tensor, nn

from naa_fast.capture import Capture, select
from naa_fast.errors import CaptureError, UsageError


class Keeper:
    """Stores what it observes: the brute force the rest is held against."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[Tensor, str]]] = {}

    def observe(self, layer: str, x: Tensor, layout: str) -> None:
        self.seen.setdefault(layer, []).append((x, layout))

    def shapes(self) -> dict[str, list[tuple[int, ...]]]:
        return {name: [tuple(x.shape) for x, _ in calls] for name, calls in self.seen.items()}


def captured(model: nn.Module, *inputs: Tensor, layers: object = None) -> tuple[Keeper, Capture]:
    keeper = Keeper()
    with Capture(model.eval(), select(model, layers), keeper) as capture, torch.no_grad():  # type: ignore[arg-type]
        for x in inputs:
            capture.begin(len(x))
            model(x)
    return keeper, capture


def test_the_default_takes_convolutions_linear_layers_activations_and_blocks() -> None:
    selection = select(resnet())
    assert [layer.name for layer in selection.layers] == [
        *("0", "1.0", "1.0.conv1", "1.0.conv2", "1.0.relu", "1.1", "1.1.conv1", "1.1.conv2", "1.1.relu", "4"),
    ]
    assert selection.words == "default: 10 of 16 modules (activations, blocks, convolutions, linear layers)"


def test_layers_are_chosen_by_glob_type_and_name_in_model_order() -> None:
    model = resnet()
    assert [x.name for x in select(model, ["4", "1.*.conv1"]).layers] == ["1.0.conv1", "1.1.conv1", "4"]
    assert [x.name for x in select(model, nn.Conv2d).layers] == ["0", "1.0.conv1", "1.0.conv2", "1.1.conv1", "1.1.conv2"]
    assert [x.name for x in select(model, "").layers] == [""]


def test_a_pattern_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no layer matches '1.0.konv1'\n.*nearest: 1\.\d\.conv1") as caught:
        select(resnet(), "1.0.konv1")
    assert caught.value.exit_code == 4
    with pytest.raises(UsageError, match="no module is a Conv3d"):
        select(resnet(), nn.Conv3d)


@pytest.mark.parametrize(
    ("model", "shape", "expected", "layout"),
    [
        (nn.Conv2d(2, 3, 1), (5, 2, 4, 6), (5, 3, 24), "axis 1 of 4"),
        (nn.Conv1d(2, 3, 1), (5, 2, 7), (5, 3, 7), "axis 1 of 3"),
        (nn.Conv3d(2, 3, 1), (5, 2, 2, 3, 4), (5, 3, 24), "axis 1 of 5"),
        (nn.Linear(2, 3), (5, 2), (5, 3, 1), "axis 1 of 2"),
        (nn.Linear(2, 3), (5, 7, 2), (5, 3, 7), "axis 2 of 3"),
        (nn.Linear(2, 3), (5, 4, 6, 2), (5, 3, 24), "axis 3 of 4"),
        (nn.LayerNorm(2), (5, 4, 6, 2), (5, 2, 24), "axis 3 of 4"),
        (nn.Flatten(0), (5, 2), (10, 1, 1), "axis 0 of 1"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_every_shape_is_viewed_as_outer_channels_inner(
    model: nn.Module, shape: tuple[int, ...], expected: tuple[int, ...], layout: str
) -> None:
    x = torch.randn(shape)
    keeper, _ = captured(model, x, layers=[""])
    [(seen, words)] = keeper.seen[""]
    assert tuple(seen.shape) == expected
    assert words == layout
    with torch.no_grad():
        output = model(x)
    axis = max(output.ndim - 1, 0) if output.ndim < 3 else int(layout.split()[1])
    want = output[:, None, None] if output.ndim == 1 else output.movedim(axis, 1).reshape(expected)
    assert torch.equal(seen, want)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_no_view_copies(memory: torch.memory_format) -> None:
    x = torch.randn(4, 3, 5, 6).to(memory_format=memory)
    outputs: list[Tensor] = []
    convolution: Any = nn.Conv2d(3, 8, 3, padding=1)
    model = nn.Sequential(convolution.to(memory_format=memory), nn.ReLU())
    model[0].register_forward_hook(lambda module, arguments, output: outputs.append(output))
    keeper, _ = captured(model, x, layers=["0"])
    assert keeper.seen["0"][0][0].untyped_storage().data_ptr() == outputs[0].untyped_storage().data_ptr()


def test_an_activation_follows_the_layer_before_it() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU(), nn.Flatten(1), nn.Linear(21, 6), nn.ReLU())
    keeper, _ = captured(model, torch.randn(5, 2, 7), layers=["1", "4"])  # the convolution itself is not hooked
    assert keeper.shapes() == {"1": [(5, 3, 7)], "4": [(5, 6, 1)]}
    keeper, _ = captured(nn.Sequential(nn.ReLU()), torch.randn(5, 7, 2))
    assert keeper.shapes() == {"0": [(5, 2, 7)]}  # nobody to ask: a sequence of tokens


class LayerNorm2d(nn.LayerNorm):
    """As in timm and torchvision: images, normalised over axis 1."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Named(LayerNorm2d):
    """As in transformers: the class tells nothing, an attribute does."""

    data_format = "channels_first"


class GELUTanh(nn.GELU):
    """Lives outside torch.nn, under a name of its own."""


Named.__name__ = "ConvNextLayerNorm"
GELUTanh.__module__ = "transformers.activations"


@pytest.mark.parametrize("norm", [LayerNorm2d, Named])
def test_a_layer_norm_of_images_has_its_neurons_on_axis_1(norm: type[nn.LayerNorm]) -> None:
    model = nn.Sequential(nn.Identity(), norm(3), nn.ReLU())
    keeper, _ = captured(model, torch.randn(5, 3, 4, 6), layers=["1", "2"])
    assert keeper.shapes() == {"1": [(5, 3, 24)], "2": [(5, 3, 24)]}
    keeper, _ = captured(model, torch.randn(5, 3, 3, 3), layers=["2"])  # the norm is only a witness
    assert keeper.seen["2"][0][1] == "axis 1 of 4"


class Turning(nn.Module):
    """A block of ConvNeXt (`first` 1) or of Swin: layers with neurons on different axes, and it ends as it starts."""

    def __init__(self, first: int) -> None:
        super().__init__()
        images, rows = nn.Conv2d(6, 6, 1), nn.Linear(6, 6)
        self.start: nn.Module
        self.end: nn.Module
        self.start, self.end = (images, rows) if first == 1 else (rows, images)
        self.turn = (0, 2, 3, 1) if first == 1 else (0, 3, 1, 2)
        self.back = (0, 3, 1, 2) if first == 1 else (0, 2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.end(self.start(x).permute(self.turn)).permute(self.back)


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("layers", [None, ["0.0", "1"]], ids=["parts hooked", "parts are witnesses"])
def test_a_block_as_wide_as_it_has_neurons_ends_in_the_order_it_begins_with(first: int, layers: list[str] | None) -> None:
    model = nn.Sequential(nn.Sequential(Turning(first)), nn.Identity())
    keeper, _ = captured(model, torch.randn(2, 6, 6, 6), layers=layers)
    assert keeper.seen["0.0"][0][1] == f"axis {first} of 4"


def test_an_activation_of_another_library_is_known_by_its_name() -> None:
    assert [layer.name for layer in select(nn.Sequential(nn.Linear(2, 2), GELUTanh(), nn.Dropout())).layers] == ["0", "1"]


def test_every_call_of_a_module_is_seen() -> None:
    keeper, _ = captured(resnet(), torch.randn(3, 1, 8, 8), layers=["1.0.relu"])
    assert keeper.shapes() == {"1.0.relu": [(3, 6, 36), (3, 6, 36)]}
    keeper, _ = captured(Shared(), torch.randn(3, 3), torch.randn(2, 3), layers=["act"])
    assert keeper.shapes() == {"act": [(3, 4, 1), (2, 4, 1)], "act[8, 2-d]": [(3, 8, 1), (2, 8, 1)]}


@pytest.mark.parametrize("form", ["tuple", "list", "dict", "dataclass", "namedtuple"])
def test_structured_outputs_give_their_first_tensor_and_say_so(form: str) -> None:
    x = torch.randn(4, 3)
    keeper, capture = captured(Holder(Structured(form)), x, layers=["inner"])
    assert torch.equal(keeper.seen["inner"][0][0][:, :, 0], x)
    assert len(capture.notes) == 1
    assert "layer inner returns" in capture.notes[0]


def test_a_request_can_name_the_item_it_means() -> None:
    x = torch.randn(4, 3)
    keeper, capture = captured(Holder(Structured("dict")), x, layers=["inner:other"])
    assert torch.equal(keeper.seen["inner:other"][0][0][:, :, 0], -x)
    assert capture.notes == []
    with pytest.raises(CaptureError, match=r"no output 'nothing'\n  found: ids, hidden, other"):
        captured(Holder(Structured("dict")), x, layers=["inner:nothing"])
    with pytest.raises(CaptureError, match="gives one tensor, not a structure"):
        captured(mlp(), torch.randn(2, 12), layers=["0:1"])


def test_outputs_without_activations_are_refused_by_name() -> None:
    with pytest.raises(CaptureError, match=r"layer inner does not give a tensor\n  found str"):
        captured(Holder(Structured("text")), torch.randn(4, 3), layers=["inner"])
    with pytest.raises(CaptureError, match=r"layer inner:ids gives no activations\n  found a tensor of int64 \[1\]"):
        captured(Holder(Structured("dict")), torch.randn(4, 3), layers=["inner:ids"])


def test_a_requested_layer_that_never_fires_is_an_error_that_names_it() -> None:
    model = Shared()
    model.idle = nn.Linear(2, 2)
    _, capture = captured(model, torch.randn(2, 3), layers=["idle", "act"])
    with pytest.raises(CaptureError, match="1 of 2 layers never fired: idle"):
        capture.require_all_fired()
    _, capture = captured(model, torch.randn(2, 3))
    capture.require_all_fired()
    assert capture.remarks() == ["1 default layers never fired and are not in the result: idle"]


def test_no_hook_stays_behind_even_when_the_forward_or_the_observer_raises() -> None:
    model = nn.Sequential(mlp(), Raises())
    with pytest.raises(ValueError, match="roof"):
        captured(model, torch.randn(2, 12))
    assert hook_count(model) == 0

    class Breaks(Keeper):
        def observe(self, layer: str, x: Tensor, layout: str) -> None:
            raise RuntimeError("observer")

    healthy = resnet()
    with pytest.raises(RuntimeError, match="observer"), Capture(healthy, select(healthy), Breaks()):
        healthy(torch.randn(2, 1, 8, 8))
    assert hook_count(healthy) == 0


def test_an_in_place_activation_does_not_change_what_the_hook_before_it_saw() -> None:
    from naa_fast.accumulate import Accumulator

    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True)).eval()
    x = torch.randn(50, 3)
    accumulator = Accumulator("reference")
    with Capture(model, select(model), accumulator) as capture, torch.no_grad():
        accumulator.begin(50, 0)
        capture.begin(len(x))
        model(x)
        accumulator.commit()
    records = accumulator.records()
    with torch.no_grad():
        want = model[0](x).double().numpy()
    assert np.allclose(records["0"].positions.mean, want.mean(0), atol=1e-12)
    assert records["0"].positions.minimum.min() < 0 <= records["1"].positions.minimum.min()
