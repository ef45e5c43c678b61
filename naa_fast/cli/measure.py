"""`naa-fast measure`: one set through the model, its statistics into a file that can be merged and compared elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from naa_fast.cli.outputs import check_file, quarantine_of
from naa_fast.cli.scan import DATA_HELP
from naa_fast.cli.shared import (
    add_long,
    add_model,
    add_running,
    add_text,
    clean,
    counted,
    emit,
    fit_positions,
    index,
    model_of,
    model_place,
    note,
    running,
    shard,
    sources_of,
)
from naa_fast.errors import EXIT_PASS


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "measure one set and save the measurement"
    parser = verbs.add_parser("measure", help=about, description=about, parents=parents)
    add_model(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, type=Path, metavar="PATH", help=DATA_HELP)
    add_text(data)
    add_running(parser)
    add_long(parser)
    parser.add_argument(
        "--first-index",
        type=index,
        default=0,
        metavar="N",
        help="where the data begins in the larger set it is a part of, so that merged parts equal one pass (default: 0)",
    )
    parser.add_argument(
        "--shard", type=shard, metavar="I/N", help="measure the I-th of N parts of the data, for merge to join (from 1/N to N/N)"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.naa.safetensors", help="measurement file to write")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    listed = quarantine_of(arguments.out)
    for path in (arguments.out, listed):
        check_file(path, [arguments.data, arguments.weights, model_place(arguments.model)])
    from naa_fast import audit
    from naa_fast.scan.times import Times

    [source] = sources_of(arguments, arguments.data)
    times = Times()
    with running(arguments, listed) as (ranks, options):
        model, device = model_of(arguments)
        fit_positions(model, [source])
        measurement = audit.measure(
            model, source, device=device, first_index=arguments.first_index, shard=arguments.shard, times=times, **options
        )
    if ranks.rank:
        return EXIT_PASS
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    measurement.save(arguments.out)
    skipped = f", {measurement.skipped:,} skipped" if measurement.skipped else ""
    samples, layers = counted(measurement.samples, "sample"), counted(len(measurement.layers), "layer")
    part = "".join(f", {part}" for part in measurement.parts)
    emit(clean(f"{arguments.out}: {samples}{skipped}, {layers}{part}"))
    note(times.words())
    return EXIT_PASS
