"""The summary says what a person needs, and no name in it can deceive the person or the terminal."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.examples import EXAMPLES, classic, judged, many_layers, not_a_number, pair

from naa_fast.report.summary import full as summary
from naa_fast.report.words import RIGHT_TO_LEFT, UNSHOWN, display_cells, number, printable


def test_the_summary_of_the_classic_example_says_it_all() -> None:
    judgement = classic()
    text = summary(judgement)
    assert text.startswith("FAIL (exit code 1)\n")
    assert judgement.verdict.sentence in " ".join(text.split())
    assert "|mean difference| > 2 in each layer's own units, as given" in text
    assert "outlier (1)\n    fc: 9.048 (limit 2), 10 neurons above the given threshold" in text
    assert "Top 20 neurons, of 10 abnormal (*) in all" in text
    assert "500 clean samples (0 skipped), 100 suspect samples (0 skipped); 1 layer, 512 neurons" in text
    assert "Model: sha256:m" in text
    assert "Not checked\n  - " in text
    for line in judgement.verdict.not_checked:
        assert line in " ".join(text.split())


def test_the_table_shows_the_ranking_and_marks_the_abnormal() -> None:
    judgement = classic()
    lines = summary(judgement).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Top 20"))
    rows = [line.split() for line in lines[start + 2 : start + 22]]
    starred = [row[1:] for row in rows if row[0] == "*"]
    assert sorted(int(row[1]) for row in starred) == list(range(10, 20))
    assert all(row[0] == "fc" for row in rows[10:])
    best = judgement.top()[0]
    shown = [float(cell) for cell in starred[0][2:4] + starred[0][5:]]
    assert starred[0][4] == judgement.layers["fc"].view_of(best.neuron)
    assert shown == pytest.approx([best.difference, best.z, best.clean_mean, best.suspect_mean], rel=5e-3)


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("width", [80, 100, 140])
def test_every_summary_stays_within_its_width_and_is_safe(example: str, width: int) -> None:
    text = summary(EXAMPLES[example](), width)
    assert text.endswith("\n")
    for line in text.splitlines():
        assert display_cells(line) <= width, line
        assert line.isprintable()
    text.encode("utf-8")


def test_the_columns_of_the_table_align() -> None:
    lines = summary(EXAMPLES["hostile"]()).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Top"))
    end = lines.index("", start)
    assert len({display_cells(line) for line in lines[start + 1 : end]}) == 1


def test_a_pass_says_that_nothing_was_found_and_how_it_was_calibrated() -> None:
    judgement = EXAMPLES["pass"]()
    text = summary(judgement)
    assert text.startswith("PASS (exit code 0)")
    assert "A pass, means only, as was accepted" in text
    assert "checks    shift ran; predictions, tails, ranking, directions and proof did not" in text
    assert "Findings: none" in text
    assert f"z > {number(judgement.limit)} standard deviations" in text


def test_many_findings_are_grouped_and_capped() -> None:
    judgement = judged({f"layer{i:02}": pair(6, {2: 3.0 + i}, seed=i) for i in range(40)})
    text = summary(judgement)
    assert "backdoor-like (40)" in text
    assert "… and 35 more" in text
    assert text.index("backdoor-like (") < text.index("outlier (") < text.index("shift (")
    assert text.index("layer39: ") < text.index("layer38: ")
    assert len(text.splitlines()) < 76


def test_many_gaps_are_capped() -> None:
    clean, suspect = pair(3)
    sets = {f"layer{i:02}": (clean, np.full_like(suspect, np.nan)) for i in range(60)}
    text = summary(judged(sets, 2.0))
    assert "layer00 and 59 later layers: 180 neurons without a finite value to compare" in " ".join(text.split())
    assert len(text.splitlines()) < 60
    assert "more" in text.splitlines()[-1]


def test_a_layer_of_nan_does_not_push_real_neurons_off_the_table() -> None:
    lines = summary(not_a_number()).splitlines()
    assert "Top 20 neurons, of 0 abnormal (*) and 32 that cannot be compared (?) in all" in lines
    assert sum(line.startswith("  ? broken") for line in lines) == 5
    assert sum(line.startswith("    sound ") for line in lines) == 15
    assert next(line for line in lines if line.startswith("  ? broken")).split()[3:5] == ["NaN", "NaN"]
    starred = [line.split()[1:3] for line in summary(many_layers()).splitlines() if line.startswith("  * ")]
    assert sorted(starred) == [["block11.conv", "5"], ["block3.conv", "5"], ["block7.conv", "5"]]


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=120), limit=st.integers(8, 80))
def test_printable_never_deceives(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert display_cells(shown) <= limit
    for character in shown:
        assert unicodedata.category(character) not in UNSHOWN
        assert unicodedata.bidirectional(character) not in RIGHT_TO_LEFT
        assert character == " " or not character.isspace()


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_printable_leaves_ordinary_names_alone(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\tc\x85", "a\\x0ab\\x09c\\x85"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066x\u2069\u200bz\ufeff", "\\u2066x\\u2069\\u200bz\\ufeff"),
        ("\u05d012", "\\u05d012"),
        ("e\u0301\u0301", "e\\u0301\\u0301"),
        ("\ud800\U000e0041", "\\ud800\\U000e0041"),
        ("größe中", "größe中"),
    ],
)
def test_what_could_deceive_is_shown_by_its_code(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_a_long_name_keeps_both_ends_and_whole_codes() -> None:
    shown = printable("model.layers.0." + "a" * 10_000_000 + ".down_proj", 30)
    assert (shown[:5], shown[-10:], len(shown)) == ("model", ".down_proj", 30)
    for limit in range(8, 40):
        assert "\\" not in printable("\x1b" * 40, limit).replace("\\x1b", "")
    assert printable("中" * 50, 20) == "中中中…中中中中中中"  # two cells each


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (2.0, "2"),
        (0.123456, "0.1235"),
        (-12.3456, "-12.35"),
        (17479.123, "17479.1"),
        (999999.0, "999999"),
        (1.5e7, "1.50e+07"),
        (4.2e-5, "4.20e-05"),
        (float("nan"), "NaN"),
        (float("inf"), "infinite"),
        (float("-inf"), "-infinite"),
    ],
)
def test_numbers_are_readable(value: float, shown: str) -> None:
    assert number(value) == shown
