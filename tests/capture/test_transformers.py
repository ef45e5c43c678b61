"""Real transformers architectures: default layers and every friendly hook point, held to activations that were all stored."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_record
from torch import nn

pytest.importorskip("transformers", "5.5", reason="transformers is not installed: its architectures are untested")

from capture import transformer_zoo as zoo

from naa_fast import audit
from naa_fast.capture import select
from naa_fast.errors import CaptureError, UsageError
from naa_fast.measurement import Measurement

OFFERS = {
    "gpt2": ["resid", "attn", "mlp.act", "mlp.out"],
    "llama": ["resid", "attn", "mlp.act", "mlp.out"],
    "mixtral": ["resid", "attn", "mlp.out", "router", "experts"],
    "bert": ["resid", "attn", "mlp.act", "mlp.out"],
    "vit": ["resid", "attn", "mlp.act", "mlp.out"],
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads waiting for each other cost more than these small models do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["cpu", "portable"])
@pytest.mark.parametrize("kind", list(zoo.BUILDERS))
def test_every_statistic_of_every_layer_is_that_of_the_stored_activations(kind: str, backend: str) -> None:
    model, data = zoo.build(kind), zoo.batches(kind)
    for layers in (None, OFFERS[kind]):
        chosen = [layer.label for layer in select(model, layers).layers]
        measured = audit.measure(model, data, layers=layers, backend=backend)
        assert set(measured.layers) == set(chosen), "every one fires, none is empty"
        for label, samples in zoo.stored(model, data, chosen).items():
            assert_record(measured.layers[label], zoo.record(samples), "float32", f"{kind} {label}")


def test_the_experts_a_token_goes_to_are_counted() -> None:
    model, data = zoo.build("mixtral"), zoo.batches("mixtral")
    chosen: dict[str, np.ndarray] = {}
    for layer, (name, module) in enumerate((n, m) for n, m in model.named_modules() if n.endswith("experts")):
        counts = np.zeros(4, np.int64)
        held: list[Any] = []
        handle = module.register_forward_pre_hook(lambda _, given, held=held: held.append(given[1]))
        with torch.no_grad():
            for batch in data:
                model(**batch)
                real = batch["attention_mask"].bool().flatten()
                counts += np.bincount(held[-1][real].flatten(), minlength=4)
        handle.remove()
        chosen[name] = counts
        assert layer < 2
    measured = audit.measure(model, data, layers="experts")
    tokens = sum(int(batch["attention_mask"].sum()) for batch in data)
    for name, counts in chosen.items():
        found = measured.layers[f"{name}:routing"].positions
        assert found.positives.tolist() == counts.tolist()
        assert found.positives.sum() == 2 * tokens, "each token goes to two experts"
        assert (found.count == tokens).all()
        np.testing.assert_allclose(found.mean.sum(), 1.0, atol=1e-6)  # the weights of a token sum to one


READ = {
    "gpt2": ["transformer.h.{}", "transformer.h.{}.attn", "transformer.h.{}.mlp.c_proj:in"],
    "llama": ["model.layers.{}", "model.layers.{}.self_attn", "model.layers.{}.mlp.down_proj:in"],
    "mixtral": ["model.layers.{}", "model.layers.{}.self_attn", "model.layers.{}.mlp.experts:routing"],
    "bert": ["bert.encoder.layer.{}", "bert.encoder.layer.{}.attention.output.dense", "bert.encoder.layer.{}.output.dense:in"],
    "vit": ["vit.layers.{}", "vit.layers.{}.attention", "vit.layers.{}.mlp.fc2:in"],
}


@pytest.mark.parametrize("kind", list(zoo.BUILDERS))
def test_by_default_a_transformers_blocks_attention_and_the_inside_of_mlps_are_read_and_no_vocabulary(kind: str) -> None:
    selection = select(zoo.build(kind))
    inside = [layer.label for layer in selection.layers if ".0" in layer.label or ".1" in layer.label]
    assert inside == [place.format(block) for block in range(2) for place in READ[kind]]
    outside = [layer.label for layer in selection.layers if layer.label not in inside]
    heads = {"bert": ["bert.pooler.dense", "bert.pooler.activation", "classifier"], "vit": ["classifier"]}
    assert [name for name in outside if "patch" not in name] == heads.get(kind, [])
    assert ("lm_head left out, whose outputs are the vocabulary" in selection.words) == (kind not in heads)
    assert "lm_head" not in [layer.label for layer in select(zoo.build("llama"), "resid").layers]
    assert [layer.label for layer in select(zoo.build("llama"), "lm_head").layers] == ["lm_head"], "asked for, it is read"


def test_the_inside_of_fused_experts_is_neither_a_default_nor_to_be_had() -> None:
    model = zoo.build("mixtral")
    selection = select(model)
    assert not [layer.name for layer in selection.layers if ".experts." in layer.name]
    assert "2 inside of experts left out, where rows belong to no sample" in selection.words
    assert [layer.name for layer in select(model, "*.mlp.*").layers if "act_fn" in layer.name] == []
    with pytest.raises(UsageError, match=r"'\*act_fn' is inside of model\.layers\.1\.mlp\.experts, which fuses") as caught:
        select(model, "*act_fn")
    assert "its rows are sorted by expert: they belong to no sample" in str(caught.value)
    assert "it offers: resid, attn, mlp.out, router, experts" in str(caught.value)
    with pytest.raises(UsageError, match="'SiLUActivation' is inside of"):
        select(model, type(model.model.layers[0].mlp.experts.act_fn))
    with pytest.raises(UsageError, match=r"no 'mlp.act'\n  its experts are fused into one module"):
        select(model, "mlp.act")


class QuietExperts(nn.Module):
    """Fused, and given its tokens already routed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(x.reshape(2, -1, 4), self.weight).reshape(x.shape)


def test_experts_that_are_not_told_their_routing_say_what_to_hook_instead() -> None:
    with pytest.raises(CaptureError, match=r"the experts in 0 are not told their routing\n  found float32 \[6, 4\]") as caught:
        audit.measure(nn.Sequential(QuietExperts()), torch.randn(6, 4), layers="0:routing")
    assert "hook 'router' or 'mlp.out' instead" in str(caught.value)


class Mixture(nn.Module):
    """Experts in a list, each given its own tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(x), 3)
        for index, expert in enumerate(self.experts):
            mine = (x[:, 0] > 0) == bool(index)
            out[mine] = expert(x[mine])
        return out


def test_experts_in_a_list_are_rows_of_no_sample_and_take_no_mask() -> None:
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    assert [layer.name for layer in select(Mixture()).layers] == [""]
    model = Mixture()
    measured = audit.measure(model, x, layers="experts.*", batch_size=20, backend="reference")
    for index, record in enumerate(measured.layers.values()):
        mine = x[(x[:, 0] > 0) == bool(index)]
        assert record.layout == "axis 1 of 2, rows, not samples"
        assert (record.positions.count == len(mine)).all()
        np.testing.assert_allclose(record.positions.mean, model.experts[index](mine).double().mean(0).detach(), atol=1e-6)
    x[:, 0] = 1.0  # as many rows as samples, which must not pass for them
    batch = {"x": x, "attention_mask": torch.ones(80, dtype=torch.bool)}
    model.forward = lambda x, attention_mask: Mixture.forward(model, x)  # type: ignore[method-assign, assignment, misc]
    with pytest.raises(CaptureError, match="a mask cannot be laid on rows that are not samples"):
        audit.measure(model, [batch], layers="experts.1", backend="reference")
    with pytest.raises(CaptureError, match="a last token cannot be found among rows that are not samples"):
        audit.measure(model, [batch], layers="experts.1@last", backend="reference")


@pytest.mark.parametrize("kind", list(zoo.BUILDERS))
def test_the_last_token_is_the_last_true_one_on_either_side(kind: str) -> None:
    model, data = zoo.build(kind), zoo.batches(kind)
    names = [name for name in OFFERS[kind] if kind != "vit" or name != "embeddings"]
    measured = audit.measure(model, data, layers=[f"{name}@last" for name in names])
    labels = [label.removesuffix("@last") for label in measured.layers]
    for label, samples in zoo.stored(model, data, labels).items():
        expected = zoo.record(samples, last=True)
        assert_record(measured.layers[f"{label}@last"], expected, "float32", f"{kind} {label}@last")
        assert (measured.layers[f"{label}@last"].positions.count == 21).all()


def test_a_last_token_is_the_last_that_counts_and_a_pooled_layer_has_but_one() -> None:
    x = torch.arange(24, dtype=torch.float32).reshape(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [False, True, False, True]])

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.pooled = nn.Identity(), nn.Identity()

        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.pooled(self.tokens(x).mean(1))

    batch = {"x": x, "attention_mask": mask}
    measured = audit.measure(Keeps(), [batch], layers=["tokens@last", "pooled@last", "tokens"], backend="reference")
    assert measured.layers["tokens@last"].positions.mean.tolist() == x[[0, 1], [1, 3]].mean(0).tolist()
    assert measured.layers["pooled@last"].positions.mean.tolist() == x.mean((0, 1)).tolist()
    unmasked = audit.measure(nn.Identity(), x, layers="@last", backend="reference")
    assert unmasked.layers["@last"].positions.mean.tolist() == x[:, -1].mean(0).tolist()
    short = {"x": x[:, :3], "attention_mask": mask}
    with pytest.raises(CaptureError, match=r"layer tokens@last has 3 positions a sample, the mask 4\n  the last observed token"):
        audit.measure(Keeps(), [short], layers="tokens@last", backend="reference")


@cache
def one_by_one(kind: str) -> tuple[Any, list[list[int]], Measurement]:
    """A model, texts, and what it gives for each text alone and unpadded."""
    model, random = zoo.build(kind), np.random.default_rng(11)
    rows = [zoo.texts(random) for _ in range(24)]
    layers = [*OFFERS[kind], "resid@last"]
    return model, rows, audit.measure(model, [zoo.padded([row]) for row in rows], layers=layers, backend="portable")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral", "bert"])
@settings(max_examples=3, deadline=None, derandomize=True)
@given(side=st.sampled_from(["right", "left"]), extra=st.integers(0, 9), cuts=st.lists(st.integers(1, 23), max_size=4))
def test_statistics_do_not_depend_on_the_padding_nor_on_the_batch(kind: str, side: str, extra: int, cuts: list[int]) -> None:
    model, rows, alone = one_by_one(kind)
    edges = [0, *sorted(set(cuts)), len(rows)]
    data = [zoo.padded(rows[a:b], side, extra) for a, b in pairwise(edges)]
    measured = audit.measure(model, data, layers=[*OFFERS[kind], "resid@last"], backend="portable")
    for label, expected in alone.layers.items():
        found = measured.layers[label]
        for view in ("positions", "sample_mean", "sample_max"):
            a, b = getattr(expected, view), getattr(found, view)
            assert (a.count == b.count).all()
            assert (a.nonfinite == b.nonfinite).all()
            # float32 forwards of other shapes round otherwise: a few units in the last place of the largest value, a layer.
            scale = np.maximum(np.abs(a.maximum), np.abs(a.minimum)).max()
            for field in ("mean", "minimum", "maximum"):
                worst = np.abs(getattr(a, field) - getattr(b, field)).max()
                assert worst <= 2e-5 * scale, (label, view, field, worst, scale)
            assert np.abs(a.variance - b.variance).max() <= 4e-5 * scale**2, (label, view)
