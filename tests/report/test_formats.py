"""The formats for pipelines: valid by their public schemas, all from report.json, and fail closed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from report.examples import EXAMPLES, HOSTILE, classic, hostile, pictured, sound, too_few

from naa_fast.detect.accept import Rules
from naa_fast.detect.baseline import Baseline
from naa_fast.detect.judgement import Judgement
from naa_fast.errors import UsageError
from naa_fast.report.formats import FORMATS, format_files
from naa_fast.report.machine import load_schema, report_bytes
from naa_fast.report.reading import Reading

RUN = {
    "model": "net.py:build",
    "weights": "weights dir/a&b.safetensors",
    "clean": "clean.npz",
    "suspect": "suspect.npz",
    "command": ["naa-fast", "scan"],
    "began": "2026-11-29T10:33:29+00:00",
    "ended": "2026-11-29T10:34:07+00:00",
    "files": {"weights dir/a&b.safetensors": "ab" * 32},
}
SARIF = json.loads(Path(__file__).with_name("sarif-2.1.0-rtm.5.json").read_text())
"""The public schema (schemastore.org, Apache-2.0) without its white space."""


def report_of(judgement: Judgement, run: dict[str, Any] | None = RUN) -> bytes:
    return report_bytes(judgement, {"options": {"top_k": 20}, "seed": 3, **({"run": run} if run else {})})


def written(judgement: Judgement, name: str, run: dict[str, Any] | None = RUN) -> bytes:
    return format_files([name], report_of(judgement, run))[FORMATS[name].file]


def sarif(judgement: Judgement) -> Any:
    return json.loads(written(judgement, "sarif"))["runs"][0]


def junit(judgement: Judgement) -> ElementTree.Element:
    return ElementTree.fromstring(written(judgement, "junit"))


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("run", [RUN, None], ids=["named", "unnamed"])
def test_sarif_is_valid_and_has_a_result_a_finding(name: str, run: dict[str, Any] | None) -> None:
    judgement = EXAMPLES[name]()
    content = json.loads(written(judgement, "sarif", run))
    jsonschema.validate(content, SARIF)
    (one,) = content["runs"]
    rules = [rule["id"] for rule in one["tool"]["driver"]["rules"]]
    assert rules == ["naa/proved", "naa/backdoor-like", "naa/outlier", "naa/shift"]
    assert [result["ruleId"] for result in one["results"]] == [f"naa/{f.level}" for f in judgement.verdict.findings]
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in one["results"])


def test_the_schema_refuses_what_is_no_sarif() -> None:
    content = json.loads(written(pictured(), "sarif"))
    content["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SARIF)


def test_a_result_is_in_the_weights_and_names_its_layer() -> None:
    run = sarif(classic())
    (result,) = (one for one in run["results"] if one["ruleId"] == "naa/outlier")
    (location,) = result["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "weights%20dir/a%26b.safetensors"
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "fc"
    assert run["artifacts"][0]["hashes"] == {"sha-256": "ab" * 32}
    assert run["invocations"][0]["startTimeUtc"] == "2026-11-29T10:33:29Z"


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("net.py:build", "net.py"),
        ("/models/net.pt2", "file:///models/net.pt2"),
        ("hf:folder/x", "urn:naa-fast:model:hf%3Afolder%2Fx"),
        ("package.module:build", "package.module%3Abuild"),
        ("Sequential", "urn:naa-fast:model:Sequential"),
        ("hf:\udcff", "urn:naa-fast:model:hf%3A%3F"),
    ],
)
def test_a_model_has_a_uri_whatever_it_is_called(name: str, uri: str) -> None:
    from naa_fast.report.sarif import uri_of

    assert uri_of(name) == uri


def test_levels_and_suppressions_are_the_gates() -> None:
    judged = classic()
    assert {one["level"] for one in sarif(replace(judged, rules=Rules("proved")))["results"]} == {"warning"}
    strict = sarif(replace(judged, rules=Rules("shift")))["results"]
    assert {one["level"] for one in strict} == {"error"}
    known = Baseline("old.json", "0" * 64, "sha256:m", judged.verdict.findings)
    for one in sarif(replace(judged, rules=Rules("shift", known)))["results"]:
        assert one["level"] == "warning"
        assert one["suppressions"][0]["kind"] == "external"


def test_what_did_not_run_is_said_in_sarif() -> None:
    invocation = sarif(too_few())["invocations"][0]
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == 3
    assert any("did not run" in note["message"]["text"] for note in invocation["toolExecutionNotifications"])
    assert sarif(pictured())["invocations"][0]["executionSuccessful"] is True


def test_a_finding_keeps_its_fingerprint_and_another_has_another() -> None:
    prints = [[one["partialFingerprints"]["naaFinding/v1"] for one in sarif(pictured())["results"]] for _ in range(2)]
    assert prints[0] == prints[1]
    assert len(set(prints[0])) == len(prints[0])


@pytest.mark.parametrize("name", EXAMPLES)
def test_junit_has_a_case_a_check_and_counts_that_agree(name: str) -> None:
    judgement = EXAMPLES[name]()
    root = junit(judgement)
    (suite,) = root
    cases = suite.findall("testcase")
    assert [case.get("name", "").partition(":")[0] for case in cases] == [
        *(check.name for check in judgement.verdict.checks),
        "verdict",
    ]
    for case, check in zip(cases, judgement.verdict.checks, strict=False):
        assert (case.find("skipped") is None) == (check.ran or case.find("failure") is not None)
    for kind, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        counted = str(sum(case.find(tag) is not None for case in cases))
        assert suite.get(kind) == counted
        assert root.get(kind) == (counted if kind in ALLOWED["testsuites"] else None)
    assert suite.get("tests") == str(len(cases))


ALLOWED = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "time", "skipped", "timestamp"},
    "properties": set(),
    "property": {"name", "value"},
    "testcase": {"name", "time", "classname"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
    "system-out": set(),
}
"""The attributes that junit-10.xsd of Jenkins' xunit plugin lets an element have, of those we write. The files were held against
that schema itself; this keeps them so."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_junit_has_no_attribute_that_jenkins_refuses(name: str) -> None:
    for element in junit(EXAMPLES[name]()).iter():
        assert set(element.attrib) <= ALLOWED[element.tag]
        assert re.fullmatch(r"\d{1,6}(\.\d*)?", element.get("time", "0"))


def test_the_statement_is_one_by_in_totos_own_package() -> None:
    """`Statement.validate` of in-toto-attestation, read from JSON by its protobuf: a field it does not know is an error."""
    statement = pytest.importorskip("in_toto_attestation.v1.statement", reason="in-toto-attestation is not installed")
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.v1 import statement_pb2

    for judgement in (pictured(), too_few()):
        read = ParseDict(json.loads(written(judgement, "intoto")), statement_pb2.Statement())
        statement.Statement.copy_from_pb(read).validate()


def failed_of(judgement: Judgement) -> set[str]:
    cases = junit(judgement).iter("testcase")
    return {case.get("name", "").partition(":")[0] for case in cases if case.find("failure") is not None}


def test_junit_fails_what_the_gate_fails() -> None:
    assert failed_of(pictured()) == {"proof", "verdict"}
    assert failed_of(replace(classic(), rules=Rules("proved"))) == set()
    assert failed_of(replace(classic(), rules=Rules("shift"))) == {"shift", "verdict"}


def test_a_finding_of_no_check_that_ran_is_told_by_the_verdict() -> None:
    """A search without suspects has checks of its own, and findings in layers."""
    report = json.loads(report_of(classic()))
    report["verdict"]["checks"] = [{"name": "proof", "ran": True, "reason": ""}]
    root = ElementTree.fromstring(format_files(["junit"], json.dumps(report).encode())["junit.xml"])
    told = {case.get("name"): case.findtext("system-out", "") for case in root.iter("testcase")}
    assert all(f"{finding['level']} in fc" in told["verdict"] for finding in report["findings"])


def test_an_inconclusive_verdict_is_an_error_and_a_pass_is_green() -> None:
    assert [error.get("type") for error in junit(too_few()).iter("error")] == ["inconclusive"]
    passed = junit(sound())
    assert not [*passed.iter("error"), *passed.iter("failure")]


@pytest.mark.parametrize("name", FORMATS)
def test_names_cannot_break_out(name: str) -> None:
    weights = "</script>\x1b[2J\u202e`](http://evil)|@everyone\n# no"
    content = written(hostile(), name, {**RUN, "weights": weights, "files": {}}).decode()
    for bad in ("\x1b", "\u202e", "\n# no", *(["<img", "<script"] if name in ("markdown", "junit") else [])):
        assert bad not in content
    if name == "markdown":
        assert "](" not in content
        assert "@everyone" not in content
        assert "http:" not in content
        assert all(line.startswith("|") for line in content.splitlines() if HOSTILE[:3] in line)
    elif name == "junit":
        ElementTree.fromstring(content)
    else:
        json.loads(content)


def test_markdown_says_outcome_findings_checks_and_repair() -> None:
    text = written(pictured(), "markdown").decode()
    assert text.startswith("## ❌ FAIL: weights dir")
    assert "| **proved** |" in text
    assert "| shift | whether the sets differ by more than chance | ran |" in text
    assert "| proof | whether a trigger can be proved | did not run: " in text
    assert "Repair: 89 % turned before, 1 % after" in text
    assert "did not run" in written(too_few(), "markdown").decode()


def statement(judgement: Judgement, run: dict[str, Any] | None = RUN) -> Any:
    return json.loads(written(judgement, "intoto", run))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_statement_has_what_in_toto_asks_for(name: str) -> None:
    """The fields of Statement v1 and of test-result v0.1, as their specifications require them."""
    judgement = EXAMPLES[name]()
    made = statement(judgement)
    assert set(made) == {"_type", "subject", "predicateType", "predicate"}
    assert made["_type"] == "https://in-toto.io/Statement/v1"
    assert made["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    names = [subject["name"] for subject in made["subject"]]
    assert names == list(dict.fromkeys(names))
    assert all(subject["digest"] and all(map(str.isascii, subject["digest"])) for subject in made["subject"])
    predicate = made["predicate"]
    assert predicate["result"] in ("PASSED", "WARNED", "FAILED")
    assert predicate["configuration"]
    allowed = {"name", "uri", "digest", "content", "downloadLocation", "mediaType", "annotations"}
    assert all(set(one) <= allowed and {"digest", "uri", "content"} & set(one) for one in predicate["configuration"])
    tests = [test for kind in ("passedTests", "warnedTests", "failedTests") for test in predicate[kind]]
    assert sorted(tests) == sorted(check.name for check in judgement.verdict.checks)


def test_the_statement_is_about_the_files_and_the_report() -> None:
    made = statement(pictured())
    assert made["subject"] == [
        {"name": "weights dir/a&b.safetensors", "digest": {"sha256": "ab" * 32}},
        {"name": "net.py:build (as loaded)", "digest": {"naaFingerprint": "sha256:m"}},
    ]
    by_name = {one["name"]: one for one in made["predicate"]["configuration"]}
    assert by_name["clean"]["annotations"]["path"] == "clean.npz"
    assert by_name["report.json"]["digest"]["sha256"] == Reading.of(report_of(pictured())).sha256
    assert by_name["report.json"]["annotations"]["decision"] == "fail"
    assert by_name["naa-fast"]["annotations"]["options"] == {"top_k": 20}


@pytest.mark.parametrize(
    ("judged", "result"), [(sound, "PASSED"), (classic, "WARNED"), (pictured, "FAILED"), (too_few, "FAILED")]
)
def test_what_is_inconclusive_has_not_passed(judged: Any, result: str) -> None:
    judgement = judged()
    if result == "WARNED":
        judgement = replace(judgement, verdict=replace(judgement.verdict, gaps=()), rules=Rules("proved"))
    assert statement(judgement)["predicate"]["result"] == result


def test_a_report_of_no_model_is_the_subject_itself() -> None:
    report = json.loads(report_of(sound(), None))
    report["provenance"]["model"] = ""
    content = json.dumps(report).encode()
    made = json.loads(format_files(["intoto"], content)["verdict.intoto.json"])
    assert made["subject"] == [{"name": "report.json", "digest": {"sha256": Reading.of(content).sha256}}]


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    from naa_fast.report.folder import write_report

    with pytest.raises(UsageError, match="'pdf' is no format of a report\n  expected some of sarif, junit, markdown, intoto"):
        write_report(classic(), tmp_path / "r", {}, formats=["sarif", "pdf"])
    assert not (tmp_path / "r").exists()


def test_the_report_they_are_made_from_is_valid() -> None:
    jsonschema.validate(json.loads(report_of(pictured())), load_schema())
