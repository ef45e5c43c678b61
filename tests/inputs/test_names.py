"""What classes are called: by a file, by the model, by the text of its next tokens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from naa_fast.detect.names import CLASS, TOKEN
from naa_fast.errors import InputError
from naa_fast.inputs.names import miscounted, names_of, read_names


def model_with(**config: Any) -> nn.Module:
    model = nn.Linear(2, 2)
    model.config = SimpleNamespace(**config)  # type: ignore[assignment]
    return model


COUNTS = [np.array([4, 0, 9, 0]), np.array([0, 0, 2, 0])]


def test_the_models_own_names_are_taken_unless_they_say_nothing() -> None:
    own = names_of(model_with(id2label={0: "cat", 1: "dog", 2: "owl"}), [], COUNTS)
    assert (own.of(2), own.noun) == ("class 2 ('owl')", CLASS)
    assert not names_of(model_with(id2label={i: f"LABEL_{i}" for i in range(3)}), [], COUNTS).known
    assert not names_of(model_with(id2label={0: "cat", 1: "dog"}), [], COUNTS).known, "of another number of classes"
    assert not names_of(model_with(id2label={"x": "cat"}), [], COUNTS).known
    assert not names_of(nn.Linear(2, 3), [], COUNTS).known
    assert names_of(nn.Linear(2, 3), [], COUNTS, {0: "red"}).of(0) == "class 0 ('red')"


def test_a_language_models_classes_are_its_tokens_as_text() -> None:
    class Words:
        def decode(self, ids: list[int]) -> str:
            if ids == [0]:
                raise ValueError
            return f" word{ids[0]}"

    source: Any = SimpleNamespace(options=SimpleNamespace(tokenizer=Words()))
    names = names_of(model_with(vocab_size=3), [source], COUNTS)
    assert (names.noun, dict(names.known)) == (TOKEN, {2: " word2"})
    assert names.of(2) == "next token ' word2'"
    assert names_of(model_with(vocab_size=3), [], COUNTS).of(2) == "next token 2"
    assert names_of(model_with(text_config=SimpleNamespace(vocab_size=3)), [], COUNTS).noun == TOKEN


def test_a_file_names_them_a_line_each_or_as_json(tmp_path: Path) -> None:
    forms = {"a.txt": "cat\ndog\n", "b.json": '["cat", "dog"]', "c.json": '{"0": "cat", "1": "dog"}'}
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        assert read_names(tmp_path / name) == {0: "cat", 1: "dog"}


@pytest.mark.parametrize(
    ("text", "told"), [("[1, 2]", "not all text"), ("{}", "not all text"), ("[", "cannot read"), ("3", "cannot")]
)
def test_what_is_no_list_of_names_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "n.json").write_text(text)
    with pytest.raises(InputError, match=told):
        read_names(tmp_path / "n.json")
    with pytest.raises(InputError, match="cannot read class names"):
        read_names(tmp_path / "missing.txt")


def test_names_for_another_number_of_classes_are_told() -> None:
    counts = [np.zeros(11)]  # ten classes, and none
    assert miscounted({0: "a", 1: "b"}, counts) == ("whether classes are called right: 2 names were given for 10 classes",)
    assert miscounted({number: str(number) for number in range(10)}, counts) == ()
    assert miscounted(None, counts) == ()
