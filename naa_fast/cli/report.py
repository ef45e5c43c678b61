"""`naa-fast report`: a report folder in, the same report drawn again. Needs neither the model nor the data."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from naa_fast.cli.judging import add_drawing, screen
from naa_fast.cli.shared import clean, emit, note

EXAMPLES = (
    "naa-fast report naa-report --format sarif,junit,markdown",
    "naa-fast report naa-report --single-file",
)


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "draw a report again, and write other formats of it, from report.json and what lies beside it"
    parser = verbs.add_parser("report", help=about, description=about, parents=parents)
    parser.examples = EXAMPLES
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="report folder of scan or compare")
    add_drawing(parser.add_argument_group("reporting"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The exit code is the one that the command ended with that made the report."""
    from naa_fast.report.files import REPORT
    from naa_fast.report.folder import redraw
    from naa_fast.report.reload import reload
    from naa_fast.report.summary import summary

    folder: Path = arguments.folder
    judgement, provenance = reload(folder)
    written = redraw(judgement, folder, provenance, arguments.single_file, arguments.format)
    if arguments.json:
        emit((folder / REPORT).read_text("ascii").rstrip("\n"))
    else:
        emit(summary(judgement, verbose=arguments.verbose, provenance=provenance, **screen()).rstrip("\n"))
    place = f"report: {folder / 'report.html'} ({len(written)} files drawn again in {folder}{os.sep})"
    if arguments.json:
        note(place)
    else:
        emit(clean(place))
    arguments.outcome, arguments.decision = judgement.verdict.outcome, judgement.gate.decision
    return judgement.gate.exit_code
