"""Friendly names find the same place in every transformer, and `layer:in` reads what a module is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from naa_fast import audit
from naa_fast.capture import friendly, select
from naa_fast.capture.points import Input, Output, Routing, point_of
from naa_fast.errors import UsageError


class Block(nn.Module):
    def __init__(self, names: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in names.items():
            self.add_module(name, module)


def modules(**children: nn.Module) -> nn.Module:
    return Block(children)


class FusedExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down_proj = nn.Parameter(torch.zeros(2, 4, 4))
        self.act_fn = nn.SiLU()


def linear() -> nn.Module:
    return nn.Linear(4, 4)


def shapes() -> dict[str, nn.Module]:
    """One block each, named as the architectures of transformers 5 name theirs."""
    return {
        "gpt2": modules(attn=linear(), mlp=modules(c_fc=linear(), c_proj=linear())),
        "llama": modules(self_attn=linear(), mlp=modules(gate_proj=linear(), up_proj=linear(), down_proj=linear())),
        "mixtral": modules(self_attn=linear(), mlp=modules(gate=linear(), experts=FusedExperts())),
        "bert": modules(attention=modules(output=modules(dense=linear())), output=modules(dense=linear())),
        "vit": modules(attention=linear(), mlp=modules(fc1=linear(), fc2=linear())),
    }


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gpt2", {"resid": "", "attn": ".attn", "mlp.act": ".mlp.c_proj:in", "mlp.out": ".mlp"}),
        ("llama", {"resid": "", "attn": ".self_attn", "mlp.act": ".mlp.down_proj:in", "mlp.out": ".mlp"}),
        (
            "mixtral",
            {"resid": "", "attn": ".self_attn", "mlp.out": ".mlp", "router": ".mlp.gate", "experts": ".mlp.experts:routing"},
        ),
        ("bert", {"resid": "", "attn": ".attention.output.dense", "mlp.act": ".output.dense:in", "mlp.out": ".output.dense"}),
        ("vit", {"resid": "", "attn": ".attention", "mlp.act": ".mlp.fc2:in", "mlp.out": ".mlp"}),
    ],
)
def test_friendly_names_resolve_on_every_architecture(kind: str, expected: dict[str, str]) -> None:
    model = modules(layers=nn.ModuleList([shapes()[kind], shapes()[kind]]))
    for name, ending in expected.items():
        assert [layer.label for layer in select(model, name).layers] == [f"layers.0{ending}", f"layers.1{ending}"]
    for name in set(friendly.NAMES) - set(expected):
        with pytest.raises(UsageError, match=f"this model has no '{name}'") as caught:
            select(model, name)
        assert f"it offers: {', '.join(expected)}" in str(caught.value)
        assert ("experts are fused" in str(caught.value)) == (kind == "mixtral" and name == "mlp.act")


def test_a_model_without_blocks_says_so() -> None:
    with pytest.raises(UsageError, match=r"no 'resid'\n  found 0 transformer blocks\n  name a layer or a glob"):
        select(nn.Linear(2, 2), "resid")


class Overwrites(nn.Module):
    """Destroys what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.zero_()


@pytest.mark.parametrize("by_keyword", [False, True])
def test_an_input_is_read_before_it_is_overwritten(by_keyword: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Overwrites()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            given: Any = {"x": x * 2} if by_keyword else (x * 2,)
            return self.inner(**given) if by_keyword else self.inner(*given)

    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    measured = audit.measure(Net(), x, layers=["inner:in", "inner"], backend="reference")
    torch.testing.assert_close(
        torch.from_numpy(measured.layers["inner:in"].positions.mean), (2 * x).double().mean(0), atol=1e-6, rtol=1e-6
    )
    assert (measured.layers["inner"].positions.mean == 0).all()


def test_the_words_of_a_request_are_parsed_once_into_what_is_read() -> None:
    plain, fused = nn.Linear(2, 2), type("ToyExperts", (nn.Module,), {})()
    fused.weight = nn.Parameter(torch.zeros(2, 3, 4))
    assert point_of(None, plain) == Output(None)
    assert point_of("logits", plain) == Output("logits")
    assert point_of("in", plain) == Input()
    assert point_of("routing", fused) == Routing()
    assert point_of("routing", plain) == Output("routing"), "an item of that name, where there are no fused experts"
    words = [point.word for point in (Output(), Output("logits"), Input(), Routing())]
    assert words == [None, "logits", "in", "routing"]
