"""What the verbs that judge share: the options, what they let count, and how a result is delivered."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naa_fast.cli.outputs import drop_previous
from naa_fast.cli.shared import clean, emit, note, positive
from naa_fast.errors import NaaError

if TYPE_CHECKING:
    from naa_fast.detect.accept import Rules
    from naa_fast.result import Audit

FILE_CELLS = 100


def add_judging(parser: argparse.ArgumentParser) -> None:
    """The options that say what counts as abnormal, and where the report goes."""
    group = parser.add_argument_group("judging and reporting")
    group.add_argument(
        "--threshold",
        type=threshold,
        metavar="T",
        help="neurons whose means differ by more are abnormal, in the layer's units (default: calibrated on the clean set)",
    )
    group.add_argument("--top-k", type=positive, default=20, metavar="K", help="neurons a ranking shows (default: 20)")
    group.add_argument(
        "--fail-on",
        choices=("shift", "outlier", "backdoor-like", "proved"),
        default="backdoor-like",
        help="least level of a finding that gives exit code 1 (default: backdoor-like); those below give 6",
    )
    group.add_argument(
        "--warn-ok", action="store_true", help="exit code 0 in place of 6, where there are findings below --fail-on"
    )
    group.add_argument(
        "--accept-unranked",
        action="store_true",
        help="a pass may rest on means alone, where samples were not ranked or no trigger was tried (default: exit code 3)",
    )
    group.add_argument(
        "--baseline", type=Path, metavar="REPORT.json", help="findings of this earlier report of the same model count nothing"
    )
    group.add_argument(
        "--allow", type=Path, metavar="FILE.json", help="findings accepted there, each with a reason and an expiry date"
    )
    add_drawing(group)


def add_drawing(group: Any) -> None:
    """The options that say what a report is written as, and what is printed."""
    group.add_argument("--json", action="store_true", help="print report.json instead of the summary")
    group.add_argument(
        "--single-file", action="store_true", help="put styles and pictures into report.html, to send it by itself"
    )
    group.add_argument(
        "--format",
        type=formats,
        default=(),
        metavar="NAME,...",
        help="for pipelines, in the report folder: sarif (report.sarif), junit (junit.xml), markdown (report.md, a job summary), "
        "intoto (verdict.intoto.json, a statement to sign)",
    )
    group.add_argument("--verbose", action="store_true", help="print all of the summary, not the 40 lines that fit on a screen")


def formats(text: str) -> tuple[str, ...]:
    known = ("sarif", "junit", "markdown", "intoto")  # those of report.formats, which is not loaded for --help
    names = tuple(filter(None, text.split(",")))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"'{name}' is no format of a report: expected some of {', '.join(known)}")
    return names


def threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a finite number of 0 or more")
    return value


def rules_of(arguments: argparse.Namespace) -> Rules:
    """What the options let count, read before anything is run: a broken file should not cost a scan."""
    from naa_fast.detect.accept import Rules, read_allowlist
    from naa_fast.detect.baseline import read_baseline

    baseline = read_baseline(arguments.baseline) if arguments.baseline is not None else None
    accepted = tuple(read_allowlist(arguments.allow)) if arguments.allow is not None else ()
    return Rules(arguments.fail_on, baseline, accepted, str(arguments.allow or ""), arguments.warn_ok)


def screen() -> dict[str, Any]:
    """How wide a terminal on stdout is, and whether it takes colour; a file or a pipe gets 100 cells and none."""
    if not sys.stdout.isatty():
        return {"width": FILE_CELLS, "colour": False}
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"  # no-color.org
    return {"width": shutil.get_terminal_size().columns, "colour": colour}


def saved(audit: Audit, folder: Path, single_file: bool, formats: tuple[str, ...]) -> list[Path]:
    """Write the report folder. Where that fails it is kept in a temporary folder, which is said, and the error raised."""
    try:
        return audit.save(folder, single_file, formats)
    except (NaaError, OSError):
        try:
            spare = Path(tempfile.mkdtemp(prefix="naa-report-"))
            audit.save(spare, single_file, formats)
        except (NaaError, OSError):
            note("the report could not be kept in a temporary folder either")
        else:
            note(f"the report is in {spare} instead")
        raise


def deliver(audit: Audit, arguments: argparse.Namespace, rules: Rules) -> int:
    """Print the result, write the report folder, return the exit code after what the options let count. What cannot be written
    is an error, and the result is printed all the same; report.json, which says how long the writing took, after it.
    """
    audit = audit.gated(rules)
    folder, as_json, gate = arguments.out, arguments.json, audit.gate
    unprinted: NaaError | None = None
    if not as_json:
        try:
            emit(audit.summary(verbose=arguments.verbose, **screen()).rstrip("\n"))
        except NaaError as error:  # it is saved all the same
            unprinted = error
    note(*gate.notes)
    try:
        written = saved(audit, folder, arguments.single_file, arguments.format)
    finally:
        if as_json:
            emit(audit.report_bytes().decode("ascii").rstrip("\n"))
    with suppress(OSError):  # the new report is there
        drop_previous(folder)
    place = f"report: {folder / 'report.html'} ({len(written)} files in {folder}{os.sep})"
    if as_json:
        note(place)
    else:
        emit(clean(place))
    if unprinted is not None:
        raise unprinted
    arguments.outcome, arguments.decision = audit.verdict.outcome, gate.decision
    return gate.exit_code
