"""`python -m benchmarks.detection.price`: what a scan costs beside one that adds up means and nothing else, in turns, one thread.

Of each architecture one model of the study, both sets at 5 % triggered. Rows go to `--out` as JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import naa_fast
from benchmarks.common import interleaved, paired, write
from benchmarks.detection.audit import price
from benchmarks.detection.cases import Case, by_name
from benchmarks.detection.data import DEFAULT_CACHE
from benchmarks.detection.sets import clean_set, sets_of
from benchmarks.detection.train import load_or_train

MODELS = (
    "fashion-cnn-patch",
    "fashion-resnet-patch",
    "fashion-vit-patch",
    "fashion-mlp-patch-middle",
    "newsgroups-text-cnn-token",
    "newsgroups-text-transformer-token",
)


def measured(case: Case, cache: Path, rounds: int) -> dict[str, Any]:
    """Median seconds of this process for each way through both sets, and the median of each round's ratio to means alone.

    All by one clock, which stands still while a neighbour has the processor.
    """
    model, _ = load_or_train(case, cache)
    clean, _ = clean_set(case, cache)
    suspect = next(one for one in sets_of(case, cache) if one.name == "triggered-5%").x
    scan = partial(naa_fast.scan, model, clean, suspect, repair=False)
    audit = scan()
    cases = {
        "statistics": partial(scan, ranking=False),
        "statistics and ranking": partial(scan, proof=False),
        "everything": scan,
    }
    parts: dict[str, list[float]] = {name: [] for name in ("bare", "means", *cases)}

    def beside() -> None:
        for name, seconds in price(model, audit, clean, suspect).items():  # and a run to warm up
            parts[name].append(seconds)

    def timed(name: str) -> None:
        started = time.process_time()
        cases[name]()
        parts[name].append(time.process_time() - started)

    interleaved({"beside": beside, **{name: partial(timed, name) for name in cases}}, rounds)
    held = {name: values[-rounds:] for name, values in parts.items()}
    row: dict[str, Any] = {"case": case.name, "architecture": case.architecture, "samples": len(clean) + len(suspect)}
    row |= {f"{name}_s": round(float(np.median(values)), 4) for name, values in held.items()}
    row |= {f"{name} over means": round(paired(held[name], held["means"]), 3) for name in cases}
    return row | {"proof_forwards": audit.judgement.evidence.forwards}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.price", description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="data and models (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="times each is run (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for name in MODELS:
        rows.append(measured(by_name(name), options.cache, options.rounds))
        print(rows[-1], flush=True)
    if options.out:
        write(options.out, rows, threads=1, rounds=options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
