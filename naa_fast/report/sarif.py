"""SARIF 2.1.0 (OASIS, 2020), which code hosts and security dashboards read: `sarif_bytes`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from naa_fast.detect.checks import Check
from naa_fast.detect.findings import LEVELS
from naa_fast.report.reading import TEXT, Reading, check_of, place_of, question
from naa_fast.report.words import printable

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
RULES = {
    "proved": ("ProvedTrigger", "A trigger was read off the suspect samples, and turns clean samples to one class."),
    "backdoor-like": ("BackdoorLike", "The suspect samples look as if a trigger turned them, but none was proved."),
    "outlier": ("Outlier", "Neurons or samples lie farther outside what clean samples do than chance explains."),
    "shift": ("Shift", "The two sets differ, as they do under another camera as well."),
}
SEVERITY = {"proved": "9.5", "backdoor-like": "8.0", "outlier": "4.0", "shift": "1.0"}
"""What code hosts sort by, 0 to 10."""
NAMED_FILE = re.compile(r"^[A-Za-z]+:[^\\/]")
"""`hf:FOLDER`, `timm:NAME`: a name of ours for where a model is from."""


def sarif_bytes(reading: Reading) -> bytes:
    """One run with a result a finding, located in the file of the weights and, by its name, the layer; a rule a level; `error`
    for what fails by --fail-on, `warning` for what lies below, suppressed where it is in the baseline or accepted. Checks that
    did not run are notifications, and where that makes the gate inconclusive the run is not called successful.
    """
    results = [result_of(reading, place, finding) for place, finding in enumerate(reading.report["findings"])]
    driver = {"name": "naa-fast", "version": reading.version, "rules": [rule_of(level) for level in reversed(LEVELS)]}
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"naa-fast/{reading.report['provenance']['model'] or 'unknown'}/"},
        "invocations": [invocation_of(reading)],
        "artifacts": [artifact_of(reading)],
        "results": results,
        "properties": {"outcome": reading.report["outcome"], "score": reading.report["score"], "report": reading.sha256},
    }
    content = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return (json.dumps(content, ensure_ascii=True, allow_nan=False, indent=1) + "\n").encode("ascii")


def rule_of(level: str) -> dict[str, Any]:
    name, text = RULES[level]
    return {
        "id": f"naa/{level}",
        "name": name,
        "shortDescription": {"text": text},
        "defaultConfiguration": {"level": "error" if SEVERITY[level] >= "8" else "warning"},
        "properties": {"security-severity": SEVERITY[level], "tags": ["security", "machine-learning"]},
    }


def result_of(reading: Reading, place: int, finding: Mapping[str, Any]) -> dict[str, Any]:
    level = finding["level"]
    result: dict[str, Any] = {
        "ruleId": f"naa/{level}",
        "ruleIndex": [*reversed(LEVELS)].index(level),
        "level": "error" if reading.decisive(place) else "warning",
        "message": {"text": f"{place_of(finding)}: {printable(finding['statement'], TEXT)}"},
        "locations": [{"physicalLocation": {"artifactLocation": located(reading)}, "logicalLocations": [logical(finding)]}],
        "partialFingerprints": {"naaFinding/v1": fingerprint(finding)},
        "properties": {
            "check": check_of(finding),
            "value": finding["value"],
            "limit": finding["limit"],
            "about": finding["about"],
        },
    }
    if place not in reading.counted:
        result["suppressions"] = [{"kind": "external", "justification": "in the baseline, or accepted by name: see gate.notes"}]
    return result


def logical(finding: Mapping[str, Any]) -> dict[str, str]:
    return {"fullyQualifiedName": place_of(finding), "kind": "module"}


def fingerprint(finding: Mapping[str, Any]) -> str:
    """The same for the same finding of another scan: level, layer, what it is about, and the trigger's kind and place."""
    trigger = finding["trigger"] or {}
    parts = [
        finding["level"],
        finding["layer"],
        finding["about"],
        trigger.get("kind"),
        trigger.get("place"),
        trigger.get("words"),
    ]
    return sha256(json.dumps(parts).encode()).hexdigest()


def located(reading: Reading) -> dict[str, Any]:
    return {"uri": uri_of(reading.model), "index": 0}


def artifact_of(reading: Reading) -> dict[str, Any]:
    known = reading.files.get(reading.model)
    return {"location": {"uri": uri_of(reading.model)}, **({"hashes": {"sha-256": known}} if known else {})}


def uri_of(name: str) -> str:
    """The file a model is in as a URI reference: `FILE.py:FUNCTION` is its file, and what is no file has a name in `urn:`."""
    if not NAMED_FILE.match(name) and re.search(r"[\\/.]", name):
        file = re.sub(r"(\.py):\w+$", r"\1", name)
        path = PurePath(file)
        return path.as_uri() if path.is_absolute() else quote(path.as_posix(), errors="replace")
    return "urn:naa-fast:model:" + quote(name, safe="", errors="replace")


def invocation_of(reading: Reading) -> dict[str, Any]:
    gate, run = reading.report["gate"], reading.run
    missing = [check for check in reading.checks if not check["ran"]]
    notes = [f"{check['name']} ({question(check)}) {Check.read(check).fate}: {check['reason']}" for check in missing]
    notes += [gap for gap in reading.report["verdict"]["gaps"] if not any(check["reason"] in gap for check in missing)]
    times = {name: str(run[key]) for name, key in (("startTimeUtc", "began"), ("endTimeUtc", "ended")) if run.get(key)}
    return {
        "executionSuccessful": gate["decision"] != "inconclusive",
        "exitCode": gate["exit_code"],
        "exitCodeDescription": printable(f"{gate['decision']}: {gate['reason']}", TEXT),
        **{name: when.replace("+00:00", "Z") for name, when in times.items()},
        "toolExecutionNotifications": [{"level": "warning", "message": {"text": printable(note, TEXT)}} for note in notes],
    }
