"""`python -m benchmarks.detection`: trains what is not in the cache, scans what has changed, writes tables and a figure.

A run that was stopped goes on where it was. `--publish` writes the results where the repository keeps them.
"""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.detection.cases import CASES, SUBSET
from benchmarks.detection.data import DEFAULT_CACHE
from benchmarks.detection.publish import publish
from benchmarks.detection.runner import PARTS, Job, ordered, run
from benchmarks.detection.tables import tables
from naa_fast.errors import NaaError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="data, models and rows (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="workers of one thread each (default: %(default)s)")
    parser.add_argument("--subset", action="store_true", help=f"{len(SUBSET)} models and eight kinds of sets")
    parser.add_argument("--only", metavar="GLOB", help="models whose name matches")
    parser.add_argument("--half", choices=tuple("ABCDE"), help="half A or B of the study, or attacks made later: C, D, E")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="what to run; nothing: train only")
    parser.add_argument("--kept", action="store_true", help="run nothing: the tables of what the cache has")
    parser.add_argument("--publish", action="store_true", help="write docs/detection.md, its figure and results/detection.json")
    options = parser.parse_args(arguments)
    cases = [
        case
        for case in ordered(CASES)
        if (not options.subset or case.name in SUBSET)
        and (not options.only or fnmatchcase(case.name, options.only))
        and options.half in (None, case.half)
    ]
    jobs = [Job(case, options.cache, tuple(options.parts), options.subset, options.kept) for case in cases]
    try:
        rows = run(jobs, options.processes)
    except NaaError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    if "audit" not in options.parts:
        return 0
    if options.publish:
        for path in publish(rows):
            print(path)
    else:
        print(tables(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
