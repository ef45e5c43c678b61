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
    repaired = [float(line.split()[-1]) for line in printed.split("== the clean")[0].splitlines() if re.match(r"  of \w+", line)]
    assert min(repaired) < 0.25 < float(success)
