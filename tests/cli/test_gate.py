"""One truth about the exit code: what is printed, what report.json says and what the process returns agree."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from naa_fast.cli.main import main
from naa_fast.errors import EXIT_ERROR, EXIT_FINDING, EXIT_INCONCLUSIVE, EXIT_PASS, EXIT_USAGE, EXIT_WARN, InputError

CODE = """
import torch

def build(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 5))
"""
SHIFTED = {"level": "shift", "layer": "*", "reason": "moved", "expires": "2999-01-01"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, sets of which one differs, and their measurements, also under another seed of the model."""
    here = tmp_path_factory.mktemp("gate")
    random = np.random.default_rng(0)
    (here / "gated.py").write_text(CODE)
    for name, moved in (("clean", 0.0), ("quiet", 0.0), ("moved", 2.0)):
        np.save(here / f"{name}.npy", random.standard_normal((400, 6), dtype=np.float32) + np.float32(moved))
        for seed in (0, 1):
            out = str(here / f"{name}{seed}.naa")
            words = ["--model", f"{here / 'gated.py'}:build", "--model-arg", f"seed={seed}", "--data", str(here / f"{name}.npy")]
            assert main(["measure", *words, "--out", out, "--backend", "reference"]) == EXIT_PASS
    allow = {"shift": [SHIFTED], "all": [{**SHIFTED, "level": level} for level in ("shift", "outlier", "backdoor-like")]}
    for name, entries in allow.items():
        (here / f"{name}.json").write_text(json.dumps({"accept": entries}))
    return here


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("naa_fast.report.folder.chart_bytes", lambda judgement, form: b"")  # drawn for nobody, and slow
    yield folder
    sys.modules.pop("gated", None)


def compare(here: Path, *words: str, suspect: str = "moved", seed: int = 0) -> int:
    return main(["compare", str(here / f"clean{seed}.naa"), str(here / f"{suspect}{seed}.naa"), "--out", "r", *words])


def report() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("r/report.json").read_text())
    return content


OPTIONS: list[tuple[str, str, int, str]] = [
    ("quiet", "", EXIT_INCONCLUSIVE, "inconclusive"),
    ("quiet", "--accept-unranked", EXIT_PASS, "pass"),
    ("quiet", "--warn-ok", EXIT_INCONCLUSIVE, "inconclusive"),
    ("quiet", "--fail-on proved", EXIT_INCONCLUSIVE, "inconclusive"),
    ("moved", "", EXIT_INCONCLUSIVE, "inconclusive"),
    ("moved", "--accept-unranked", EXIT_WARN, "warn"),
    ("moved", "--warn-ok", EXIT_INCONCLUSIVE, "inconclusive"),
    ("moved", "--accept-unranked --warn-ok", EXIT_PASS, "warn"),
    ("moved", "--fail-on shift", EXIT_FINDING, "fail"),
    ("moved", "--accept-unranked --fail-on outlier", EXIT_FINDING, "fail"),
    ("moved", "--accept-unranked --fail-on proved", EXIT_WARN, "warn"),
    ("moved", "--accept-unranked --allow {here}/shift.json", EXIT_WARN, "warn"),
    ("moved", "--accept-unranked --allow {here}/all.json", EXIT_PASS, "pass"),
    ("moved", "--allow {here}/all.json", EXIT_INCONCLUSIVE, "inconclusive"),
    ("moved", "--accept-unranked --fail-on shift --allow {here}/shift.json --warn-ok", EXIT_FINDING, "fail"),
]


@pytest.mark.parametrize(("suspect", "words", "code", "decision"), OPTIONS, ids=[" ".join(row[:2]) for row in OPTIONS])
def test_what_is_printed_reported_and_returned_agrees(
    here: Path, capsys: pytest.CaptureFixture[str], suspect: str, words: str, code: int, decision: str
) -> None:
    assert compare(here, *words.format(here=here).split(), suspect=suspect) == code
    printed = capsys.readouterr().out.splitlines()
    told = report()
    gate = told["gate"]
    assert (told["exit_code"], gate["exit_code"], gate["decision"]) == (code, code, decision)
    outcome = told["verdict"]["outcome"]
    assert outcome == told["outcome"] == ("warn" if suspect == "moved" else decision), "the verdict stays"
    assert printed[0] == f"{outcome.upper()} (exit code {code})" == Path("r/summary.txt").read_text().splitlines()[0]
    assert f"<p>{decision.capitalize()}, exit code {code}: " in Path("r/report.html").read_text(), "under What ran"
    assert gate["reason"]
    if (outcome, code) != (decision, {"pass": 0, "warn": 6, "inconclusive": 3}.get(outcome)):
        assert any(line.startswith(f"For scripts: {decision}, exit code {code}. ") for line in printed)


def test_what_was_accepted_stands_in_the_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(here, "--accept-unranked", "--allow", str(here / "shift.json"))
    told = report()
    assert told["gate"]["allow"] == str(here / "shift.json")
    assert "accepted until 2999-01-01: shift in 0 (moved)" in told["gate"]["notes"]
    assert "accepted until 2999-01-01: shift in 0 (moved)" in capsys.readouterr().err
    assert {check["name"] for check in told["verdict"]["checks"] if not check["ran"]} == set(told["verdict"]["accepted"])
    assert told["verdict"]["gaps"] == []


def test_a_baseline_of_the_same_model_makes_its_findings_count_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(here, "--accept-unranked") == EXIT_WARN
    Path("r/report.json").rename("old.json")
    assert compare(here, "--accept-unranked", "--baseline", "old.json") == EXIT_PASS
    told = report()
    assert told["gate"]["baseline"]["file"] == "old.json"
    assert len(told["gate"]["baseline"]["sha256"]) == 64
    assert told["gate"]["reason"] == "every finding is in the baseline or accepted"
    assert "in the baseline: shift in 0" in capsys.readouterr().err
    assert compare(here, "--baseline", "old.json") == EXIT_INCONCLUSIVE, "what did not run is no finding"
    assert compare(here, "--baseline", "r/report.json") == EXIT_USAGE, "an input is never written over"


def test_another_models_baseline_is_refused_before_anything_is_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(here)
    Path("r/report.json").rename("old.json")
    capsys.readouterr()
    assert compare(here, "--baseline", "old.json", seed=1) == EXIT_USAGE
    told = capsys.readouterr()
    assert (told.out, told.err.splitlines()[0]) == ("", "error: --baseline old.json is of another model")
    sets = ["--clean", str(here / "clean.npy"), "--suspect", str(here / "moved.npy")]
    words = ["scan", "--model", f"{here / 'gated.py'}:build", "--model-arg", "seed=1", *sets, "--out", "s"]
    assert main([*words, "--baseline", "old.json", "--log", "json"]) == EXIT_USAGE
    told = capsys.readouterr()
    assert '"event": "progress"' not in told.err
    assert not Path("s").exists()
    anybody = json.loads(Path("old.json").read_text())
    anybody["provenance"]["model"] = ""
    Path("old.json").write_text(json.dumps(anybody))
    assert compare(here, "--baseline", "old.json") == EXIT_USAGE
    assert "does not say which model it is of" in capsys.readouterr().err


def test_a_broken_allowlist_or_baseline_costs_no_comparison(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("no.json").write_text("{}")
    for option, words in (("--allow", "is no allowlist"), ("--baseline", "is no report")):
        assert compare(here, option, "no.json") == EXIT_ERROR
        assert words in capsys.readouterr().err
        assert not Path("r").exists()


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["summary", "json"])
def test_a_report_that_cannot_be_saved_is_printed_all_the_same_and_is_an_error(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    def full(*arguments: object) -> None:
        raise InputError("cannot write report.json of the report", "no space left on device")

    monkeypatch.setattr("naa_fast.report.folder.write_report", full)
    assert compare(here, "--accept-unranked", *form) == EXIT_ERROR
    told = capsys.readouterr()
    assert json.loads(told.out)["exit_code"] == EXIT_WARN if form else told.out.startswith("WARN (exit code 6)")
    assert "error: cannot write report.json of the report\n  no space left" in told.err


def test_the_last_line_of_the_log_is_the_gates_and_an_error_where_no_report_holds_the_verdict(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def last(*more: str) -> dict[str, Any]:
        sets = ["--clean", str(here / "clean.npy"), "--suspect", str(here / "moved.npy"), "--no-ranking", "--out", "s"]
        code = main(["scan", "--model", f"{here / 'gated.py'}:build", *sets, "--log", "json", *more])
        end: dict[str, Any] = json.loads(capsys.readouterr().err.splitlines()[-1])
        assert end["exit_code"] == code
        return end

    assert last() == {"event": "end", "exit_code": 3, "outcome": "warn", "decision": "inconclusive"}
    assert last("--accept-unranked") == {"event": "end", "exit_code": 6, "outcome": "warn", "decision": "warn"}
    assert last("--accept-unranked", "--warn-ok")["exit_code"] == 0
    assert last("--fail-on", "shift") == {"event": "end", "exit_code": 1, "outcome": "warn", "decision": "fail"}

    def full(*arguments: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("naa_fast.report.folder.write_report", full)
    assert last("--accept-unranked") == {"event": "end", "exit_code": 2, "outcome": "error"}


def test_no_rank_ends_before_the_report_is_written(here: Path) -> None:
    """torchrun ends every rank with the first that ends with another code than 0."""
    sets = ["--clean", str(here / "clean.npy"), "--suspect", str(here / "moved.npy"), "--backend", "reference"]
    words = ["scan", "--model", f"{here / 'gated.py'}:build", *sets, "--no-ranking", "--fail-on", "shift", "--out", "r"]
    job = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "naa_fast"]
    done = subprocess.run([sys.executable, *job, *words, "--log-format", "json"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("WARN (exit code 1)")
    assert (report()["exit_code"], report()["verdict"]["outcome"]) == (EXIT_FINDING, "warn")
    assert '{"event": "end", "exit_code": 1, "outcome": "warn", "decision": "fail"}' in done.stderr.splitlines()
    assert "exitcode  : 1 " in done.stderr, "all ranks end with the gate's"
    assert "exitcode  : 3 " not in done.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)]
)
def test_the_terminals_width_and_colour_are_respected(
    here: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": "64", **environment}.items():
        monkeypatch.setenv(name, value)
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    compare(here)
    first, *rest = screen.getvalue().splitlines()
    assert ("\x1b[1;" in first) == coloured
    assert not any("\x1b" in line for line in rest)
    assert max(len(line) for line in rest if not line.startswith("report: ")) <= 64


def summary_lines() -> list[str]:
    return Path("r/summary.txt").read_text("utf-8").splitlines()


def test_a_file_gets_a_hundred_cells_and_no_colour_and_verbose_prints_all(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "64")
    compare(here)
    short = capsys.readouterr().out
    compare(here, "--verbose")
    whole = capsys.readouterr().out
    assert "\x1b" not in short + whole
    assert len(short.splitlines()) <= 41  # and the report's place
    assert 64 < max(map(len, short.splitlines())) <= 100
    assert "p-value   p < 1e-6, the probability" in whole
    assert "p-value" not in short
    written, printed = (
        [line for line in lines if not line.startswith("Run: ")] for lines in (summary_lines(), short.splitlines())
    )
    assert written == printed[:-1]
