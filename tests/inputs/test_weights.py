"""Weights: every accepted form gives the state dict; what does not fit is named. Unsafe files are in test_unsafe.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from naa_fast.errors import EXIT_ERROR, ModelError
from naa_fast.inputs.weights import load_weights, read_weights

STATE = {"weight": torch.arange(6.0).reshape(3, 2), "bias": torch.ones(3)}


def message(model: nn.Module, state: dict[str, torch.Tensor]) -> str:
    with pytest.raises(ModelError) as caught:
        load_weights(model, state, Path("w.pt"))
    assert caught.value.exit_code == EXIT_ERROR
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PT", ".ckpt", ".th", ".pth.tar", ".model", ""])
@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s, "args": {"lr": 1}}]
)
def test_a_state_dict_is_found_at_the_top_or_one_level_down(tmp_path: Path, suffix: str, wrap: Any) -> None:
    torch.save(wrap(STATE), tmp_path / f"w{suffix}")
    found = read_weights(tmp_path / f"w{suffix}")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["weight"], STATE["weight"])


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"no such weights: .*w\.pt\n  expected a \.safetensors file, or one written by torch\.save"
    ):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_file(tmp_path: Path, suffix: str, keep: int) -> None:
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(STATE, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="are damaged, or not a") as caught:
        read_weights(path)
    assert "copy" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.zeros(3), "found a Tensor"),
        ([torch.zeros(3)], "found a list"),
        ({}, "a dict with nothing in it"),
        ({"epoch": 3, "net": {"w": 1}}, "a dict with epoch (int), net (dict)"),
        ({str(i): i for i in range(9)}, "0 (int), 1 (int), 2 (int), 3 (int), 4 (int), ..."),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="no state dict in weights") as caught:
        read_weights(tmp_path / "w.pt")
    assert words in str(caught.value)
    assert "at the top or under a key" in str(caught.value)
    assert "torch.save(model.state_dict(), ...)" in str(caught.value)


def test_names_missing_and_left_over_are_given_up_to_five_of_each() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    text = message(model, {f"layer{i}.weight": torch.zeros(2, 2) for i in range(6)})
    assert "weights w.pt do not fit the model" in text
    assert "missing from the file (8): 0.weight, 0.bias, 1.weight, 1.bias, 2.weight, ..." in text
    assert "unknown to the model (6): layer0.weight, layer1.weight, layer2.weight, layer3.weight, layer4.weight, ..." in text
    assert "layer5" not in text
    assert "--model-arg" in text


def test_one_missing_name_is_enough_to_refuse() -> None:
    assert "missing from the file (1): bias" in message(nn.Linear(2, 3), {"weight": STATE["weight"]})


def test_one_name_left_over_is_enough_to_refuse() -> None:
    assert "unknown to the model (1): extra" in message(nn.Linear(2, 3), {**STATE, "extra": torch.zeros(1)})


def test_another_shape_names_both() -> None:
    text = message(nn.Linear(5, 3), STATE)
    assert "size mismatch for weight" in text
    assert "[3, 2]" in text
    assert "[3, 5]" in text


def test_a_tied_tensor_may_be_given_once_and_only_then() -> None:
    model = nn.ModuleDict({"embed": nn.Linear(2, 3, bias=False), "head": nn.Linear(2, 3, bias=False)})
    state = {"embed.weight": STATE["weight"]}
    assert "missing from the file (1): head.weight" in message(model, state)
    model["head"].weight = model["embed"].weight
    load_weights(model, state, Path("w.pt"))
    assert torch.equal(model.get_parameter("head.weight"), STATE["weight"])


def test_a_model_on_the_meta_device_takes_the_tensors_themselves_and_all_of_them() -> None:
    model = nn.Linear(2, 3, device="meta")
    assert "missing from the file (1): bias" in message(model, {"weight": STATE["weight"]})
    model = nn.Linear(2, 3, device="meta")
    load_weights(model, STATE, Path("w.pt"))
    assert torch.equal(model.weight, STATE["weight"])
