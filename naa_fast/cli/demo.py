"""`naa-fast demo`: a backdoor in a small network, found and cut out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from naa_fast.cli.outputs import check_folder


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "train a small network with a backdoor and a clean twin, scan both, cut the backdoor out"
    parser = verbs.add_parser("demo", help=about, description=about, parents=parents)
    parser.examples = ("naa-fast demo --out naa-demo",)
    parser.add_argument(
        "--out", type=Path, default=Path("naa-demo"), metavar="DIR", help="folder for both reports (default: ./naa-demo)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_folder(arguments.out)
    from naa_fast import demo

    return demo.run(arguments.out)
