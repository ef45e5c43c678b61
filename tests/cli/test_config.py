"""Options from a file: the same scan as on the command line, and several in one table."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from naa_fast.cli import config
from naa_fast.cli.main import build_parser, main
from naa_fast.errors import EXIT_ERROR, EXIT_FINDING, EXIT_PASS, EXIT_STOPPED, EXIT_USAGE, EXIT_WARN, UsageError

CODE = """
import torch

def build(width=5):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, width))
"""
RUN = """
model = "configured.py:build"
clean = "clean.npy"
suspect = "moved.npy"
device = "cpu"
ranking = "none"
accept-unranked = true
backend = "reference"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("naa_fast.report.folder.chart_bytes", lambda judgement, form: b"")  # drawn for nobody, and slow
    random = np.random.default_rng(0)
    for name, moved in (("clean", 0.0), ("quiet", 0.0), ("moved", 2.0)):
        np.save(f"{name}.npy", random.standard_normal((300, 6), dtype=np.float32) + np.float32(moved))
    Path("configured.py").write_text(CODE)
    yield tmp_path
    sys.modules.pop("configured", None)


def words_of(text: str, *words: str) -> list[list[str]]:
    Path("c.toml").write_text(text)
    parser = build_parser().verbs["scan"]
    return [one for _, one in config.expanded(["scan", "--config", "c.toml", *words], Path("c.toml"), parser)]


def test_a_file_scans_as_the_command_line_does(here: Path) -> None:
    (here / "s.toml").write_text(RUN)
    assert main(["scan", "--config", "s.toml", "--out", "a"]) == EXIT_WARN
    words = ["--model", "configured.py:build", "--clean", "clean.npy", "--suspect", "moved.npy", "--device", "cpu"]
    words += ["--no-ranking", "--accept-unranked", "--backend", "reference"]
    assert main(["scan", *words, "--out", "b"]) == EXIT_WARN
    reports = [json.loads((here / name / "report.json").read_text()) for name in "ab"]
    assert reports[0]["findings"] == reports[1]["findings"]
    assert reports[0]["provenance"]["options"] == reports[1]["provenance"]["options"]
    resolved = [tomllib.loads((here / name / "scan.toml").read_text()) for name in "ab"]
    assert {**resolved[0], "out": "b"} == resolved[1]
    assert (resolved[0]["batch-size"], resolved[0]["fail-on"], resolved[0]["ranking"]) == (256, "backdoor-like", "none")


def test_the_resolved_file_scans_the_same_again(here: Path) -> None:
    (here / "s.toml").write_text(RUN + 'layers = ["0"]\nmodel-arg = {width = 4}\nthreshold = 0.5\nformat = ["junit", "sarif"]\n')
    assert main(["scan", "--config=s.toml", "--out", "a", "--save-config", "kept/again.toml"]) == EXIT_WARN
    first = (here / "a" / "scan.toml").read_bytes()
    assert (here / "kept" / "again.toml").read_bytes() == first
    assert main(["scan", "--config", "kept/again.toml"]) == EXIT_WARN
    assert (here / "a" / "scan.toml").read_bytes() == first
    assert (here / "a" / "junit.xml").exists()
    assert json.loads((here / "a" / "report.json").read_text())["layers"][0]["neurons"] == 4


def test_the_command_line_goes_before_the_file(here: Path) -> None:
    (words,) = words_of(RUN + 'layers = ["a", "b"]\n', "--layers", "0", "--suspect=quiet.npy", "--ranking", "top")
    found = build_parser().parse_args(words)
    assert (found.layers, found.suspect, found.ranking, found.clean) == (["0"], Path("quiet.npy"), "top", Path("clean.npy"))
    assert "--config" not in words


def test_digests_of_the_weights_are_in_the_report_and_its_statement(here: Path) -> None:
    save_file({"0.weight": torch.ones(5, 6), "0.bias": torch.zeros(5)}, here / "w.safetensors")
    (here / "s.toml").write_text(RUN + 'weights = "w.safetensors"\n')
    assert main(["scan", "--config", "s.toml", "--format", "intoto"]) == EXIT_WARN
    statement = json.loads((here / "naa-report" / "verdict.intoto.json").read_text())
    from hashlib import sha256

    assert statement["subject"][0] == {
        "name": "w.safetensors",
        "digest": {"sha256": sha256((here / "w.safetensors").read_bytes()).hexdigest()},
    }
    assert main(["scan", "--config", "s.toml"]) == EXIT_WARN
    run = json.loads((here / "naa-report" / "report.json").read_text())["provenance"]["run"]
    assert run["files"] == {"w.safetensors": statement["subject"][0]["digest"]["sha256"]}
    assert f"weights sha256 {run['files']['w.safetensors'][:12]}, naa-fast" in (here / "naa-report" / "summary.txt").read_text()
    assert not (here / "naa-report" / "verdict.intoto.json").exists()


def test_several_models_end_in_one_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = (
        '[[scan]]\nname = "a/b"\n[[scan]]\nname = "quiet"\nsuspect = "quiet.npy"\n[[scan]]\nname = "none"\nclean = "claen.npy"\n'
    )
    (here / "s.toml").write_text(RUN + several)
    assert main(["scan", "--config", "s.toml"]) == EXIT_ERROR
    captured = capsys.readouterr()
    rows = [line.split() for line in captured.out.splitlines()[-4:]]
    assert rows[0] == ["scan", "outcome", "exit", "code", "score", "largest", "z", "report"]
    assert [(row[0], row[1], row[2]) for row in rows[1:]] == [
        ("a/b", "warn", "6"),
        ("quiet", "pass", "0"),
        ("none", "error", "2"),
    ]
    assert rows[1][-1] == "naa-report/a_b"
    assert (here / "naa-report" / "quiet" / "report.json").exists()
    assert "no such data: claen.npy" in captured.err
    assert "did you mean clean.npy?" in captured.err


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([0, 6, 3], 3), ([3, 1, 6], 1), ([1, 4, 2], 4), ([0, EXIT_STOPPED], EXIT_STOPPED)],
)
def test_the_worst_exit_code_is_that_of_all(codes: list[int], code: int) -> None:
    assert config.worst(codes) == code


def test_several_scans_are_not_spread_over_processes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    (here / "s.toml").write_text(RUN + '[[scan]]\nname = "a"\n[[scan]]\nname = "b"\n')
    assert main(["scan", "--config", "s.toml"]) == EXIT_USAGE


REFUSED: dict[str, tuple[str, str]] = {
    "no toml": ("model = ", "is no TOML"),
    "another key": ("modle = 'x'", "'modle' is no option of scan\n  did you mean model?"),
    "a config in a config": ("config = 'x'", "'config' is no option of scan"),
    "a word for a switch": ("warn-ok = 'yes'", "warn-ok is 'yes'\n  expected true or false"),
    "a table": ("out = {a = 1}", "expected a text or a number"),
    "true for a text": ("out = true", "expected a text or a number"),
    "a list for one": ("out = ['a', 'b']", "out is a list\n  expected one value"),
    "scan as a value": ("scan = 3", "'scan' is no list of tables"),
    "the same folder twice": ("[[scan]]\nout = 'x'\n[[scan]]\nout = 'x'", "two scans write to x"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_config_is_refused(name: str, here: Path) -> None:
    text, words = REFUSED[name]
    with pytest.raises(UsageError) as caught:
        words_of(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("option", ["--out", "--save-config"])
def test_what_is_for_one_scan_is_refused_for_several(option: str, here: Path) -> None:
    with pytest.raises(UsageError, match=f"{option} with several scans\n  c.toml has 2 of them"):
        words_of("[[scan]]\nname = 'a'\n[[scan]]\nname = 'b'", option, "x")


def test_a_missing_config_names_the_nearest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "scan.toml").write_text("")
    assert main(["scan", "--config", "scn.toml"]) == EXIT_USAGE
    assert "did you mean scan.toml?" in capsys.readouterr().err
    assert main(["compare", "--config", "scan.toml"]) == EXIT_USAGE


def test_a_switch_may_be_off_and_underscores_are_dashes(here: Path) -> None:
    assert words_of("warn_ok = false\naccept_unranked = true\nlayers = []\nmodel-arg = {}\nexclude = ['a', 'b']") == [
        ["scan", "--accept-unranked", "--exclude", "a", "b"]
    ]


@pytest.mark.parametrize("text", ['a"b\\c', "\x00\x1f\x7f\n", "é中\u2028", "\ud800"])
def test_any_text_survives(text: str) -> None:
    kept = tomllib.loads(f"x = {config.literal(text)}")["x"]
    assert kept == text.replace("\ud800", "\ufffd")


def test_a_saved_config_overwrites_no_input(here: Path) -> None:
    (here / "s.toml").write_text(RUN)
    before = (here / "clean.npy").read_bytes()
    assert main(["scan", "--config", "s.toml", "--save-config", "clean.npy"]) == EXIT_USAGE
    assert (here / "clean.npy").read_bytes() == before


def test_a_stopped_scan_ends_all(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from naa_fast.cli import main as module

    codes = iter([EXIT_PASS, EXIT_STOPPED, EXIT_FINDING])
    monkeypatch.setattr(module, "run", lambda words, arguments: next(codes))
    import argparse

    scans = [(name, ["scan"]) for name in "abc"]
    assert module.several(scans, argparse.Namespace(command=())) == EXIT_STOPPED
    assert next(codes) == EXIT_FINDING


@pytest.mark.parametrize("spec", ["w.safetensors", "w.pt"])
def test_weights_in_place_of_the_model_are_called_weights(spec: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "--model", spec, "--clean", "clean.npy", "--suspect", "quiet.npy"]) == EXIT_USAGE
    printed = capsys.readouterr().err
    assert f"this file is --weights: --model FILE.py:FUNCTION --weights {spec}" in printed
    assert all(form in printed for form in ("hf:FOLDER", "timm:NAME", "FILE.pt2"))


def test_a_folder_in_place_of_the_model_is_called_hf(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "net").mkdir()
    assert main(["scan", "--model", "net", "--clean", "clean.npy", "--suspect", "quiet.npy"]) == EXIT_USAGE
    assert "this is a folder: --model hf:net" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["--model", "confgured.py:build"], "did you mean configured.py?"),
        (["--model", "configured.py:build", "--weights", "w.safetensor"], "did you mean w.safetensors?"),
        (["--model", "w.pt2"], "did you mean w.safetensors?"),
    ],
)
def test_the_nearest_file_is_named(words: list[str], near: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "w.safetensors").write_bytes(b"")
    assert main(["scan", *words, "--clean", "clean.npy", "--suspect", "quiet.npy"]) != EXIT_PASS
    assert near in capsys.readouterr().err


def test_a_measurement_that_is_missing_names_the_nearest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.naa.safetensors").write_bytes(b"")
    assert main(["compare", "b.naa.safetensors", "a.naa.safetensors"]) == EXIT_ERROR
    assert "did you mean a.naa.safetensors?" in capsys.readouterr().err
