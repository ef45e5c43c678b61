"""The ranking as a table: what a machine reads is what was ranked, and no name does anything to a terminal or a spreadsheet."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report.examples import HOSTILE, PROVENANCE, measured, noise

from naa_fast.detect.evidence import Evidence, Ranking
from naa_fast.detect.judgement import Judgement, judge
from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Patch
from naa_fast.report.folder import write_report
from naa_fast.report.machine import load_schema
from naa_fast.report.pictures import trigger_figure
from naa_fast.report.table import COLUMNS, cell, table_lines

SCORES = np.array([0.1, 7.25, np.nan, 1 / 3, np.inf])
RANKING = Ranking(
    SCORES,
    np.array([3, 7, 7, -1, 0]),
    np.zeros(100),
    np.zeros(100, np.int64),
    triggered=np.array([False, False, False, True, False]),
    deviating={3: (("=a", 4, 7.5), ("b", 0, 3.25))},
    file_of=lambda item: f"{item}.png" if item else None,
)


def judged(ranking: Ranking) -> Judgement:
    clean, suspect = (measured({"a": noise(seed, 200, 8)}, f"{seed}") for seed in (1, 2))
    return judge(clean, suspect, evidence=Evidence(ranking))


def test_csv_holds_what_was_ranked() -> None:
    rows = list(csv.DictReader(table_lines(RANKING, "csv")))
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [int(row["sample"]) for row in rows] == [3, 4, 1, 0, 2]
    assert [row["score"] for row in rows] == [repr(1 / 3), "", "7.25", "0.1", ""]
    assert [row["predicted"] for row in rows] == ["", "0", "7", "3", "7"]
    assert [row["triggered"] for row in rows] == ["true", *["false"] * 4]
    assert [row["file"] for row in rows] == ["3.png", "4.png", "1.png", "", "2.png"]
    assert rows[0]["deviating"] == "'=a[4] 7.5; b[0] 3.25"
    assert len(list(table_lines(RANKING, "csv", 2))) == 3


def test_json_lines_are_the_reports_own_rows_with_a_rank() -> None:
    rows = [json.loads(line) for line in table_lines(RANKING, "jsonl")]
    assert [row.pop("rank") for row in rows] == [1, 2, 3, 4, 5]
    assert rows == judged_report(RANKING)["ranking"]
    assert rows[0]["deviating"][0] == {"layer": "=a", "neuron": 4, "z": 7.5}


def judged_report(ranking: Ranking) -> dict[str, object]:
    from naa_fast.report.machine import report_dict

    return report_dict(judged(ranking), PROVENANCE)


@pytest.mark.parametrize(
    "name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "  =1", "x;=1", "a,@b", "\uff1d1", "a|=1", "plain\n=1", "\t=1", "\r=1"]
)
def test_no_name_begins_a_formula_however_the_line_is_cut(name: str) -> None:
    line = next(iter(list(table_lines(replace(RANKING, file_of=lambda _: name), "csv"))[1:]))
    assert line.count("\n") == 1
    assert "\t" not in line
    assert "\r" not in line
    [row] = csv.reader([line])
    assert row[5] == cell(name)
    for cut in ";,|":
        assert not any(piece.lstrip(' "').startswith(("=", "+", "-", "@", "\uff1d")) for piece in line.split(cut))


def test_a_usual_name_stays_as_it_is() -> None:
    assert cell("b/0017-left=1.png") == "b/0017-left=1.png"


def test_a_hostile_name_is_harmless_in_both_forms() -> None:
    hostile = replace(RANKING, file_of=lambda _: HOSTILE, deviating={3: ((HOSTILE, 1, 2.0),)})
    for form in ("csv", "jsonl"):
        for line in list(table_lines(hostile, form)):
            assert line.removesuffix("\n").isprintable()
            line.encode("utf-8")


def test_the_report_lists_every_sample_only_when_asked(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="the schema is checked with jsonschema (the dev extra)")
    write_report(judged(replace(RANKING, whole=True)), tmp_path, PROVENANCE)
    assert list(csv.DictReader((tmp_path / "ranking.csv").read_text("utf-8").splitlines()))[2]["score"] == "7.25"
    report = json.loads((tmp_path / "report.json").read_text())
    jsonschema.validate(report, load_schema())
    assert report["ranking_summary"]["file"] == "ranking.csv"
    write_report(judged(RANKING), tmp_path, PROVENANCE)
    assert not (tmp_path / "ranking.csv").exists(), "of an older report"
    assert json.loads((tmp_path / "report.json").read_text())["ranking_summary"]["file"] is None


def test_a_white_patch_is_drawn_white() -> None:
    pattern, mask = np.zeros((1, 8, 8), np.float32), np.zeros((1, 8, 8), np.float32)
    pattern[0, 6:, 6:] = mask[0, 6:, 6:] = 1.0
    drawn = trigger_figure(Proof(Patch(pattern, mask), 7, 0.9, 0.1, 300, 8), "class 7").axes[0].images[0]
    shown = np.ma.masked_array(drawn.norm(np.ma.masked_array(drawn.get_array())))
    assert float(shown[7, 7]) == 1.0
    assert bool(np.ma.getmaskarray(shown)[0, 0]), "what it does not cover stays free"
