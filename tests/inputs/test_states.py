"""Checkpoints as training code writes them: the state dict that fits is taken under the model's names, and guesses are told."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import naa_fast
from naa_fast.capture.loaded import told_of
from naa_fast.errors import EXIT_USAGE, ModelError, UsageError
from naa_fast.inputs.weights import load_weights, read_weights


def net() -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), block=nn.Sequential(nn.Linear(2, 2))))


torch.manual_seed(0)
STATE = net().state_dict()
STATE["norm.running_mean"] += 3
OTHER = {name: value + 1 for name, value in STATE.items()}


def under(prefix: str, state: Any = STATE) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def inside(part: str) -> dict[str, Tensor]:
    return {name.replace("block.", f"block.{part}."): value for name, value in STATE.items()}


def loaded(path: Path, content: Any, model: nn.Module | None = None, key: str | None = None) -> nn.Module:
    (save_file if path.suffix == ".safetensors" else torch.save)(content, path)
    model = model or net()
    load_weights(model, read_weights(path), path, key)
    return model


def assert_is(model: nn.Module, state: Any = STATE) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name.replace("_orig_mod.", "").replace("module.", "")]), name


WHERE: dict[str, Any] = {
    "plain": STATE,
    **{
        key: {"epoch": 3, key: STATE}
        for key in ("state_dict", "model_state_dict", "net", "netC", "params", "ema", "module", "odd")
    },
    "nested": {"ema": {"decay": 0.9, "model": STATE}},
    "beside loose tensors": {"netC": STATE, "identity_grid": torch.zeros(1)},
    "beside an optimizer": {
        "model": STATE,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1}]},
    },
    "beside another network": {"generator": {"weight": torch.zeros(3)}, "classifier": STATE},
    "twice the same": {"model": STATE, "ema": {name: value.clone() for name, value in STATE.items()}},
    "with numbers beside": {**STATE, "epoch": 3},
    "extra": {**STATE, "block._extra_state": None, "_extra_state": torch.zeros(2)},
}
NAMES = {
    **{
        prefix: under(prefix)
        for prefix in ("module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "a.net.")
    },
    **{f"inside {part}": inside(part) for part in ("module", "_orig_mod", "_checkpoint_wrapped_module")},
}


@pytest.mark.parametrize("where", list(WHERE))
def test_a_state_dict_is_found_by_what_fits(tmp_path: Path, where: str) -> None:
    assert_is(loaded(tmp_path / "w.pth.tar", WHERE[where]))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("names", list(NAMES))
def test_a_prefix_that_all_names_share_is_left_out_aloud(tmp_path: Path, names: str, suffix: str) -> None:
    model = loaded(tmp_path / f"w{suffix}", NAMES[names])
    assert_is(model)
    part = names.rpartition(" ")[2].split(".")[0]
    assert any(f"{part}." in line and "left out of" in line for line in told_of(model).reading)


def test_a_wrapped_model_takes_the_names_of_the_bare_one(tmp_path: Path) -> None:
    for wrap in (nn.DataParallel, lambda inner: nn.ModuleDict({"_orig_mod": inner})):
        for content in (STATE, under("module.")):
            assert_is(loaded(tmp_path / "w.pt", content, wrap(net())))


def test_a_model_with_a_part_of_that_name_keeps_it(tmp_path: Path) -> None:
    model = nn.ModuleDict({"module": net()})
    loaded(tmp_path / "w.pt", under("module."), model)
    assert_is(model["module"])
    assert told_of(model).reading == ()
    loaded(tmp_path / "w.pt", under("module.module."), model)
    assert_is(model["module"])


def test_several_that_fit_and_differ_are_the_persons_choice(tmp_path: Path) -> None:
    path = tmp_path / "w.ckpt"
    content = {"model": STATE, "ema": OTHER, "teacher": {"weight": torch.zeros(2)}}
    with pytest.raises(UsageError) as caught:
        loaded(path, content)
    assert caught.value.exit_code == EXIT_USAGE
    assert "hold 2 state dicts that fit the model, and they differ\n  found under: 'model', 'ema'\n" in str(caught.value)
    assert "--weights-key KEY (weights_key= in Python)" in str(caught.value)
    for key, state in (("model", STATE), ("ema", OTHER)):
        model = loaded(path, content, key=key)
        assert_is(model, state)
        told = told_of(model)
        assert told.reading == (f"weights {path}: read under {key!r}",)
        rest = {"model": "ema", "ema": "model"}[key]
        assert told.left_out == (f"in {path}, beside the weights: state dicts under '{rest}' (9 tensors), 'teacher' (1 tensors)",)
    with pytest.raises(UsageError, match=r"no state dict under 'swa'.*\n  found: 'model' \(9 tensors\), 'ema'"):
        loaded(path, content, key="swa")
    with pytest.raises(ModelError, match=r"unknown to the model \(1\): weight"):
        loaded(path, content, key="teacher")


def test_what_fits_nowhere_names_what_is_missing_in_the_nearest(tmp_path: Path) -> None:
    short = {name: value for name, value in under("model.").items() if name != "model.conv.bias"}
    with pytest.raises(ModelError) as caught:
        loaded(tmp_path / "w.pt", {"state_dict": {**short, "model.head.weight": torch.zeros(1)}, "other": {"x": torch.zeros(1)}})
    for words in (
        "missing from the file (1): conv.bias",
        "unknown to the model (1): head.weight",
        "'model.' left out of all 9",
        "'other'",
    ):
        assert words in str(caught.value)
    with pytest.raises(ModelError, match="unknown to the model"):  # not all names share it: a part may be another network
        loaded(tmp_path / "w.pt", {**under("model."), "criterion.weight": torch.zeros(1)})


def test_extra_state_is_left_out_aloud_since_putting_it_back_may_unpickle(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def set_extra_state(self, state: Any) -> None:
            raise AssertionError("code of the model ran on what the file holds")

        def get_extra_state(self) -> Any:
            return torch.zeros(3)

    model = Extra(2, 3)
    loaded(tmp_path / "w.pt", model.state_dict(), model)
    assert told_of(model).left_out == (f"_extra_state of 1 modules in {tmp_path / 'w.pt'}: putting it back could run code",)


def test_versions_survive_a_new_name_so_that_old_files_are_filled_in(tmp_path: Path) -> None:
    def old(version: int) -> Any:
        state: Any = OrderedDict((f"module.{n}", v) for n, v in STATE.items() if not n.endswith("num_batches_tracked"))
        state._metadata = OrderedDict({"module.norm": {"version": version}, "": "hostile", "module": {"version": "x"}})
        return state

    loaded(tmp_path / "w.pt", old(1))
    with pytest.raises(ModelError, match=r"missing from the file \(1\): norm\.num_batches_tracked"):
        loaded(tmp_path / "w.pt", old(2))


def test_a_checkpoint_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": STATE}
    content["again"] = content
    for _ in range(200):
        content[f"copy {_}"] = {"deeper": content, "model": content["model"]}
    assert_is(loaded(tmp_path / "w.pt", content))


def test_the_report_tells_what_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from naa_fast.cli.main import main

    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("import torch\ndef build(): return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())\n")
    state = nn.Sequential(nn.Linear(2, 2)).state_dict()
    torch.save({"model": under("module.", state), "ema": {name: value + 1 for name, value in state.items()}}, "w.ckpt")
    np.save("x.npy", np.random.default_rng(0).standard_normal((30, 2), dtype=np.float32))
    words = ["measure", "--model", "net.py:build", "--data", "x.npy", "--device", "cpu", "--out", "o.naa.safetensors"]
    without, words = [*words, "--weights-key", "model"], [*words, "--weights", "w.ckpt"]
    assert main(words) == EXIT_USAGE
    assert "--weights-key KEY" in capsys.readouterr().err
    assert main([*words, "--weights-key", "model"]) == 0
    told = naa_fast.Measurement.load("o.naa.safetensors").provenance
    digest = hashlib.sha256(Path("w.ckpt").read_bytes()).hexdigest()
    assert sorted(told["inputs"]) == [
        "weights w.ckpt: 'module.' left out of 2 of 2 names",
        "weights w.ckpt: read under 'model'",
        f"weights w.ckpt: sha256 {digest}",
    ]
    assert told["left_out"] == ("in w.ckpt, beside the weights: state dicts under 'ema' (2 tensors)",)
    assert "'module.' left out of 2 of 2 names" in capsys.readouterr().err
    assert main(without) == EXIT_USAGE
    assert "--weights-key without --weights" in capsys.readouterr().err
