"""`naa-fast rank`: model and both sets in, the suspect samples out, those farthest outside the clean set first."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naa_fast.cli.outputs import check_file, quarantine_of
from naa_fast.cli.scan import add_proof, add_sets
from naa_fast.cli.shared import (
    add_long,
    add_model,
    add_running,
    clean,
    counted,
    emit,
    fit_positions,
    model_of,
    model_place,
    note,
    place_of,
    positive,
    running,
    sources_of,
)
from naa_fast.detect.checks import missing_lines
from naa_fast.errors import EXIT_INCONCLUSIVE, EXIT_PASS, InputError, Stopped, UsageError
from naa_fast.files import write_file

if TYPE_CHECKING:
    from naa_fast.detect.evidence import Ranking
    from naa_fast.result import Audit

DEFAULT_LINES = 1000
UNNAMED = Path("naa-rank")
"""What the list of unusable samples is named after where the ranking goes to stdout."""
LINES_AT_ONCE = 4096

EPILOG = """columns: rank from 1 on, sample (its place in the suspect set), score (-log of the share of clean samples that lie as
far from others of their predicted class), predicted class, triggered (whether it holds a proven trigger: true, false or unknown;
those that do come first), file, and, for the 1,000 highest scores, the neurons that deviate most: LAYER[NEURON] and the distance
in clean standard deviations. Names in csv are made safe for terminals and spreadsheets; jsonl has them exact. Exit code 0 once
the samples are ranked and a proof was tried (or --no-proof asked for none), whatever was found: a verdict is what scan gives. 3:
no proof could be tried, so that nobody knows which samples carry a trigger."""


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "list the suspect samples that lie farthest outside what clean samples do"
    parser = verbs.add_parser("rank", help=about, description=about, epilog=EPILOG, parents=parents)
    parser.examples = ("naa-fast rank --model net.py:build --clean clean.npz --suspect suspect.npz -k all --out samples.csv",)
    add_model(parser)
    add_sets(parser)
    add_running(parser)
    add_long(parser)
    group = parser.add_argument_group("ranking")
    group.add_argument("-k", type=how_many, default=DEFAULT_LINES, metavar="N|all", help="samples to list (default: 1000)")
    group.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="form of the lines (default: csv)")
    add_proof(group)
    group.add_argument("--out", type=Path, metavar="FILE", help="file to write the lines to (default: stdout)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.stop_early:
        raise UsageError("--stop-early with rank", "samples are ranked by the class they are called", "leave --stop-early out")
    listed = quarantine_of(arguments.out or UNNAMED)
    read = [place_of(path) for path in (arguments.clean, arguments.suspect)]
    for path in (listed, *([arguments.out] if arguments.out else [])):
        check_file(path, [*read, arguments.weights, model_place(arguments.model)])
    from naa_fast import audit

    sets = sources_of(arguments, arguments.clean, arguments.suspect)
    with running(arguments, listed) as (ranks, options):
        if ranks.count > 1:
            raise UsageError("rank under torchrun", "samples are ranked in one process", "start it without torchrun")
        model, device = model_of(arguments)
        fit_positions(model, sets)
        stop = None
        try:
            ranked = audit.scan(model, *sets, device=device, proof=not arguments.no_proof, budget=arguments.budget, **options)
        except Stopped as error:
            if error.audit is None or error.audit.ranking is None:
                raise
            ranked, stop = error.audit, error
    ranking = ranking_of(ranked)
    lines = table_of(ranking, arguments)
    if arguments.out is None:
        for block in blocks(lines):
            emit(block.removesuffix("\n"))
    else:
        write_file(arguments.out, "".join(lines).encode("utf-8"))
        rows = min(len(ranking.scores), arguments.k or len(ranking.scores))
        emit(clean(f"{arguments.out}: {rows:,} of {counted(len(ranking.scores), 'sample')}"))
    untried = [check for check in ranked.verdict.checks if check.name == "proof" and not arguments.no_proof]
    missing = [*missing_lines(untried), *ranked.judgement.evidence.gaps]
    note(*missing)
    if stop is not None:
        note(stop.headline, *(f"  {line}" for line in stop.details))
        return stop.exit_code
    return EXIT_INCONCLUSIVE if missing else EXIT_PASS


def how_many(text: str) -> int | None:
    """A number of lines, or None for all."""
    return None if text == "all" else positive(text)


def ranking_of(result: Audit) -> Ranking:
    if result.ranking is None:
        reasons = [check.reason for check in result.verdict.checks if check.name == "ranking"]
        raise InputError("the samples cannot be ranked", *reasons)
    return result.ranking


def table_of(ranking: Ranking, arguments: argparse.Namespace) -> Iterator[str]:
    from naa_fast.report.table import table_lines

    return table_lines(ranking, arguments.format, arguments.k)


def blocks(lines: Iterable[str]) -> Iterator[str]:
    """Many lines at a time: stdout is flushed after each block."""
    left = iter(lines)
    while block := "".join(islice(left, LINES_AT_ONCE)):
        yield block
