"""The table of what a scan costs is made of one command, every row against the bare forward of the same run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scan_cost

VARIANTS = ["bare", "statistics", "statistics and histograms", "statistics and ranking", "whole scan"]


def test_one_command_writes_every_row_with_its_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [case for case in scan_cost.study_cases(True) if case.name in ("mlp", "text-cnn")]
    monkeypatch.setattr(scan_cost, "study_cases", lambda small: chosen)
    monkeypatch.setattr(scan_cost, "large_cases", lambda small: [])
    assert scan_cost.main(["--size", "small", "--rounds", "1", "--json", str(tmp_path / "cost.json")]) == 0
    found = json.loads((tmp_path / "cost.json").read_text())
    assert {"date", "cpu", "versions", "threads", "load", "missed", "command"} <= found["conditions"].keys()
    assert [(entry["case"], entry["variant"]) for entry in found["rows"]] == [(case.name, v) for case in chosen for v in VARIANTS]
    for entry in found["rows"]:
        assert entry["median_ms"] > 0
        assert (entry["to_bare"] == 1) == (entry["variant"] == "bare")
        assert entry["samples"] >= 64


def test_the_cases_are_those_that_are_promised() -> None:
    names = [case.name for case in (*scan_cost.study_cases(True), *scan_cost.large_cases(True))]
    assert names == ["cnn", "resnet", "vit", "mlp", "text-transformer", "text-cnn", *scan_cost.LARGE]


def test_what_is_missed_is_said_and_what_is_met_is_not() -> None:
    rows = [
        {"case": "mlp", "variant": "statistics and ranking", "to_bare": 3.0, "to_statistics": 1.9},
        {"case": "cnn", "variant": "statistics and ranking", "to_bare": 3.0, "to_statistics": 1.9},
        {"case": scan_cost.LARGE[0], "variant": "statistics", "to_bare": 1.2, "to_statistics": 1.0},
        {"case": "vit", "variant": "statistics", "to_bare": 1.9, "to_statistics": 1.0},
    ]
    assert scan_cost.verdicts(rows) == [
        "cnn: ranking 1.90 times the statistics, target 1.25",
        "ResNet-50, 224 x 224: statistics 1.20 times bare, target 1.15",
    ]
