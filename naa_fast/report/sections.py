"""The tables of a page: findings, what ran and what did not, and provenance, as the template prints them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from naa_fast.detect.checks import ABOUT
from naa_fast.detect.evidence import TAIL
from naa_fast.detect.findings import LEVELS, ROOT
from naa_fast.detect.inversion import Inversion
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.tails import samples_counted
from naa_fast.report.units import measured, web_text

NAME = 120
SHOWN_FINDINGS = 5
RAN = {"ran": "yes", "ran in part": "in part", "did not run": "no"}
LONGEST_VALUE = 400
CURE = "whether silencing what was found cures the model"
"""What a repair answers; a note begins with it where there is none."""
OF_TEXTS = {
    "other camera, other writers": "other authors, other topics",
    "frames of a video or bursts of photographs": "parts or versions of one text",
}
"""What stands in `detect.coverage.NOT_CHECKED`, and what is said of texts in its place."""
TRIED = ("none of ", "the best of ")
"""How a note goes on where repairs were tried (`naa_fast.repair.search`)."""


@dataclass(frozen=True)
class FindingsLevel:
    """The findings of one level, the farthest above the limit first: layer, number, limit, statement; `more` are not shown."""

    level: str
    count: int
    rows: tuple[tuple[str, str, str, str], ...]
    more: int


def findings_view(judgement: Judgement) -> list[FindingsLevel]:
    """Strongest level first."""
    shown = []
    for level in reversed(LEVELS):
        members = sorted((f for f in judgement.verdict.findings if f.level == level), key=lambda f: -f.value)
        rows = tuple((web_text(f.layer or ROOT, NAME), *measured(f), f.statement) for f in members[:SHOWN_FINDINGS])
        if members:
            shown.append(FindingsLevel(level, len(members), rows, len(members) - len(rows)))
    return shown


@dataclass(frozen=True)
class CheckView:
    """A check, the question it answers, whether it `ran` ("yes", "no", "in part", of a repair also "yes, none found"), and what
    it saw or why it did not run.
    """

    name: str
    question: str
    ran: str
    detail: str


def limits_view(judgement: Judgement) -> list[str]:
    """What the verdict cannot tell, of texts without cameras and videos."""
    evidence = judgement.evidence
    lines = list(judgement.verdict.not_checked)
    if not evidence.texts and not any(proof.tokens for proof in evidence.proof):
        return lines
    for seen, read in OF_TEXTS.items():
        lines = [line.replace(seen, read) for line in lines]
    return lines


def checks_view(judgement: Judgement) -> list[CheckView]:
    """The checks of the verdict, and the repair, which is none but was tried or not."""
    saw = seen_by(judgement)
    checks = []
    for check in judgement.verdict.checks:
        waived = "; accepted as not run" if check.name in judgement.verdict.accepted else ""
        known = saw.get(check.name, "") if check.ran or check.in_part else ""
        detail = "; ".join(filter(None, [check.reason, known])) + waived
        checks.append(CheckView(check.name, ABOUT[check.name], RAN[check.fate], detail))
    repair = judgement.repair
    if judgement.verdict.outcome == "fail":
        why = next(
            (note.partition(": ")[2] for note in judgement.verdict.not_checked if note.startswith(CURE)), "it was not tried"
        )
        detail = why if repair is None else f"{repair.tried:,} tried, {repair.forwards:,} samples run"
        tried = why.startswith(TRIED)
        ran = "yes" if repair is not None else "yes, none found" if tried else "no"
        checks.append(CheckView("repair", CURE, ran, detail))
    return checks


def seen_by(judgement: Judgement) -> dict[str, str]:
    """What each check that ran has seen, in numbers."""
    evidence, ranking = judgement.evidence, judgement.evidence.ranking
    neurons = sum(layer.neurons for layer in judgement.layers.values())
    size = f"{len(judgement.layers):,} layer{'s' * (len(judgement.layers) != 1)}, {neurons:,} neurons"
    sets = f"{judgement.clean.samples:,} clean and {judgement.suspect.samples:,} suspect samples"
    saw = {"shift": f"{sets}, {size}", "predictions": f"{int((judgement.suspect.predictions > 0).sum()):,} classes predicted"}
    counted = samples_counted(list(judgement.layers.values()))[0]
    few = f", {counted:,} of {judgement.suspect.samples:,} suspect samples" if counted < judgement.suspect.samples else ""
    saw["tails"] = f"every neuron of {size}{few}"
    saw["directions"] = f"{len(evidence.directions):,} directions held against random labels"
    saw["proof"] = f"{evidence.forwards:,} samples run with candidates on them"
    if evidence.inversion is not None:
        saw |= inverted_by(evidence.inversion)
    if ranking is not None:
        beyond = f"{ranking.beyond:,} beyond what {100 * (1 - TAIL):g} % of clean samples reach"
        saw["ranking"] = f"{len(ranking.scores):,} samples, {beyond}"
    return saw


def inverted_by(inversion: Inversion) -> dict[str, str]:
    """The same of the checks of a search without suspect samples."""
    classes = len({item.target for item in inversion.searches})
    cost = f"{inversion.forwards:,} samples forward, {inversion.backwards:,} back"
    first = next(iter(inversion.neurons), None)
    raised = "no neuron could be raised"
    if first is not None:
        name = web_text(first.layer or ROOT, NAME)
        raised = f"most: {name} [{first.neuron}] turns {100 * first.share:.0f} % of some samples to class {first.target}"
    return {
        "triage": ", ".join(f"{item.check} {item.value:.1f} (limit {item.limit:g})" for item in inversion.suspicions),
        "stimulation": raised,
        "reconstruction": f"{len(inversion.searches):,} triggers for {classes:,} of {inversion.classes:,} classes; {cost}",
    }


@dataclass(frozen=True)
class GateView:
    """What a script is told, in sentences; `rules` it went by, as `(option, value)`."""

    exit_code: int
    decision: str
    reason: str
    rules: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def gate_view(judgement: Judgement) -> GateView:
    gate, rules = judgement.gate, judgement.rules
    baseline = "none" if rules.baseline is None else f"{rules.baseline.file} (sha256 {rules.baseline.sha256})"
    shown = (
        ("--fail-on", rules.fail_on),
        ("--baseline", baseline),
        ("--allow", rules.allow or "none"),
        ("--warn-ok", "yes" if rules.warn_ok else "no"),
        ("--accept-unranked", ", ".join(judgement.verdict.accepted) or "nothing"),
    )
    return GateView(gate.exit_code, gate.decision, gate.reason, shown, gate.notes)


def provenance_view(provenance: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Key and lines of each entry, in the order a person asks: what was scanned, with what, how."""
    first = ("run", "model", "data", "versions", "device", "backends", "options", "seed")
    keys = [key for key in first if key in provenance] + [key for key in provenance if key not in first]
    shown = dict(provenance)
    if isinstance(shown.get("run"), Mapping) and shown["run"].get("command"):
        shown["run"] = {**shown["run"], "command": shlex.join(shown["run"]["command"])}
    return [(web_text(key, NAME), [web_text(line, LONGEST_VALUE) for line in lines_of(shown[key])]) for key in keys]


def lines_of(value: Any, before: str = "") -> list[str]:
    """A JSON value as lines: `clean: digest ..., samples 450, skipped 0`."""
    if isinstance(value, Mapping):
        if all(not isinstance(item, Mapping | list) for item in value.values()):
            return [before + ", ".join(f"{key} {plain_value(item)}" for key, item in value.items())] if value else []
        return [line for key, item in value.items() for line in lines_of(item, f"{before}{key}: ")]
    if isinstance(value, list):
        return [line for item in value for line in lines_of(item, before)]
    return [] if value is None else [f"{before}{plain_value(value)}"]


def plain_value(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
