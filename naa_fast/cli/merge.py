"""`naa-fast merge`: measurements of the parts become the measurement of the whole. Needs neither the model nor torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from naa_fast.cli.outputs import check_file
from naa_fast.cli.shared import clean, counted, emit, note
from naa_fast.errors import EXIT_PASS, StateMismatch

SHOWN = 10


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "join measurements of parts of one set, as if measured in one go"
    parser = verbs.add_parser("merge", help=about, description=about, parents=parents)
    parser.examples = ("naa-fast merge clean-*.naa.safetensors --out clean.naa.safetensors",)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="measurement files of one model")
    parser.add_argument("--partial", action="store_true", help="accept that shards are missing; the report will say which")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="measurement file to write")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_file(arguments.out, arguments.files)
    from naa_fast.measurement import Measurement, begin_alike, first_items
    from naa_fast.parts import UNKNOWN_SET

    whole = Measurement.zero()
    # In the order of the items: sums of floating-point numbers depend on it in their last bits.
    for path in sorted(arguments.files, key=first_items):
        part = Measurement.load(path)
        try:
            whole = whole.merge(part)
        except StateMismatch as error:
            raise error.at(f"when {path} was added") from None
    missing = whole.missing()
    if missing and not arguments.partial:
        raise StateMismatch(
            f"cannot merge: {len(missing)} of {missing[0].count} shards are missing",
            *(str(part) for part in missing[:SHOWN]),
            "add their files, or merge what there is with --partial",
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    whole.save(arguments.out)
    if begin_alike(whole):
        note(
            "not known whether these are parts of one set: several begin at the same item, as whole sets do. Parts are "
            "measured with --shard, or with --first-index"
        )
    if UNKNOWN_SET in whole.provenance.get("gaps", ()):
        note(f"not known {UNKNOWN_SET}; a report on it is no pass")
    samples, files = counted(whole.samples, "sample"), counted(len(arguments.files), "file")
    partial = f", {counted(len(missing), 'shard')} missing" if missing else ""
    emit(clean(f"{arguments.out}: {samples} from {files}, {counted(len(whole.layers), 'layer')}{partial}"))
    return EXIT_PASS
