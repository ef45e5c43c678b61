"""Markdown for the job summary of a CI: `markdown_bytes`."""

from __future__ import annotations

import re

from naa_fast.detect.checks import Check
from naa_fast.detect.findings import LEVELS
from naa_fast.report.reading import TEXT, Reading, place_of, question
from naa_fast.report.units import percent
from naa_fast.report.words import printable

MARKS = {"pass": "✅ PASS", "warn": "⚠️ WARN", "fail": "❌ FAIL", "inconclusive": "❔ INCONCLUSIVE"}
ROWS = 5
"""Findings a level, as the page shows."""
LINES = 8


def markdown_bytes(reading: Reading) -> bytes:
    """Outcome, sentence, findings, checks, repair and what was not checked. Names are shown as they are and link nowhere."""
    report = reading.report
    gate = report["gate"]
    lines = [f"## {MARKS[report['outcome']]}: {safe(reading.model)}", "", safe(report["sentence"]), ""]
    lines += [f"Exit code {gate['exit_code']}, {gate['decision']}: {safe(gate['reason'])}", ""]
    lines += [*findings(reading), *checks(reading), *repair(reading)]
    shown = report["not_checked"][:LINES]
    lines += ["<details><summary>Not checked</summary>", "", *(f"- {safe(line)}" for line in shown)]
    more = len(report["not_checked"]) - len(shown)
    lines += [*([f"- and {more} more"] if more > 0 else []), "", "</details>", ""]
    return "\n".join(lines).encode("utf-8")


def safe(text: str) -> str:
    """Text that Markdown and HTML show as it is: all that could be a sign of either is a number. Links, pictures and mentions
    that a name holds are its letters and no more.
    """
    return re.sub(r"[^\w ,;%()'\u0080-\U0010ffff]|_", lambda match: f"&#{ord(match.group())};", printable(text, TEXT))


def findings(reading: Reading) -> list[str]:
    listed = list(enumerate(reading.report["findings"]))
    if not listed:
        return ["Findings: none", ""]
    lines = ["| level | where | what |", "|---|---|---|"]
    for level in reversed(LEVELS):
        members = [(place, finding) for place, finding in listed if finding["level"] == level]
        for place, finding in members[:ROWS]:
            accepted = "" if place in reading.counted else " (in the baseline, or accepted)"
            bold = "**" if reading.decisive(place) else ""
            lines.append(f"| {bold}{level}{bold}{accepted} | {safe(place_of(finding))} | {safe(finding['statement'])} |")
        if len(members) > ROWS:
            lines.append(f"| {level} | | and {len(members) - ROWS} more |")
    return [*lines, ""]


def checks(reading: Reading) -> list[str]:
    ran = [(check, "ran" if check["ran"] else f"{Check.read(check).fate}: {safe(check['reason'])}") for check in reading.checks]
    rows = [f"| {safe(check['name'])} | {safe(question(check))} | {how} |" for check, how in ran]
    return ["| check | what it answers | |", "|---|---|---|", *rows, ""]


def repair(reading: Reading) -> list[str]:
    entry = reading.report["repair"]
    if entry is None:
        return []
    effect = f"{percent(entry['before'])} turned before, {percent(entry['after'])} after"
    kept = f"{percent(entry['kept'])} of clean predictions stay"
    return [f"Repair: {effect} (of {entry['samples']} {safe(entry['on'])}); {kept}. Write it with `naa-fast repair`.", ""]
