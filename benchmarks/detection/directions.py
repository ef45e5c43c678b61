"""`python -m benchmarks.detection.directions`: what the directions say of the study's sets, and what they cost of the ranking.

One line a set: for each kind the largest t of any layer (`*`: above chance) with its effect, the limit, and seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import naa_fast
from benchmarks.detection.cases import CASES
from benchmarks.detection.data import DEFAULT_CACHE
from benchmarks.detection.sets import clean_set, sets_of
from benchmarks.detection.train import load_or_train
from naa_fast.detect.directions import KINDS
from naa_fast.rank.directions import Directions
from naa_fast.rank.scorer import Scorer


class Clock:
    """Wall seconds spent inside what it was put around, by label."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, label: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*arguments, **keywords)
            finally:
                self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - started

        return timed


def line(name: str, model: torch.nn.Module, clean: torch.Tensor, suspect: torch.Tensor) -> str:
    evidence, clock = import_module("naa_fast.rank.evidence"), Clock()
    ranking = [(verb, getattr(Scorer, verb)) for verb in ("fit", "calibrate", "score")]
    with (
        ExitStack() as stack,
        patch.object(evidence, "measure", clock.around("directions", evidence.measure)),
        patch.object(Directions, "add", clock.around("directions", Directions.add)),
        patch.object(Directions, "projected", clock.around("directions", Directions.projected)),
    ):
        for verb, work in ranking:
            stack.enter_context(patch.object(Scorer, verb, clock.around("ranking", work)))
        found = naa_fast.scan(model, clean, suspect, proof=False).judgement.evidence.directions
    cells = [name]
    for kind in KINDS:
        best = next((one for one in found if one.kind == kind), None)
        if best is not None:
            cells.append(f"{kind} {best.statistic:.1f}{'*' if best.stands else ''} ({best.effect:.2f} sd, {best.layer})")
    cells.append(f"limit {found[0].limit:.2f}" if found else "none")
    part, whole = (clock.seconds.get(label, 0.0) for label in ("directions", "ranking"))
    return "; ".join([*cells, f"{part:.2f} s, the ranking {whole:.2f} s"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.directions", description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="data and models (default: %(default)s)")
    parser.add_argument("--only", metavar="GLOB", default="*", help="models whose name matches")
    parser.add_argument("--sets", metavar="GLOB", default="*", help="suspect sets whose name matches")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for case in CASES:
        if fnmatchcase(case.name, options.only):
            model, _ = load_or_train(case, options.cache)
            clean, _ = clean_set(case, options.cache)
            for suspect in sets_of(case, options.cache):
                if fnmatchcase(suspect.name, options.sets):
                    print(line(f"{case.name} {suspect.name}", model, clean, suspect.x), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
