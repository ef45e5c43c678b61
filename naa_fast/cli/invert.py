"""`naa-fast invert`: model and clean samples in, report out: whether it is backdoored, where no triggered sample is known."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from naa_fast.cli.base import add_base, base_of
from naa_fast.cli.judging import add_judging, deliver, rules_of
from naa_fast.cli.outputs import QUARANTINE, check_folder, set_aside
from naa_fast.cli.scan import DATA_HELP, require_baseline_of
from naa_fast.cli.shared import (
    DEFAULT_REPORT,
    add_images,
    add_model,
    add_running,
    add_text,
    fit_positions,
    index,
    model_of,
    model_place,
    note,
    place_of,
    positive,
    running,
    sources_of,
)
from naa_fast.errors import UsageError
from naa_fast.report.run import now

EXAMPLES = (
    "naa-fast invert --model model.py:build --weights model.safetensors --clean clean.npz --out report",
    "naa-fast invert --model model.py:build --weights tuned.safetensors --base-weights base.safetensors --clean clean.npz",
)
NOT_HERE = {
    "threshold": "no sets are compared",
    "accept_unranked": "no samples are ranked",
    "stop_early": "the model's answers are what is searched",
}
"""Options that judging and running share with `scan`, and why they mean nothing here."""


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "look for a backdoor with clean samples alone: make a trigger, and ask whether one class falls for it far too easily"
    parser = verbs.add_parser("invert", help=about, description=about, parents=parents)
    parser.examples = EXAMPLES
    add_model(parser)
    add_base(parser, "the control")
    data = parser.add_argument_group("data")
    data.add_argument("--clean", required=True, type=Path, metavar="PATH", help=f"a few hundred samples you trust: {DATA_HELP}")
    add_text(data)
    add_images(data)
    add_running(parser)
    group = parser.add_argument_group("searching")
    group.add_argument("--steps", type=positive, metavar="N", help="of each search by gradients (default: 200)")
    group.add_argument("--no-repair", action="store_true", help="after a fail, do not try which neurons to silence to cure it")
    group.add_argument("--max-bad", metavar="N|N%", help="end with exit code 2 when more items cannot be used")
    group.add_argument("--prefetch", type=index, metavar="N", help="batches read ahead while the model runs")
    group.add_argument(
        "--log", "--log-format", choices=("text", "json"), default="text", help="form of the progress on stderr (default: text)"
    )
    add_judging(parser)
    parser.add_argument("--out", type=Path, default=DEFAULT_REPORT, metavar="DIR", help="report folder (default: ./naa-report)")
    parser.set_defaults(run=run, chunk_size=None, checkpoint=None, resume=False)


def run(arguments: argparse.Namespace) -> int:
    started, began = perf_counter(), now()
    for option, why in NOT_HERE.items():
        if getattr(arguments, option) not in (None, False):
            raise UsageError(f"--{option.replace('_', '-')} with invert", why, "leave it out")
    base = base_of(arguments)
    places = [arguments.weights, model_place(arguments.model), arguments.baseline, arguments.allow]
    places += [] if base is None else [base.weights, model_place(base.model)]
    check_folder(arguments.out, [place_of(arguments.clean), *places])
    set_aside(arguments.out)
    rules = rules_of(arguments)
    from naa_fast.invert import invert
    from naa_fast.invert.pace import STEPS

    sources = sources_of(arguments, arguments.clean)
    with running(arguments, arguments.out / QUARANTINE) as (_, options):
        model, device = model_of(arguments)
        require_baseline_of(model, rules)
        fit_positions(model, sources)
        kept = {name: options[name] for name in ("layers", "exclude", "batch_size", "backend", "prefetch", "scores")}
        kept |= {"repair": not arguments.no_repair}
        kept |= {"quarantine": options["quarantine"], "progress": options.get("progress")}
        other = None if base is None else model_of(base)[0]
        loading = perf_counter() - started
        steps = arguments.steps or STEPS
        audit = invert(model, sources[0], base=other, device=device, top_k=arguments.top_k, steps=steps, **kept)
    assert audit.run is not None
    assert audit.times is not None
    audit.times.add("loading", loading)
    weights, command = str(arguments.weights or ""), tuple(arguments.command)
    named = replace(audit.run, model=arguments.model, weights=weights, clean=str(arguments.clean), command=command, began=began)
    code = deliver(replace(audit, run=named), arguments, rules)
    if not arguments.json:
        note(audit.times.words())
    return code
