"""While a scan runs: what the report says of the run, where its time went, how far it is, and what a signal leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from naa_fast.cli.main import main
from naa_fast.report.machine import load_schema

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
    assert "seed 7, naa-fast scan --model" in summary
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
