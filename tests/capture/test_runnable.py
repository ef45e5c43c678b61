"""Models that cannot be hooked or are not ready: refused before anything is read, with what to do about it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import naa_fast
from naa_fast.capture.runnable import require_runnable
from naa_fast.cli.main import main
from naa_fast.errors import EXIT_ERROR, EXIT_USAGE, UsageError

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return net()


def half_on_meta() -> nn.Module:
    model = net()
    model[2].register_buffer("scale", torch.ones(1, device="meta"))
    return model


def program() -> Any:
    return torch.export.export(net(), (X[:4],))


def wrapped(model: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(inner=model))


KINDS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(16), nn.ReLU()), ["lazy: 0.weight, 0.bias", "run one batch through it"]),
    "lazy norm": (lambda: nn.Sequential(nn.Linear(8, 4), nn.LazyBatchNorm1d()), ["lazy: 1.weight", "run one batch"]),
    "scripted": (lambda: torch.jit.script(net()), ["a TorchScript program", "hand in the eager model", ".pt2"]),
    "traced": (lambda: torch.jit.trace(net(), X[:2]), ["a TorchScript program"]),
    "exported": (
        lambda: program().module(),
        ["the model is a program of torch.export", "torch.export.unflatten", "torch.export.save"],
    ),
    "exported inside": (lambda: wrapped(program().module()), ["its part 'inner' is a program of torch.export"]),
    "program": (program, ["the model is a ExportedProgram", "torch.export.unflatten(program)", "torch.export.save"]),
    "meta": (on_meta, ["on the meta device: 4 of its tensors", "without values: 0.weight, 0.bias", "to_empty"]),
    "half on meta": (half_on_meta, ["1 of its tensors", "without values: 2.scale"]),
    "class": (lambda: nn.Linear, ["a class, Linear", "make one: Linear(...)"]),
    "state dict": (lambda: net().state_dict(), ["a state dict: weights without their model", "load_state_dict"]),
    "function": (lambda: net().forward, ["the model is a method", "wrap the function in a module"]),
    "path": (lambda: Path("model.pt"), ["the name 'model.pt'", "load_model"]),
    "pipeline": (lambda: SimpleNamespace(model=net()), ["the model is a SimpleNamespace", "its .model is one"]),
    "tuple": (lambda: (net(), None), ["the model is a tuple", "its first item is one"]),
    "nothing": (lambda: None, ["the model is a NoneType", "hand in the model itself"]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", list(KINDS))
def test_what_cannot_be_audited_is_refused_with_advice(kind: str) -> None:
    make, expected = KINDS[kind]
    model = make()
    for run in (lambda: naa_fast.measure(model, X), lambda: naa_fast.scan(model, X, X.flip(0))):
        with pytest.raises(UsageError) as caught:
            run()
        assert caught.value.exit_code == EXIT_USAGE
        for words in expected:
            assert words in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_what_the_advice_says_works() -> None:
    lazy = nn.Sequential(nn.LazyLinear(16), nn.ReLU())
    lazy(X[:2])
    empty = on_meta().to_empty(device="cpu")
    empty.load_state_dict(torch.jit.script(net()).state_dict())
    for model in (lazy, empty, torch.export.unflatten(torch.export.export(net(), (X,)))):
        assert naa_fast.measure(model, [X], backend="reference").samples == 64
    require_runnable(torch.fx.symbolic_trace(net()))
    require_runnable(nn.DataParallel(net()))


def test_tensors_that_accelerate_keeps_elsewhere_are_not_missing() -> None:
    model = on_meta()
    for module in model.children():
        vars(module)["_hf_hook"] = object()
    require_runnable(model)


@pytest.mark.filterwarnings("ignore")
def test_the_command_line_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X.numpy())
    torch.jit.save(torch.jit.script(net()), "model.pt")
    Path("kinds.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def lazy(): return nn.Sequential(nn.LazyLinear(16), nn.ReLU())\n"
        "def scripted(): return torch.jit.load('model.pt')\n"
        "def meta(): return nn.Linear(8, 4, device='meta')\n"
        "def state(): return nn.Linear(8, 4).state_dict()\n"
        "def made(): return nn.Linear\n"
    )
    for spec, code, words in (
        ("kinds.py:lazy", EXIT_USAGE, "run one batch through it, or load its weights"),
        ("kinds.py:scripted", EXIT_USAGE, "hand in the eager model"),
        ("kinds.py:meta", EXIT_USAGE, "load its weights (--weights)"),
        ("kinds.py:state", EXIT_ERROR, "or --model FILE.py:FUNCTION --weights FILE"),
        ("kinds.py:made", EXIT_ERROR, "make one: Linear(...)"),
        ("model.pt", EXIT_USAGE, "--weights model.pt"),
    ):
        assert main(["measure", "--model", spec, "--data", "x.npy", "--device", "cpu", "--out", "o"]) == code
        assert words in capsys.readouterr().err
    torch.save({f"0.{name}": value for name, value in nn.Linear(8, 16).state_dict().items()}, "w.pt")
    given = ["--data", "x.npy", "--device", "cpu", "--out", "o", "--weights", "w.pt"]
    assert main(["measure", "--model", "kinds.py:lazy", *given]) == 0
