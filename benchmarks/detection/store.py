"""Rows of results in the cache: appended one at a time, found again by what they depend on."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection.cases import Case

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DATA = ("data.py", "triggers.py", "unseen.py", "fresh.py", "attacks.py", "models.py", "sets.py", "train.py")


@lru_cache
def digest_of(part: str) -> str:
    """Digest of the source a kind of row depends on: "audit" and "repair" on naa-fast itself, all on how sets are made."""
    paths = [HERE / name for name in DATA]
    if part in ("audit", "repair"):
        paths += [
            *(ROOT / "naa_fast").glob("*.py"),
            *(ROOT / "naa_fast").glob("[!k]*/**/*.py"),
            *(ROOT / "kernels").rglob("*.py"),
        ]
    paths += [HERE / f"{part}.py", HERE / "metrics.py"]
    whole = hashlib.sha256()
    for path in sorted(path for path in set(paths) if path.exists()):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]


class Store:
    """Rows of one kind about one model. A row whose source has changed since is not found, and so done again."""

    def __init__(self, cache: Path, part: str, case: Case) -> None:
        self.path = cache / "rows" / part / f"{case.name}.jsonl"
        self.key = f"{digest_of(part)}-{hashlib.sha256(repr(case).encode()).hexdigest()[:8]}"

    def rows(self) -> dict[str, dict[str, Any]]:
        """Current rows by the name of their set; a line that a crash cut short is left out."""
        found = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row["key"] == self.key:
                found[row["set"]] = row
        return found

    def add(self, row: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({**row, "key": self.key}, default=plain) + "\n")


def plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
