"""The ranking as lines for machines, CSV or JSON, the highest-ranked sample first: `table_lines`."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator

from naa_fast.detect.evidence import RankedSample, Ranking
from naa_fast.report.machine import finite, ranked
from naa_fast.report.words import escaped

TRIGGERED = {True: "true", False: "false", None: "unknown"}
COLUMNS = ("rank", "sample", "score", "predicted", "triggered", "file", "deviating")
FORMULA = re.compile(r"(^|[;,|])(\s*)([=+\-@\uff1d\uff0b\uff0d\uff20])")
"""Where a spreadsheet would begin a formula: the start of a cell, also of one it makes itself by cutting at another separator."""


def table_lines(ranking: Ranking, form: str, most: int | None = None) -> Iterator[str]:
    """Lines, each with its newline, of the `most` highest-ranked samples (None: all), one at a time.

    `form` "csv": a line with COLUMNS, then one line a sample; a number that is not finite, and what there is none of, is an empty
    cell, and text is made safe for terminals and spreadsheets (`cell`). "jsonl": an ASCII object a line as in report.json, with
    its `rank` from 1 on; names are exact there.
    """
    as_line = LINES[form]
    if form == "csv":
        yield ",".join(COLUMNS) + "\n"
    for rank, sample in enumerate(ranking.rows(most), 1):
        yield as_line(rank, sample)


def csv_line(rank: int, sample: RankedSample) -> str:
    score = finite(sample.score)
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        (
            rank,
            sample.sample,
            "" if score is None else repr(score),
            sample.predicted if sample.predicted >= 0 else "",
            TRIGGERED[sample.triggered],
            cell(sample.file or ""),
            cell("; ".join(f"{layer}[{neuron}] {z:.4g}" for layer, neuron, z in sample.deviating)),
        )
    )
    return line.getvalue()


def json_line(rank: int, sample: RankedSample) -> str:
    return json.dumps({"rank": rank, **ranked(sample)}, ensure_ascii=True, allow_nan=False) + "\n"


LINES: dict[str, Callable[[int, RankedSample], str]] = {"csv": csv_line, "jsonl": json_line}


def cell(text: str) -> str:
    """A stranger's text as a cell: what a terminal would obey is shown by its code, and what a spreadsheet would take for the
    beginning of a formula gets an apostrophe in front.
    """
    return FORMULA.sub(r"\1\2'\3", "".join(map(escaped, text)))
