"""`brief`: the summary that fits on a screen, at most LINES lines. `summary.full` and report.html have what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naa_fast.detect.accuracy import clean_accuracy
from naa_fast.detect.checks import Check, listed
from naa_fast.detect.evidence import PLACE_IN_SET, TAIL, Evidence
from naa_fast.detect.findings import LEVELS, ROOT, Finding, called
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.proof import Proof
from naa_fast.detect.repair import TRIGGERED, Repair
from naa_fast.detect.verdict import EXIT_CODES
from naa_fast.report.next_steps import next_steps
from naa_fast.report.units import interval, measured, percent
from naa_fast.report.words import column, counted, display_cells, fitting, number, printable, wrapped

LINES = 40
NARROWEST, WIDEST, USUAL = 40, 140, 100
"""Cells of a line: a terminal may have fewer or more, but nobody reads a longer one."""
ROOMY = 76
"""Cells from which on the table of neurons has all its columns."""
SENTENCE, LINE, NAME = 300, 200, 40
COLOURS = {"pass": 32, "warn": 33, "fail": 31, "inconclusive": 36}


@dataclass(frozen=True)
class Room:
    """How much each part may show."""

    findings: int
    neurons: int
    samples: int
    unchecked: int


SIZES = ((3, 10, 10, 6), (3, 10, 10, 4), (3, 10, 10, 3), (3, 8, 10, 3), (3, 7, 8, 2), (2, 8, 10, 3), (1, 6, 8, 3), (1, 4, 5, 2))
ROOMS = tuple(Room(*sizes) for sizes in SIZES)


def brief(judgement: Judgement, width: int = USUAL, colour: bool = False, ran: Sequence[str] = ()) -> str:
    """Outcome, sentence, what to do, three findings a level, ten neurons, ten samples and what was not checked; fewer of each
    where LINES would not hold them. Lines of at most `width` cells, from 40 to 140, ending in a newline; safe on a terminal
    whatever names say. At most LINES lines from 80 cells on. `ran`: what was scanned, and when, a line each.
    """
    width = min(max(width, NARROWEST), WIDEST)
    lines: list[str] = []
    for room in ROOMS:
        lines = drafted(judgement, width, room, ran)
        if len(lines) <= LINES:
            break
    text = "\n".join(lines) + "\n"
    return coloured(text, judgement.verdict.outcome) if colour else text


def coloured(text: str, outcome: str) -> str:
    """The text with its first word, the outcome, in colour."""
    word = outcome.upper()
    return f"\x1b[1;{COLOURS[outcome]}m{word}\x1b[0m{text.removeprefix(word)}"


def drafted(judgement: Judgement, width: int, room: Room, ran: Sequence[str] = ()) -> list[str]:
    evidence = judgement.evidence
    parts = [
        heading(judgement, width),
        findings(judgement, width, room.findings),
        neurons(judgement, width, room.neurons),
        [*samples(evidence, width, room.samples), *nearest(evidence, width), *cure(judgement.repair, width)],
        [*not_checked(judgement, width, room.unchecked), *(one_line(printable(line, SENTENCE), width) for line in ran)],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines).split("\n")


def heading(judgement: Judgement, width: int) -> list[str]:
    verdict = judgement.verdict
    first = next_steps(judgement)[:1]
    return [
        f"{verdict.outcome.upper()} (exit code {judgement.gate.exit_code})",
        *wrapped(printable(verdict.sentence, SENTENCE), width),
        *wrapped(told(judgement), width),
        *(line for step in first for line in wrapped(printable(step.what, LINE), width, "Next: ")),
    ]


def told(judgement: Judgement) -> str:
    """Why a script is told something else than the outcome; empty where it is not."""
    gate = judgement.gate
    if gate.exit_code == EXIT_CODES[judgement.verdict.outcome]:
        return ""
    return f"For scripts: {gate.decision}, exit code {gate.exit_code}. {printable(gate.reason, SENTENCE)}."


def checked(checks: Sequence[Check]) -> str:
    """Which checks ran; why others did not stands under what was not checked."""
    fates = ("ran", "ran in part", "did not run")
    names = {fate: listed([check.name for check in checks if check.fate == fate]) for fate in fates}
    names["ran"] = names["ran"] or "none"
    return "; ".join(f"{named} {fate.removesuffix(' run')}" for fate, named in names.items() if named)


def one_line(text: str, width: int) -> str:
    """The text in `width` cells, its end left out where it is longer."""
    if display_cells(text) <= width:
        return text
    return "".join(fitting(text, width - 1)).rstrip() + "…"


def findings(judgement: Judgement, width: int, most: int) -> list[str]:
    """A line each, the strongest level first, the farthest above its limit first, `most` a level."""
    lines = []
    for level in reversed(LEVELS):
        members = sorted((f for f in judgement.verdict.findings if f.level == level), key=lambda f: -f.value)
        for at, finding in enumerate(members[:most]):
            label = f"{level} ({len(members)})" if at == 0 else ""
            lines.append(one_line(f"  {label:<{LEVEL_CELLS}} {worded(finding)}", width))
    return ["Findings", *lines] if lines else ["Findings: none"]


LEVEL_CELLS = max(map(len, LEVELS)) + len(" (999)")


def worded(finding: Finding) -> str:
    value, limit = measured(finding)
    where = printable(finding.layer or ROOT, NAME)
    return f"{where}: {value} (limit {limit}), {printable(finding.statement, LINE)}"


def neurons(judgement: Judgement, width: int, most: int) -> list[str]:
    """The `most` abnormal neurons as a table; `*` marks those above the limit, `?` what cannot be compared, two at most."""
    unknown = {name: set(layer.unknown.tolist()) for name, layer in judgement.layers.items()}
    blind = sum(map(len, unknown.values()))
    ranked = judgement.top(most + blind)
    rows = [row for row in ranked if row.neuron in unknown[row.layer]][:2]
    rows = [*rows, *(row for row in ranked if row.neuron not in unknown[row.layer])][:most]
    abnormal = sum(len(layer.abnormal) for layer in judgement.layers.values())
    unit = " σ" if judgement.limit_on == "z" else ""
    more = f", {blind} cannot be compared (?)" if blind else ""
    title = f"Neurons: {abnormal} abnormal (*), {judgement.limit_on} above {number(judgement.limit)}{unit}{more}"
    columns = [
        ("neuron", [str(row.neuron) for row in rows]),
        ("z (σ)", column([row.z for row in rows])),
        ("view", [row.view or "-" for row in rows]),
        ("difference", column([row.difference for row in rows])),
        ("clean mean", column([row.clean_mean for row in rows])),
        (
            f"{'suspect' if judgement.evidence.inversion is None else 'triggered'} mean",
            column([row.suspect_mean for row in rows]),
        ),
    ][: 6 if width >= ROOMY else 2]
    widths = [max(map(len, [name, *cells])) for name, cells in columns]
    names = [
        "layer",
        *(printable(row.layer or ROOT, max(8, min(NAME, width - 4 - sum(widths) - 2 * len(widths)))) for row in rows),
    ]
    widest = max(map(display_cells, names))
    marks = [" ", *(mark_of(row.layer, row.neuron, judgement, unknown) for row in rows)]
    table = []
    for mark, name, *cells in zip(marks, names, *([title_, *cells] for title_, cells in columns), strict=True):
        padded = "".join(f"  {text:>{size}}" for text, size in zip(cells, widths, strict=True))
        table.append(f"  {mark} {name}{' ' * (widest - display_cells(name))}{padded}")
    return [one_line(title, width), *table]


def mark_of(layer: str, neuron: int, judgement: Judgement, unknown: dict[str, set[int]]) -> str:
    if neuron in unknown[layer]:
        return "?"
    abnormal = judgement.layers[layer].abnormal
    place = int(np.searchsorted(abnormal, neuron))
    return "*" if place < len(abnormal) and abnormal[place] == neuron else " "


def samples(evidence: Evidence, width: int, most: int) -> list[str]:
    """The `most` highest-ranked samples, with file and predicted class; `*` carries a proven trigger, `?` may."""
    ranking = evidence.ranking
    if ranking is None:
        return []
    triggered = int(ranking.triggered.sum()) if ranking.triggered is not None else 0
    proved = any(proof.stands for proof in evidence.proof)
    title = f"Samples: {ranking.beyond} of {len(ranking.scores)} beyond what {100 * (1 - TAIL):g} % of clean samples reach"
    uncertain = int(ranking.uncertain.sum()) if ranking.uncertain is not None and proved else 0
    title += f"; {triggered} carry the trigger (*)" if triggered else ""
    title += f"; of {uncertain} it is unknown whether they do (?)" if uncertain else ""
    title += "" if ranking.numbering == PLACE_IN_SET else f"; {ranking.numbering}"
    marks = {True: "*", False: "", None: "?" if proved else ""}
    shown = []
    for sample in ranking.rows(most):
        file = f" {printable(sample.file, NAME)}" if sample.file else ""
        called = f" → {evidence.names.short(sample.predicted)}" if sample.predicted >= 0 else ""
        shown.append(f"{sample.sample}{marks[sample.triggered]}{file}{called}")
    return [*wrapped(title, width), *flowed(shown, width)]


def flowed(entries: Sequence[str], width: int) -> list[str]:
    """The entries one after the other, as many on a line as there is room for, none cut in two."""
    lines: list[str] = []
    for at, entry in enumerate(entries):
        text = entry + ("," if at < len(entries) - 1 else "")
        if lines and display_cells(lines[-1]) + 1 + display_cells(text) <= width:
            lines[-1] += f" {text}"
        else:
            lines.append(one_line(f"  {text}", width))
    return lines


def nearest(evidence: Evidence, width: int) -> list[str]:
    """What came nearest to a proof where none stands, with its words."""
    best: Proof | None = next(iter(evidence.proof), None)
    if best is None or best.stands:
        return []
    what = f"the {best.kind} {printable(best.words, NAME)!r}" if best.words else f"a {best.kind}"
    target = printable(called(evidence, best), NAME)
    text = (
        f"Nearest to a proof: {what} turns {percent(best.rate)} ({interval(best.interval)}) to {target}, "
        f"control {percent(best.control)}{with_words(best)}; {percent(best.limit)} is needed"
    )
    return wrapped(text, width)


def with_words(proof: Proof) -> str:
    """The words that the control was measured with, in parentheses; empty where it was with none."""
    return "" if proof.against is None else f" ({printable(proof.against.words or proof.against.written, NAME)!r})"


def cure(repair: Repair | None, width: int) -> list[str]:
    """The repair and what it leaves."""
    if repair is None:
        return []
    what = " and ".join(f"{change.words} in {printable(change.layer or ROOT, NAME)}" for change in repair.changes)
    effect = "the trigger turns" if repair.on == TRIGGERED else "of the highest-ranked suspects keep their prediction"
    text = (
        f"Repair: {what}: {effect} {percent(repair.after)} instead of {percent(repair.before)} "
        f"(random: {percent(repair.control)}); {percent(repair.kept)} of the clean predictions stay"
    )
    return wrapped(text, width)


def not_checked(judgement: Judgement, width: int, most: int) -> list[str]:
    """What the verdict does not cover, and what was seen."""
    lines = judgement.verdict.not_checked
    rest = f"  … and {len(lines) - most} more" if len(lines) > most else ""
    shown = [one_line(f"  - {printable(line, LINE)}", width) for line in lines[:most]]
    other = "suspect samples" if judgement.evidence.inversion is None else "of them with the strongest trigger made"
    seen = f"Seen: {judgement.clean.samples:,} clean, {judgement.suspect.samples:,} {other}"
    size = sum(layer.neurons for layer in judgement.layers.values())
    last = one_line(f"{seen}; {counted(len(judgement.layers), 'layer')}, {size:,} neurons", width)
    ran = one_line(f"Checks: {checked(judgement.verdict.checks)}", width)
    accuracy = clean_accuracy(judgement.clean)
    right = []
    if accuracy is not None and not accuracy.beyond:
        right = [one_line(f"Clean accuracy: {accuracy.share:.3f} of {counted(accuracy.samples, 'labelled sample')}", width)]
    return [ran, *(["Not checked", *shown, *([rest] if rest else [])] if lines else []), last, *right]
