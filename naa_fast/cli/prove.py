"""`naa-fast prove`: suspects that were ranked elsewhere and the clean set in, report out, with proof and repair."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

from naa_fast.cli.judging import add_judging, deliver, rules_of
from naa_fast.cli.outputs import QUARANTINE, check_folder
from naa_fast.cli.scan import DATA_HELP, add_proof, named, require_baseline_of
from naa_fast.cli.shared import (
    DEFAULT_REPORT,
    add_images,
    add_long,
    add_model,
    add_running,
    add_text,
    fit_positions,
    model_of,
    model_place,
    note,
    place_of,
    running,
    sources_of,
)
from naa_fast.errors import UsageError
from naa_fast.report.run import now

EXAMPLES = (
    "naa-fast measure --model net.py:build --data suspect.npz --against clean.naa.safetensors --retain \\",
    "    --shard 1/4 --out s1.naa.safetensors",
    "naa-fast merge s*.naa.safetensors --out suspect.naa.safetensors",
    "naa-fast prove suspect.naa.safetensors --model net.py:build --clean clean.npz --out report",
)


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "judge suspects that were measured and ranked elsewhere: prove a trigger on clean samples, and repair"
    parser = verbs.add_parser("prove", help=about, description=about, parents=parents)
    parser.examples = EXAMPLES
    parser.add_argument(
        "suspect",
        type=Path,
        metavar="FILE.naa.safetensors",
        help="what `measure --against` gave of the suspects, merged of its shards",
    )
    add_model(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--clean", required=True, type=Path, metavar="PATH", help=f"samples you trust: {DATA_HELP}")
    add_text(data)
    add_images(data)
    add_running(parser)
    add_long(parser)
    add_judging(parser)
    second = parser.add_argument_group("proof, repair")
    add_proof(second)
    second.add_argument("--no-repair", action="store_true", help="after a fail, do not try which neurons to silence to cure it")
    parser.add_argument("--out", type=Path, default=DEFAULT_REPORT, metavar="DIR", help="report folder (default: ./naa-report)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    started, began = perf_counter(), now()
    if arguments.stop_early:
        raise UsageError("--stop-early with prove", "samples are ranked by the class they are called", "leave --stop-early out")
    places = [arguments.weights, model_place(arguments.model), arguments.baseline, arguments.allow]
    check_folder(arguments.out, [place_of(arguments.clean), arguments.suspect, *places])
    rules = rules_of(arguments)
    from naa_fast import audit
    from naa_fast.measurement import Measurement

    suspect = Measurement.load(arguments.suspect)
    if suspect.anomalies is None:
        raise UsageError(
            f"{arguments.suspect} has no scores", "measure the suspects with --against CLEAN.naa.safetensors --retain"
        )
    [source] = sources_of(arguments, arguments.clean)
    with running(arguments, arguments.out / QUARANTINE) as (ranks, options):
        if ranks.count > 1:
            raise UsageError("prove under torchrun", "a merged ranking is proved in one process", "start it without torchrun")
        model, device = model_of(arguments)
        require_baseline_of(model, rules)
        fit_positions(model, [source])
        loading = perf_counter() - started
        proved = audit.scan(
            model,
            source,
            suspect,
            top_k=arguments.top_k,
            threshold=arguments.threshold,
            device=device,
            proof=not arguments.no_proof,
            repair=not arguments.no_repair,
            budget=arguments.budget,
            accept_unranked=arguments.accept_unranked,
            **options,
        )
    proved = named(proved, arguments, began, loading)
    code = deliver(proved, arguments, rules)
    if proved.times is not None and not arguments.json:
        note(proved.times.words())
    return code
