"""The timm benchmark: its checks fail on what is wrong, its stand-in runs nothing, and real architectures pass it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import naa_fast
from benchmarks import timm_models
from benchmarks.overhead import Ours
from naa_fast.records import Moments

NET = timm_models.Architecture("net", blocks=1, activations=1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def test_a_right_scan_has_nothing_wrong(net: nn.Module) -> None:
    x = torch.randn(4, 3, 12, 10)
    broken, found = timm_models.wrong(NET, net, x, naa_fast.measure(net, x, batch_size=2))
    assert broken == []
    assert found["neurons"] == 21
    assert found["compared"] == ["act", "conv", "fc"]
    assert found["mean_error"] < 1e-6


def test_another_axis_other_data_and_missing_layers_are_named(net: nn.Module) -> None:
    x = torch.randn(4, 3, 12, 10)
    measured = naa_fast.measure(net, x, batch_size=2)
    turned = timm_models.Architecture("net", blocks=1, activations=-1)
    broken, _ = timm_models.wrong(turned, net, x, measured)
    assert "act was read as axis 1 of 4, its neurons are on axis 3 of [2, 8, 10, 8]" in broken
    broken, _ = timm_models.wrong(NET, net, x + 0.01, measured)
    assert any(line.startswith("conv positions ") and "over" in line for line in broken)
    broken, _ = timm_models.wrong(NET, net, x, naa_fast.measure(net, x, layers=["conv"], batch_size=2))
    assert "act never fired" in broken
    assert "fc never fired" in broken


def test_brute_force_splits_windows_by_sample() -> None:
    windows = np.arange(2 * 3 * 4 * 5.0).reshape(6, 4, 5)  # three windows of four tokens a sample
    positions, mean, maximum = timm_models.brute_force([windows[:3], windows[3:]], -1, 2)
    assert positions.count.tolist() == [24] * 5
    assert maximum.minimum.tolist() == windows[2, 3].tolist()
    assert np.allclose(mean.minimum, windows[:3].mean((0, 1)))
    images = np.random.default_rng(0).normal(size=(2, 5, 3, 4))
    assert np.array_equal(
        timm_models.brute_force([images], 1, 2)[0].mean, Moments.of(images.transpose(0, 2, 3, 1).reshape(-1, 5)).mean
    )


def test_memory_is_the_most_held_at_once_and_all_that_was_asked_for() -> None:
    def event(ts: float, change: int) -> dict[str, Any]:
        return {"name": "[memory]", "ts": ts, "args": {"Bytes": change}}

    events = [event(3, -10), event(1, 10), event(2, 5), event(4, 7), {"name": "aten::add", "ts": 0}]
    assert timm_models.peak_and_sum(events) == (15, 22)


def test_hooks_add_no_copies_and_one_that_copies_is_noticed(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4, 3, 200, 200)
    with torch.no_grad(), ExitStack() as stack:
        ours = Ours(net, ["conv", "act", "fc"], stack)
        broken, found = timm_models.memory(net, ours, x)
        assert broken == []
        assert found["hooked_MB"] == pytest.approx((2 * 4 * 8 * 198 * 198 + 4 * 5) * 4 / 1e6)
        assert found["copied_MB"] < 0.01 * found["hooked_MB"]
        right = ours.accumulator.observe

        def through_torch(layer: str, view: torch.Tensor, layout: str) -> None:
            right(layer, view.clone(), layout)

        def through_numpy(layer: str, view: torch.Tensor, layout: str) -> None:
            right(layer, torch.from_numpy(view.numpy().copy()), layout)

        for copying, words in (
            (through_torch, "the hooks made torch allocate"),
            (through_numpy, "times its output in NumPy arrays"),
        ):
            monkeypatch.setattr(type(ours.accumulator), "observe", lambda self, *given, copying=copying: copying(*given))
            broken, _ = timm_models.memory(Net().eval(), ours, x)
            assert any(words in line for line in broken)


def test_the_stand_in_raises_when_used_and_leaves_nothing_behind() -> None:
    if importlib.util.find_spec("torchvision") is not None:
        pytest.skip("torchvision is installed: nothing needs a stand-in")
    with timm_models.torchvision_stand_in():
        transforms = importlib.import_module("torchvision.transforms")
        with pytest.raises(RuntimeError, match="ToTensor is an empty stand-in: this needs the real torchvision"):
            transforms.ToTensor()
        with pytest.raises(ImportError):
            importlib.import_module("torchvision.models")
    assert not [name for name in sys.modules if name.partition(".")[0] == "torchvision"]
    assert importlib.util.find_spec("torchvision") is None


def test_without_timm_the_script_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert timm_models.main([]) == 2
    assert "timm cannot be imported" in capsys.readouterr().err


def test_a_real_architecture_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        timm_models.import_timm()
    except ImportError as error:
        pytest.skip(f"timm cannot be imported here ({error}): its architectures are untested")
    small = timm_models.Architecture("resnet10t", blocks=1, activations=1, size=64)
    square = timm_models.Architecture("test_convnext", blocks=1, activations=-1, size=96)  # 24 neurons, 24 x 24 pixels
    monkeypatch.setattr(timm_models, "ARCHITECTURES", (small, square))
    target = tmp_path / "rows.json"
    assert timm_models.main(["--rounds", "1", "--no-resident", "--json", str(target)]) == 0, capsys.readouterr().out
    content = json.loads(target.read_text())
    assert content["conditions"]["broken"] == []
    assert [entry["variant"] for entry in content["rows"]] == ["alone", "ours"] * 2
    assert "test_convnext: 5" in capsys.readouterr().out
