"""The judgement in words: `summary`, for summary.txt and the terminal, short (brief.py) or, if asked for, all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from naa_fast.detect.accuracy import clean_accuracy
from naa_fast.detect.directions import BEYOND
from naa_fast.detect.evidence import PLACE_IN_SET, TAIL, Evidence
from naa_fast.detect.findings import LEVELS
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.repair import TRIGGERED, Repair
from naa_fast.report.brief import USUAL, WIDEST, brief, checked, coloured, nearest, told
from naa_fast.report.run import run_lines
from naa_fast.report.units import LEAST_P, measured
from naa_fast.report.words import column, counted, display_cells, number, printable, wrapped

NARROWEST = 80
"""Cells the table needs."""
NAME_CELLS = 60
SENTENCE_CELLS = 600
RUN_CELLS = 2000
LINES_PER_LEVEL = 5
LINES_NOT_CHECKED = 8
ROWS_UNKNOWN = 5
ROWS_SAMPLES = 10
MARKS = {True: "  * ", False: "    ", None: "  ? "}


def summary(
    judgement: Judgement,
    width: int = USUAL,
    verbose: bool = False,
    colour: bool = False,
    provenance: Mapping[str, object] | None = None,
) -> str:
    """What a person reads, 40 lines at most (`brief`), or with `verbose` all of it. `colour`: for a terminal that shows it.
    `provenance` says what was scanned, and when.
    """
    ran = run_lines(provenance or {}, RUN_CELLS if verbose else min(max(width, NARROWEST), WIDEST))
    if not verbose:
        return brief(judgement, width, colour, ran)
    text = full(judgement, width, ran)
    return coloured(text, judgement.verdict.outcome) if colour else text


def full(judgement: Judgement, width: int = USUAL, ran: Sequence[str] = ()) -> str:
    """All that a person may ask: outcome, sentence, limits, findings, the top neurons, coverage, what was not checked, and the
    lines of the run (`ran`).

    Lines of at most `width` cells (NARROWEST at least), ending in a newline; safe on a terminal for any layer names.
    """
    width = max(width, NARROWEST)
    parts = [
        heading(judgement, width),
        findings(judgement, width),
        top_neurons(judgement, width),
        top_samples(judgement.evidence, width),
        strongest_direction(judgement.evidence, width),
        cure(judgement.repair, width),
        coverage(judgement, width),
        not_checked(judgement.verdict.not_checked, width),
        [shown for line in ran for shown in wrapped(printable(line, RUN_CELLS), width)],
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
        *wrapped(told(judgement), width),
        "",
        *wrapped(f"{number(verdict.score)} (0: the sets are alike, 1: a proof without exception)", width, "score     "),
        *wrapped(f"{number(verdict.z)}, the largest difference in standard deviations of a sample", width, "largest z "),
        *wrapped(p_value(verdict.p_value), width, "p-value   "),
        *wrapped(limit, width, "abnormal  "),
        *wrapped(checked(verdict.checks), width, "checks    "),
    ]


def p_value(p: float) -> str:
    if p != p:
        return "none: the clean set is too small to say what chance would do"
    shown = f"p < {LEAST_P:.0e}".replace("e-0", "e-") if p < LEAST_P else number(p)
    return f"{shown}, the probability that a clean set differs this much, as far as eight folds can tell"


def findings(judgement: Judgement, width: int) -> list[str]:
    """The findings, strongest level first, the farthest above its limit first, at most LINES_PER_LEVEL a level."""
    lines, stated = ["Findings"], judgement.verdict.findings
    levels = [*reversed(LEVELS), *sorted({finding.level for finding in stated} - set(LEVELS))]
    for level in levels:
        members = sorted((f for f in stated if f.level == level), key=lambda f: -f.value)
        if members:
            lines.append(f"  {level} ({len(members)})")
        for finding in members[:LINES_PER_LEVEL]:
            value, limit = measured(finding)
            text = f"{value} (limit {limit}), {printable(finding.statement, SENTENCE_CELLS)}"
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
        ("view", [row.view or "-" for row in rows]),
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
    triggered = int(ranking.triggered.sum()) if ranking.triggered is not None else 0
    beyond = f"{ranking.beyond} of {len(ranking.scores)} beyond what {100 * (1 - TAIL):g} % of clean samples reach"
    proved = any(proof.stands for proof in evidence.proof)
    uncertain = int(ranking.uncertain.sum()) if ranking.uncertain is not None and proved else 0
    marks = [f"{triggered} carry a proven trigger, marked *"] if triggered else []
    marks += [f"of {uncertain} it is unknown whether they do, marked ?"] if uncertain else []
    marks += [] if ranking.numbering == PLACE_IN_SET else [ranking.numbering]
    lines = wrapped(f"Top samples ({'; '.join([beyond, *marks])})", width)
    for sample in ranking.top[:ROWS_SAMPLES]:
        deviating = ", ".join(f"{printable(layer, 24)}[{neuron}] {number(z)}" for layer, neuron, z in sample.deviating)
        called = printable(evidence.names.of(sample.predicted), 40) if sample.predicted >= 0 else ""
        name = f"  {printable(sample.file, 40)}" if sample.file else ""
        text = f"{sample.sample}{name}  score {number(sample.score)}  {called}  deviating: {deviating or 'not kept'}"
        lines += wrapped(text, width, MARKS[sample.triggered if proved else False], "      ")
    return lines + nearest(evidence, width)


def strongest_direction(evidence: Evidence, width: int) -> list[str]:
    """The direction farthest above chance, and what it is held against."""
    if not evidence.directions:
        return []
    direction = evidence.directions[0]
    neurons = ", ".join(str(neuron) for neuron, _ in direction.neurons)
    than = "more" if direction.stands else "no more"
    how = f"t {number(direction.statistic)}, chance up to {number(direction.limit)}: {than} than chance"
    text = (
        f"Strongest direction: {direction.kind} in {printable(direction.layer) or 'the whole model'}, "
        f"{number(direction.effect)} clean standard deviations, "
        f"{100 * direction.beyond:.0f} % beyond {100 * BEYOND:g} % of clean samples ({how}; mostly neurons {neurons})"
    )
    return wrapped(text, width)


def cure(repair: Repair | None, width: int) -> list[str]:
    """The repair, what it does, and what a random repair does."""
    if repair is None:
        return []
    what = " and ".join(f"{change.words} in {printable(change.layer)}" for change in repair.changes)
    samples = f"{repair.samples} clean samples" if repair.on == TRIGGERED else f"the {repair.samples} highest-ranked suspects"
    most = f"interval to {100 * repair.interval[1]:.0f} %"
    effect = f"turns {100 * repair.after:.0f} % of {samples} ({most}) instead of {100 * repair.before:.0f} %"
    random = "along random directions" if any(change.directions for change in repair.changes) else "with random neurons"
    text = (
        f"Repair: {what}, and the trigger {effect} ({random}: {100 * repair.control:.0f} %); {100 * repair.kept:.1f} % of "
        f"{repair.clean_samples} clean predictions stay (the best of {repair.tried} repairs, {repair.forwards} samples run)"
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
    scores = sorted({words for m in (judgement.clean, judgement.suspect) for words in m.provenance.get("scores", ())})
    lines += wrapped(f"Class scores: {printable('; '.join(scores), SENTENCE_CELLS)}", width) if scores else []
    return lines + ([f"Model: {printable(model, width - 7)}"] if model else [])


def not_checked(lines: Sequence[str], width: int) -> list[str]:
    """What the verdict does not cover."""
    if not lines:
        return []
    shown = [wrapped(printable(line, SENTENCE_CELLS), width, "  - ") for line in lines[:LINES_NOT_CHECKED]]
    return ["Not checked", *(line for item in shown for line in item), *more(len(lines) - LINES_NOT_CHECKED, "  ")]


def more(how_many: int, indent: str) -> list[str]:
    return [f"{indent}… and {how_many} more"] if how_many > 0 else []
