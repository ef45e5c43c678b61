"""Two result files, row by row: `python -m benchmarks.compare_runs BEFORE.json AFTER.json [--limit 1.10]`.

A ratio above 1 is slower. Rows whose spreads (p20 to p80) overlap are within noise whatever their ratio. Where rows carry a
ratio measured inside their own run (share of the read bandwidth, overhead, times ours), that one is compared too, and it is the
one to believe when the files come from different machines or days. Exit code 1 if a row is slower by more than the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import table

KEY = ("case", "variant", "rival", "dtype", "shape")
WITHIN_RUN = {"share_of_read": True, "overhead": False, "times_ours": True}
"""Ratios measured inside one run, and whether more is better."""
MUST_AGREE = ("cpu", "cpus", "system", "device", "driver", "versions", "threads", "command")


def load(path: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Conditions, and rows by what names them."""
    content = json.loads(Path(path).read_text())
    return content["conditions"], {name_of(entry): entry for entry in content["rows"]}


def name_of(entry: dict[str, Any]) -> str:
    parts = [entry.get(key) for key in KEY]
    return " ".join("x".join(map(str, part)) if isinstance(part, list) else str(part) for part in parts if part is not None)


def judged(before: dict[str, Any], after: dict[str, Any], limit: float) -> dict[str, Any]:
    """One compared row: `ratio` of the medians, `note` what it means."""
    result: dict[str, Any] = {"row": name_of(after), "before_ms": before.get("median_ms"), "after_ms": after.get("median_ms")}
    if not result["before_ms"] or not result["after_ms"]:
        return {**result, "ratio": None, "note": "no time in one of them", "regression": False}
    ratio = after["median_ms"] / before["median_ms"]
    overlap = after["p20_ms"] <= before["p80_ms"] and before["p20_ms"] <= after["p80_ms"]
    note = "within noise" if overlap else "slower" if ratio > 1 else "faster"
    within = [
        f"{key} {before[key]:.3g} → {after[key]:.3g}"
        for key in WITHIN_RUN
        if isinstance(before.get(key), float | int) and isinstance(after.get(key), float | int)
    ]
    return {**result, "ratio": ratio, "note": "; ".join([note, *within]), "regression": not overlap and ratio > limit}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Conditions that should be the same and are not."""
    return [f"{key}: {before.get(key)} / {after.get(key)}" for key in MUST_AGREE if before.get(key) != after.get(key)]


def compared(before_path: str | Path, after_path: str | Path, limit: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows in both files, and remarks on what makes them hard to compare."""
    (conditions, old), (other, new) = load(before_path), load(after_path)
    remarks = [f"conditions differ: {line}" for line in differences(conditions, other)]
    files = ((before_path, conditions), (after_path, other))
    remarks += [f"uncommitted changes in {path}" for path, known in files if not known.get("clean")]
    remarks += [f"only in {before_path}: {name}" for name in old if name not in new]
    remarks += [f"only in {after_path}: {name}" for name in new if name not in old]
    return [judged(old[name], new[name], limit) for name in new if name in old], remarks


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--limit", type=float, default=1.10, help="slower by more than this is a regression (default 1.10)")
    options = parser.parse_args(arguments)
    rows, remarks = compared(options.before, options.after, options.limit)
    print(table(rows, ("row", "before_ms", "after_ms", "ratio", "note")))
    print("\n".join(remarks))
    worse = [entry["row"] for entry in rows if entry["regression"]]
    print(f"{len(worse)} of {len(rows)} rows are slower by more than {options.limit:g} and outside the noise", *worse, sep="\n  ")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
