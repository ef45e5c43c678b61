"""`naa-fast rank` and `scan --ranking`: the samples in order, as lines that a machine reads."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from proof.test_images import CLEAN, HELD, with_trigger

import naa_fast
from naa_fast.cli.main import main
from naa_fast.errors import EXIT_ERROR, EXIT_PASS, EXIT_USAGE, UsageError

CODE = """
import sys
import torch
sys.path.insert(0, {tests!r})
from proof.test_images import Quadrants

def build():
    torch.manual_seed(0)
    return Quadrants("patch")
"""
SUSPECT, TRIGGERED = with_trigger(HELD, "patch", 60)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a backdoored model, clean samples and suspects of which some are triggered; the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quadrants.py").write_text(CODE.format(tests=str(Path(__file__).parents[1])))
    np.save(tmp_path / "clean.npy", CLEAN.numpy())
    np.save(tmp_path / "suspect.npy", SUSPECT.numpy())
    yield tmp_path
    sys.modules.pop("quadrants", None)


def verb(name: str, *words: str, clean: str = "clean.npy", suspect: str = "suspect.npy") -> int:
    sets = ["--clean", clean, "--suspect", suspect]
    return main([name, "--model", "quadrants.py:build", *sets, "--device", "cpu", *words])


def test_rank_prints_carriers_of_the_proven_trigger_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("rank", "-k", "all") == EXIT_PASS
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == len(SUSPECT)
    triggered = [row["triggered"] == "true" for row in rows]
    assert 30 <= sum(triggered) <= int(TRIGGERED.sum())
    assert triggered == sorted(triggered, reverse=True)
    assert all(TRIGGERED[int(row["sample"])] for row in rows if row["triggered"] == "true")
    left = {path.name for path in here.iterdir()} - {"__pycache__"}
    assert left == {"quadrants.py", "clean.npy", "suspect.npy"}, "nothing else is left behind"


def test_rank_is_the_ranking_of_a_scan(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("rank", "-k", "20", "--format", "jsonl", "--no-proof", "--out", "new/top.jsonl") == EXIT_PASS
    assert capsys.readouterr().out == f"new/top.jsonl: 20 of {len(SUSPECT)} samples\n"
    rows = [json.loads(line) for line in (here / "new" / "top.jsonl").read_text("ascii").splitlines()]
    verb("scan", "--no-proof", "--ranking", "all")
    report = json.loads((here / "naa-report" / "report.json").read_text())
    assert [row.pop("rank") for row in rows] == list(range(1, 21))
    assert rows == report["ranking"][:20]
    table = list(csv.DictReader((here / "naa-report" / "ranking.csv").read_text("utf-8").splitlines()))
    assert [int(row["sample"]) for row in table] == [row["sample"] for row in report["ranking"]]
    assert len(table) == len(SUSPECT)
    assert report["provenance"]["options"]["ranking"] == "all"


@pytest.mark.parametrize("words", [["--no-ranking"], ["--ranking", "none"]])
def test_no_ranking_is_the_ranking_none(here: Path, words: list[str]) -> None:
    verb("scan", *words)
    report = json.loads((here / "naa-report" / "report.json").read_text())
    assert (report["ranking"], report["ranking_summary"]) == ([], None)


def test_files_with_hostile_names_are_named_safely(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image", reason="image folders need Pillow (the vision extra)")
    names = ["=1+1.png", "@a.png", "b\x1b[2J.png"]
    for folder, x in (("c", CLEAN[:80]), ("s", HELD[:80])):
        (here / folder).mkdir()
        for i, pixels in enumerate((x[:, 0] * 255).round().byte().numpy()):
            image.fromarray(pixels).save(here / folder / f"x{i:03d}.png")
    for name in names:
        os.rename(here / "s" / f"x{names.index(name):03d}.png", here / "s" / name)
    assert verb("rank", "--no-proof", clean="c", suspect="s") == EXIT_PASS
    text = capsys.readouterr().out
    assert "\x1b" not in text
    files = {row["file"] for row in csv.DictReader(text.splitlines())}
    assert {"'=1+1.png", "'@a.png", "b\\x1b[2J.png"} <= files
    assert len(files) == 80


def test_what_cannot_be_ranked_is_an_error_with_its_reason(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(here / "few.npy", CLEAN[:40].numpy())
    assert verb("rank", clean="few.npy") == EXIT_ERROR
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: the samples cannot be ranked" in captured.err
    assert "only 40 clean samples (at least 64 are needed)" in captured.err


def test_options_that_make_no_sense_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("rank", "--stop-early") == EXIT_USAGE
    assert "error: --stop-early with rank" in capsys.readouterr().err
    assert verb("rank", "-k", "0") == EXIT_USAGE
    assert "'0' is not a whole number of 1 or more" in capsys.readouterr().err
    with pytest.raises(UsageError, match="ranking is 'most'"):
        naa_fast.scan(torch.nn.Identity(), CLEAN, HELD, ranking="most")


def test_rank_under_torchrun_is_refused(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from naa_fast.scan.ranks import Ranks

    monkeypatch.setattr(Ranks, "here", classmethod(lambda cls: cls(0, 2)))
    assert verb("rank") == EXIT_USAGE
    assert "error: rank under torchrun" in capsys.readouterr().err
