"""`naa-fast compare`: two measurements in, the report of a scan out. Needs neither the model nor torch."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from naa_fast.cli.judging import add_judging, deliver, rules_of
from naa_fast.cli.outputs import check_folder, set_aside
from naa_fast.cli.shared import DEFAULT_REPORT
from naa_fast.report.run import Run, now


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "judge two measurements of one model, without the model"
    parser = verbs.add_parser("compare", help=about, description=about, parents=parents)
    parser.examples = ("naa-fast compare clean.naa.safetensors suspect.naa.safetensors --out naa-report",)
    parser.add_argument("clean", type=Path, metavar="CLEAN", help="measurement of the set you trust")
    parser.add_argument("suspect", type=Path, metavar="SUSPECT", help="measurement of the set in question")
    add_judging(parser)
    parser.add_argument("--out", type=Path, default=DEFAULT_REPORT, metavar="DIR", help="report folder (default: ./naa-report)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_folder(arguments.out, [arguments.clean, arguments.suspect, arguments.baseline, arguments.allow])
    set_aside(arguments.out)
    rules, began = rules_of(arguments), now()
    from naa_fast import audit
    from naa_fast.measurement import Measurement

    sets = [Measurement.load(path) for path in (arguments.clean, arguments.suspect)]
    rules.require_model(sets[0].model)
    judging = {"threshold": arguments.threshold, "top_k": arguments.top_k, "accept_unranked": arguments.accept_unranked}
    compared = audit.compare(*sets, **judging)
    command = tuple(arguments.command)
    run = Run("", "", str(arguments.clean), str(arguments.suspect), command, began, now())
    return deliver(replace(compared, run=run), arguments, rules)
