"""A report.json that is damaged, or says two things at once, is refused with the field's name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from report.examples import EXAMPLES, classic, pictured, too_few

from naa_fast.detect.accept import Rules
from naa_fast.errors import InputError
from naa_fast.report.folder import write_report
from naa_fast.report.machine import load_schema, report_bytes
from naa_fast.report.reload import read_report, reload
from naa_fast.report.valid import KNOWN, PROSE, contradictions, flaws, require_valid

GIVEN = {"options": {"top_k": 20}, "seed": 0}
SCHEMA = load_schema()


def report_of(name: str = "pictured") -> Any:
    return json.loads(report_bytes(EXAMPLES[name](), GIVEN))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_report_that_is_written_is_valid(name: str) -> None:
    require_valid(report_of(name))


def keywords(schema: Any) -> Iterator[str]:
    """Of a schema and of those in it; names of fields are none."""
    if isinstance(schema, dict):
        for word, value in schema.items():
            yield word
            named = word in ("properties", "$defs")
            for one in value.values() if named else value if isinstance(value, list) else [value]:
                yield from keywords(one)


def test_every_keyword_of_the_schema_is_checked_or_known_to_be_none() -> None:
    assert set(keywords(SCHEMA)) <= KNOWN | PROSE


def places(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Of every value in a report; of a list the first and last entry's."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in [*inside][:1] + [*inside][-1:] if isinstance(value, list) else inside:
        yield from places(one, *path, key)


def shortened(value: Any) -> Any:
    """With the first and last entry alone of every list, whatever it was long: those that `places` gives."""
    if isinstance(value, list):
        return [shortened(one) for one in (value if len(value) < 3 else (value[0], value[-1]))]
    return {key: shortened(one) for key, one in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", ["pictured", "worded"])
def test_what_is_refused_is_what_the_schema_refuses(name: str) -> None:
    report, judge = shortened(report_of(name)), Draft202012Validator(SCHEMA)
    assert judge.is_valid(report)
    tried = 0
    for path in [*places(report)]:
        inner = report
        for key in path[:-1]:
            inner = inner[key]
        before = inner[path[-1]]
        for value in (None, -1, 3, 0.5, "x", "", True, [], {}, [None], {"a": 1}):
            inner[path[-1]] = value
            ours = next(flaws(report, SCHEMA, SCHEMA["$defs"], ""), "")
            assert bool(ours) != judge.is_valid(report), (path, value, ours)
            assert not ours or not all(isinstance(key, str) for key in path) or ours.startswith(".".join(path)), ours
            tried += 1
        inner[path[-1]] = before
    assert tried > 1000


def put(report: Any, place: str, value: Any) -> Any:
    *outer, last = place.split(".")
    inner = report
    for key in outer:
        inner = inner[int(key) if key.isdecimal() else key]
    inner[last] = value
    return report


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("gate.counted", [-1], "gate.counted[0] is -1, expected 0 or more"),
        ("gate.counted", [0, 0], "gate.counted has 0, expected each place of the"),
        ("gate.exit_code", 0, "exit_code is 1, and gate.exit_code 0"),
        ("gate.exit_code", 77, "gate.exit_code is 77, expected one of 0, 1, 3, 6, 75, 130"),
        ("gate.decision", "pass", "gate.decision is pass, and by outcome, findings, gaps and fail_on it is fail"),
        ("verdict.exit_code", 0, "verdict.exit_code is 0, and verdict.outcome fail"),
        ("verdict.outcome", "pass", "outcome is fail, and verdict.outcome pass"),
        ("outcome", "pass", "outcome is pass, and verdict.outcome fail"),
        ("findings.0.level", "guess", "findings[0].level is 'guess', expected one of shift"),
        ("findings.0.source", -2, "findings[0].source is -2, expected 0 or more"),
        ("verdict.checks", [], "verdict.checks has 0 entries, expected 1 to any"),
        ("coverage.clean.samples", 1.5, "coverage.clean.samples is 1.5, expected a whole number"),
        ("sentence", None, "sentence is None, expected text"),
        ("score", 10**400, "expected a number or null"),
        ("score", float("nan"), "score is nan, expected a number or null"),
        ("more", 1, "'more' is no field of a report"),
        ("provenance.seed", True, "provenance.seed is True, expected a whole number or null"),
    ],
)
def test_the_field_is_named(place: str, value: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(put(report_of(), place, value)))
    with pytest.raises(InputError) as caught:
        read_report(path)
    assert words in str(caught.value)


def test_a_field_that_is_not_there_is_named() -> None:
    report = report_of()
    del report["gate"]["notes"]
    with pytest.raises(ValueError, match=r"gate\.notes is missing"):
        require_valid(report)


def passing() -> Any:
    """A report whose every field says that all is well."""
    report = report_of("inconclusive")
    report |= {"outcome": "pass", "exit_code": 0, "findings": []}
    report["verdict"] |= {"outcome": "pass", "exit_code": 0, "gaps": []}
    report["verdict"]["checks"] = [{"name": "shift", "ran": True, "in_part": False, "reason": ""}]
    report["gate"] |= {"decision": "pass", "exit_code": 0, "counted": []}
    return report


def test_a_pass_rests_on_checks_that_ran() -> None:
    require_valid(passing())
    unchecked = passing()
    unchecked["verdict"]["checks"][0]["ran"] = False
    assert next(contradictions(unchecked)) == "verdict.gaps is empty, and the check shift did not run"
    with_gap = put(passing(), "verdict.gaps", ["something"])
    assert "verdict.outcome is pass, with 0 findings, 0 of them a fail, and 1 gaps" in next(contradictions(with_gap))
    proved = passing()
    proved["findings"] = [{**report_of()["findings"][0], "level": "proved"}]
    assert "verdict.outcome is pass, and a finding is proved" in [*contradictions(proved)]
    standing = passing() | {"proof": report_of()["proof"]}
    assert next(contradictions(standing)) == "proof[0].stands is true, and no finding is proved"


def test_gates_of_every_rule_are_consistent() -> None:
    for rules in (Rules("shift"), Rules("proved"), Rules(warn_ok=True), Rules("proved", warn_ok=True), Rules(stopped=("x", 75))):
        for example in (classic, pictured, too_few):
            require_valid(json.loads(report_bytes(replace(example(), rules=rules), GIVEN)))


def test_files_of_another_report_beside_it_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naa_fast.report.folder.drawn_files", lambda judgement, known, single: {})
    write_report(pictured(), tmp_path / "a", GIVEN)
    write_report(too_few(), tmp_path / "b", GIVEN)
    for file, words in (
        ("evidence.safetensors", "proofs: 1 in report.json, 0 in evidence"),
        ("clean.naa.safetensors", "samples: "),
    ):
        write_report(pictured(), tmp_path / "a", GIVEN)
        (tmp_path / "a" / file).write_bytes((tmp_path / "b" / file).read_bytes())
        with pytest.raises(InputError, match=f"are of several reports\n  {words}"):
            reload(tmp_path / "a")
