"""What a caller gets wrong is said before anything is measured, and no model ends the program by itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naa_fast
from naa_fast.cli.main import main
from naa_fast.errors import EXIT_ERROR, EXIT_PASS, ModelError, NaaError, UsageError

X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))


class Leaves(nn.Module):
    """Ends the program in the `at`-th of its forwards."""

    def __init__(self, error: BaseException, at: int = 1) -> None:
        super().__init__()
        self.inner, self.error, self.at, self.ran = nn.Linear(6, 3), error, at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.ran += 1
        if self.ran >= self.at:
            raise self.error
        out: Tensor = self.inner(x)
        return out


class Own(BaseException):
    """One that nobody catches."""


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit(None), GeneratorExit(), Own("x")], ids=repr)
@pytest.mark.parametrize("at", [1, 5])
def test_a_model_that_ends_the_program_is_an_error_and_no_pass(error: BaseException, at: int) -> None:
    with pytest.raises(ModelError, match=r"asked Python to end \(\w+: .*\)\n  raised at .*test_misuse.py, line \d+, in forward"):
        naa_fast.scan(Leaves(error, at), X[:200], X, batch_size=100)
    with pytest.raises(ModelError, match="asked Python to end"):
        naa_fast.measure(Leaves(error), X)
    with pytest.raises(ModelError, match="asked Python to end"):
        naa_fast.invert(Leaves(error), X, steps=1)


def test_a_loader_that_ends_the_program_is_an_error() -> None:
    def loader() -> Iterator[Tensor]:
        yield X
        sys.exit(0)

    with pytest.raises(ModelError, match="in loader"):
        naa_fast.scan(nn.Linear(6, 3), X, loader())


def test_a_person_can_still_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        naa_fast.scan(Leaves(KeyboardInterrupt()), X, X)


LEAVING = """
import sys
from torch import nn
class Leaves(nn.Linear):
    def forward(self, x):
        sys.exit(0)
def build():
    return Leaves(6, 3)
"""


@pytest.mark.parametrize("verb", ["scan", "measure", "rank", "invert", "bench"])
def test_no_verb_ends_with_the_exit_code_of_the_model(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(LEAVING)
    np.save("x.npy", X.numpy())
    sets = {"measure": ["--data", "x.npy", "--out", "x.naa.safetensors"], "bench": ["--data", "x.npy"]}
    sets["invert"] = ["--clean", "x.npy"]
    assert main([verb, "--model", "m.py:build", *sets.get(verb, ["--clean", "x.npy", "--suspect", "x.npy"])]) == EXIT_ERROR
    assert "asked Python to end" in capsys.readouterr().err


def test_help_and_version_still_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == main(["scan", "--help"]) == EXIT_PASS
    capsys.readouterr()


class Unrun(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("something was measured")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch_size": "5"}, "batch size is '5'\n  expected a whole number of 1 or more"),
        ({"batch_size": 2.5}, "batch size is 2.5\n  expected a whole number of 1 or more"),
        ({"batch_size": None}, "batch size is None"),
        ({"batch_size": 0}, "batch size is 0\n  expected 1 or more"),
        ({"chunk_size": "a"}, "chunk size is 'a'"),
        ({"prefetch": -1}, "prefetch is -1\n  expected 0 or more"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"layers": 5}, "layers or exclude is 5\n  expected names, globs or types of modules"),
        ({"exclude": [5]}, "layers or exclude is [5]"),
        ({"class_names": ["a", "b", "c"]}, "class_names is a list, or holds something else than names by number"),
        ({"class_names": {0: 5}}, "class_names is a dict, or holds something else"),
    ],
)
def test_wrong_options_are_named_before_anything_is_measured(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        naa_fast.scan(Unrun(6, 3), X, X, **given)
    assert words in str(caught.value)


@pytest.mark.parametrize("shard", [(1,), 5, "1/2", (1, 2, 3), (1.5, 2), (True, 2)])
def test_a_shard_is_two_whole_numbers(shard: Any) -> None:
    with pytest.raises(UsageError, match="expected two whole numbers"):
        naa_fast.measure(Unrun(6, 3), X, shard=shard)


def test_an_inversion_says_at_once_what_is_wrong() -> None:
    cases: list[tuple[dict[str, Any], str]] = [({"top_k": 0}, "top_k is 0"), ({"base": 5}, "the model is a int")]
    for given, words in cases:
        with pytest.raises(UsageError, match=words):
            naa_fast.invert(Unrun(6, 3), X, **given)


def test_what_is_compared_are_measurements() -> None:
    with pytest.raises(UsageError, match=r"the clean set is of type str\n  expected a measurement"):
        naa_fast.compare("a.naa.safetensors", "b.naa.safetensors")  # type: ignore[arg-type]


def test_every_error_of_ours_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero(NaaError):
        exit_code = 0

    monkeypatch.setattr("naa_fast.cli.main.build_parser", lambda: (_ for _ in ()).throw(Zero("green?")))
    assert main(["doctor"]) == EXIT_ERROR
