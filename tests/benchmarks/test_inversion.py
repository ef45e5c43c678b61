"""The whole path of the inversion study on two models of digits: train, search, rivals, rows, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from benchmarks.detection.cases import CASES, by_name
from benchmarks.detection.data import load
from benchmarks.inversion import runner, shapes
from benchmarks.inversion.cases import SUBSET, cases, family, group
from benchmarks.inversion.shapes import SHAPES
from benchmarks.inversion.tables import FAMILIES, tables


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inversion")


@pytest.fixture(scope="module")
def rows(place: Path) -> list[dict[str, Any]]:
    return runner.run([by_name("digits-mlp-blend"), by_name("digits-mlp-clean-0")], place, 5.0)


def test_the_backdoored_model_fails_and_its_twin_does_not(rows: list[dict[str, Any]]) -> None:
    backdoored, clean = rows
    assert (backdoored["outcome"], backdoored["proofs"][0]["target"]) == ("fail", 1)
    assert clean["outcome"] in ("pass", "warn")
    assert backdoored["score"] > clean["score"]
    assert backdoored["rivals"]["nc"]["target"] == 1
    assert set(backdoored["rivals"]["nc"]) == set(clean["rivals"]["mmbd"])
    assert backdoored["repair"]["asr"] < 0.5 * backdoored["asr"]  # of the real trigger, which the search never had
    assert clean["repair"] is None


def test_what_was_run_is_not_run_again(rows: list[dict[str, Any]], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "row_of", lambda case, cache: pytest.fail("run again"))
    assert runner.run([by_name("digits-mlp-blend")], place, 5.0) == rows[:1]
    assert runner.run([by_name("digits-cnn-clean-0")], place, 5.0, kept=True) == []
    assert runner.run([by_name("digits-cnn-clean-0")], place, 0.0) == []
    assert runner.run([by_name("digits-cnn-clean-0")], place, 5.0, trained=True) == []


def test_the_tables_tell_both_models_and_every_family(rows: list[dict[str, Any]]) -> None:
    text = tables(rows)
    assert "the real trigger turns, median" in text
    assert "repaired" not in tables(rows[1:])
    assert all(name in text for name in ("digits-mlp-blend", "digits-mlp-clean-0", "Neural Cleanse", "MM-BD", *FAMILIES))


def test_every_model_of_the_subset_is_of_the_study_and_both_groups_have_clean_ones() -> None:
    chosen = [by_name(name) for name in SUBSET]
    assert len(set(SUBSET)) == len(SUBSET) >= 30
    assert {(group(case), family(case) == "clean") for case in chosen} == {
        (name, clean) for name in ("chosen on", "known") for clean in (True, False)
    }
    assert {family(case) for case in CASES} == {"clean", *FAMILIES}
    every = [case.name for case in cases(False)]
    assert len(set(every)) == len(every) > len(CASES) + len(SHAPES)
    assert {group(case) for case in SHAPES} == {"never looked at"}


def test_models_of_other_shapes_are_trained_once_and_give_what_they_did(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = shapes.Shape("pairs43-cnn-patch", "cnn", 43, shapes.attacked("patch", 43, 14), 1)
    monkeypatch.setattr(shapes, "load", lambda name, cache: load("digits", place / "none"))
    monkeypatch.setattr(shapes, "avg_pool2d", lambda x, size: interpolate(x, (14, 14)))
    monkeypatch.setattr(shapes, "TRAIN", 256)
    monkeypatch.setattr(shapes, "REST", 64)
    model, info = shapes.load_or_train(tiny, place)
    x = shapes.data_of(43, place).clean_x
    assert x.shape == (64, 3, 32, 32)
    again, same = shapes.load_or_train(tiny, place)
    shapes.data_of.cache_clear()
    assert info == same
    assert torch.equal(model(x), again(x))
    assert model(x).shape == (64, 43)
