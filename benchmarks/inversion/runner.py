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
from benchmarks.detection.cases import Case
from benchmarks.detection.data import load
from benchmarks.detection.store import DATA, HERE, ROOT
from benchmarks.detection.train import load_or_train
from benchmarks.inversion.cases import family, group
from benchmarks.inversion.rivals import rivals
from naa_fast.files import write_whole

CLEAN = 1000
Row = dict[str, Any]


@lru_cache
def digest() -> str:
    """Of the source that a row depends on."""
    paths = [HERE / name for name in DATA]
    paths += [*(ROOT / "naa_fast" / "invert").glob("*.py"), *(ROOT / "naa_fast" / "detect").glob("inver*.py")]
    paths += [Path(__file__).with_name(name) for name in ("rivals.py", "runner.py")]
    whole = hashlib.sha256()
    for path in sorted(paths):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]


def run(chosen: Sequence[Case], cache: Path, minutes: float, kept: bool = False) -> list[Row]:
    """The rows of the models, in order; those beyond `minutes`, and with `kept` all that are not in the cache, are left out."""
    began, rows = time.monotonic(), []
    for case in chosen:
        place = cache / "rows" / "inversion" / f"{case.name}.json"
        row = json.loads(place.read_text()) if place.exists() else {}
        if row.get("key") != digest():
            if kept or time.monotonic() - began > 60 * minutes:
                continue
            row = {"key": digest(), **row_of(case, cache)}
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, (json.dumps(row) + "\n").encode())
            print(f"{case.name}: {row['outcome']}, {row['cpu_s']:.0f} s of one core", flush=True)
        rows.append(row)
    return rows


def row_of(case: Case, cache: Path) -> Row:
    """What the search, and its rivals, came to on one model."""
    model, info = load_or_train(case, cache)
    data = load(case.dataset, cache)
    clean = data.clean_x[:CLEAN]
    torch.manual_seed(0)
    wall, cpu = time.monotonic(), time.process_time()
    audit = naa_fast.invert(model, clean)
    spent = {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
    found = audit.report()["inversion"]
    attack = case.attack
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
        "noisy": [one for one in found["searches"] if one["noisy"] is not None],
        "proofs": [
            {"kind": p.kind, "target": p.target, "rate": p.rate, "control": p.control, "stands": p.stands} for p in audit.proof
        ],
        "gaps": list(audit.verdict.gaps),
        "rivals": {} if case.text else rivals(model, clean, data.classes),
    }
