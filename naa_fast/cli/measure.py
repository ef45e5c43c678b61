"""`naa-fast measure`: one set through the model, its statistics into a file that can be merged and compared elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from naa_fast.cli.outputs import check_file, model_file
from naa_fast.cli.scan import DATA_HELP
from naa_fast.cli.shared import add_model, add_running, clean, counted, emit, model_of
from naa_fast.errors import EXIT_PASS


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "measure one set and save the measurement"
    parser = verbs.add_parser("measure", help=about, description=about, parents=parents)
    add_model(parser)
    parser.add_argument_group("data").add_argument("--data", required=True, type=Path, metavar="PATH", help=DATA_HELP)
    add_running(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.naa.safetensors", help="measurement file to write")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_file(arguments.out, [arguments.data, arguments.weights, model_file(arguments.model)])
    from naa_fast import audit
    from naa_fast.cli.progress import Progress
    from naa_fast.inputs.batches import open_source

    source = open_source(arguments.data, arguments.batch_size)
    model, device = model_of(arguments)
    with Progress() as progress:
        measurement = audit.measure(
            model,
            source,
            layers=arguments.layers,
            batch_size=arguments.batch_size,
            device=device,
            backend=arguments.backend,
            progress=progress,
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    measurement.save(arguments.out)
    skipped = f", {measurement.skipped:,} skipped" if measurement.skipped else ""
    samples, layers = counted(measurement.samples, "sample"), counted(len(measurement.layers), "layer")
    emit(clean(f"{arguments.out}: {samples}{skipped}, {layers}"))
    return EXIT_PASS
