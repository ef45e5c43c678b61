"""The tables of a page: findings, what ran and what did not, and provenance, as the template prints them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from naa_fast.detect.checks import ABOUT
from naa_fast.detect.evidence import TAIL
from naa_fast.detect.findings import LEVELS, ROOT
from naa_fast.detect.judgement import Judgement
from naa_fast.report.units import measured, web_text

NAME = 120
SHOWN_FINDINGS = 5
LONGEST_VALUE = 400


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
        rows = tuple(
            (web_text(f.layer or ROOT, NAME), *measured(f, judgement.limit_on), f.statement) for f in members[:SHOWN_FINDINGS]
        )
        if members:
            shown.append(FindingsLevel(level, len(members), rows, len(members) - len(rows)))
    return shown


@dataclass(frozen=True)
class CheckView:
    """A check, whether it ran, and what it saw or why it did not run."""

    name: str
    ran: bool
    detail: str


def checks_view(judgement: Judgement) -> list[CheckView]:
    """What the verdict rests on, in its order."""
    evidence, ranking = judgement.evidence, judgement.evidence.ranking
    layers, neurons = len(judgement.layers), sum(layer.neurons for layer in judgement.layers.values())
    sizes = f"{judgement.clean.samples:,} clean and {judgement.suspect.samples:,} suspect samples"
    seen = {"shift": f"{sizes}, {layers} layers, {neurons:,} neurons"}
    if ranking is not None:
        reach = f"{100 * (1 - TAIL):g} % of clean samples reach"
        seen["ranking"] = f"{len(ranking.scores):,} samples, {ranking.beyond:,} beyond what {reach}"
    if evidence.forwards:
        seen["proof"] = f"{evidence.forwards:,} samples run with candidates on them"
    accepted = judgement.verdict.accepted
    return [
        CheckView(
            f"{check.name}: {ABOUT[check.name]}",
            check.ran,
            seen.get(check.name, "") if check.ran else check.reason + "; accepted as not run" * (check.name in accepted),
        )
        for check in judgement.verdict.checks
    ]


def provenance_view(provenance: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Key and lines of each entry, in the order a person asks: what was scanned, with what, how."""
    first = ("model", "data", "versions", "device", "backends", "options", "seed")
    keys = [key for key in first if key in provenance] + [key for key in provenance if key not in first]
    return [(web_text(key, NAME), [web_text(line, LONGEST_VALUE) for line in lines_of(provenance[key])]) for key in keys]


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
