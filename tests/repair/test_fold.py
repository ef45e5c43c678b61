"""Weights with a repair in them give what the hooks give, or say why they cannot."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from naa_fast.detect.change import Ablate, Change, Clip, Zero
from naa_fast.errors import InputError, UsageError
from naa_fast.repair.change import applied
from naa_fast.repair.fold import NotExact, folded, without_limit


def named(**layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(layers)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()  # type: ignore[union-attr]
    return model


def zero(layer: str, *neurons: int, axis: int = 1) -> Change:
    return Zero(layer, axis, "mine", np.array(neurons))


def to_one_value(layer: str, value: float, *neurons: int) -> Change:
    held = np.full(len(neurons), value, np.float32)
    return Clip(layer, 1, "mine", np.array(neurons), low=held, high=held)


def turn_back(layer: str, neurons: int, axis: int = 1) -> Ablate:
    random = np.random.default_rng(0)
    along, pushes = (random.standard_normal((2, neurons)).astype(np.float32) for _ in range(2))
    centres = random.standard_normal(2).astype(np.float32)
    return Ablate(layer, axis, "mine", np.array([0]), gate=along[0], limit=0.5, along=along, centres=centres, pushes=pushes)


def ablate(layer: str, neurons: int, axis: int = 1) -> Ablate:
    change = without_limit(turn_back(layer, neurons, axis))
    assert isinstance(change, Ablate)
    return change


def convolutional() -> nn.Sequential:
    return named(
        conv=nn.Conv2d(2, 6, 3, padding=1),
        norm=nn.BatchNorm2d(6),
        relu=nn.ReLU(),
        deep=nn.Conv2d(6, 5, 3, padding=1),
        gelu=nn.GELU(),
        pool=nn.MaxPool2d(2),
        flat=nn.Flatten(),
        fc=nn.Linear(5 * 9, 4),
        last=nn.Linear(4, 3, bias=False),
    )


IMAGES = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(8, 7, generator=torch.Generator().manual_seed(1))
TEXTS = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(1))


def rows() -> nn.Sequential:
    return named(first=nn.Linear(7, 6), norm=nn.LayerNorm(6), act=nn.SiLU(), drop=nn.Dropout(), second=nn.Linear(6, 4))


EXACT: dict[str, tuple[nn.Module, Tensor, Change]] = {
    "zeroed in a convolution": (convolutional(), IMAGES, zero("conv", 1, 4)),
    "zeroed in a normalisation": (convolutional(), IMAGES, zero("norm", 0, 5)),
    "zeroed behind a ReLU, in its reader": (convolutional(), IMAGES, zero("relu", 0, 5)),
    "zeroed before a flatten, in its maker": (convolutional(), IMAGES, zero("pool", 2)),
    "one value in a convolution": (convolutional(), IMAGES, to_one_value("conv", 0.7, 2, 3)),
    "one value in a normalisation": (convolutional(), IMAGES, to_one_value("norm", -0.2, 1)),
    "directions out of a convolution": (convolutional(), IMAGES, ablate("conv", 6)),
    "directions out of a ReLU, in the linear layer behind it": (
        named(a=nn.Linear(7, 6), act=nn.ReLU(), drop=nn.Dropout(), b=nn.Linear(6, 4)),
        ROWS,
        ablate("act", 6),
    ),
    "directions before a flatten": (
        named(a=nn.Conv2d(2, 5, 3), act=nn.ReLU(), flat=nn.Flatten(), b=nn.Linear(5 * 16, 4)),
        IMAGES,
        ablate("act", 5),
    ),
    "directions out of a linear layer": (rows(), ROWS, ablate("first", 6)),
    "directions out of a linear layer of texts": (rows(), TEXTS, ablate("first", 6, axis=2)),
    "zeroed in a linear layer without bias": (convolutional(), IMAGES, zero("last", 0)),
    "zeroed in a LayerNorm": (rows(), ROWS, zero("norm", 3)),
    "zeroed in a convolution of groups": (named(c=nn.Conv2d(2, 6, 3, groups=2), r=nn.ReLU()), IMAGES, zero("c", 4)),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_weights_give_what_the_hooks_give(name: str) -> None:
    model, x, change = EXACT[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = folded(model, [change], compared=True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad(), applied(model, [change]):
        expected = model(x)
    model.load_state_dict(state)
    try:
        with torch.no_grad():
            found = model(x)
    finally:
        model.load_state_dict(before)
        with torch.no_grad():
            plain = model(x)
    # A few roundings of float32, in each of a handful of layers.
    assert not (found - expected).abs().max() > 64 * torch.finfo(torch.float32).eps * expected.abs().max().clamp(min=1)
    assert (plain - expected).abs().max() > 1e-3, "the change does nothing here, so nothing was tested"


def test_several_changes_go_into_one_file() -> None:
    model, changes = convolutional(), [zero("conv", 1), ablate("deep", 5)]
    state = folded(model, changes)
    with torch.no_grad(), applied(model, changes):
        expected = model(IMAGES)
    model.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(model(IMAGES), expected, atol=1e-5)


class Residual(nn.Module):
    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.act, self.out = nn.Linear(7, 7), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)
        if shared:
            self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        return self.out(x + self.b(x))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.out = nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.a(x)) if x.sum() > 0 else x)


class Twice(Untraceable):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.a(self.act(x))))


def ranged(layer: str) -> Change:
    low = np.array([-1], np.float32)
    return Clip(layer, 1, "mine", np.array([1]), low=low, high=-low)


def only_scaled() -> nn.Sequential:
    return named(a=nn.Linear(7, 6), norm=nn.LayerNorm(6), act=nn.Softmax(1), b=nn.Linear(6, 4))


NOT: dict[str, tuple[nn.Module, Change, str]] = {
    "beyond a limit": (rows(), turn_back("first", 6), "it moves only rows beyond a limit"),
    "to a range": (rows(), ranged("first"), "it clips neurons to a range"),
    "a value without bias": (convolutional(), to_one_value("last", 1.0, 0), "last has no bias"),
    "mixed by a normalisation": (rows(), ablate("norm", 6), "norm scales neurons one by one"),
    "mixed over groups": (named(c=nn.Conv2d(2, 6, 3, groups=2)), ablate("c", 6), "c is in groups"),
    "shared weights": (Residual(shared=True), zero("a", 1), "the weight of a belongs to another layer too"),
    "mixed, and read by two": (Residual(), ablate("act", 7), "act is read by 2 others; only zeroed neurons"),
    "no graph": (Untraceable(), zero("act", 1), "the model's graph cannot be told"),
    "called twice": (Twice(), zero("act", 1), "act is called 2 times"),
    "made of other neurons": (only_scaled(), zero("act", 1), ""),
    "mixed behind a nonlinearity": (
        named(a=nn.Linear(7, 6), act=nn.ReLU(), more=nn.GELU(), b=nn.Linear(6, 4)),
        ablate("act", 6),
        "only zeroed neurons pass these",
    ),
    "a border": (
        named(a=nn.Conv2d(2, 6, 3), act=nn.ReLU(), b=nn.Conv2d(6, 4, 3, padding=1)),
        ablate("act", 6),
        "a border that does not see what is added",
    ),
    "a reader in groups": (
        named(a=nn.Conv2d(2, 6, 3), act=nn.ReLU(), b=nn.Conv2d(6, 6, 3, groups=2)),
        ablate("act", 6),
        "in groups",
    ),
    "a reader of another width": (only_scaled(), ablate("act", 5), "what reads it takes another number of inputs"),
    "a reader of fewer": (only_scaled(), zero("act", 9), "what reads it takes fewer inputs"),
}


@pytest.mark.parametrize("name", NOT)
def test_what_weights_cannot_tell_is_refused_with_the_reason(name: str) -> None:
    model, change, words = NOT[name]
    if not words:  # a softmax mixes neurons, so the one before it cannot be zeroed instead: the reader behind it can
        folded(model, [change], compared=True)
        return
    with pytest.raises(NotExact, match=words):
        folded(model, [change], compared=True)


def test_a_zeroed_neuron_that_is_read_twice_goes_into_its_maker() -> None:
    model, change = Residual(), zero("act", 2)
    state = folded(model, [change], compared=True)
    with torch.no_grad(), applied(model, [change]):
        expected = model(ROWS)
    model.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(model(ROWS), expected, atol=1e-6)


def test_without_a_comparison_a_change_stays_in_its_own_layer() -> None:
    with pytest.raises(NotExact, match="only clean samples tell"):
        folded(convolutional(), [zero("relu", 0)])
    folded(convolutional(), [zero("norm", 0)])


def test_a_repair_of_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match="the model has no layer other"):
        folded(rows(), [zero("other", 0)])
    with pytest.raises(InputError, match="layer first has 6 neurons\n  the repair is of another model"):
        folded(rows(), [zero("first", 6)])
    with pytest.raises(InputError, match="layer first has 6 neurons"):
        folded(rows(), [ablate("first", 5)])


def test_half_precision_is_folded_in_full_and_kept_in_half() -> None:
    model, change = rows().bfloat16(), ablate("first", 6)
    state = folded(model, [change])
    assert state["first.weight"].dtype == torch.bfloat16
    exact = folded(model.float(), [change])["first.weight"]
    assert torch.equal(state["first.weight"], exact.bfloat16())


def test_a_weight_that_is_computed_is_no_weight_of_its_own() -> None:
    model = rows()
    nn.utils.parametrizations.weight_norm(model.get_submodule("first"))
    with pytest.raises((NotExact, KeyError), match="first"):
        folded(model, [zero("first", 0)])


def test_without_limit_leaves_other_methods_alone() -> None:
    change = zero("first", 0)
    assert without_limit(change) is change
    again = without_limit(ablate("first", 6))
    assert isinstance(again, Ablate)
    assert again.limit == ablate("first", 6).limit
