"""Where the study's results are kept: `publish(rows)` writes docs/detection.md, its figure, and the rows themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import write
from benchmarks.detection.figure import draw
from benchmarks.detection.rows import Row
from benchmarks.detection.tables import tables

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
PICTURE = "![outcomes by kind of set, and AUC against benign shifts](detection.png)"


def publish(rows: Sequence[Row]) -> list[Path]:
    """docs/detection.md between its markers, docs/detection.png, benchmarks/results/detection.json."""
    page, picture = ROOT / "docs" / "detection.md", ROOT / "docs" / "detection.png"
    results = ROOT / "benchmarks" / "results" / "detection.json"
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    write(results, [short(row) for row in rows], study="benchmarks.detection")  # first: it says whether the tree was changed
    page.write_text(f"{before}{BEGIN}\n\n{PICTURE}\n\n{tables(rows)}\n{END}{after}")
    draw(rows, picture)
    return [page, picture, results]


def short(row: Row) -> Row:
    """A row without what only helps while developing, rounded: the file is kept in the repository."""
    kept = {key: value for key, value in row.items() if key not in ("key", "trained_s")}
    kept["audit"] = {k: v for k, v in row["audit"].items() if k not in ("key", "set", "sentence", "wall")}
    kept["audit"]["proofs"] = (row["audit"].get("proofs") or [])[:1]
    for part in ("rivals", "repair"):
        kept[part] = {k: v for k, v in row.get(part, {}).items() if k not in ("key", "set")}
    return rounded(kept)


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value
