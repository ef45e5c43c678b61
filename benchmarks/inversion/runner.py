"""One model after the other, a row each in the cache; what was run by the same code is not run again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import naa_fast
from benchmarks.common import commit
from benchmarks.detection import train
from benchmarks.detection.cases import Case
from benchmarks.detection.data import DataSet, load
from benchmarks.detection.store import DATA, HERE, ROOT
from benchmarks.inversion import shapes
from benchmarks.inversion.cases import family, group
from benchmarks.inversion.rivals import rivals
from benchmarks.inversion.shapes import Shape
from naa_fast.files import write_whole
from naa_fast.repair import applied
from naa_fast.repair.search import CURE

CLEAN = 1000
Row = dict[str, Any]


@lru_cache
def digest() -> str:
    """Of the source that a row depends on."""
    paths = [HERE / name for name in DATA]
    paths += [*(ROOT / "naa_fast" / "invert").glob("*.py"), *(ROOT / "naa_fast" / "detect").glob("inver*.py")]
    paths += [Path(__file__).with_name(name) for name in ("rivals.py", "runner.py", "shapes.py")]
    whole = hashlib.sha256()
    for path in sorted(paths):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]


def run(chosen: Sequence[Case | Shape], cache: Path, minutes: float, kept: bool = False, trained: bool = False) -> list[Row]:
    """The rows of the models, in order; those beyond `minutes`, with `trained` those of the detection study that
    it has not trained yet, and with `kept` all that are not in the cache, are left out.
    """
    began, rows = time.monotonic(), []
    for case in chosen:
        if trained and isinstance(case, Case) and case.half != "F" and not train.is_trained(case, cache):
            continue
        place = cache / "rows" / "inversion" / f"{case.name}.json"
        row = json.loads(place.read_text()) if place.exists() else {}
        if row.get("key") != digest():
            if kept or time.monotonic() - began > 60 * minutes:
                continue
            row = {"key": digest(), **row_of(case, cache), "commit": commit().get("commit")}
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, (json.dumps(row) + "\n").encode())
            print(f"{case.name}: {row['outcome']}, {row['cpu_s']:.0f} s of one core", flush=True)
        rows.append(row)
    return rows


def had(case: Case | Shape, cache: Path) -> tuple[torch.nn.Module, Row, DataSet]:
    """The model, its figures, its data."""
    if isinstance(case, Shape):
        return *shapes.load_or_train(case, cache), shapes.data_of(case.classes, cache)
    return *train.load_or_train(case, cache), load(case.dataset, cache)


def row_of(case: Case | Shape, cache: Path) -> Row:
    """What the search, and its rivals, came to on one model."""
    model, info, data = had(case, cache)
    clean = data.clean_x[:CLEAN]
    torch.manual_seed(0)
    wall, cpu = time.monotonic(), time.process_time()
    audit = naa_fast.invert(model, clean)
    spent = {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
    found = audit.report()["inversion"]
    attack, repair = case.attack, audit.repair
    cured = None
    if repair is not None:
        with applied(model, repair):  # the real trigger, which the search never had
            again = shapes.rates(model, case, data) if isinstance(case, Shape) else train.rates(model, case, data)
            cured = {**again, "before": repair.before, "after": repair.after, "kept": repair.kept}
    return {
        "model": case.name,
        "half": case.half,
        "group": group(case),
        "family": family(case),
        "attack": None if attack is None else attack.kind,
        "targets": [] if attack is None else sorted(attack.targets),
        "asr": info["asr"],
        "works": info["works"],
        "outcome": audit.verdict.outcome,
        "score": audit.verdict.score,
        **spent,
        "forwards": found["forwards"],
        "backwards": found["backwards"],
        "standings": found["standings"],
        "suspicions": found["suspicions"],
        "searches": [{key: value for key, value in one.items() if value is not None} for one in found["searches"]],
        "accuracy": info["accuracy"],
        "repair": cured,
        "not_repaired": [note for note in audit.verdict.not_checked if note.startswith(CURE)],
        "proofs": [
            {"kind": p.kind, "target": p.target, "rate": p.rate, "control": p.control, "stands": p.stands} for p in audit.proof
        ],
        "gaps": list(audit.verdict.gaps),
        "rivals": {} if case.text else rivals(model, clean, data.classes),
    }
