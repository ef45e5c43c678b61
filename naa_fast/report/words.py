"""The judgement in words, for summary.txt and the terminal: `summary`; `printable` and `number` serve other modules too."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from math import floor, isfinite, log10

from naa_fast.detect.accept import Gate
from naa_fast.detect.accuracy import clean_accuracy
from naa_fast.detect.checks import Check, listed
from naa_fast.detect.directions import BEYOND
from naa_fast.detect.evidence import TAIL, Evidence
from naa_fast.detect.findings import LEVELS, Finding
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.repair import TRIGGERED
from naa_fast.detect.verdict import EXIT_CODES

NARROWEST = 80
"""Cells the table needs."""
NAME_CELLS = 60
SENTENCE_CELLS = 600
LINES_PER_LEVEL = 5
LINES_NOT_CHECKED = 8
ROWS_UNKNOWN = 5
ROWS_SAMPLES = 10
MARKS = {True: "  * ", False: "    ", None: "  ? "}

UNSHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn", "Me"}
"""Categories of characters that are invisible, move the cursor, turn the line round, or stack on their neighbours."""
RIGHT_TO_LEFT = {"R", "AL", "AN"}
"""Letters that reorder the numbers after them on their line: in a table that is a forged number."""


def summary(judgement: Judgement, width: int = 100) -> str:
    """What a person reads: outcome, sentence, limits, findings, the top neurons, coverage, and what was not checked.

    Lines of at most `width` cells (NARROWEST at least), ending in a newline; safe on a terminal for any layer names.
    """
    width = max(width, NARROWEST)
    parts = [
        heading(judgement, width),
        findings(judgement.verdict.findings, width),
        top_neurons(judgement, width),
        top_samples(judgement.evidence, width),
        strongest_direction(judgement.evidence, width),
        cure(judgement.evidence, width),
        coverage(judgement, width),
        not_checked(judgement.verdict.not_checked, width),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def heading(judgement: Judgement, width: int) -> list[str]:
    verdict = judgement.verdict
    calibrated = judgement.threshold is None
    limit = (
        f"z > {number(judgement.limit)} standard deviations (z: the larger of two, over the samples' means and their maxima)"
        if calibrated
        else f"|mean difference| > {number(judgement.limit)} in each layer's own units, as given"
    )
    return [
        f"{verdict.outcome.upper()} (exit code {judgement.gate.exit_code})",
        *wrapped(printable(verdict.sentence, SENTENCE_CELLS), width),
        *([] if agrees(judgement) else wrapped(told(judgement.gate), width)),
        "",
        *wrapped(f"{number(verdict.score)} (0: the sets are alike, 1: a proof without exception)", width, "score     "),
        *wrapped(f"{number(verdict.z)}, the largest difference in standard deviations of a sample", width, "largest z "),
        *wrapped(p_value(verdict.p_value), width, "p-value   "),
        *wrapped(limit, width, "abnormal  "),
        *wrapped(checked(verdict.checks), width, "checks    "),
    ]


def agrees(judgement: Judgement) -> bool:
    """Whether a script is told what the outcome says by itself."""
    return judgement.gate.exit_code == EXIT_CODES[judgement.verdict.outcome]


def told(gate: Gate) -> str:
    """Why a script is told something else than the outcome."""
    return f"For scripts: {gate.decision}, exit code {gate.exit_code}. {printable(gate.reason, SENTENCE_CELLS)}."


def checked(checks: Sequence[Check]) -> str:
    """Which checks ran; why others did not stands under what was not checked."""
    done, missing = ([check.name for check in checks if check.ran == ran] for ran in (True, False))
    return f"{listed(done) or 'none'} ran" + (f"; {listed(missing)} did not" if missing else "")


def p_value(p: float) -> str:
    if p != p:
        return "none: the clean set is too small to say what chance would do"
    return f"{number(p)}, the probability that a clean set differs this much, as far as eight folds can tell"


def findings(found: Sequence[Finding], width: int) -> list[str]:
    """The findings, strongest level first, the farthest above its limit first, at most LINES_PER_LEVEL a level."""
    lines = ["Findings"]
    levels = [*reversed(LEVELS), *sorted({finding.level for finding in found} - set(LEVELS))]
    for level in levels:
        members = sorted((f for f in found if f.level == level), key=lambda f: -f.value)
        if members:
            lines.append(f"  {level} ({len(members)})")
        for finding in members[:LINES_PER_LEVEL]:
            text = f"{number(finding.value)} (limit {number(finding.limit)}), {printable(finding.statement, SENTENCE_CELLS)}"
            lines += wrapped(f"{printable(finding.layer)}: {text}", width, "    ", "      ")
        lines += more(len(members) - LINES_PER_LEVEL, "    ")
    return lines if len(lines) > 1 else ["Findings: none"]


def top_neurons(judgement: Judgement, width: int) -> list[str]:
    """The ranking as a table; `*` marks the abnormal, `?` what cannot be compared.

    Of the latter, which the ranking puts first, at most ROWS_UNKNOWN: a layer of NaN shall not push all else off the table.
    """
    abnormal = {name: set(layer.abnormal.tolist()) for name, layer in judgement.layers.items()}
    unknown = {name: set(layer.unknown.tolist()) for name, layer in judgement.layers.items()}
    total_unknown = sum(map(len, unknown.values()))
    ranking = judgement.top(judgement.top_k + total_unknown)
    blind = [row for row in ranking if row.neuron in unknown[row.layer]][:ROWS_UNKNOWN]
    rows = (blind + [row for row in ranking if row.neuron not in unknown[row.layer]])[: judgement.top_k]
    marks = ["*" if row.neuron in abnormal[row.layer] else "?" if row.neuron in unknown[row.layer] else "" for row in rows]
    columns = [
        ("neuron", [str(row.neuron) for row in rows]),
        ("difference", column([row.difference for row in rows])),
        ("z", column([row.z for row in rows])),
        ("clean mean", column([row.clean_mean for row in rows])),
        ("suspect mean", column([row.suspect_mean for row in rows])),
    ]
    widths = [max(map(len, [title, *cells])) for title, cells in columns]
    room = width - 4 - sum(widths) - 2 * len(widths)
    names = ["layer", *(printable(row.layer, min(NAME_CELLS, max(room, 12))) for row in rows)]
    widest = max(map(display_cells, names))
    table = []
    for mark, name, *cells in zip(["", *marks], names, *([title, *cells] for title, cells in columns), strict=True):
        padded = "".join(f"  {text:>{size}}" for text, size in zip(cells, widths, strict=True))
        table.append(f"  {mark:<2}{name}{' ' * (widest - display_cells(name))}{padded}")
    counts = [f"{sum(map(len, abnormal.values()))} abnormal (*)"]
    counts += [f"{total_unknown} that cannot be compared (?)"] if total_unknown else []
    return [*wrapped(f"Top {len(rows)} neurons, of {' and '.join(counts)} in all", width), *table]


def top_samples(evidence: Evidence, width: int) -> list[str]:
    """The highest-ranked suspect samples, and what was tried to prove a trigger."""
    if evidence.ranking is None:
        return []
    ranking = evidence.ranking
    carriers = int(ranking.carriers.sum()) if ranking.carriers is not None else 0
    beyond = f"{ranking.beyond} of {len(ranking.scores)} beyond what {100 * (1 - TAIL):g} % of clean samples reach"
    proved = any(proof.stands for proof in evidence.proof)
    uncertain = int(ranking.uncertain.sum()) if ranking.uncertain is not None and proved else 0
    marks = [f"{carriers} carry a proven trigger, marked *"] if carriers else []
    marks += [f"of {uncertain} it is unknown whether they do, marked ?"] if uncertain else []
    lines = wrapped(f"Top samples ({'; '.join([beyond, *marks])})", width)
    for sample in ranking.top[:ROWS_SAMPLES]:
        lit = ", ".join(f"{printable(layer, 24)}[{neuron}] {number(z)}" for layer, neuron, z in sample.lit)
        called = f"class {sample.predicted}" if sample.predicted >= 0 else ""
        name = f"  {printable(sample.file, 40)}" if sample.file else ""
        text = f"{sample.sample}{name}  score {number(sample.score)}  {called}  lit: {lit or 'not kept'}"
        lines += wrapped(text, width, MARKS[sample.carrier if proved else False], "      ")
    best = next(iter(evidence.proof), None)
    if best is not None and not best.stands:
        tried = (
            f"Nearest to a proof: {best.kind} turns {100 * best.rate:.0f} % to {best.target}, control {100 * best.control:.0f} %"
        )
        lines += wrapped(f"{tried} ({evidence.forwards} samples run)", width)
    return lines


def strongest_direction(evidence: Evidence, width: int) -> list[str]:
    """The direction farthest above chance, and what it is held against."""
    if not evidence.directions:
        return []
    one = evidence.directions[0]
    neurons = ", ".join(str(neuron) for neuron, _ in one.neurons)
    how = f"t {number(one.statistic)}, chance up to {number(one.limit)}: {'more' if one.stands else 'no more'} than chance"
    text = (
        f"Strongest direction: {one.kind} in {printable(one.layer) or 'the whole model'}, {number(one.effect)} clean standard "
        f"deviations, {100 * one.beyond:.0f} % beyond {100 * BEYOND:g} % of clean samples ({how}; mostly neurons {neurons})"
    )
    return wrapped(text, width)


def cure(evidence: Evidence, width: int) -> list[str]:
    """The repair, what it does, and what a random one does."""
    one = evidence.repair
    if one is None:
        return []
    what = " and ".join(f"{change.words} in {printable(change.layer)}" for change in one.changes)
    samples = f"{one.samples} clean samples" if one.on == TRIGGERED else f"the {one.samples} highest-ranked suspects"
    effect = f"turns {100 * one.after:.0f} % of {samples} instead of {100 * one.before:.0f} %"
    random = "along random directions" if any(change.pushes is not None for change in one.changes) else "with random neurons"
    text = (
        f"Repair: {what}, and the trigger {effect} ({random}: {100 * one.control:.0f} %); {100 * one.kept:.1f} % of "
        f"{one.clean_samples} clean predictions stay (the best of {one.tried} repairs, {one.forwards} samples run)"
    )
    return wrapped(text, width)


def coverage(judgement: Judgement, width: int) -> list[str]:
    neurons = sum(layer.neurons for layer in judgement.layers.values())
    sets = [
        f"{m.samples} {name} samples ({m.skipped} skipped)"
        for name, m in (("clean", judgement.clean), ("suspect", judgement.suspect))
    ]
    model = judgement.clean.model or judgement.suspect.model
    lines = wrapped(f"Seen: {', '.join(sets)}; {counted(len(judgement.layers), 'layer')}, {counted(neurons, 'neuron')}", width)
    for line in {line: None for m in (judgement.clean, judgement.suspect) for line in m.provenance.get("inputs", ())}:
        lines += wrapped(printable(line, SENTENCE_CELLS), width, "Read: ")
    accuracy = clean_accuracy(judgement.clean)
    if accuracy is not None and not accuracy.beyond:
        text = f"Clean accuracy: {accuracy.share:.3f} of {counted(accuracy.samples, 'labelled sample')} ({accuracy.words})"
        lines += wrapped(printable(text, SENTENCE_CELLS), width)
    return lines + ([f"Model: {printable(model, width - 7)}"] if model else [])


def not_checked(lines: Sequence[str], width: int) -> list[str]:
    """What the verdict does not cover."""
    if not lines:
        return []
    shown = [wrapped(printable(line, SENTENCE_CELLS), width, "  - ") for line in lines[:LINES_NOT_CHECKED]]
    return ["Not checked", *(line for item in shown for line in item), *more(len(lines) - LINES_NOT_CHECKED, "  ")]


def printable(text: str, limit: int = NAME_CELLS) -> str:
    """`text` on one line, safe on a terminal, of at most `limit` cells; the middle of a longer one gives way to an ellipsis.

    Whatever is invisible, moves the cursor or reorders the line is shown by its code (`\\x1b`, `\\u202e`).
    """
    # Cut before escaping as well: a name may have megabytes.
    if len(text) > 2 * limit:
        text = text[:limit] + "…" + text[-limit:]
    shown = [escaped(character) for character in text]
    if sum(map(display_cells, shown)) <= limit:
        return "".join(shown)
    head, tail = limit // 3, limit - 1 - limit // 3
    return "".join(fitting(shown, head)) + "…" + "".join(reversed(fitting(reversed(shown), tail)))


def escaped(character: str) -> str:
    """The character itself, or its code if it could deceive; a whole code is never cut in two."""
    code = ord(character)
    if 0x20 <= code < 0x7F:
        return character
    hidden = unicodedata.category(character) in UNSHOWN or (character != " " and character.isspace())
    if hidden or unicodedata.bidirectional(character) in RIGHT_TO_LEFT:
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def fitting(pieces: Iterable[str], cells: int) -> list[str]:
    """As many of the first pieces as fit into `cells`."""
    taken: list[str] = []
    for piece in pieces:
        cells -= display_cells(piece)
        if cells < 0:
            break
        taken.append(piece)
    return taken


def display_cells(text: str) -> int:
    """Columns `text` takes on a terminal: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def number(value: float) -> str:
    """A number to read: four digits, six from a thousand on, an exponent only far from one."""
    if not isfinite(value):
        return "NaN" if value != value else "infinite" if value > 0 else "-infinite"
    size = abs(value)
    if size == 0 or 1e-3 <= size < 1e6:
        return f"{value:.{4 if size < 1000 else 6}g}"
    return f"{value:.2e}"


def column(values: Sequence[float]) -> list[str]:
    """Numbers for a table: one count of decimals for all where they are of like size, so that the points align."""
    sizes = [abs(v) for v in values if isfinite(v) and v != 0]
    if not sizes or max(sizes) >= 1e6 or max(sizes) < 1e-3 or max(sizes) > 1e4 * min(sizes):
        return [number(v) for v in values]
    decimals = max(0, 3 - floor(log10(max(sizes))))
    return [f"{v:.{decimals}f}" if isfinite(v) else number(v) for v in values]


def counted(how_many: int, what: str) -> str:
    return f"{how_many} {what}{'' if how_many == 1 else 's'}"


def more(how_many: int, indent: str) -> list[str]:
    return [f"{indent}… and {how_many} more"] if how_many > 0 else []


def wrapped(text: str, width: int, first: str = "", following: str | None = None) -> list[str]:
    """The words of `text` on lines of at most `width` cells, the first behind `first`, the others behind `following`."""
    following = " " * len(first) if following is None else following
    lines: list[str] = []
    line = ""
    for word in text.split():
        rest = word
        while rest:
            start = following if lines else first
            longer = f"{line} {rest}" if line else rest
            if display_cells(start + longer) <= width:
                line, rest = longer, ""
            elif line:
                lines.append(start + line)
                line = ""
            else:
                part = "".join(fitting(rest, width - display_cells(start)))
                lines.append(start + part)
                rest = rest[len(part) :]
    return [*lines, (following if lines else first) + line] if line else lines
