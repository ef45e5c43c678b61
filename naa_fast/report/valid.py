"""`require_valid`: whether a report.json is what its schema says, and does not contradict itself. It may be anybody's.

The keywords of JSON Schema are those that schema.json uses; one that is added there is added here (a test holds them together).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from naa_fast.detect.baseline import SCHEMA
from naa_fast.detect.findings import LEVELS
from naa_fast.detect.verdict import EXIT_CODES
from naa_fast.errors import EXIT_PASS
from naa_fast.report.machine import load_schema

LIMITS = ("minimum", "maximum", "minItems", "maxItems", "minLength")
KNOWN = {"type", "$ref", "additionalProperties", "required", "properties", "items", "oneOf", "enum", "const", "pattern", *LIMITS}
"""What is checked."""
PROSE = {"description", "title", "format", "$comment", "$schema", "$id", "$defs"}
"""What only a reader needs."""
STOPPED = (75, 130)
"""Exit codes of a scan that was stopped, whatever it decided until then."""
SHOWN = 60


def require_valid(report: Mapping[str, Any]) -> None:
    """Raise ValueError, with the field's name, at the first that is not as the schema has it or contradicts another. Reports of
    an earlier form are held to what their verdict and gate say of each other alone.
    """
    schema = load_schema()
    wrong = next(flaws(report, schema, schema["$defs"], ""), "") if report.get("schema") == SCHEMA else ""
    wrong = wrong or next(contradictions(report), "")
    if wrong:
        raise ValueError(wrong)


def flaws(value: Any, schema: Mapping[str, Any], shared: Mapping[str, Any], place: str) -> Iterator[str]:
    """What of a value is not as a schema says, each with its place: `gate.counted[0] is -1, expected 0 or more`."""
    if "$ref" in schema:
        yield from flaws(value, shared[schema["$ref"].rpartition("/")[2]], shared, place)
    where = f"{place or 'the report'} is {shown(value)}, expected "
    if "oneOf" in schema:
        tried = [[*flaws(value, option, shared, place)] for option in schema["oneOf"]]
        inside = [wrong for wrong in tried if wrong and not wrong[0].startswith(where)]
        if all(tried):  # what is wrong inside of the one it is meant to be, else what it could have been
            either = where + " or ".join(wrong[0].removeprefix(where) for wrong in tried)
            yield from min(inside, key=len) if inside else [either]
        return
    types = schema.get("type", [])
    if types and not any(is_type(value, option) for option in ([types] if isinstance(types, str) else types)):
        yield where + words_of(types)
        return
    if "const" in schema and value != schema["const"]:
        yield where + shown(schema["const"])
    if "enum" in schema and not any(type(value) is type(option) and value == option for option in schema["enum"]):
        yield where + "one of " + ", ".join(map(str, schema["enum"]))
    if is_type(value, "number"):
        if value < schema.get("minimum", value):
            yield f"{where}{schema['minimum']} or more"
        if value > schema.get("maximum", value):
            yield f"{where}{schema['maximum']} or less"
    elif isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            yield where + f"{schema['minLength']} characters or more"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield where + f"text of the form {schema['pattern']}"
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{place} has {len(value)} entries, expected {schema.get('minItems', 0)} to {schema.get('maxItems', 'any')}"
        for number, item in enumerate(value):
            yield from flaws(item, schema.get("items", {}), shared, f"{place}[{number}]")
    elif isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        before = f"{place}." if place else ""
        yield from (f"{before}{name} is missing" for name in schema.get("required", ()) if name not in value)
        for name, item in value.items():
            if name in known:
                yield from flaws(item, known[name], shared, f"{before}{name}")
            elif more is False:
                yield f"{before}{shown(name)} is no field of a report"
            elif more is not True:
                yield from flaws(item, more, shared, f"{before}{name}")


def is_type(value: Any, name: str) -> bool:
    """Whether a value of a JSON file is of a type, by its name there. NaN and what no float holds are no numbers."""
    if name in ("number", "integer"):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 1000
        return whole or (name == "number" and isinstance(value, float) and isfinite(value))
    kinds: dict[str, type] = {"string": str, "boolean": bool, "array": list, "object": dict, "null": type(None)}
    return isinstance(value, kinds[name])


def words_of(types: Any) -> str:
    """`a number or null`."""
    words = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    words |= {"array": "a list", "object": "an object"}
    return " or ".join(words.get(name, name) for name in ([types] if isinstance(types, str) else types))


def shown(value: Any) -> str:
    text = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def contradictions(report: Mapping[str, Any]) -> Iterator[str]:
    """What the outcome, the checks, the findings and the gate say of each other that cannot be."""
    verdict, gate, findings = report["verdict"], report["gate"], report["findings"]
    outcome, gaps, levels = verdict["outcome"], verdict["gaps"], [LEVELS.index(finding["level"]) for finding in findings]
    fails = [level for level in levels if level >= LEVELS.index("backdoor-like")]
    missing = [check["name"] for check in verdict["checks"] if not check["ran"] and check["name"] not in verdict["accepted"]]
    if report["outcome"] != outcome:
        yield f"outcome is {report['outcome']}, and verdict.outcome {outcome}"
    if report["exit_code"] != gate["exit_code"]:
        yield f"exit_code is {report['exit_code']}, and gate.exit_code {gate['exit_code']}"
    if missing and not gaps:
        yield f"verdict.gaps is empty, and the check {missing[0]} did not run"
    kept = {"pass": not gaps and not findings, "warn": bool(findings), "fail": bool(fails), "inconclusive": bool(gaps)}
    if not kept[outcome]:
        yield f"verdict.outcome is {outcome}, with {len(findings)} findings, {len(fails)} of them a fail, and {len(gaps)} gaps"
    if outcome != "fail" and LEVELS.index("proved") in levels:
        yield f"verdict.outcome is {outcome}, and a finding is proved"
    standing = [place for place, proof in enumerate(report["proof"]) if proof["stands"]]
    if standing and LEVELS.index("proved") not in levels:
        yield f"proof[{standing[0]}].stands is true, and no finding is proved"
    if verdict["exit_code"] != EXIT_CODES["inconclusive" if outcome == "warn" and gaps else outcome]:
        yield f"verdict.exit_code is {verdict['exit_code']}, and verdict.outcome {outcome} with {len(gaps)} gaps"
    yield from contradictions_of_gate(gate, outcome, gaps, levels)


def contradictions_of_gate(gate: Mapping[str, Any], outcome: str, gaps: list[str], levels: list[int]) -> Iterator[str]:
    """The same of the gate, by the rules of `detect.accept.gate`: which findings count is what it says."""
    counted = gate["counted"]
    beyond = [place for place in counted if not 0 <= place < len(levels)]
    if beyond or len(set(counted)) < len(counted):
        yield f"gate.counted has {(beyond or counted)[0]}, expected each place of the {len(levels)} findings once"
        return
    decision = outcome
    if outcome in ("warn", "fail"):
        decisive = any(levels[place] >= LEVELS.index(gate["fail_on"]) for place in counted)
        decision = "fail" if decisive else "inconclusive" if gaps else "warn" if counted else "pass"
    if gate["decision"] != decision:
        yield f"gate.decision is {gate['decision']}, and by outcome, findings, gaps and fail_on it is {decision}"
    code = EXIT_PASS if decision == "warn" and gate["warn_ok"] else EXIT_CODES[decision]
    if gate["exit_code"] not in (code, *STOPPED):
        yield f"gate.exit_code is {gate['exit_code']}, and gate.decision {decision}, which is {code}"
