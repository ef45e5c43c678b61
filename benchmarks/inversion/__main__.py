"""`python -m benchmarks.inversion`: searches every model of the detection study for a backdoor without a suspect set.

A run that was stopped goes on where it was. `--publish` writes the tables into docs/inversion.md and the rows into
benchmarks/results/inversion.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import write
from benchmarks.detection.data import DEFAULT_CACHE
from benchmarks.detection.publish import rounded
from benchmarks.detection.store import ROOT
from benchmarks.inversion.cases import SUBSET, cases
from benchmarks.inversion.runner import run
from benchmarks.inversion.tables import tables
from naa_fast.errors import NaaError

BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inversion", description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="data, models and rows (default: %(default)s)")
    parser.add_argument("--subset", action="store_true", help=f"{len(SUBSET)} models of small networks")
    parser.add_argument("--only", metavar="NAME", help="one model")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no model after so long (default: %(default)s)")
    parser.add_argument("--trained", action="store_true", help="train nothing: the models that the cache has")
    parser.add_argument("--kept", action="store_true", help="run nothing: the tables of what the cache has")
    parser.add_argument("--publish", action="store_true", help="write the tables and the rows where the repository keeps them")
    options = parser.parse_args(arguments)
    chosen = [case for case in cases(options.subset) if options.only in (None, case.name)]
    try:
        rows = run(chosen, options.cache, options.minutes, options.kept, options.trained)
    except NaaError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    if options.publish:
        publish(rows)
    else:
        print(tables(rows))
    return 0


def publish(rows: list[dict[str, Any]]) -> None:
    page = ROOT / "docs" / "inversion.md"
    short = [rounded({key: value for key, value in row.items() if key != "key"}) for row in rows]
    write(ROOT / "benchmarks" / "results" / "inversion.json", short, study="benchmarks.inversion")
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{tables(rows)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    sys.exit(main())
