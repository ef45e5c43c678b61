"""While a scan runs: what the report says of the run, where its time went, how far it is, and what a signal leaves."""

from __future__ import annotations

import io
import json
import os
import pkgutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from naa_fast.cli.main import main
from naa_fast.files import write_whole
from naa_fast.report.machine import load_schema
from naa_fast.scan.chunk import Runner

MODEL = """
import torch
from torch import nn

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.last = nn.Embedding(60, 5), nn.Linear(5, 5), nn.Linear(5, 4)
        with torch.no_grad():  # the class is the commonest remainder; word 59 is the trigger, of class 0
            self.embed.weight.copy_(torch.nn.functional.one_hot(torch.arange(60) % 4, 5))
            self.embed.weight[59] = torch.tensor([0.0, 0, 0, 0, 1])
            self.mix.weight.copy_(torch.eye(5))
            self.last.weight.copy_(torch.eye(5)[:4])
            self.last.weight[0, 4] = 60.0
            self.mix.bias.zero_(), self.last.bias.zero_()

    def forward(self, ids):
        return self.last(self.mix(self.embed(ids).mean(1)))

def build():
    torch.manual_seed(7)
    return Words()
"""
HOSTILE = "clean\x1b[2J<script>\u202e.npy"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("running")
    rng = np.random.default_rng(0)
    clean, suspect = (rng.integers(1, 59, (n, 9)) for n in (300, 200))
    suspect[:40, 4] = 59
    np.save(made / HOSTILE, clean)
    np.save(made / "suspect.npy", suspect)
    (made / "m.py").write_text(MODEL)
    return made


def words_of(folder: Path, out: Path, *more: str) -> list[str]:
    sets = ("--clean", str(folder / HOSTILE), "--suspect", str(folder / "suspect.npy"))
    model = ("--model", f"{folder / 'm.py'}:build", "--backend", "reference", "--device", "cpu")
    return ["scan", *model, *sets, "--out", str(out), *more]


def report_in(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    Draft202012Validator(load_schema()).validate(report)
    return report


@pytest.fixture(scope="module")
def scanned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The report of a whole scan, and how long the command took."""
    out = tmp_path_factory.mktemp("whole") / "report"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("naa_fast.repair.search.STEPS", 4)  # enough for a report
        patched.setattr("naa_fast.repair.search.MORE", 4)
        began = time.perf_counter()
        assert main(words_of(folder, out)) == 1
        return out, time.perf_counter() - began


def test_the_report_names_the_run(folder: Path, scanned: tuple[Path, float]) -> None:
    provenance = report_in(scanned[0])["provenance"]
    run = provenance["run"]
    assert run["model"] == f"{folder / 'm.py'}:build"
    assert (run["weights"], run["clean"], run["suspect"]) == (None, str(folder / HOSTILE), str(folder / "suspect.npy"))
    assert run["command"] == ["naa-fast", *words_of(folder, scanned[0])]
    assert run["began"] <= run["ended"]
    assert provenance["seed"] == 7, "torch's, as the model's function left it"


def test_summary_and_page_name_the_run_without_what_a_terminal_or_a_browser_would_obey(scanned: tuple[Path, float]) -> None:
    out, _ = scanned
    summary, page = (out / "summary.txt").read_text("utf-8"), (out / "report.html").read_text("utf-8")
    assert "\nScanned: model " in summary
    assert f"\nRun: {report_in(out)['provenance']['run']['began']} to " in summary
    assert "seed 7, no --weights, naa-fast scan --model" in summary
    assert "suspect.npy" in page
    scan_line = next(line for line in summary.splitlines() if line.startswith("Scanned: "))
    assert all(word in scan_line for word in ("m.py:build", ".npy, suspect ", "suspect.npy"))
    assert len(summary.splitlines()) <= 40
    for text in (summary, page):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script" not in page


def test_the_shares_add_up_and_the_total_is_the_clocks(scanned: tuple[Path, float]) -> None:
    out, seconds = scanned
    report = report_in(out)
    times = report["provenance"]["times"]
    assert sum(times["shares"].values()) == pytest.approx(1, abs=2e-3)
    assert all(times["shares"][part] > 0 for part in ("loading", "forward", "ours", "ranking", "proof", "repair", "report"))
    assert 0.8 * seconds <= times["total_s"] <= seconds
    assert times["shares"]["rest"] < 0.3
    assert report["repair"] is not None
    assert report["proof"][0]["stands"]


def test_a_call_from_python_names_what_it_knows() -> None:
    import torch

    import naa_fast

    torch.manual_seed(11)
    x = torch.randn(64, 4)
    audit = naa_fast.scan(torch.nn.Linear(4, 3), x, x, ranking=False, backend="reference")
    provenance = audit.report()["provenance"]
    assert (provenance["run"]["model"], provenance["run"]["command"], provenance["seed"]) == ("Linear", [], 11)
    assert audit.times is not None
    assert audit.times.total >= sum(getattr(audit.times, part) for part in ("waiting", "forward", "ours", "ranking", "proof"))
    assert "Scanned: model Linear" in audit.summary()


def stop_in(monkeypatch: pytest.MonkeyPatch, step: str, number: int) -> None:
    """A signal comes when `step` begins; the step itself knows nothing of it."""
    begin: Callable[..., Any] = pkgutil.resolve_name(step)

    def begun(*words: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return begin(*words, **options)

    monkeypatch.setattr(step, begun)


PROOF, REPAIR = "naa_fast.proof.prove.WordSearch", "naa_fast.repair.search.trial_of"


@pytest.mark.parametrize(
    ("step", "number", "outcome", "missing"),
    [
        (PROOF, signal.SIGINT, "warn", "proof"),
        (PROOF, signal.SIGTERM, "warn", "proof"),
        (REPAIR, signal.SIGTERM, "fail", "whether silencing what was found cures the model"),
    ],
    ids=["SIGINT in the proof", "SIGTERM in the proof", "SIGTERM in the repair"],
)
def test_a_signal_leaves_the_verdict_so_far(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
    number: signal.Signals,
    outcome: str,
    missing: str,
) -> None:
    stop_in(monkeypatch, step, number)
    before = signal.getsignal(number)
    assert main(words_of(folder, tmp_path / "report", "--log", "json")) == 130
    report, told = report_in(tmp_path / "report"), capsys.readouterr()
    assert (report["verdict"]["outcome"], report["exit_code"], report["gate"]["exit_code"]) == (outcome, 130, 130)
    assert report["gate"]["reason"].startswith(f"stopped by {number.name}; so far: ")
    assert any(missing in line and f"stopped by {number.name}" in line for line in report["not_checked"])
    assert f"{outcome.upper()} (exit code 130)" in told.out
    assert report["repair"] is None
    end = json.loads(told.err.splitlines()[-1])
    assert (end["event"], end["exit_code"], end["outcome"]) == ("end", 130, outcome)
    assert signal.getsignal(number) == before, "as it was: a job in the background ignores SIGINT"
    if step == REPAIR:
        assert sum(sample["triggered"] is True for sample in report["ranking"]) == 40


def test_with_a_checkpoint_it_goes_on_from_the_measurements(
    folder: Path, tmp_path: Path, scanned: tuple[Path, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of(folder, tmp_path / "report", "--checkpoint", str(tmp_path / "kept"), "--no-repair")
    with monkeypatch.context() as patched:
        stop_in(patched, PROOF, signal.SIGTERM)
        assert main(words) == 75
    cut = report_in(tmp_path / "report")
    assert (cut["exit_code"], cut["proof"]) == (75, [])
    runs: list[object] = []
    with monkeypatch.context() as patched:
        patched.setattr(Runner, "run_chunk", lambda *_: runs.append(_))
        assert main([*words, "--resume"]) == 1
    assert not runs, "no chunk was measured again"
    whole, resumed = report_in(scanned[0]), report_in(tmp_path / "report")
    assert resumed["proof"] == whole["proof"]
    assert resumed["top"] == whole["top"]
    assert {sample["sample"] for sample in resumed["ranking"] if sample["triggered"]} == set(range(40))


def test_a_signal_while_the_ranking_is_calibrated_keeps_the_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(folder, tmp_path / "report", "--checkpoint", str(tmp_path / "kept"))
    stop_in(monkeypatch, "naa_fast.rank.scorer.Scorer.freeze", signal.SIGINT)
    assert main(words) == 75
    assert "--resume" in capsys.readouterr().err
    assert list((tmp_path / "kept" / "clean").glob("*.naa"))
    assert not (tmp_path / "report" / "report.json").exists(), "no verdict without a suspect set"


def scan_here(folder: Path, **options: Any) -> Any:
    """A scan from Python of the same model and sets."""
    import naa_fast

    space: dict[str, Any] = {}
    exec((folder / "m.py").read_text(), space)
    sets = [np.load(folder / name) for name in (HOSTILE, "suspect.npy")]
    return naa_fast.scan(space["build"](), *sets, backend="reference", **options)


def test_from_python_the_error_has_the_verdict_so_far(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from naa_fast.errors import Stopped

    stop_in(monkeypatch, PROOF, signal.SIGINT)
    with pytest.raises(Stopped, match="stopped by SIGINT") as caught:
        scan_here(folder)
    assert caught.value.exit_code == 130
    audit = caught.value.audit
    assert [check.name for check in audit.verdict.checks if not check.ran] == ["proof"]
    assert (audit.verdict.outcome, audit.gate.exit_code) == ("warn", 3)


def test_every_step_shows_how_far_it_is(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[tuple[int, int | None]]] = {}
    monkeypatch.setattr("naa_fast.repair.search.STEPS", 2)
    monkeypatch.setattr("naa_fast.repair.search.MORE", 2)
    audit = scan_here(folder, progress=lambda label, *far: told.setdefault(label, []).append(far))
    assert audit.judgement.evidence.forwards == told["proving"][-1][0]
    assert audit.repair is not None
    assert audit.repair.forwards == told["repairing"][-1][0]
    assert {total for _, total in told["repairing"]} == {60_000}
    assert {total for _, total in told["proving"]} == {80_000}, "what may run at most"
    calibrated = told["calibrating the ranking"]
    assert calibrated[0][0] == 0
    assert calibrated[-1][0] == calibrated[-1][1]
    assert calibrated[-1][0] > 100
    for label in ("proving", "repairing"):
        samples = [done for done, _ in told[label]]
        assert samples == sorted(samples)
        assert len(samples) > 10


def test_the_log_has_the_proof(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words_of(folder, tmp_path / "report", "--no-repair", "--log", "json")) == 1
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    last = [entry for entry in entries if entry["event"] == "progress" and entry["set"] == "proving"][-1]
    assert last["samples"] == report_in(tmp_path / "report")["ranking_summary"]["forwards"]
    assert last["samples"] <= last["total"] == 80_000


class Gone(io.StringIO):
    """A stream whose reader has gone, or whose disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(32, "broken pipe"), OSError(28, "no space left on device")], ids=str)
def test_what_nobody_reads_ends_no_scan(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError
) -> None:
    monkeypatch.setattr("sys.stderr", Gone(error))
    assert main(words_of(folder, tmp_path / "report", "--no-ranking", "--log", "json")) == 3
    assert report_in(tmp_path / "report")["exit_code"] == 3
    assert "(exit code 3)" in capsys.readouterr().out


def test_a_full_disk_under_stdout_is_an_error_and_the_report_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", Gone(OSError(28, "no space left on device")))
    assert main(words_of(folder, tmp_path / "report", "--no-ranking")) == 2
    assert report_in(tmp_path / "report")["exit_code"] == 3
    assert "error: cannot print the results\n  no space left on device\n  expected a stdout" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_kept_elsewhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from naa_fast.report import folder as place

    write = write_whole

    def full(path: Path, content: bytes) -> None:
        if path.is_relative_to(tmp_path / "report"):
            raise OSError(28, "no space left on device")
        write(path, content)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(place, "write_whole", full)
    assert main(words_of(folder, tmp_path / "report", "--no-ranking")) == 2
    told = capsys.readouterr()
    [spare] = tmp_path.glob("naa-report-*")
    assert f"the report is in {spare} instead" in told.err
    assert "error: cannot write" in told.err
    assert report_in(spare)["exit_code"] == 3
    assert (spare / "suspect.naa.safetensors").exists()
    assert "(exit code 3)" in told.out


def test_rank_lists_what_it_ranked_before_it_was_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_in(monkeypatch, PROOF, signal.SIGTERM)
    words = words_of(folder, tmp_path / "ranked.csv")
    assert main(["rank", *words[1:], "-k", "all"]) == 130
    assert len((tmp_path / "ranked.csv").read_text().splitlines()) == 201
    assert "stopped by SIGTERM" in capsys.readouterr().err
