"""`naa-fast merge`: measurements of the parts become the measurement of the whole. Needs neither the model nor torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from naa_fast.cli.outputs import check_file
from naa_fast.cli.shared import clean, counted, emit
from naa_fast.errors import EXIT_PASS, StateMismatch


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "join measurements of parts of one set, as if measured in one go"
    parser = verbs.add_parser("merge", help=about, description=about, parents=parents)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="measurement files of one model")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="measurement file to write")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_file(arguments.out, arguments.files)
    from naa_fast.measurement import Measurement

    whole = Measurement.zero()
    for path in arguments.files:
        part = Measurement.load(path)
        try:
            whole = whole.merge(part)
        except StateMismatch as error:
            raise error.at(f"when {path} was added") from None
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    whole.save(arguments.out)
    samples, files = counted(whole.samples, "sample"), counted(len(arguments.files), "file")
    emit(clean(f"{arguments.out}: {samples} from {files}, {counted(len(whole.layers), 'layer')}"))
    return EXIT_PASS
