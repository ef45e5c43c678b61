"""`python -m benchmarks.sharing --json FILE --cache FOLDER`: ways in which classes share the ranking's statistics, compared.

Area under the ROC curve and precision at the top, at 5 and 1 % triggered, means of DRAWS sets; every way on every model
(cases.py, ways.py). Rows are written as they are known, and what the file has is not done again. One thread. `--table` prints
the rows of a file as docs/detection.md has them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import commit, conditions, write
from benchmarks.detection.metrics import auc, precision_at_k
from benchmarks.sharing.cases import CASES, CHOSEN, REPORTED, Case, Paths, Seen, missing, seen
from benchmarks.sharing.ways import WAYS, Samples
from naa_fast.records import Array

SHARES, DRAWS = (0.05, 0.01), 10
WORKS = 0.8
"""Attack success below which a model's rows are left out of the table."""


def ranked(found: Seen, scores: dict[str, Array]) -> dict[str, float]:
    """Means over DRAWS sets: a share of the held samples carries the trigger, of those it is meant to turn."""
    able, told = np.flatnonzero(found.turns), dict[str, float]()
    for share in SHARES:
        figures = []
        for draw in range(DRAWS):
            truth = np.zeros(len(found.turns), bool)
            truth[np.random.default_rng(draw).permutation(able)[: max(2, round(share * len(truth)))]] = True
            together = np.where(truth, scores["triggered"], scores["held"])
            figures.append((auc(together, truth), precision_at_k(together, truth)))
        for name, values in zip(("auc", "precision"), zip(*figures, strict=True), strict=True):
            told[f"{name}_{share:g}"] = round(float(np.mean(values)), 4)
    return told


def about(case: Case, found: Seen) -> dict[str, Any]:
    clean = np.bincount(found.predicted["clean"].numpy(), minlength=case.classes)
    return {
        "model": case.name,
        "classes": case.classes,
        "attack": case.attack,
        "half": case.half,
        "success": round(found.success, 3),
        "clean_samples": int(clean.sum()),
        "classes_seen": int((clean > 0).sum()),
        "clean_of_target": int(clean[found.target]),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """AUC and precision at 5 and at 1 %, a line a way, means over the models of a number of classes, chosen on and reported."""
    rows = [row for row in rows if row["success"] >= WORKS]
    sizes = sorted({row["classes"] for row in rows})
    halves = [(size, half) for size in sizes for half in (CHOSEN, REPORTED)]
    heads = ["way"]
    for size, half in halves:
        models = {row["model"] for row in rows if (row["classes"], row["half"]) == (size, half)}
        heads.append(f"{size:,} classes, {half} ({len(models)})")
    lines = [heads, ["---"] * len(heads)]
    for way in WAYS:
        cells = [way]
        for size, half in halves:
            own = [row for row in rows if (row["way"], row["classes"], row["half"]) == (way, size, half)]
            if own:
                means = [np.mean([row[f"{name}_{share:g}"] for row in own]) for share in SHARES for name in ("auc", "precision")]
                cells.append("{:.3f}, {:.2f} / {:.3f}, {:.2f}".format(*means))
            else:
                cells.append("–")
        if any(cell != "\u2013" for cell in cells[1:]):
            lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharing", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="file of the rows, which is gone on from")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "naa-fast-sharing", help="folder for models")
    parser.add_argument("--mobilenet", type=Path, help="torchvision's MobileNetV2 weights, a .pth")
    parser.add_argument("--photos", type=Path, help="folder of photographs, 16 or more")
    parser.add_argument("--only", default="", help="only models whose name has this in it")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help="of these ways alone")
    parser.add_argument("--table", action="store_true", help="print the rows of --json, and end")
    words = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(words.json.read_text())["rows"] if words.json.exists() else []
    if words.table:
        print(table(rows))
        return
    torch.set_num_threads(1)
    words.cache.mkdir(parents=True, exist_ok=True)
    paths = Paths(words.cache, words.mobilenet, words.photos)
    for case in CASES:
        known = {row["way"] for row in rows if row["model"] == case.name}
        ways = [way for way in words.ways if way not in known]
        reason = missing(case, paths)
        if reason or words.only not in case.name or not ways:
            print(f"left out: {case.name}" + (f" ({reason})" if reason else ""), flush=True)
            continue
        found = seen(case, paths)
        samples = Samples.of(found, case.classes)
        for way in ways:
            began = time.process_time()
            row = {**about(case, found), "way": way, **ranked(found, WAYS[way](samples))}
            rows.append(row | {"seconds": round(time.process_time() - began, 1), **commit(), "date": conditions()["date"]})
            write(words.json, rows, threads=1)
            print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
