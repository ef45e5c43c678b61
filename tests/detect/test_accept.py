"""Which findings count: levels, baselines and allowlists change the exit code, never the verdict, and fail closed."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from naa_fast.detect.accept import Accepted, Rules, gate, read_allowlist, read_baseline
from naa_fast.detect.findings import LEVELS, Finding
from naa_fast.detect.verdict import Verdict
from naa_fast.errors import NaaError

TODAY = date(2026, 11, 25)
SHIFT = Finding("shift", "conv1", "differs", 9.0, 4.0)
LIT = Finding("outlier", "conv2", "3 neurons that stand out", 2.5, 2.0)
PROOF = Finding("proved", "(input)", "a trigger turns 95 %", 0.95, 0.6, "7")


def verdict(*findings: Finding, outcome: str = "warn", gaps: tuple[str, ...] = ()) -> Verdict:
    return Verdict(outcome, 0.1, 2.0, 0.001, "words", findings, gaps, gaps)


def accept(level: str = "shift", layer: str = "conv*", expires: date = TODAY) -> Accepted:
    return Accepted(level, layer, "new camera", expires)


@pytest.mark.parametrize(("level", "codes"), zip(LEVELS, [(1, 1, 1), (0, 1, 1), (0, 0, 1), (0, 0, 1)], strict=True))
def test_fail_on_names_the_least_level_that_counts(level: str, codes: tuple[int, int, int]) -> None:
    assert tuple(gate(verdict(f), Rules(level), TODAY).exit_code for f in (SHIFT, LIT, PROOF)) == codes


def test_an_accepted_finding_counts_nothing_until_its_day_is_over() -> None:
    answer = gate(verdict(SHIFT), Rules(accepted=(accept(),)), TODAY)
    assert answer.exit_code == 0
    assert answer.notes == ("accepted until 2026-11-25: shift in conv1 (new camera)",)
    late = gate(verdict(SHIFT), Rules(accepted=(accept(expires=date(2026, 11, 24)),)), TODAY)
    assert late.exit_code == 1
    assert late.notes == ("no longer accepted since 2026-11-24: shift in conv* (new camera)",)


def test_an_entry_covers_its_own_level_and_layers_alone() -> None:
    assert gate(verdict(SHIFT, LIT), Rules(accepted=(accept(),)), TODAY).count == (LIT,)
    assert gate(verdict(SHIFT), Rules(accepted=(accept(layer="fc*"),)), TODAY).exit_code == 1


def test_only_what_the_baseline_lacks_counts(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    held = [{"level": f.level, "layer": f.layer, "about": f.about, "value": 1.0} for f in (SHIFT, PROOF)]
    path.write_text(json.dumps({"findings": held}))
    known = read_baseline(path)
    assert gate(verdict(SHIFT, PROOF, outcome="fail"), Rules(known=known)).exit_code == 0
    other = Finding("proved", "(input)", "another trigger", 0.9, 0.6, "3")
    assert gate(verdict(SHIFT, other, outcome="fail"), Rules(known=known)).count == (other,)


def test_a_gap_behind_accepted_findings_is_no_pass() -> None:
    assert gate(verdict(SHIFT, gaps=("3 samples were skipped",)), Rules(accepted=(accept(),)), TODAY).exit_code == 3
    assert gate(verdict(outcome="inconclusive", gaps=("too small",)), Rules("proved")).exit_code == 3
    assert gate(verdict(outcome="pass"), Rules()).exit_code == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no allowlist"),
        ('{"accept": [3]}', "entry 1 of .* has no level, layer, reason, expires"),
        ('{"accept": [{"level": "shift", "layer": "a", "expires": "2027-01-01"}]}', "has no reason"),
        ('{"accept": [{"level": "shift", "layer": "a", "reason": " ", "expires": "2027-01-01"}]}', "without a reason and an end"),
        ('{"accept": [{"level": "bad", "layer": "a", "reason": "r", "expires": "2027-01-01"}]}', "levels: shift, outlier"),
        ('{"accept": [{"level": "shift", "layer": "a", "reason": "r", "expires": "soon"}]}', "expected a date such as"),
    ],
)
def test_an_allowlist_that_is_not_one_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "allow.json"
    path.write_text(content)
    with pytest.raises(NaaError, match=words):
        read_allowlist(path)


def test_a_good_allowlist_is_read(tmp_path: Path) -> None:
    path = tmp_path / "allow.json"
    path.write_text('{"accept": [{"level": "shift", "layer": "conv*", "reason": "new camera", "expires": "2026-11-25"}]}')
    assert read_allowlist(path) == [accept()]


@pytest.mark.parametrize("content", ["{}", '{"findings": 3}', '{"findings": [{}]}', "[]"])
def test_a_baseline_that_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(NaaError, match="is no report"):
        read_baseline(path)
    with pytest.raises(NaaError, match="cannot read"):
        read_baseline(tmp_path / "missing.json")
