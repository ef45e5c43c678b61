"""`naa-fast scan`: model and both sets in, report out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from naa_fast.cli.outputs import check_folder, model_file
from naa_fast.cli.shared import DEFAULT_REPORT, add_judging, add_model, add_running, deliver, model_of

DATA_HELP = ".npz (x, optional mask), .npy, .safetensors, or a folder of images"


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "compare how a model's neurons respond to a trusted and to a suspect set"
    parser = verbs.add_parser("scan", help=about, description=about, parents=parents)
    add_model(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--clean", required=True, type=Path, metavar="PATH", help=f"samples you trust: {DATA_HELP}")
    data.add_argument("--suspect", required=True, type=Path, metavar="PATH", help="samples in question, in the same form")
    add_running(parser)
    add_judging(parser)
    parser.add_argument("--out", type=Path, default=DEFAULT_REPORT, metavar="DIR", help="report folder (default: ./naa-report)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_folder(arguments.out, [arguments.clean, arguments.suspect, arguments.weights, model_file(arguments.model)])
    from naa_fast import audit
    from naa_fast.cli.progress import Progress
    from naa_fast.inputs.batches import open_source

    # Both sets before the model: a wrong path should not cost the minutes a large model takes to build.
    sets = [open_source(path, arguments.batch_size) for path in (arguments.clean, arguments.suspect)]
    model, device = model_of(arguments)
    with Progress() as progress:
        found = audit.scan(
            model,
            *sets,
            layers=arguments.layers,
            top_k=arguments.top_k,
            threshold=arguments.threshold,
            batch_size=arguments.batch_size,
            device=device,
            backend=arguments.backend,
            progress=progress,
        )
    return deliver(found, arguments.out, arguments.json)
