"""The demo keeps its promises: a real backdoor, found and cut out, and a clean twin that is not called backdoored."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn (the demo extra)")

from naa_fast import demo
from naa_fast.report.machine import load_schema


def test_the_demo_finds_the_backdoor_and_writes_both_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(tmp_path) == 0
    printed = capsys.readouterr().out
    rates = re.findall(r"the (\w+) twin: clean accuracy ([\d.]+), attack success rate ([\d.]+)", printed)
    (_, accuracy, success), (_, twin_accuracy, twin_success) = rates
    assert float(accuracy) > 0.9 < float(twin_accuracy)
    assert float(success) > 0.9
    assert float(twin_success) < 0.1
    reports = {twin: json.loads((tmp_path / twin / "report.json").read_text()) for twin in ("backdoored", "clean")}
    for twin, report in reports.items():
        jsonschema.validate(report, load_schema())
        assert (tmp_path / twin / "signature.png").stat().st_size > 10_000
    assert reports["backdoored"]["outcome"] == "fail"
    assert reports["clean"]["outcome"] == "warn"
    backdoored, clean = printed.split("== the clean")
    table = backdoored.split("\nRepair ")[1].splitlines()[1:4]
    (accuracy_before, success_before), (accuracy_after, left), (_, by_chance) = (map(float, row.split()[-2:]) for row in table)
    assert success_before == float(success)
    assert left < 0.1 < 0.8 < by_chance
    assert accuracy_after > accuracy_before - 0.02
    assert "No repair: the outcome is warn" in clean
