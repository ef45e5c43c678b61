"""timm architectures by name: timm's own ways to fetch or unpickle weights stay shut."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from inputs.marker import Marker
from safetensors.torch import save_file
from torch import nn

from naa_fast.errors import ModelError, NaaError, UnsafeInput, UsageError
from naa_fast.inputs.models import load_model


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """A stand-in for timm that builds a linear layer and remembers how it was asked."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def create_model(name: str, **arguments: Any) -> nn.Module:
        calls.append((name, arguments))
        if arguments.get("width") == 0:
            raise ValueError("width must be positive")
        return nn.Linear(2, 3)

    known = SimpleNamespace(
        create_model=create_model,
        is_model=lambda name: name == "net50",
        list_models=lambda glob: ["net50"] if "net" in glob else [],
    )
    monkeypatch.setitem(sys.modules, "timm", known)
    return calls


def message(spec: str, kind: type[NaaError], arguments: dict[str, Any] | None = None, weights: Path | None = None) -> str:
    with pytest.raises(kind) as caught:
        load_model(spec, arguments or {}, weights)
    return str(caught.value)


def test_the_name_and_arguments_reach_timm_and_never_pretrained(asked: list[Any], tmp_path: Path) -> None:
    save_file({"weight": torch.full((3, 2), 5.0), "bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    model = load_model("timm:net50.a1_in1k", {"width": 2}, tmp_path / "w.safetensors")
    assert asked == [("net50.a1_in1k", {"pretrained": False, "width": 2})]
    assert model(torch.ones(1, 2)).tolist() == [[10.0] * 3]


@pytest.mark.parametrize("name", ["hf-hub:evil/net", "local-dir:/x", "a/b", "", "net50\x1b[2J"])
def test_a_name_with_a_place_is_refused(asked: list[Any], name: str) -> None:
    text = message(f"timm:{name}", UsageError)
    assert "is not the name of an architecture" in text
    assert "would fetch files or unpickle them" in text
    assert asked == []


@pytest.mark.parametrize("key", ["pretrained", "checkpoint_path", "pretrained_cfg"])
def test_an_argument_that_fetches_or_unpickles_is_refused(asked: list[Any], key: str) -> None:
    assert "timm would fetch weights, or unpickle a file" in message("timm:net50", UsageError, {key: True})
    assert asked == []


def test_pickled_weights_are_refused_before_timm_builds(asked: list[Any], tmp_path: Path) -> None:
    torch.save({"x": Marker(tmp_path / "ran")}, tmp_path / "w.pth")
    assert "it is a full pickle" in message("timm:net50", UnsafeInput, weights=tmp_path / "w.pth")
    assert asked == []
    assert not (tmp_path / "ran").exists()


def test_what_timm_cannot_build_says_why(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "timm knows no architecture nest\n  see timm.list_models()" in message("timm:nest", ModelError)
    assert "near: net50" in message("timm:net500", ModelError)
    assert "timm could not build net50\n  width must be positive" in message("timm:net50", ModelError, {"width": 0})
    monkeypatch.setitem(sys.modules, "timm", None)
    text = message("timm:net50", ModelError)
    assert "timm models need timm, which cannot be imported" in text
    assert "the torchvision that belongs to this torch" in text


def test_a_real_architecture_scans_with_its_default_layers() -> None:
    try:
        import timm  # noqa: F401
    except Exception as error:
        pytest.skip(f"timm cannot be imported here ({error}): its architectures are untested")
    import naa_fast

    model = load_model("timm:resnet10t", {"num_classes": 3})
    measured = naa_fast.measure(model, torch.randn(4, 3, 64, 64))
    assert "layer1.0.conv1" in measured.layers
