"""`naa-fast repair`: what it refuses, what it says, and its exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report.examples import classic, judged, pair

from naa_fast.cli.main import main
from naa_fast.detect.change import Zero
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.repair import TRIGGERED, Repair
from naa_fast.errors import EXIT_ERROR, EXIT_INCONCLUSIVE, EXIT_PASS, EXIT_USAGE
from naa_fast.report.folder import write_report

CODE = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 3))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("naa_fast.report.folder.chart_bytes", lambda judgement, form: b"")  # drawn for nobody, and slow
    (tmp_path / "net.py").write_text(CODE)
    random = np.random.default_rng(0)
    for name in ("clean", "suspect"):
        np.save(tmp_path / f"{name}.npy", random.standard_normal((40, 4), dtype=np.float32))
    return tmp_path


def report(folder: Path, *neurons: int, model: str = "", samples: int = 40) -> None:
    change = Zero("0", 1, "mine", np.array(neurons))
    repair = Repair((change,), TRIGGERED, 1.0, 0.0, 1.0, 100, 1.0, 1.0, 100, 1, 10)
    judgement = replace(judged({"0": pair(3)}), repair=repair)
    write_report(judgement, folder, {"options": {}})
    content = json.loads((folder / "report.json").read_text())
    content["provenance"]["model"] = model
    (folder / "report.json").write_text(json.dumps(content))


def repair(*words: str) -> int:
    return main(["repair", "r", "--model", "net.py:build", *words])


def test_the_weights_are_written_and_told_how_to_load(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(here / "r", 1)
    assert repair("--out", "new/fixed") == EXIT_PASS
    printed = capsys.readouterr().out
    assert "new/fixed/model.safetensors: weights with the repair in them, exactly" in printed
    assert "model.load_state_dict(load_file('new/fixed/model.safetensors'))" in printed
    assert "Not measured whether the trigger is silenced: give --clean and --suspect" in printed
    told = json.loads((here / "new" / "fixed" / "repair.json").read_text())
    assert (told["folded"], told["exact"], told["holds"], told["files"]) == (True, True, None, ["model.safetensors"])
    assert told["after"]["success"] is None


def test_what_does_not_do_what_was_promised_ends_with_3(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(here / "r", 0, 1, 2)
    assert repair("--clean", "clean.npy", "--suspect", "suspect.npy") == EXIT_INCONCLUSIVE
    captured = capsys.readouterr()
    assert "do not deploy it" in captured.err
    assert "Of 40 clean and 40 triggered samples" in captured.out
    assert json.loads((here / "naa-repaired" / "repair.json").read_text())["holds"] is False


def test_a_report_without_a_repair_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(classic(), here / "r", {"options": {}})
    assert repair() == EXIT_ERROR
    assert "r holds no repair\n  its outcome is fail" in capsys.readouterr().err
    assert not (here / "naa-repaired").exists()


def test_another_model_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(here / "r", 1, model="0" * 32)
    assert repair() == EXIT_USAGE
    assert "the report in r is of another model" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--out", "r"], ["--out", "in"]], ids=" ".join)
def test_nothing_that_is_read_is_overwritten(here: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    report(here / "r", 1)
    (here / "in").mkdir()
    (here / "in" / "model.safetensors").write_bytes(b"precious")
    assert repair("--weights", "in/model.safetensors", *words) == EXIT_USAGE
    assert "would overwrite the input" in capsys.readouterr().err


def test_the_highest_ranked_are_measured_where_nothing_was_proved() -> None:
    import argparse

    from report.examples import ranking_of

    from naa_fast.cli.repair import sets_of

    ranking = replace(ranking_of(20, 0), triggered=None)
    change = Zero("0", 1, "mine", np.array([1]))
    made = Repair((change,), "the highest-ranked suspect samples", 1.0, 0.0, 1.0, 6, 1.0, 1.0, 100, 1, 10)
    found = sets_of(argparse.Namespace(clean=None, suspect=None), Evidence(ranking), made)
    assert found.triggered is not None
    assert np.flatnonzero(found.triggered).tolist() == [0, 1, 2, 3, 4, 5]
    assert (found.target, found.clean, found.suspect) == (None, None, None)
