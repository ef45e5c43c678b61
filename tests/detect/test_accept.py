"""What a script is told: levels, baselines and allowlists change the exit code, never the verdict, and fail closed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from naa_fast.detect.accept import Accepted, Rules, gate, read_allowlist
from naa_fast.detect.baseline import SCHEMA, Baseline, finding_of, read_baseline
from naa_fast.detect.findings import LEVELS, Finding
from naa_fast.detect.trigger import Crop, Offset, Patch, Tokens, Trigger, TriggerKey
from naa_fast.detect.verdict import EXIT_CODES, Verdict
from naa_fast.errors import InputError, NaaError, UsageError
from naa_fast.report.machine import stated

TODAY = date(2026, 11, 25)
GAP = ("3 suspect samples could not be read and were skipped",)
SHIFT = Finding("shift", "conv1", "differs", 9.0, 4.0, unit="t")
STANDING_OUT = Finding("outlier", "conv2", "3 neurons that stand out", 2.5, 2.0, unit="sigma")
LARGE = Finding("backdoor-like", "conv2", "2 neurons shifted by 6", 7.0, 6.0, unit="sigma")
CLUSTER = Finding("backdoor-like", "(samples)", "40 samples more than by chance", 0.9, 0.6, "7", unit="share")


def image(*deviating: tuple[int, int], value: float = 1.0) -> np.ndarray:
    x = np.zeros((1, 12, 12), np.float32)
    for row, column in deviating:
        x[0, row : row + 2, column : column + 2] = value
    return x


def proved(trigger: Trigger, target: int | str = 7, source: int | None = None) -> Finding:
    return Finding("proved", "(input)", "a trigger turns 95 %", 0.95, 0.65, str(target), trigger.key, source, unit="share")


WHITE = proved(Patch(image((10, 10)), image((10, 10)), "2 % of the input"))
WORD = proved(Tokens((31,), "cf"))
NOISE = np.random.default_rng(0).standard_normal((2, 1, 12, 12)).astype(np.float32)
BLEND = proved(Offset(NOISE[0], "pixels, loudness 0.3"))
PROOFS = {"patch": WHITE, "word": WORD, "blend": BLEND}

SAME = {
    "patch": proved(Patch(image((10, 9), (10, 10)), image((10, 9), (10, 10)), "4 % of the input")),
    "word": replace(WORD, value=0.99),
    "blend": proved(Offset(2 * NOISE[0] + 0.1 * NOISE[1], "weighed, loudness 0.5")),
}
"""The trigger of the same name, reconstructed from other samples."""
OTHERS = {
    "patch": [
        proved(Patch(image((0, 0)), image((0, 0)), "2 % of the input")),  # elsewhere
        proved(Patch(image(), image((10, 10)), "2 % of the input")),  # black, at the same place
        proved(Patch(image((10, 10)), image((10, 10)), "2 % of the input"), target=3),
        proved(Crop(image((10, 10)), image((10, 10)), "2 % of the input")),
    ],
    "word": [
        proved(Tokens((32,), "mn")),
        proved(Tokens((32,), "cf")),  # a tokenizer that calls all tokens by one name
        proved(Tokens((31,), "cf"), target=3),
        proved(Tokens((31, 5), "cf it")),
    ],
    "blend": [proved(Offset(NOISE[1], "pixels, loudness 0.3")), replace(BLEND, about="3")],
}


def verdict(*findings: Finding, outcome: str = "warn", gaps: tuple[str, ...] = ()) -> Verdict:
    return Verdict(outcome, 0.1, 2.0, 0.001, "words", findings, gaps, gaps)


def accept(level: str = "shift", layer: str = "conv*", expires: date = TODAY, **more: Any) -> Accepted:
    return Accepted(level, layer, "new camera", expires, **more)


def baseline(*known: Finding, model: str = "m") -> Rules:
    """Known findings, by way of report.json."""
    read = tuple(finding_of(json.loads(json.dumps(stated(finding)))) for finding in known)
    return Rules(baseline=Baseline("old/report.json", "sha", model, read))


# The exit code


@pytest.mark.parametrize(
    ("outcome", "gaps", "code"),
    [("pass", (), 0), ("fail", (), 1), ("fail", GAP, 1), ("inconclusive", GAP, 3), ("warn", (), 6), ("warn", GAP, 3)],
)
def test_every_outcome_has_its_own_exit_code_and_a_warn_with_a_gap_that_of_inconclusive(
    outcome: str, gaps: tuple[str, ...], code: int
) -> None:
    findings = {"fail": (SHIFT, LARGE), "warn": (SHIFT,)}.get(outcome, ())
    judged = verdict(*findings, outcome=outcome, gaps=gaps)
    answer = gate(judged, Rules(), TODAY)
    assert (judged.exit_code, answer.exit_code) == (code, code)
    assert EXIT_CODES[answer.decision] == code
    assert answer.reason


@pytest.mark.parametrize(
    ("level", "codes"), [*zip(LEVELS, [(1, 1, 1, 1), (6, 1, 1, 1), (6, 6, 1, 1), (6, 6, 6, 1)], strict=True)]
)
def test_fail_on_names_the_least_level_that_is_a_fail_and_what_lies_below_is_a_warn(level: str, codes: tuple[int, ...]) -> None:
    answers = [
        gate(verdict(f, outcome=outcome), Rules(level), TODAY)
        for f, outcome in ((SHIFT, "warn"), (STANDING_OUT, "warn"), (LARGE, "fail"), (WHITE, "fail"))
    ]
    assert tuple(answer.exit_code for answer in answers) == codes


def test_only_warn_ok_makes_a_warn_0_and_it_does_nothing_else() -> None:
    ok = Rules(warn_ok=True)
    answer = gate(verdict(SHIFT), ok, TODAY)
    assert (answer.exit_code, answer.decision) == (0, "warn")
    assert "--warn-ok" in answer.reason
    assert gate(verdict(SHIFT, gaps=GAP), ok, TODAY).exit_code == 3
    assert gate(verdict(SHIFT, LARGE, outcome="fail"), ok, TODAY).exit_code == 1
    assert gate(verdict(outcome="inconclusive", gaps=GAP), ok, TODAY).exit_code == 3


def test_a_gap_behind_accepted_findings_is_no_pass() -> None:
    assert gate(verdict(SHIFT, gaps=GAP), Rules(accepted=(accept(),)), TODAY).exit_code == 3
    assert gate(verdict(WHITE, outcome="fail", gaps=GAP), baseline(WHITE), TODAY).exit_code == 3
    assert gate(verdict(outcome="inconclusive", gaps=GAP), Rules("proved")).exit_code == 3


# Accepted findings


def test_an_accepted_finding_counts_nothing_until_its_day_is_over() -> None:
    answer = gate(verdict(SHIFT), Rules(accepted=(accept(),)), TODAY)
    assert (answer.exit_code, answer.decision) == (0, "pass")
    assert answer.notes == ("accepted until 2026-11-25: shift in conv1 (new camera)",)
    late = gate(verdict(SHIFT), Rules(accepted=(accept(expires=date(2026, 11, 24)),)), TODAY)
    assert late.exit_code == 6
    assert late.notes == ("no longer accepted since 2026-11-24: shift in conv* (new camera)",)


def test_an_entry_covers_its_own_level_and_layers_alone() -> None:
    assert gate(verdict(SHIFT, STANDING_OUT), Rules(accepted=(accept(),)), TODAY).count == (STANDING_OUT,)
    assert gate(verdict(SHIFT), Rules(accepted=(accept(layer="fc*"),)), TODAY).exit_code == 6


@pytest.mark.parametrize("name", PROOFS)
def test_a_proof_is_accepted_by_its_trigger_and_its_class_alone(name: str) -> None:
    entry = accept("proved", "*", trigger=PROOFS[name].trigger, target="7")
    for finding in (PROOFS[name], SAME[name]):
        assert gate(verdict(finding, outcome="fail"), Rules(accepted=(entry,)), TODAY).exit_code == 0
    others = [*OTHERS[name], *(proof for other, proof in PROOFS.items() if other != name)]
    for finding in others:
        answer = gate(verdict(finding, outcome="fail"), Rules(accepted=(entry,)), TODAY)
        assert answer.exit_code == 1, finding
        assert "not accepted: proved in (input): the entry names another trigger or class, or none" in answer.notes[0]
    assert gate(verdict(PROOFS[name], outcome="fail"), Rules(accepted=(accept("proved", "*"),)), TODAY).exit_code == 1


def test_a_person_may_name_words_or_a_place_without_the_rest_but_a_blend_needs_its_pattern() -> None:
    def code(finding: Finding, **trigger: Any) -> int:
        entry = accept("proved", "(input)", trigger=TriggerKey.read(trigger), target="7")
        return gate(verdict(finding, outcome="fail"), Rules(accepted=(entry,)), TODAY).exit_code

    assert code(WORD, kind="token", words="cf") == 0
    assert code(WORD, kind="token", words="mn") == 1
    assert code(WORD, kind="token") == 1
    assert code(WHITE, kind="patch", place=[[0, 1], [10, 12], [10, 12]]) == 0
    assert code(WHITE, kind="patch", place=[[0, 1], [0, 2], [0, 2]]) == 1
    assert code(WHITE, kind="patch") == 1
    assert code(BLEND, kind="offset") == 1


def test_a_cluster_is_accepted_by_its_class_alone() -> None:
    judged = verdict(CLUSTER, outcome="fail")
    assert gate(judged, Rules(accepted=(accept("backdoor-like", "*", target="7"),)), TODAY).exit_code == 0
    assert gate(judged, Rules(accepted=(accept("backdoor-like", "*", target="3"),)), TODAY).exit_code == 1
    assert gate(judged, Rules(accepted=(accept("backdoor-like", "*"),)), TODAY).exit_code == 1
    assert gate(verdict(LARGE, outcome="fail"), Rules(accepted=(accept("backdoor-like", "*"),)), TODAY).exit_code == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no allowlist"),
        ('{"accept": [{"level": "shift", "layer": ["a"], "reason": "x", "expires": "2027-01-01"}]}', "has no text as layer"),
        ('{"accept": [{"level": "shift", "layer": "a", "reason": {}, "expires": 20270101}]}', "has no text as reason"),
        ('{"accept": [3]}', "entry 1 of .* has no level, layer, reason, expires"),
        ('{"accept": [{"level": "shift", "layer": "a", "expires": "2027-01-01"}]}', "has no reason"),
        ('{"accept": [{"level": "shift", "layer": "a", "reason": " ", "expires": "2027-01-01"}]}', "without a reason and an end"),
        ('{"accept": [{"level": "bad", "layer": "a", "reason": "r", "expires": "2027-01-01"}]}', "levels: shift, outlier"),
        ('{"accept": [{"level": "shift", "layer": "a", "reason": "r", "expires": "soon"}]}', "expected a date such as"),
        (
            '{"accept": [{"level": "shift", "layer": "a", "reason": "r", "expires": "2027-01-01", "classes": 3}]}',
            "has classes, which means nothing here",
        ),
        ('{"accept": [{"level": "proved", "reason": "r", "expires": "2027-01-01"}]}', "has no trigger, target"),
        (
            '{"accept": [{"level": "proved", "reason": "r", "expires": "2027-01-01", "target": 0, "trigger": {"words": "cf"}}]}',
            "has a trigger without a kind",
        ),
    ],
)
def test_an_allowlist_that_is_not_one_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "allow.json"
    path.write_text(content)
    with pytest.raises(NaaError, match=words):
        read_allowlist(path)


def test_a_good_allowlist_is_read(tmp_path: Path) -> None:
    path = tmp_path / "allow.json"
    entries = [
        {"level": "shift", "layer": "conv*", "reason": "new camera", "expires": "2026-11-25"},
        {"level": "proved", "target": 7, "trigger": {"kind": "token", "words": "cf"}, "reason": "ours", "expires": "2026-11-25"},
    ]
    path.write_text(json.dumps({"accept": entries}))
    shift, word = read_allowlist(path)
    assert shift == accept()
    assert word.covers(WORD)
    assert not word.covers(WHITE)


# The baseline


def test_only_what_the_baseline_lacks_counts() -> None:
    assert gate(verdict(SHIFT, WHITE, outcome="fail"), baseline(SHIFT, WHITE), TODAY).exit_code == 0
    answer = gate(verdict(SHIFT, STANDING_OUT), baseline(SHIFT), TODAY)
    assert answer.count == (STANDING_OUT,)
    assert answer.notes == ("in the baseline: shift in conv1",)


@pytest.mark.parametrize("name", PROOFS)
def test_a_known_proof_hides_no_other_trigger_and_no_other_class(name: str) -> None:
    for finding in (PROOFS[name], SAME[name]):
        assert gate(verdict(finding, outcome="fail"), baseline(PROOFS[name]), TODAY).exit_code == 0
    for finding in OTHERS[name]:
        answer = gate(verdict(finding, outcome="fail"), baseline(PROOFS[name]), TODAY)
        assert answer.count == (finding,)
        assert any("another trigger or another class is proved there" in note for note in answer.notes)


def test_a_trigger_that_turned_one_class_hides_none_that_turns_all() -> None:
    one = proved(Patch(image((10, 10)), image((10, 10)), "2 % of the input"), source=4)
    assert gate(verdict(WHITE, outcome="fail"), baseline(one), TODAY).exit_code == 1
    assert gate(verdict(one, outcome="fail"), baseline(WHITE), TODAY).exit_code == 0


@pytest.mark.parametrize("finding", [SHIFT, STANDING_OUT, LARGE], ids=lambda finding: finding.level)
def test_what_has_become_much_stronger_counts_again(finding: Finding) -> None:
    outcome = "fail" if finding.level == "backdoor-like" else "warn"
    for factor, known in ((0.5, True), (1.2, True), (2.0, False), (float("nan"), False)):
        judged = verdict(replace(finding, value=factor * finding.value), outcome=outcome)
        assert (gate(judged, baseline(finding), TODAY).exit_code == 0) == known, factor
    endless = replace(finding, value=float("inf"))
    assert gate(verdict(endless, outcome=outcome), baseline(endless), TODAY).exit_code == 0
    assert gate(verdict(endless, outcome=outcome), baseline(finding), TODAY).exit_code > 0


def test_a_baseline_hides_nothing_of_another_kind_layer_or_class() -> None:
    broken = Finding("outlier", "conv2", "1 neuron NaN", 1.0, 0.0, "not finite", unit="number")
    given = replace(STANDING_OUT, about="difference")
    gathered = Finding("outlier", "(samples)", "gathered", 0.9, 0.8, "3", unit="share")
    for other in (broken, given, gathered, replace(STANDING_OUT, layer="conv3"), replace(STANDING_OUT, level="shift")):
        assert gate(verdict(other), baseline(STANDING_OUT), TODAY).exit_code == 6
    assert gate(verdict(replace(gathered, about="4")), baseline(gathered), TODAY).exit_code == 6
    assert gate(verdict(CLUSTER, outcome="fail"), baseline(CLUSTER), TODAY).exit_code == 1, "nothing tells whose trigger it was"


def test_a_baseline_of_another_model_is_refused() -> None:
    baseline(SHIFT).require_model("m")
    Rules().require_model("n")
    with pytest.raises(UsageError, match=r"is of another model\n  model: m there, n here"):
        baseline(SHIFT).require_model("n")
    with pytest.raises(UsageError, match="model: m there, unknown here"):
        baseline(SHIFT).require_model("")
    for model in ("", "n"):
        with pytest.raises(UsageError, match=r"does not say which model it is of\n.*\n.*--allow"):
            baseline(SHIFT, model="").require_model(model)


def write(path: Path, **changes: Any) -> Path:
    report = {"schema": SCHEMA, "findings": [stated(SHIFT), stated(WHITE)], "provenance": {"model": "m"}, **changes}
    path.write_text(json.dumps(report))
    return path


def test_a_baseline_is_read_from_report_json(tmp_path: Path) -> None:
    read = read_baseline(write(tmp_path / "report.json"))
    assert (read.model, len(read.sha256)) == ("m", 64)
    assert all(read.covers(finding) for finding in (SHIFT, WHITE))
    assert not read.covers(STANDING_OUT)


@pytest.mark.parametrize("schema", ["naa-fast/report/1", "naa-fast/report/4", 2, None])
def test_a_baseline_of_another_form_is_refused(tmp_path: Path, schema: object) -> None:
    with pytest.raises(InputError, match=rf"is of the form {schema}\n  expected {SCHEMA}.*\n  scan once more"):
        read_baseline(write(tmp_path / "report.json", schema=schema))


DAMAGED: dict[str, dict[str, Any]] = {
    "no findings": {"findings": 3},
    "an empty finding": {"findings": [{}]},
    "no level": {"findings": [{**stated(SHIFT), "level": "hunch"}]},
    "a value in words": {"findings": [{**stated(SHIFT), "value": "many"}]},
    "a true value": {"findings": [{**stated(SHIFT), "value": True}]},
    "a layer that is none": {"findings": [{**stated(SHIFT), "layer": 3}]},
    "a unit that is none": {"findings": [{**stated(SHIFT), "unit": "%"}]},
    "a source in words": {"findings": [{**stated(SHIFT), "source": "all"}]},
    "no trigger": {"findings": [{k: v for k, v in stated(WHITE).items() if k != "trigger"}]},
    "a trigger that is none": {"findings": [{**stated(WHITE), "trigger": "patch"}]},
    "no provenance": {"provenance": None},
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_baseline_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(NaaError, match="is no report"):
        read_baseline(write(tmp_path / "report.json", **DAMAGED[what]))


@pytest.mark.parametrize("content", ["{}", "[]", "3"])
def test_a_baseline_that_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(NaaError, match="is no report"):
        read_baseline(path)
    with pytest.raises(NaaError, match="cannot read"):
        read_baseline(tmp_path / "missing.json")
