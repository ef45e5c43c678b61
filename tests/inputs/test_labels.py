"""Labels: clean accuracy has the right value from every source that has them, and never makes a verdict greener."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import naa_fast
from naa_fast.capture.class_names import numbers_by_name
from naa_fast.detect.accuracy import clean_accuracy
from naa_fast.inputs.labels import LabelOrder, Labels, class_numbers

X = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
Y = X.argmax(1)
Y[:20] = (Y[:20] + 1) % 4
"""Of 200 labels 20 are wrong: a model that gives its input back is right on .9."""


class Back(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.head = nn.Tanh(), nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(self.act(x))


def accuracy(data: Any, model: nn.Module | None = None, **options: Any) -> Any:
    return clean_accuracy(naa_fast.measure(model or Back(), data, batch_size=64, backend="reference", **options))


def files(folder: Path) -> dict[str, Any]:
    np.savez(folder / "y.npz", x=X, y=Y)
    np.savez(folder / "labels.npz", x=X, labels=Y.to(torch.uint8))
    np.savez(folder / "hot.npz", x=X, y=nn.functional.one_hot(Y).float())
    np.savez(folder / "column.npz", x=X, y=Y[:, None].double())
    save_file({"x": X, "y": Y}, folder / "y.safetensors")
    save_file({"x": X, "label": Y}, folder / "label.safetensors")
    return {path.name: path for path in sorted(folder.iterdir())}


def loaders() -> dict[str, Any]:
    pairs = list(zip(X.split(33), Y.split(33), strict=True))
    return {
        "loader": DataLoader(TensorDataset(X, Y), batch_size=33),
        "list of pairs": pairs,
        "arrays": [(x.numpy(), y.numpy()) for x, y in pairs],
        "masks between": [(x, torch.ones(x.shape, dtype=torch.int64), y) for x, y in pairs],
        "dict": [{"x": x, "labels": y} for x, y in pairs],
        "dict and labels": [({"x": x}, y) for x, y in pairs],
    }


@pytest.mark.parametrize("chunk_size", [None, 50])
def test_every_source_with_labels_tells_the_same_accuracy(tmp_path: Path, chunk_size: int | None) -> None:
    for name, data in {**files(tmp_path), **loaders()}.items():
        told = accuracy(data, chunk_size=chunk_size)
        assert (told.share, told.samples, told.beyond, told.doubt) == (0.9, 200, 0, ""), name


def test_what_is_no_class_a_sample_tells_nothing() -> None:
    halves = list(zip(X.split(100), Y.split(100), strict=True))
    for beside in (
        lambda x, y: y + 0.5,
        lambda x, y: (x > 0).long(),
        lambda x, y: y[:50],
        lambda x, y: ["a"] * 100,
        lambda x, y: None,
    ):
        assert accuracy([(x, beside(x, y)) for x, y in halves]) is None
    assert accuracy(X) is None


def test_samples_without_a_label_count_nothing() -> None:
    told = accuracy([(X, torch.where(torch.arange(200) < 20, -100, Y))])
    assert (told.share, told.samples) == (1.0, 180)


def test_labels_beyond_the_classes_are_doubted_and_give_no_number() -> None:
    audit = naa_fast.scan(Back(), [(X, torch.arange(200))], X.flip(0), backend="reference", ranking=False)
    assert audit.report()["clean_accuracy"] is None
    assert any("196 of 200 are beyond them" in line for line in audit.verdict.not_checked)


def test_accuracy_near_chance_is_doubted_and_no_outcome_turns_greener(tmp_path: Path) -> None:
    shuffled = Y[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    outcomes = set()
    for y, share in ((Y, 0.9), (shuffled, float((shuffled == X.argmax(1)).double().mean())), (None, None)):
        clean = X if y is None else [(X, y)]
        audit = naa_fast.scan(Back(), clean, X + 0.05, backend="reference", ranking=False)
        assert audit.report()["clean_accuracy"] == share
        assert any("near chance" in line for line in audit.verdict.not_checked) == (y is shuffled)
        assert (f"Clean accuracy: {share:.3f} of 200 labelled samples" in audit.summary()) if share else True
        outcomes.add((audit.verdict.outcome, audit.verdict.score))
    assert len(outcomes) == 1


def test_a_model_that_says_one_class_of_a_set_that_is_mostly_it_is_near_chance() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(x)[:, :2] * 0 + torch.tensor([1.0, 0.0])

    told = accuracy([(X, (torch.arange(200) % 10 == 0).long())], One())
    assert told.share == pytest.approx(0.9)
    assert told.chance == pytest.approx(0.9)
    assert "near chance" in told.doubt


def test_names_are_the_models_own_where_it_knows_them_and_else_an_order() -> None:
    labels = Labels.of(["dog", "cat", None, "eel", "dog"], "folders")
    assert labels is not None
    assert (labels.names, labels.numbers.tolist()) == (("cat", "dog", "eel"), [1, 0, -1, 2, 1])
    plain = LabelOrder(labels.names, labels.words, numbers_by_name(nn.Linear(2, 3)))
    assert plain.of(labels.numbers).tolist() == [1, 0, -1, 2, 1]
    assert (plain.fits(3), plain.fits(4)) == (True, False)
    assert plain.words == "folders, by the order of the names"
    model = nn.Linear(2, 4)
    vars(model)["config"] = SimpleNamespace(label2id={"EEL": 0, "Dog": 1, "cat": 3, "ant": 2})
    known = LabelOrder(labels.names, labels.words, numbers_by_name(model))
    assert known.of(labels.numbers).tolist() == [1, 3, -1, 0, 1]
    assert known.fits(4)
    assert known.words == "folders, by the names in the model's configuration"
    vars(model)["config"] = SimpleNamespace(label2id={"cat": "x"})
    assert LabelOrder(labels.names, "f", numbers_by_name(model)).by_name is False


def test_numbers_are_classes_and_one_class_or_free_text_is_none() -> None:
    labels = Labels.of(["10", "2", "02"], "")
    assert labels is not None
    assert (labels.names, labels.numbers.tolist()) == ((), [10, 2, 2])
    assert Labels.of(["1", "1"], "") is None
    assert Labels.of([str(i) for i in range(20_000)], "") is None
    assert class_numbers(np.array(["a"])) is None
    assert class_numbers(torch.tensor([[1, 1], [0, 1]])) is None
    assert class_numbers(torch.zeros(2, 1, 3)) is None


def test_a_text_file_with_labels_tells_accuracy(tmp_path: Path) -> None:
    from naa_fast.inputs.text import TextOptions, open_text

    class Words:
        pad_token_id, eos_token_id, model_max_length = 0, None, 10**9

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            ids = [1 + len(word) for word in text.split()]
            return {"input_ids": ids, "special_tokens_mask": [0] * len(ids)}

    class Longest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 3)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            self.embed(input_ids)
            return nn.functional.one_hot(input_ids.amax(1) - 2, 3).float()

    texts = [" ".join(["a" * (1 + i % 3), "a"]) for i in range(30)] + [" "]
    wrong = {0: 1, 1: 2, 2: 0}
    names = [["pos", "mid", "neg"][wrong[i % 3] if i < 6 else i % 3] for i in range(31)]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in zip(texts, names, strict=True))
    )
    model = Longest()
    vars(model)["config"] = SimpleNamespace(label2id={"pos": 0, "mid": 1, "neg": 2})
    told = accuracy(open_text(tmp_path / "a.jsonl", 7, TextOptions(Words())), model, layers="embed")
    assert (told.share, told.samples) == (0.8, 30)
    assert "by the names in the model's configuration" in told.words
