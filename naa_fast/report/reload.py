"""`reload`: the judgement of a report folder, as it was made, so that the report can be drawn again without model and data.

The verdict and what a script is told are those of report.json, to the word: nothing is judged again. The layers' numbers come
from the measurements beside it, the samples and triggers from evidence.safetensors, the repair from repair.safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

from naa_fast.detect.accept import Gate, Rules
from naa_fast.detect.baseline import READ, Baseline, finding_of, read_json
from naa_fast.detect.checks import Check
from naa_fast.detect.evidence_file import EVIDENCE_FILE, load_evidence
from naa_fast.detect.findings import LEVELS, Finding
from naa_fast.detect.judgement import Judgement, judge
from naa_fast.detect.repair import REPAIR_FILE, Repair
from naa_fast.detect.verdict import OUTCOMES, Verdict
from naa_fast.errors import InputError
from naa_fast.measurement import Measurement
from naa_fast.report.files import REPORT
from naa_fast.report.valid import require_valid

EXPECTED = "expected the report.json of a scan's or a comparison's report folder"


def reload(folder: Path) -> tuple[Judgement, dict[str, Any]]:
    """The judgement of the report in `folder`, and its provenance.

    Raises:
        InputError: a file is missing, damaged, or of another form than this version writes.
    """
    report = read_report(folder / REPORT)
    clean, suspect = (Measurement.load(folder / f"{name}.naa.safetensors") for name in ("clean", "suspect"))
    evidence = load_evidence(folder / EVIDENCE_FILE)
    require_together(folder, report, {"clean": clean, "suspect": suspect}, len(evidence.proof))
    repair = None if report["repair"] is None else Repair.load(folder / REPAIR_FILE)
    try:
        threshold = report["threshold"] if report["threshold_on"] == "difference" else None
        top_k = int(report["provenance"]["options"].get("top_k") or max(len(report["top"]), 1))
        judged = judge(clean, suspect, threshold, top_k, evidence)
        judgement = replace(judged, repair=repair, verdict=verdict_of(report), rules=rules_of(report["gate"]))
        # Not what today's rules make of it: entries of an allowlist run out, a baseline may lie elsewhere.
        vars(judgement)["gate"] = gate_of(report["gate"], judgement.verdict)
        return judgement, provenance_of(report["provenance"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder / REPORT, error) from None


def read_report(path: Path) -> dict[str, Any]:
    """A report.json of this version's form, or of the one before. Raises InputError for anything else."""
    report = read_json(path, EXPECTED.removeprefix("expected "))
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema not in READ:
        raise InputError(f"{path} is of the form {schema}", f"expected {' or '.join(READ)}", "scan once more with this version")
    try:
        require_valid(report)
        verdict_of(report)
        gate_of(report["gate"], verdict_of(report))
        [report[name] for name in ("repair", "threshold", "threshold_on", "top")]
        provenance_of(report["provenance"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, error) from None
    return report


def require_together(folder: Path, report: Mapping[str, Any], sets: Mapping[str, Measurement], proofs: int) -> None:
    """Raise InputError where what lies beside report.json is of another report: the page would show that one's numbers."""
    expected_of = [(REPORT, "model", report["provenance"]["model"]), (EVIDENCE_FILE, "proofs", len(report["proof"]))]
    values: list[Any] = [sets["clean"].model or sets["suspect"].model, proofs]
    for name, measured in sets.items():
        expected_of.append((f"{name}.naa.safetensors", "samples", report["coverage"][name]["samples"]))
        values.append(measured.samples)
    for (file, what, expected), value in zip(expected_of, values, strict=True):
        if expected != value:
            raise InputError(
                f"the files in {folder} are of several reports",
                f"{what}: {expected} in {REPORT}, {value} in {file if file != REPORT else 'clean.naa.safetensors'}",
                "expected the folder as a scan or comparison left it",
            )


def damaged(path: Path, error: Exception) -> InputError:
    what = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    return InputError(f"{path} is no report, or a damaged one", what, EXPECTED)


def verdict_of(report: Mapping[str, Any]) -> Verdict:
    """The verdict as report.json has it; a number that was not finite is NaN."""
    judged = report["verdict"]
    if judged["outcome"] not in OUTCOMES:
        raise ValueError(f"outcome {judged['outcome']!r}")
    return Verdict(
        judged["outcome"],
        number(report["score"]),
        number(report["z"]),
        number(report["p_value"]),
        str(report["sentence"]),
        tuple(map(finding_as_written, report["findings"])),
        tuple(map(str, report["not_checked"])),
        tuple(map(str, judged["gaps"])),
        tuple(map(Check.read, judged["checks"])),
        tuple(map(str, judged["accepted"])),
    )


def finding_as_written(entry: Mapping[str, Any]) -> Finding:
    limit = inf if entry["limit"] is None else float(entry["limit"])
    return replace(finding_of(entry), statement=str(entry["statement"]), limit=limit)


def number(value: Any) -> float:
    return nan if value is None else float(value)


def gate_of(entry: Mapping[str, Any], verdict: Verdict) -> Gate:
    if entry["decision"] not in OUTCOMES or type(entry["exit_code"]) is not int:
        raise ValueError(f"decision {entry['decision']!r}, exit code {entry['exit_code']!r}")
    count = tuple(verdict.findings[int(place)] for place in entry["counted"])
    return Gate(entry["exit_code"], entry["decision"], str(entry["reason"]), count, tuple(map(str, entry["notes"])))


def rules_of(entry: Mapping[str, Any]) -> Rules:
    """By which rules the gate decided, for the page; what the baseline held is not needed for it."""
    if entry["fail_on"] not in LEVELS:
        raise ValueError(f"fail_on {entry['fail_on']!r}")
    known = entry["baseline"]
    baseline = None if known is None else Baseline(str(known["file"]), str(known["sha256"]), "", ())
    return Rules(entry["fail_on"], baseline, (), str(entry["allow"] or ""), bool(entry["warn_ok"]))


def provenance_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What only the caller knew: the rest is in the measurements."""
    if not isinstance(entry["options"], Mapping) or not isinstance(entry.get("run", {}), Mapping):
        raise ValueError("options or a run that are no objects")
    shown = {"model", "data", "judged_with"}
    return {key: value for key, value in entry.items() if key not in shown}
