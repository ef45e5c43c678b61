"""An in-toto statement of the verdict, to sign and to keep beside the weights: `attestation_bytes`.

Statement v1 of the in-toto attestation framework with the predicate test-result v0.1
(github.com/in-toto/attestation, spec/v1 and spec/predicates/test-result.md). It is not signed: that is for whoever has a key.
"""

from __future__ import annotations

import json
from typing import Any

from naa_fast.report.reading import Reading, digest_bits

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
RESULTS = {"pass": "PASSED", "warn": "WARNED", "fail": "FAILED", "inconclusive": "FAILED"}
"""What the gate decides as this predicate says it: what is inconclusive has not passed."""


def attestation_bytes(reading: Reading) -> bytes:
    """Subject: the files the model was read from by their sha256, and the model as it was loaded by its fingerprint
    (of stored activations, which name no model, report.json).
    Configuration: both sets by their fingerprints, the tool with its options, and report.json by its sha256. A test is a check.
    """
    statement = {
        "_type": STATEMENT,
        "subject": subjects(reading),
        "predicateType": PREDICATE,
        "predicate": predicate(reading),
    }
    return (json.dumps(statement, ensure_ascii=True, allow_nan=False, indent=1) + "\n").encode("ascii")


def subjects(reading: Reading) -> list[dict[str, Any]]:
    files = [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(reading.files.items())]
    loaded = digest_bits(reading.report["provenance"]["model"])
    model = [{"name": f"{reading.run.get('model') or 'model'} (as loaded)", "digest": loaded}] if loaded else []
    return files + model or [{"name": "report.json", "digest": {"sha256": reading.sha256}}]


def predicate(reading: Reading) -> dict[str, Any]:
    report = reading.report
    tests: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for check in reading.checks:
        places = reading.findings_of(check["name"])
        if not check["ran"] or any(map(reading.decisive, places)):
            kind = "failedTests"
        else:
            kind = "warnedTests" if reading.counted.intersection(places) else "passedTests"
        tests[kind].append(check["name"])
    return {"result": RESULTS[report["gate"]["decision"]], "configuration": configuration(reading), **tests}


def configuration(reading: Reading) -> list[dict[str, Any]]:
    report = reading.report
    provenance, gate, verdict = report["provenance"], report["gate"], report["verdict"]
    sets = [
        {
            "name": name,
            "digest": digest_bits(shard["digest"]),
            "annotations": {"path": reading.run.get(name), "samples": shard["samples"], "skipped": shard["skipped"]},
        }
        for name in ("clean", "suspect")
        for shard in provenance["data"][name]
    ]
    tool = {"version": reading.version, "options": provenance["options"], "fail_on": gate["fail_on"], "seed": provenance["seed"]}
    judged = {"outcome": verdict["outcome"], "decision": gate["decision"], "exit_code": gate["exit_code"]}
    judged |= {"score": report["score"], "reason": gate["reason"], "checks": verdict["checks"], "gaps": verdict["gaps"]}
    return [
        *sets,
        {"name": "naa-fast", "uri": f"pkg:pypi/naa-fast@{reading.version}", "annotations": tool},
        {"name": "report.json", "digest": {"sha256": reading.sha256}, "mediaType": "application/json", "annotations": judged},
    ]
