"""`load_model`: a model from trusted code, and what a person reads when that code is not as announced."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from naa_fast.errors import EXIT_ERROR, EXIT_USAGE, ModelError, NaaError, UsageError
from naa_fast.inputs.models import load_model

CODE = """
from dataclasses import dataclass
import torch

WIDTH = 3
ready = torch.nn.ReLU()

class Net(torch.nn.Linear):
    def __init__(self, width=2):
        super().__init__(width, WIDTH)

def build(width=2, deep=False):
    return torch.nn.Sequential(Net(width), torch.nn.ReLU()) if deep else Net(width)

def _hidden(): ...
def number(): return 5
def nothing(): pass
def fails(): raise RuntimeError("first line\\nno such checkpoint")
def stops(): raise SystemExit("usage: other program")
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model file in the current directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.py"
    path.write_text(CODE)
    yield path
    for name in ("net", "broken", "helper_of_net", "pack", "pack.net"):
        sys.modules.pop(name, None)


def message(spec: str, arguments: dict[str, Any] | None = None, kind: type[NaaError] = UsageError) -> str:
    before = list(sys.path)
    with pytest.raises(kind) as caught:
        load_model(spec, arguments or {}, None)
    assert type(caught.value) is kind
    assert sys.path == before
    return str(caught.value)


@pytest.mark.parametrize("spec", ["net.py:build", "{folder}/net.py:build", "net:build", "net.py:Net"])
def test_a_function_or_class_of_a_file_or_module_gives_the_model(code: Path, spec: str) -> None:
    before = list(sys.path)
    model = load_model(spec.format(folder=code.parent), {"width": 4}, None)
    assert isinstance(model, nn.Linear)
    assert model.in_features == 4
    assert sys.path == before


def test_arguments_reach_the_function(code: Path) -> None:
    assert isinstance(load_model("net.py:build", {"deep": True}), nn.Sequential)


def test_a_module_in_a_package_of_the_current_directory(code: Path) -> None:
    (code.parent / "pack").mkdir()
    (code.parent / "pack" / "net.py").write_text(CODE)
    assert isinstance(load_model("pack.net:build", {}), nn.Linear)


def test_a_file_may_import_its_neighbour_wherever_it_is(code: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "helper_of_net.py").write_text("WIDTH = 7")
    (folder / "m.py").write_text(
        "import torch\nfrom helper_of_net import WIDTH\ndef build(): return torch.nn.Linear(WIDTH, WIDTH)\n"
    )
    model = load_model(f"{folder / 'm.py'}:build", {})
    assert isinstance(model, nn.Linear)
    assert model.in_features == 7


def test_no_file_beside_the_model_takes_the_place_of_a_library(code: Path) -> None:
    (code.parent / "wsgiref").mkdir()
    (code.parent / "wsgiref" / "__init__.py").write_text("raise SystemExit('the wrong module')")
    code.write_text("import wsgiref\n" + CODE)
    sys.modules.pop("wsgiref", None)
    assert isinstance(load_model("net.py:build", {}), nn.Linear)


# What is refused


@pytest.mark.parametrize("spec", ["net.py", "net.py:", ":build", "net.py:build()", "net.py:a.b", ""])
def test_a_spec_of_another_form(code: Path, spec: str) -> None:
    text = message(spec)
    assert f"model '{spec}' is not of a form that can be loaded" in text
    assert "expected FILE.py:FUNCTION or package.module:FUNCTION" in text


def test_a_file_that_is_not_there(code: Path) -> None:
    text = message("gone.py:build")
    assert "no such model file: gone.py" in text
    assert f"searched from {code.parent}" in text
    assert UsageError.exit_code == EXIT_USAGE


def test_a_module_that_is_not_there(code: Path) -> None:
    text = message("gone.models:build")
    assert "no module named gone" in text
    assert f"neither installed nor in {code.parent}" in text
    assert "expected FILE.py:FUNCTION" in text


def test_a_module_whose_parent_is_a_file_is_told_the_other_form(code: Path) -> None:
    assert "no module named net.inner" in message("net.inner:build")


def test_a_function_that_is_not_there_lists_what_there_is(code: Path) -> None:
    text = message("net.py:make")
    assert "net.py has no function make" in text
    assert "it offers: Net, build, number, nothing, fails, stops" in text
    assert "_hidden" not in text
    assert "dataclass" not in text, "what it imported is not its own"


def test_a_file_without_functions_says_so(code: Path) -> None:
    code.write_text("x = 1")
    assert "it offers: no function or class of its own" in message("net.py:make")


def test_a_name_that_is_no_function(code: Path) -> None:
    assert "WIDTH of net.py is a int" in message("net.py:WIDTH")


def test_a_model_instead_of_a_function(code: Path) -> None:
    text = message("net.py:ready")
    assert "ready of net.py is a model, not a function" in text
    assert "def build(): return ready" in text


def test_arguments_the_function_does_not_take_show_those_it_does(code: Path) -> None:
    text = message("net.py:build", {"depth": 3})
    assert "build of net.py does not take these arguments" in text
    assert "unexpected keyword argument 'depth'" in text
    assert "it is build(width=2, deep=False)" in text
    assert "--model-arg KEY=JSON" in text


def test_a_function_that_raises_is_named_with_its_last_line_and_place(code: Path) -> None:
    text = message("net.py:fails", kind=ModelError)
    assert "fails of net.py raised an error" in text
    assert "RuntimeError: no such checkpoint" in text
    assert "first line" not in text
    assert f"raised at {code}, line " in text
    assert ModelError.exit_code == EXIT_ERROR


def test_a_function_that_ends_the_program_does_not_end_this_one(code: Path) -> None:
    assert "SystemExit: usage: other program" in message("net.py:stops", kind=ModelError)


@pytest.mark.parametrize(("function", "kind"), [("number", "int"), ("nothing", "NoneType")])
def test_a_function_that_returns_no_model(code: Path, function: str, kind: str) -> None:
    text = message(f"net.py:{function}", kind=ModelError)
    assert f"{function} of net.py returned no model" in text
    assert f"it returned an object of type {kind}" in text
    assert "expected a torch.nn.Module" in text


@pytest.mark.parametrize("form", ["broken.py:build", "broken:build"])
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import torch\n1 / 0", "ZeroDivisionError: division by zero"),
        ("import gone_library", "ModuleNotFoundError: No module named 'gone_library'"),
        ("def build(:", "SyntaxError: "),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_code_that_does_not_import(code: Path, form: str, source: str, words: str) -> None:
    (code.parent / "broken.py").write_text(source)
    text = message(form, kind=ModelError)
    assert f"importing {form.partition(':')[0]} raised an error" in text
    assert words in text
    assert "broken.py, line " in text
    assert "_naa_fast_model_broken" not in sys.modules


def test_weights_are_refused_before_any_code_runs(code: Path) -> None:
    code.write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match=r"no such weights: gone\.safetensors"):
        load_model("net.py:build", {}, Path("gone.safetensors"))


def test_weights_are_loaded(code: Path) -> None:
    torch.save({"weight": torch.full((3, 2), 5.0), "bias": torch.zeros(3)}, code.parent / "w.pt")
    model = load_model("net.py:build", {}, code.parent / "w.pt")
    assert model(torch.ones(1, 2)).tolist() == [[10.0] * 3]
