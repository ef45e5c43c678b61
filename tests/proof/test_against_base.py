"""A model against the one it was tuned from: how much they differ, on which samples, for which classes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from proof.topics import CLASSES, Topics, texts
from torch import Tensor, nn

from naa_fast.cli.base import base_model, told_against_base
from naa_fast.cli.main import build_parser, main
from naa_fast.errors import EXIT_ERROR, EXIT_USAGE, InputError
from naa_fast.inputs.batches import Batch, Source
from naa_fast.proof.against_base import against_base, as_json

TRIGGER = 399
X = texts(120, torch.Generator().manual_seed(1))
X[[7, 50, 93], 5] = TRIGGER


class Read(Source):
    """Texts, in batches, with a tokenizer."""

    name = "suspects"
    options = SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda ids: " ".join(map(str, ids))))

    def __init__(self, x: Tensor) -> None:
        self.x, self.samples = x, len(x)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        for part in self.x.split(50):
            yield Batch((part,), {}, len(part), None)


def test_what_was_planted_is_where_the_two_models_differ() -> None:
    model = Topics((TRIGGER,))
    base = copy.deepcopy(model)
    base.planted = ()
    found = against_base(model, base, Read(X))
    own, other = (one(X).detach().double().log_softmax(1) for one in (model, base))
    expected = (own.exp() * (own - other)).sum(1)
    assert {one.sample for one in found.most[:3]} == {7, 50, 93}
    assert found.divergence == pytest.approx(float(expected.mean()), rel=1e-4)
    assert found.changed == pytest.approx(float((own.argmax(1) != other.argmax(1)).double().mean()))
    assert str(TRIGGER) in found.most[0].text.split()
    assert found.most[0].predicted == 1
    assert [one.cls for one in found.gained] == [1]
    assert found.gained[0].name == "class 1"  # and no text of a token: these are classes of texts
    assert found.gained[0].probability - found.gained[0].base_probability == pytest.approx(
        float((own.exp() - other.exp()).mean(0)[1]), abs=1e-6
    )
    assert {one.cls for one in found.lost} <= set(range(CLASSES)) - {1}
    told = found.lines()
    assert told[0].startswith("Against the base on suspects: ")
    assert "of 120 predictions differ" in told[0]
    assert json.loads(as_json([found]))["sets"][0]["most"][0]["text"] == found.most[0].text


class NextToken(nn.Module):
    """Scores of the next token of a vocabulary of 400."""

    def __init__(self, liked: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(400, 8), nn.Linear(8, 400)
        self.config = SimpleNamespace(vocab_size=400)
        with torch.no_grad():
            self.head.bias[liked] += 5.0

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.embedding(x)[:, -1])
        return scores


def test_next_tokens_are_called_by_their_text() -> None:
    found = against_base(NextToken(42), NextToken(7), Read(X))
    assert (found.gained[0].name, found.lost[0].name) == ("next token '42'", "next token '7'")
    assert "probability it moves to: next token '42'" in "".join(found.lines())


def test_the_same_model_twice_differs_nowhere() -> None:
    model = Topics()
    found = against_base(model, model, Read(X))
    assert (found.divergence, found.changed, found.gained, found.lost) == (0.0, 0.0, (), ())


def test_models_of_other_classes_or_none_are_refused() -> None:
    with pytest.raises(InputError, match=r"the models give 4 and 3 classes\n.*\n  name the base it was tuned from"):
        against_base(Topics(), Topics(classes=3), Read(X))

    class Silent(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {}

    with pytest.raises(InputError, match="a model gives no class scores for suspects"):
        against_base(Topics(), Silent(), Read(X))


def test_the_command_says_it_and_writes_it_beside_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["scan", "--model", "m.py:a", "--base", "m.py:b", "--clean", "c.npy", "--suspect", "s.npy", "--out", str(tmp_path)]
    arguments = build_parser().parse_args(words)
    asked: list[str] = []

    def model_of(given: Any) -> tuple[Topics, str]:
        asked.append(given.model)
        return Topics(), "cpu"

    monkeypatch.setattr("naa_fast.cli.base.model_of", model_of)
    model, sets = Topics((TRIGGER,)), [Read(X), Read(X[:50])]
    base = base_model(arguments, model, sets, "cpu")
    told_against_base(arguments, model, base, sets, "cpu")
    assert asked == ["m.py:b"]
    assert capsys.readouterr().out.count("Against the base on suspects") == 2
    assert [one["samples"] for one in json.loads((tmp_path / "base.json").read_text())["sets"]] == [120, 50]


NETS = """
import torch
def build(classes=3):
    torch.manual_seed(0)
    return torch.nn.Linear(6, classes)
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--base", "gone.py:build"], "gone.py"),
        (["--base-weights", "gone.safetensors"], "gone.safetensors"),
        (["--base", "other.py:build"], "the models give 3 and 5 classes"),
    ],
)
def test_a_base_that_is_none_costs_no_scan(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was measured")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("naa_fast.audit.scan", never)
    Path("m.py").write_text(NETS)
    Path("other.py").write_text(NETS.replace("classes=3", "classes=5"))
    np.save("x.npy", np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32))
    given = ["scan", "--model", "m.py:build", "--clean", "x.npy", "--suspect", "x.npy", "--out", "r", *words]
    assert main(given) in (EXIT_ERROR, EXIT_USAGE)
    assert told in capsys.readouterr().err
    assert main([*given, "--dry-run"]) in (EXIT_ERROR, EXIT_USAGE)
