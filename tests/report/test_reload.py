"""A report drawn again from its folder is the same one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.examples import EXAMPLES, classic, pictured, too_few, worded

from naa_fast.cli.main import main
from naa_fast.detect.accept import Rules
from naa_fast.detect.baseline import read_baseline
from naa_fast.detect.enrichment import OutlierCluster
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.evidence_file import evidence_bytes, load_evidence
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.proof import Erasure
from naa_fast.detect.trigger import Offset, Patch, TokenPair, Tokens, Trigger
from naa_fast.errors import EXIT_ERROR, EXIT_FINDING, InputError
from naa_fast.report.folder import redraw, write_report
from naa_fast.report.reload import reload

GIVEN = {"options": {"top_k": 20}, "seed": 0}


@pytest.fixture(autouse=True)
def no_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow, and drawn from the same judgement."""
    monkeypatch.setattr("naa_fast.report.folder.chart_bytes", lambda judgement, form: repr(judgement).encode())


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naa_fast.report.folder.optional_files", lambda evidence: {})
    monkeypatch.setattr("naa_fast.report.folder.page_files", lambda judgement, known, single: {"report.html": b""})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def whole(content: bytes) -> bytes:
    return content.replace(b"\\ud800", "\ufffd".encode())


@pytest.mark.parametrize("name", ["threshold", "calibrated", "inconclusive", "pictured", "worded"])
def test_what_is_drawn_again_is_what_was_drawn(name: str, tmp_path: Path) -> None:
    write_report(EXAMPLES[name](), tmp_path, GIVEN, formats=["sarif", "junit", "markdown", "intoto"])
    before = contents(tmp_path)
    kept = ("report.json", ".safetensors")
    for file in before:
        if not file.endswith(kept):
            (tmp_path / file).unlink()
    judgement, provenance = reload(tmp_path)
    redraw(judgement, tmp_path, provenance, formats=["sarif", "junit", "markdown", "intoto"])
    after = contents(tmp_path)
    assert set(after) == set(before)
    # Pictures of samples are kept to 8 bits: what is drawn of them may be a step apart.
    # Half a surrogate pair is no text, and report.json has U+FFFD for it: names of findings come back so, and a cell shorter.
    differ = {file for file in before if whole(before[file]) != whole(after[file])}
    differ -= {"summary.txt"} if name == "pictured" else set()
    assert all("top-samples" in file or "sample-" in file for file in differ), differ


def test_the_verdict_and_the_gate_are_those_of_the_report_and_not_of_today(tmp_path: Path) -> None:
    judged = replace(classic(), rules=Rules("shift"))
    write_report(judged, tmp_path, GIVEN)
    report = json.loads((tmp_path / "report.json").read_text())
    report["sentence"], report["gate"]["exit_code"], report["gate"]["reason"] = "As it was said then.", 75, "stopped"
    report["exit_code"] = 75
    (tmp_path / "report.json").write_text(json.dumps(report))
    judgement, _ = reload(tmp_path)
    assert judgement.verdict.sentence == "As it was said then."
    assert (judgement.gate.exit_code, judgement.gate.reason) == (75, "stopped")
    assert judgement.gate.count == judged.gate.count


def test_the_command_draws_and_returns_the_reports_own_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(pictured(), tmp_path, GIVEN)
    before = (tmp_path / "report.json").read_bytes()
    assert main(["report", str(tmp_path), "--format", "junit,sarif", "--single-file"]) == EXIT_FINDING
    assert "FAIL (exit code 1)" in capsys.readouterr().out
    assert (tmp_path / "junit.xml").exists()
    assert (tmp_path / "report.sarif").exists()
    assert not (tmp_path / "page").exists()
    assert (tmp_path / "report.json").read_bytes() == before
    assert main(["report", str(tmp_path), "--json"]) == EXIT_FINDING
    assert capsys.readouterr().out.encode().strip() == before.strip()


@pytest.mark.usefixtures("no_pictures")
def test_formats_that_are_not_asked_for_again_are_taken_away(tmp_path: Path) -> None:
    write_report(pictured(), tmp_path, GIVEN, formats=["junit"])
    write_report(pictured(), tmp_path, GIVEN)
    assert not (tmp_path / "junit.xml").exists()


DAMAGE: dict[str, tuple[str, Any]] = {
    "another form": ("is of the form naa-fast/report/9", {"schema": "naa-fast/report/9"}),
    "no verdict": ("is no report", {"verdict": {}}),
    "an outcome of its own": (
        "verdict.outcome is 'fine', expected one of pass, warn, fail, inconclusive",
        {"verdict": {"outcome": "fine"}},
    ),
    "a gate that counts what is not there": (
        r"gate.counted has 99, expected each place of the 3 findings once",
        {"gate": {"counted": [99]}},
    ),
    "a decision of its own": ("gate.decision is 'fine', expected one of pass", {"gate": {"decision": "fine"}}),
    "another level": ("gate.fail_on is 'hunch', expected one of shift", {"gate": {"fail_on": "hunch"}}),
    "options that are none": ("provenance.options is 3, expected an object", {"provenance": {"options": 3}}),
    "words for a number": ("score is 'high', expected a number or null", {"score": "high"}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_report_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    words, change = DAMAGE[name]
    write_report(classic(), tmp_path, GIVEN)
    report = json.loads((tmp_path / "report.json").read_text())
    for key, value in change.items():
        report[key] = {**report[key], **value} if isinstance(value, dict) and value else value
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match=words):
        reload(tmp_path)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("file", ["report.json", "evidence.safetensors", "clean.naa.safetensors", "repair.safetensors"])
def test_a_missing_file_is_named(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(pictured(), tmp_path, GIVEN)
    (tmp_path / file).unlink()
    assert main(["report", str(tmp_path)]) == EXIT_ERROR
    assert file in capsys.readouterr().err


def evidence_with(**changes: Any) -> Evidence:
    return replace(pictured().evidence, **changes)


def test_evidence_keeps_all_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "evidence.safetensors"
    proof = replace(pictured().evidence.proof[0], erasure=Erasure(9, 0.8, 0.1, np.float64(1e-4)), source=3, own=True)
    cluster = OutlierCluster(7, 12.0, 0.9, 1e-9, 0.8, 0.1, 0.5, 0.2)
    kept = evidence_with(proof=(proof,), cluster=cluster, notes=("one",), gaps=("two",), harmless=0.3)
    path.write_bytes(evidence_bytes(kept))
    found = load_evidence(path)
    assert (found.cluster, found.notes, found.gaps, found.harmless) == (cluster, ("one",), ("two",), 0.3)
    (one,) = found.proof
    assert (one.erasure, one.source, one.own, one.rate) == (proof.erasure, 3, True, proof.rate)
    assert (type(one.trigger), one.trigger.kind, one.trigger.key) == (Patch, proof.trigger.kind, proof.trigger.key)
    assert [example.turned_to for example in one.examples] == [example.turned_to for example in proof.examples]
    assert found.ranking is not None
    assert kept.ranking is not None
    assert np.array_equal(found.ranking.scores, kept.ranking.scores)
    assert found.ranking.top == kept.ranking.top
    assert found.pictures is not None
    assert kept.pictures is not None
    span = kept.pictures.max() - kept.pictures.min()
    assert np.abs(found.pictures - kept.pictures).max() <= 0.51 / 255 * span


@pytest.mark.parametrize(
    "trigger",
    [Offset(np.ones((1, 2, 2), np.float32), "loud"), Tokens((3, 4), "a b"), TokenPair((3, 4))],
    ids=lambda one: one.kind,
)
def test_every_form_of_a_trigger_is_kept(trigger: Trigger, tmp_path: Path) -> None:
    (tmp_path / "e").write_bytes(evidence_bytes(evidence_with(proof=(replace(pictured().evidence.proof[0], trigger=trigger),))))
    found = load_evidence(tmp_path / "e").proof[0].trigger
    assert (type(found), found.kind, found.key) == (type(trigger), trigger.kind, trigger.key)


def test_the_words_of_the_control_are_kept_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    against = Tokens((5,), "and<b>")
    judged = worded()
    proof = replace(judged.evidence.proof[0], against=against)
    judged = replace(judged, evidence=replace(judged.evidence, proof=(proof,)))
    write_report(judged, tmp_path, GIVEN)
    assert load_evidence(tmp_path / "evidence.safetensors").proof[0].against == against
    assert json.loads((tmp_path / "report.json").read_text())["proof"][0]["control_words"] == "and<b>"
    assert "<bdi>“and&lt;b&gt;”</bdi>" in (tmp_path / "report.html").read_text()
    rewritten(tmp_path / "e", judged, put("proofs", 0, "against", {"form": "Patch", "detail": ""}))
    with pytest.raises(InputError, match="no evidence of a report"):
        load_evidence(tmp_path / "e")


def test_large_pictures_are_kept_small_and_what_is_not_finite_as_lowest(tmp_path: Path) -> None:
    pictures = np.ones((1, 1, 600, 300), np.float32)
    pictures[0, 0, :300] = np.nan
    pictures[0, 0, 300:] = 5
    (tmp_path / "e").write_bytes(evidence_bytes(evidence_with(pictures=pictures)))
    found = load_evidence(tmp_path / "e").pictures
    assert found is not None
    assert found.shape == (1, 1, 200, 100)
    assert np.isfinite(found).all()


def rewritten(path: Path, judgement: Judgement, change: Any, drop: str = "") -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path.write_bytes(evidence_bytes(judgement.evidence))
    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["evidence"])
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != drop}  # noqa: SIM118
    change(about, tensors)
    save_file(tensors, path, {"evidence": json.dumps(about)})


def put(*path: Any) -> Any:
    """A change that puts the last of `path` where the others lead."""

    def change(about: Any, tensors: Any) -> None:
        for key in path[:-2]:
            about = about[key]
        about[path[-2]] = path[-1]

    return change


def shorter(about: Any, tensors: Any) -> None:
    tensors["ranking.predicted"] = tensors["ranking.predicted"][:3].copy()


def other_mask(about: Any, tensors: Any) -> None:
    tensors["proof0.mask"] = tensors["proof0.mask"][:, :3].copy()


def float_pictures(about: Any, tensors: Any) -> None:
    tensors["pictures"] = tensors["pictures"].astype(np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("form", "x/2"), "its form is 'x/2'"),
        (put("proofs", 0, "trigger", "form", "Spell"), "KeyError: 'Spell'"),
        (other_mask, "a trigger whose parts are not of one shape"),
        (put("checks", [{"name": "x", "ran": True, "reason": ""}]), "checks that this version does not know"),
        (put("proofs", 0, "rate", "much"), "a proof whose figures are no numbers"),
        (put("proofs", 0, "target", None), "a proof without a target"),
        (put("proofs", 0, "target", -3), "a trigger to class -3"),
        (put("proofs", 0, "rate", 1.5), "a proof whose rate is 1.5"),
        (put("proofs", 0, "examples", 0, "predicted", "x"), "ValueError"),
        (put("ranking", "deviating", {"x": []}), "ValueError"),
        (shorter, "a ranking whose parts are not of one length"),
        (float_pictures, "pictures that are none"),
    ],
)
def test_evidence_that_is_none_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    rewritten(tmp_path / "e", pictured(), change)
    with pytest.raises(InputError, match=words):
        load_evidence(tmp_path / "e")


def test_a_ranking_without_scores_is_refused(tmp_path: Path) -> None:
    rewritten(tmp_path / "e", worded(), lambda about, tensors: None, drop="ranking.null_scores")
    with pytest.raises(InputError, match="a ranking without its scores"):
        load_evidence(tmp_path / "e")


def test_no_evidence_is_evidence_too(tmp_path: Path) -> None:
    (tmp_path / "e").write_bytes(evidence_bytes(too_few().evidence))
    assert load_evidence(tmp_path / "e") == too_few().evidence


def in_old_words(about: Any, tensors: Any) -> None:
    about |= {"form": "naa-fast/evidence/1", "crowd": about.pop("outlier_cluster")}
    about["ranking"]["lit"] = about["ranking"].pop("deviating")
    tensors["ranking.carriers"] = tensors.pop("ranking.triggered")


@pytest.mark.usefixtures("no_pictures")
def test_a_report_of_the_form_before_is_read(tmp_path: Path) -> None:
    written = pictured()
    write_report(written, tmp_path, GIVEN)
    report = json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps(report | {"schema": "naa-fast/report/2"}))
    rewritten(tmp_path / "evidence.safetensors", written, in_old_words)
    judgement, _ = reload(tmp_path)
    ranking, expected = judgement.evidence.ranking, written.evidence.ranking
    assert ranking is not None
    assert expected is not None
    assert ranking.top == expected.top
    assert judgement.evidence.cluster == written.evidence.cluster
    assert len(read_baseline(tmp_path / "report.json").known) == len(written.verdict.findings)
