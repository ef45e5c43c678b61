"""The default `measure` of one layer is told as a share of the machine's own read."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import default_measure


def test_every_case_is_timed_with_and_without_histograms(tmp_path: Path) -> None:
    assert default_measure.main(["--megabytes", "4", "--rounds", "1", "--json", str(tmp_path / "measure.json")]) == 0
    rows = json.loads((tmp_path / "measure.json").read_text())["rows"]
    assert [(row["case"], row["dtype"], row["variant"]) for row in rows] == [
        (name, str(dtype).removeprefix("torch."), variant)
        for name, dtype, *_ in default_measure.CASES
        for variant in ("default", "without histograms")
    ]
    assert all(0 < row["share_of_read"] < 2 for row in rows)
