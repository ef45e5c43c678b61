"""JUnit XML, which every CI draws: `junit_bytes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from naa_fast.report.reading import TEXT, Reading, line_of, question
from naa_fast.report.words import printable

SUITE = "naa-fast"


def junit_bytes(reading: Reading) -> bytes:
    """One case a check, skipped where it did not run, failed where it has findings of --fail-on or above that count; and the case
    `verdict`, failed where the gate says fail, an error where it is inconclusive: a suite of skipped cases alone would be green.
    """
    cases = [*(case_of(reading, check) for check in reading.checks), verdict_of(reading)]
    counts = {kind: sum(case.find(tag) is not None for case in cases) for kind, tag in KINDS.items()}
    attributes = {"name": SUITE, "tests": str(len(cases)), **{kind: str(count) for kind, count in counts.items()}}
    suites = Element("testsuites", {name: value for name, value in attributes.items() if name != "skipped"})  # as Jenkins has it
    began = {"timestamp": reading.run["began"][:19]} if reading.run.get("began") else {}
    suite = SubElement(suites, "testsuite", {**attributes, "time": f"{seconds(reading):.3f}", **began})
    properties = SubElement(suite, "properties")
    for name, value in (("model", reading.model), ("outcome", reading.report["outcome"]), ("report.json sha256", reading.sha256)):
        SubElement(properties, "property", {"name": name, "value": printable(value, TEXT)})
    suite.extend(cases)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(suites, encoding="utf-8") + b"\n"


KINDS = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def seconds(reading: Reading) -> float:
    times = reading.report["provenance"].get("times") or {}
    return float(times.get("total_s") or 0.0)


def case(reading: Reading, name: str) -> Element:
    return Element("testcase", {"classname": f"{SUITE}.{printable(reading.model)}", "name": name, "time": "0"})


def case_of(reading: Reading, check: Mapping[str, Any]) -> Element:
    made = case(reading, f"{check['name']}: {question(check)}")
    places = reading.findings_of(check["name"])
    decisive = [place for place in places if reading.decisive(place)]
    if not check["ran"] and not decisive:
        SubElement(made, "skipped", {"message": printable(check["reason"], TEXT)})
    if decisive:
        lines = [line_of(reading.report["findings"][place]) for place in decisive]
        failure = SubElement(made, "failure", {"type": reading.report["findings"][decisive[0]]["level"], "message": lines[0]})
        failure.text = "\n".join(lines)
    rest = [place for place in places if place not in decisive]
    if rest:
        SubElement(made, "system-out").text = "\n".join(below(reading, place) for place in rest)
    return made


def below(reading: Reading, place: int) -> str:
    counted = "" if place in reading.counted else " (in the baseline, or accepted)"
    return line_of(reading.report["findings"][place]) + counted


def verdict_of(reading: Reading) -> Element:
    gate = reading.report["gate"]
    made = case(reading, "verdict")
    tag = {"fail": "failure", "inconclusive": "error"}.get(gate["decision"])
    if tag:
        SubElement(made, tag, {"type": gate["decision"], "message": printable(gate["reason"], TEXT)})
    lines = [printable(reading.report["sentence"], TEXT), *(below(reading, place) for place in reading.findings_of(""))]
    SubElement(made, "system-out").text = "\n".join(lines)
    return made
