"""What the page is made of: the strip's colours, the charts' shapes, the pictures' pixels, and numbers in words."""

from __future__ import annotations

import io
import re
import shlex
from dataclasses import replace
from typing import get_args
from unicodedata import category

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from report.examples import EXAMPLES, deep, judged, noise, not_a_number, pair, picture_examples, pictured, record_of

from naa_fast.cli.main import build_parser
from naa_fast.detect.baseline import finding_of
from naa_fast.detect.checks import unranked
from naa_fast.detect.comparison import LayerComparison
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.findings import Finding, Unit
from naa_fast.detect.proof import Proof
from naa_fast.detect.tails import tail_limit, tail_signature
from naa_fast.detect.trigger import Offset, Patch, Tokens
from naa_fast.records import histogram
from naa_fast.report.bars import chart_of
from naa_fast.report.drawings import (
    COVERED,
    fitted,
    picture_of,
    pixels_of,
    place_in_words,
    place_png,
    png,
    range_of,
    shrunk,
    trigger_png,
)
from naa_fast.report.layers_view import layers_view
from naa_fast.report.next_steps import next_steps, with_names
from naa_fast.report.panel import TailSignature
from naa_fast.report.strip import STEPS, cell_of, step_of, strip_of
from naa_fast.report.units import interval, measured, percent, probability, web_text
from naa_fast.report.words import UNSHOWN


def test_the_strip_has_a_cell_a_layer_and_labels_those_that_stand_out_worst_first() -> None:
    judgement = judged(
        {f"l{i}": pair(12, {4: raised}, seed=i) for i, raised in enumerate((0, 3.0, 0, 9.0, 5.0, 4.0, 7.0, 6.0))}, 2.0
    )
    strip = strip_of(judgement)
    assert [cell.name for cell in strip.cells] == list(judgement.layers)
    assert [(cell.name, cell.label) for cell in strip.worst] == [("l3", "1"), ("l6", "2"), ("l7", "3"), ("l4", "4"), ("l5", "5")]
    assert [cell.name for cell in strip.cells if cell.label] == ["l3", "l4", "l5", "l6", "l7"]
    assert strip.cells[3].neuron == 4
    assert strip.cells[3].z == pytest.approx(float(judgement.layers["l3"].z[4]))
    assert not strip.rare


def test_where_nothing_stands_out_nothing_is_labelled_and_the_worst_are_shown() -> None:
    strip = strip_of(EXAMPLES["pass"]())
    assert not any(cell.label for cell in strip.cells)
    assert [cell.name for cell in strip.worst] == ["fc"]


def test_rare_triggers_are_told_by_tails_where_means_hide_them() -> None:
    strip = strip_of(deep(30, 128))
    assert strip.rare
    assert [cell.place for cell in strip.cells if cell.tailed] == list(range(21, 31))
    assert all(cell.tailed == 20 and cell.abnormal == 0 and 0.1 <= cell.tail < 0.11 for cell in strip.cells[20:])
    assert 0.01 < strip.tail_limit < 0.1


def test_a_share_that_chance_reaches_is_pale_however_large_it_is() -> None:
    few = pair(12, clean=300, suspect=12)
    few[1][0, 5] += 9
    clean, suspect = (replace(record_of(x), tails=np.stack([histogram(x)] * 2)) for x in few)
    layer = LayerComparison("f", clean, suspect)
    shares, limit = tail_signature(layer), tail_limit([layer])
    cell = cell_of(1, layer, shares, limit)
    assert (cell.tail, cell.tail_neuron, cell.tailed) == (1 / 12, 5, 0)
    assert cell.tail_step in (0, 1)


def test_a_layer_without_a_number_has_no_colour() -> None:
    broken, sound = strip_of(not_a_number()).cells
    assert (broken.step, broken.unknown) == (None, 32)
    assert sound.step is not None


@given(st.floats(0, 20))
def test_a_colour_is_the_number_of_steps_reached(value: float) -> None:
    assert step_of(value, STEPS) == sum(step <= value for step in STEPS)


def drawn(path: str) -> list[tuple[float, float, float]]:
    """Left, right and height of the bars of a path."""
    assert re.fullmatch(r"(M[\d.e-]+ 100V[\d.]+H[\d.]+V100)*", path), path[:80]
    found = re.findall(r"M([\d.e-]+) 100V([\d.]+)H([\d.]+)", path)
    return [(float(left), float(right), 100 - float(top)) for left, top, right in found]


@settings(deadline=None, max_examples=40)
@given(neurons=st.integers(1, 6000), seed=st.integers(0, 99), share=st.sampled_from([0.0, 1e-3, 0.1, 1.0]))
def test_every_neuron_above_the_limit_is_under_a_lit_bar(neurons: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(neurons) < share, rng.uniform(0.2, 0.9, neurons), rng.uniform(0, 0.09, neurons))
    chart = chart_of(TailSignature("f", values, 0.1))
    bars, margin = drawn(chart.above), max(0.5, 0.006 * neurons)
    places = (np.flatnonzero(values >= 0.1) + margin) * 400 / (neurons - 1 + 2 * margin)
    assert all(any(left - 0.6 <= place <= right + 0.6 for left, right, _ in bars) for place in places)
    assert bool(bars) == bool(len(places))
    assert all(0 <= mark.top <= 100 and 0 <= mark.left <= 100 for mark in chart.marks)
    assert chart.limit is not None
    assert all(height > 100 - chart.limit - 0.2 for _, _, height in bars)
    assert f"{len(places) or 'none'} of {neurons} neuron" in chart.words


def test_bars_are_as_high_as_their_numbers_and_the_words_say_them() -> None:
    chart = chart_of(TailSignature("f", np.array([0.0, 0.02, 0.4, np.nan]), 0.1))
    ((_, _, low),), ((_, _, high),) = drawn(chart.dim), drawn(chart.above)
    assert high / low == pytest.approx(20, rel=0.05)
    assert chart.words == (
        "1 of 4 neurons above the limit of 10 % (dashed); largest 40 %, neuron 2; 1 cannot be compared; the axis ends at 58 %"
    )
    assert [mark.text for mark in chart.marks] == ["2"]


def patch(shape: tuple[int, ...] = (1, 8, 8), rows: slice = slice(6, 8), columns: slice = slice(6, 8)) -> Proof:
    mask = np.zeros(shape, np.float32)
    mask[..., rows, columns] = 1
    return Proof(Patch(mask, mask), 7, 0.9, 0.0, 100, 8, examples=picture_examples())


def test_the_trigger_is_cut_to_where_it_lies_and_clear_elsewhere() -> None:
    proof = patch()
    assert proof.mask is not None
    proof.mask[0, 6, 6] = 0
    content = trigger_png(proof, (0.0, 1.0))
    assert content is not None
    pixels = imread(io.BytesIO(content))
    assert pixels.shape == (2, 2, 4)
    assert pixels[..., 3].tolist() == [[0, 1], [1, 1]]
    assert (pixels[1, 1, :3] == 1).all()


def test_its_place_is_red_on_a_clean_sample() -> None:
    content = place_png(patch(), (0.0, 1.0))
    assert content is not None
    pixels = np.round(255 * imread(io.BytesIO(content))[..., :3])
    red = (pixels == COVERED).all(-1)
    assert np.argwhere(red).tolist() == [[6, 6], [6, 7], [7, 6], [7, 7]]


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (slice(6, 8), slice(6, 8), "2 × 2 pixels, rows 6 to 7, columns 6 to 7 of 8 × 8: bottom right"),
        (slice(3, 5), slice(3, 5), "2 × 2 pixels, rows 3 to 4, columns 3 to 4 of 8 × 8: the middle"),
        (slice(0, 1), slice(0, 8), "1 × 8 pixels, rows 0 to 0, columns 0 to 7 of 8 × 8: top centre"),
        (slice(0, 8), slice(0, 8), "64 pixels, all over of 8 × 8"),
    ],
)
def test_a_place_in_words(rows: slice, columns: slice, words: str) -> None:
    assert place_in_words(patch(rows=rows, columns=columns)) == words
    last = patch()
    assert last.mask is not None
    assert (
        place_in_words(Proof(Patch(np.ones((9, 9, 3)), np.ones((9, 9, 3))), 7, 0.9, 0.0, 100, 8))
        == "81 pixels, all over of 9 × 9"
    )


def test_an_offset_is_drawn_in_colour_and_what_is_no_picture_is_not() -> None:
    wave = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    content = trigger_png(Proof(Offset(wave), 1, 0.9, 0.0, 100, 8), (0.0, 1.0))
    assert content is not None
    pixels = imread(io.BytesIO(content))
    assert pixels[0, 0, 2] > pixels[0, 0, 0]  # less is blue
    assert pixels[7, 7, 0] > pixels[7, 7, 2]
    assert trigger_png(Proof(Patch(wave[0], wave[0]), 1, 0.9, 0.0, 100, 8), (0.0, 1.0)) is None
    assert place_in_words(Proof(Tokens((3,)), 1, 0.9, 0.0, 100, 8)) == ""


def test_pictures_beside_one_another_share_a_scale_and_nan_is_black() -> None:
    dark, bright = np.full((4, 4, 1), 0.2), np.full((4, 4, 1), 0.8)
    scale = range_of([dark, bright, np.full((2, 2, 1), np.nan)])
    assert scale == (0.2, 0.8)
    assert pixels_of(dark, scale).max() == 0
    assert pixels_of(bright, scale).min() == 255
    assert pixels_of(np.full((2, 2, 3), np.nan), scale).tolist() == np.zeros((2, 2, 3)).tolist()
    assert range_of([]) == (0.0, 1.0)
    assert imread(io.BytesIO(png(pixels_of(bright, scale)))).shape[:2] == (4, 4)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (4, 8, 8), (8, 8, 3)])
def test_what_is_a_picture(shape: tuple[int, ...]) -> None:
    picture = picture_of(np.zeros(shape, np.float32))
    assert picture is not None
    assert picture.shape == (8, 8, 1 if shape[0] == 1 else 3)


def test_what_is_none() -> None:
    assert [picture_of(array) for array in (None, np.zeros((2, 8, 8)), np.zeros(5), np.zeros((0, 8, 8)))] == [None] * 4


def test_a_small_trigger_does_not_vanish_where_a_picture_shrinks() -> None:
    picture = np.zeros((600, 400, 3))
    picture[300, 200] = 1
    assert max(shrunk(picture, 96).shape[:2]) <= 96
    assert shrunk(picture, 1000) is picture
    assert shrunk(np.zeros((1, 500, 1)), 96).shape[0] == 1
    mask = np.zeros((600, 400), bool)
    mask[599, 399] = True
    assert np.argwhere(fitted(mask, 85, 57)).tolist() == [[84, 56]]


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0 %"), (1, "100 %"), (0.9983, "99.8 %"), (0.99999, "99.9 %"), (0.0025, "0.25 %"), (0.041, "4.1 %"), (0.5, "50 %")],
)
def test_shares_in_words(share: float, words: str) -> None:
    assert percent(share) == words


def test_intervals_and_probabilities_in_words() -> None:
    assert interval((0.87, 0.941)) == "87 to 94 %"
    assert [probability(p) for p in (0.031234, 9.9e-7, 0.0, float("nan"))] == ["p = 0.031", "p < 1e-6", "p < 1e-6", "p unknown"]


UNITS = {
    "share": ("75 %", "50 %"),
    "sigma": ("0.75 σ", "0.5 σ"),
    "t": ("t 0.75", "t 0.5"),
    "number": ("0.75", "0.5"),
}


def test_a_finding_is_told_in_its_own_unit() -> None:
    assert {unit: measured(Finding("outlier", "fc", "x", 0.75, 0.5, unit=unit)) for unit in get_args(Unit)} == UNITS


def test_a_finding_of_a_report_that_says_no_unit_is_told_in_that_of_its_kind() -> None:
    def before(level: str, layer: str, about: str = "") -> str:
        entry = {"level": level, "layer": layer, "about": about, "value": 1.0, "source": None, "trigger": None}
        return finding_of(entry).unit

    assert before("proved", "(input)") == before("outlier", "fc", "tail") == before("shift", "(predictions)", "7") == "share"
    assert before("shift", "fc") == before("shift", "fc", "direction") == "t"
    assert before("outlier", "fc") == before("backdoor-like", "fc") == "sigma"
    assert before("outlier", "fc", "difference") == before("outlier", "(samples)", "not finite") == "number"


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=80), limit=st.integers(8, 60))
def test_text_of_a_page_hides_nothing(text: str, limit: int) -> None:
    shown = web_text(text, limit)
    stacked = re.sub(r"[^\W\d_]", "", shown)
    assert not [c for c in shown if category(c) in UNSHOWN - {"Mn", "Me"}]
    assert all(c == " " or not c.isspace() for c in shown)
    assert len(stacked) <= len(shown)


def test_text_of_a_page_keeps_scripts_and_cuts_the_middle() -> None:
    assert web_text("שלום عربي 中文 größe") == "שלום عربي 中文 größe"
    assert web_text("a\u202eb\u200bc\x1b\n") == "a\\u202eb\\u200bc\\x1b\\x0a"
    assert web_text("e" + "\u0301" * 6) == "e" + "\u0301" * 4 + "\\u0301" * 2
    assert web_text("\u0301") == "\\u0301"
    assert web_text("x" * 50 + "end", 20) == "xxxxxx…" + "x" * 10 + "end"


@pytest.mark.parametrize(
    ("example", "first"), [("pictured", "Do not deploy"), ("pass", "Read what was not"), ("inconclusive", "Close the gaps")]
)
def test_what_to_do_first(example: str, first: str) -> None:
    assert next_steps(EXAMPLES[example]())[0].what.startswith(first)


def test_a_fail_with_a_repair_says_how_to_run_it_and_who_carries_the_trigger() -> None:
    commands = [step.command for step in next_steps(pictured())]
    build_parser().parse_args(next(command for command in commands if command.startswith("naa-fast repair")).split()[1:])
    assert commands[1] == "with naa_fast.repair.applied(model, naa_fast.repair.load('repair.safetensors')): ..."
    assert commands[2].startswith("naa-fast repair . --model MODEL")
    assert commands[3].startswith("naa-fast rank --model MODEL")


def test_commands_have_the_names_that_the_scan_was_given() -> None:
    run = {
        "model": "hf:./a b",
        "weights": None,
        "clean": "CLEAN; rm",
        "suspect": "s.jsonl",
        "command": ["naa-fast", "scan", "--out", "r"],
    }
    deploy, listing = (step.command for step in with_names(next_steps(pictured()), run)[2:])
    assert deploy == "naa-fast repair r --model 'hf:./a b' --clean 'CLEAN; rm' --suspect s.jsonl"
    build_parser().parse_args(shlex.split(listing)[1:])
    weighted = with_names(next_steps(pictured()), {**run, "weights": "w.pt", "clean": "x" * 999})[3].command
    assert weighted == "naa-fast rank --model 'hf:./a b' --weights w.pt --clean CLEAN --suspect s.jsonl -k all --out samples.csv"
    for other in (None, {**run, "command": None}, {**run, "command": ["naa-fast", "compare"]}):
        assert with_names(next_steps(pictured()), other) == next_steps(pictured())


def test_measurements_alone_are_followed_by_a_scan_with_the_model() -> None:
    steps = next_steps(EXAMPLES["inconclusive"]())
    assert steps[-1].what.startswith("Scan with the model and the samples")
    looked = judged({"fc": pair(4, clean=5, suspect=5)}, evidence=Evidence(checks=unranked("too few samples")))
    assert not any("Scan with the model" in step.what for step in next_steps(looked))


def test_a_warn_says_what_to_ask() -> None:
    steps = next_steps(judged({"f": (noise(0, 500, 8), noise(1, 100, 8, {2: 0.4}))}))
    assert any("Ask how the two sets were made" in step.what for step in steps)


def test_the_layers_of_what_triggered_samples_do_are_named() -> None:
    """A mean over the set hides a few samples: where their own neurons deviate is the answer to "which layers?"."""
    view = layers_view(pictured())
    (_, most, neurons), (layer, _, others) = view.carried
    assert (most, neurons, layer, others[:8]) == ("9 of 9", "3 (in 9)", "fc", "0 (in 2)")
    assert layers_view(deep(4, 16)).carried != ()
    assert layers_view(judged({"fc": pair(8)})).carried == ()
