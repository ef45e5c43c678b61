"""The chart: what is red is exactly what is abnormal, at every width; names stay names; the bytes stay the same."""

from __future__ import annotations

import io
import itertools
import re
import sys
import warnings
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from report.examples import EXAMPLES, classic, deep, judged, many_layers, not_a_number, pair, pictured, worded

from naa_fast.report.chart import chart_bytes, in_context, signature_figure
from naa_fast.report.chart_style import ABOVE, DIM
from naa_fast.report.page import styles
from naa_fast.report.panel import LABELS, Panel, label_room, panel_of
from naa_fast.report.strip import COLOURS, strip_of


def panels(figure: Figure, of: str = "") -> list[Axes]:
    """The axes of the layers' bars, by what they show: "z", "difference" or "tail", or all."""
    return [ax for ax in figure.axes if str(ax.get_label()).split(" ")[0] in ([of] if of else ["z", "difference", "tail"])]


def strips(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if str(ax.get_label()).startswith("strip")]


def names(figure: Figure) -> list[str]:
    """Of the layers whose means are drawn, from top to bottom."""
    return [str(ax.get_label()).partition(" ")[2] for ax in panels(figure) if not str(ax.get_label()).startswith("tail")]


def masked(drawn: ScalarMappable) -> np.ma.MaskedArray[Any, Any]:
    """The values of what was drawn with colours."""
    return np.ma.masked_array(drawn.get_array())


def artist(ax: Axes, gid: str) -> Any:
    (found,) = [child for child in ax.get_children() if child.get_gid() == gid]
    return found


def bars_above(ax: Axes) -> dict[float, float]:
    """Centre and height of every red bar."""
    bars = artist(ax, "above")
    assert all(to_hex(colour) == ABOVE for colour in bars.get_facecolor())
    return {
        float(path.vertices[:, 0].min() + path.vertices[:, 0].max()) / 2: float(path.vertices[:, 1].max())
        for path in bars.get_paths()
    }


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_the_classic_example_lights_exactly_neurons_10_to_19() -> None:
    judgement = classic()
    (ax,) = panels(signature_figure(judgement))
    bars = bars_above(ax)
    assert list(bars) == pytest.approx(range(10, 20))
    assert list(bars.values()) == pytest.approx(judgement.layers["fc"].difference[10:20])
    below = artist(ax, "below")
    assert to_hex(below.get_facecolor()) == DIM
    heights = below.get_data().values[::2]
    assert (heights[10:20] == 0).all()
    rest = np.delete(np.arange(512), range(10, 20))
    assert np.array_equal(heights[rest], judgement.layers["fc"].difference[rest])


def test_the_threshold_is_a_dashed_line_with_its_value() -> None:
    figure = signature_figure(classic())
    line = artist(panels(figure)[0], "limit")
    assert (set(line.get_ydata()), line.get_linestyle()) == ({2.0}, "--")
    assert "threshold\n2" in words(figure)
    calibrated = classic(None)
    figure = signature_figure(calibrated)
    assert set(artist(panels(figure)[0], "limit").get_ydata()) == {calibrated.limit}
    assert any(text.startswith("limit\n") and text.endswith(" σ") for text in words(figure))
    assert bars_above(panels(figure)[0])[10.0] == calibrated.layers["fc"].z[10]


def test_axes_are_named_with_units_and_the_outcome_is_the_title() -> None:
    text = words(signature_figure(classic()))
    assert {"neuron index", "|mean difference| (activation units)", "FAIL", "fc", "10 of 512 neurons above", "10–19\n▼"} <= set(
        text
    )
    text = words(signature_figure(EXAMPLES["pass"]()))
    assert {"neuron index", "standardised difference (σ)", "PASS", "none of 64 neurons above"} <= set(text)
    assert not any("▼" in word and "above" not in word for word in text)


def test_one_lit_neuron_of_14336_is_seen_in_the_pixels() -> None:
    judgement = judged({"mlp": pair(14336, {7001: 2.5})}, 2.0)
    figure = signature_figure(judgement)
    (ax,) = panels(figure)
    assert "7001\n▼" in words(figure)
    image = imread(io.BytesIO(chart_bytes(judgement, "png")))[..., :3]
    column, row = ax.transData.transform((7001, 1.2))
    strip = image[image.shape[0] - round(row)]  # image rows count from the top
    red = np.flatnonzero((strip[:, 0] > 0.7) & (strip[:, 1:] < 0.2).all(1))
    assert 3 <= len(red) <= 8
    assert abs(red.mean() - column) < 2


def test_12_layers_show_the_5_worst_in_model_order_and_a_strip_of_all() -> None:
    judgement = many_layers()
    figure = signature_figure(judgement)
    shown = names(figure)
    assert len(shown) == 5
    assert {"block3.conv", "block4.conv", "block7.conv", "block11.conv"} <= set(shown)
    assert shown == [name for name in judgement.layers if name in shown]
    assert "5 of 12 layers drawn, the worst; no neurons above in the others" in words(figure)
    assert [set(bars_above(ax)) for ax in panels(figure) if ax.get_label() == "difference block7.conv"] == [{5.0}]
    (strip,) = strips(figure)
    (cells,) = strip.collections
    shares = masked(cells)
    assert shares.shape == (1, 12)
    assert np.ma.getmaskarray(shares)[0].tolist() == [i == 4 for i in range(12)]  # block4 is NaN
    assert sorted(text.get_text() for text in strip.texts) == ["1", "2", "3"]


def test_lit_layers_are_shown_before_layers_of_nan() -> None:
    clean, suspect = pair(8)
    sets = {f"nan{i}": (clean, np.full_like(suspect, np.nan)) for i in range(9)} | {"lit": pair(8, {2: 9.0})}
    worst = strip_of(judged(sets, 2.0)).worst
    assert worst[0].name == "lit"
    assert len(worst) == 5


def test_of_lit_layers_the_highest_are_shown() -> None:
    judgement = judged({f"layer{i}": pair(8, {2: 5.0 + i}) for i in (0, 6, 1, 5, 2, 4, 3)}, 2.0)
    assert names(signature_figure(judgement)) == [f"layer{i}" for i in (6, 5, 2, 4, 3)]


def test_three_hundred_layers_are_one_strip_with_labels_that_do_not_lie_over_one_another() -> None:
    figure = signature_figure(deep(300, 128))
    assert figure.get_figheight() < 16
    assert [ax.get_label() for ax in strips(figure)] == ["strip tail", "strip z"]  # what shows something first
    for strip in strips(figure):
        assert masked(strip.collections[0]).shape == (1, 300)
        assert [text.get_text() for text in strip.texts] == ["1, 2, 3, 4, 5"]


def test_beside_the_means_stand_the_tails_and_first_where_they_alone_show_something() -> None:
    figure = signature_figure(deep(6, 128))
    labels = [str(ax.get_label()).split(" ")[0] for ax in panels(figure)]
    assert labels == ["tail", "z"] * 5
    for ax in panels(figure, "tail")[-2:]:
        assert set(bars_above(ax)) == set(range(100, 120))
        assert min(bars_above(ax).values()) >= 0.1
    assert all(not bars_above(ax) for ax in panels(figure, "z"))
    assert any(text.get_text().endswith(" %") for ax in panels(figure, "tail") for text in ax.texts)


def test_a_proof_leads_with_its_rate_its_control_and_clean_samples_without_and_with_it() -> None:
    figure = signature_figure(pictured())
    text = words(figure)
    assert {"91 % (87 to 94 %)", "6 %", "on 288 clean samples; patch, 6 % of the input"} <= set(text)
    (bars,) = [ax for ax in figure.axes if ax.get_label() == "attack success"]
    assert [float(bar.get_bbox().width) for bar in bars.patches if isinstance(bar, Rectangle)] == pytest.approx(
        [1, 1, 0.91, 0.06]
    )
    shown = [masked(ax.images[0]) for ax in figure.axes if ax.get_label() == "example"]
    assert len(shown) == 6
    assert all(
        (after[6:, 6:] == 255).all() and (before[6:, 6:] < 255).any()
        for before, after in zip(shown[::2], shown[1::2], strict=True)
    )


def test_words_are_shown_in_their_context() -> None:
    text = words(signature_figure(worded()))
    assert "zebra<script>" in text
    assert any(re.fullmatch(r"class 2 -> class 1:  .*\[zebra\].*", word) for word in text)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.text(max_size=90), st.booleans()), min_size=1, max_size=5))
def test_a_context_is_short_and_drawable(pieces: list[tuple[str, bool]]) -> None:
    shown = in_context(tuple(pieces))
    assert len(shown) <= 80
    assert shown.replace("…", "").isascii()


def test_neurons_that_cannot_be_compared_are_crossed_and_said() -> None:
    figure = signature_figure(not_a_number())
    broken, sound = panels(figure)
    assert artist(broken, "unknown").get_xdata().tolist() == list(range(32))
    assert artist(broken, "unknown").get_marker() == "x"
    assert len(artist(sound, "unknown").get_xdata()) == 0
    text = words(figure)
    assert "no neuron can be compared" in text
    assert "none of 32 neurons above; 32 cannot be compared" in text
    assert "cannot be compared: 32 neurons" in text


def test_an_outlier_does_not_press_the_rest_into_the_ground() -> None:
    judgement = judged({"f": pair(100, {3: 9000.0, 70: 2.5})}, 2.0)
    figure = signature_figure(judgement)
    (ax,) = panels(figure)
    assert ax.get_yscale() == "symlog"
    assert "2 of 100 neurons above; logarithmic above the threshold" in words(figure)
    low, lesser, top = (ax.transData.transform((0, y))[1] for y in (0, bars_above(ax)[70.0], ax.get_ylim()[1]))
    assert (lesser - low) / (top - low) > 0.08


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("form", ["png", "svg"])
def test_every_chart_is_drawn_without_a_warning(example: str, form: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = chart_bytes(EXAMPLES[example](), form)
    assert content.startswith(b"\x89PNG" if form == "png" else b"<?xml")


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_bytes_are_the_same_twice_and_carry_no_date(form: str) -> None:
    first = chart_bytes(classic(), form)
    assert first == chart_bytes(classic(), form)
    assert first != chart_bytes(classic(3.0), form)
    assert b"date" not in first.lower().split(b"<g id")[0]


def test_hostile_names_stay_text() -> None:
    judgement = EXAMPLES["hostile"]()
    text = next(word for word in words(signature_figure(judgement)) if word.startswith("<script>"))
    assert text.isascii() or text.replace("…", "").isascii()
    svg = chart_bytes(judgement, "svg")
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
    assert "path" in tags
    assert not {"script", "text", "foreignObject", "a"} & tags
    assert b"<script" not in svg
    assert not any(byte < 0x20 and byte != 0x0A for byte in svg)


def test_a_dollar_sign_starts_no_formula() -> None:
    clean, suspect = pair(4)
    figure = signature_figure(judged({r"$\frac{1}{": (clean, suspect)}, 2.0))
    (title,) = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() == r"$\frac{1}{"]
    assert not title.get_parse_math()
    assert chart_bytes(judged({r"$\frac{1}{": (clean, suspect)}, 2.0), "svg")  # as a formula it would not parse


def test_the_users_own_settings_change_nothing_and_are_left_alone() -> None:
    loaded = "matplotlib.pyplot" in sys.modules  # by another test
    plain = chart_bytes(classic(), "png")
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "axes.facecolor": "black"}):
        assert chart_bytes(classic(), "png") == plain
        assert matplotlib.rcParams["text.usetex"]
        assert matplotlib.rcParams["font.size"] == 30
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def drawn(heights: np.ndarray, limit: float) -> Panel:
    """The panel of a layer with these numbers."""
    layer: Any = SimpleNamespace(
        neurons=len(heights),
        measure=heights,
        limit=limit,
        abnormal=np.flatnonzero(heights > limit),
        unknown=np.flatnonzero(~np.isfinite(heights)),
    )
    return panel_of(layer)


@settings(deadline=None, max_examples=60)
@given(neurons=st.integers(0, 20_000), seed=st.integers(0, 99), share=st.sampled_from([0.0, 1e-4, 0.01, 0.5, 1.0]))
def test_every_neuron_is_under_a_bar_of_its_colour(neurons: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    heights = np.where(rng.random(neurons) < share, rng.uniform(2, 9, neurons), rng.uniform(0, 1, neurons))
    heights[rng.random(neurons) < share / 3] = np.nan
    panel = drawn(heights, 1.5)
    above = np.flatnonzero(heights > 1.5)
    assert set(panel.above.centre) <= set(above)
    if len(above):
        nearest = np.abs(panel.above.centre[:, None] - above[None, :]).min(0)
        assert (nearest <= max(0.5, neurons / 800)).all()
        assert panel.above.height.max() == np.nanmax(heights)
        assert panel.labels
    assert panel.above.width >= neurons / 400
    if neurons:
        unlit = np.where(heights > 1.5, 0, np.nan_to_num(heights))
        column = np.arange(neurons) * len(panel.dim.height) // neurons
        envelope = np.zeros(len(panel.dim.height))
        np.maximum.at(envelope, column, unlit)
        assert np.array_equal(panel.dim.height, envelope)
    assert len(panel.dim.height) == min(neurons, 800)
    assert len(panel.labels) <= LABELS
    ordered = sorted(panel.labels, key=lambda label: label.neuron)
    for a, b in itertools.pairwise(ordered):
        assert a.neuron + label_room(a.text) / 2 * neurons <= b.neuron - label_room(b.text) / 2 * neurons + 1e-9


def test_labels_never_overlap_in_the_pixels_and_wide_bars_have_their_own() -> None:
    rng = np.random.default_rng(3)
    for neurons in (10, 32, 64, 512, 14336):
        chosen = rng.choice(neurons, min(neurons, 40) // 2, replace=False)
        figure = signature_figure(judged({"f": pair(neurons, {int(i): float(rng.uniform(3, 9)) for i in chosen})}, 2.0))
        figure.draw_without_rendering()
        texts = [text for text in panels(figure)[0].texts if "▼" in text.get_text()]
        assert len(texts) >= 4
        spans = sorted((box.x0, box.x1) for box in (text.get_window_extent() for text in texts))
        assert all(left[1] < right[0] for left, right in itertools.pairwise(spans)), neurons
        if neurons <= 32:
            assert not any("–" in text.get_text() for text in texts)


def test_a_neuron_beyond_float64_has_a_bar_to_the_end_of_the_axis() -> None:
    panel = drawn(np.array([0.1, np.inf, np.nan, 3.0]), 1.0)
    assert dict(zip(panel.above.centre, panel.above.height, strict=True)) == {1.0: panel.top, 3.0: 3.0}
    assert panel.unknown.tolist() == [1, 2]
    assert np.isfinite(panel.top)


def test_the_strip_has_the_colours_of_the_page() -> None:
    light = styles().partition("@media")[0]
    assert [re.search(rf"--c{step}: (#\w+)", light)[1] for step in range(8)] == list(COLOURS)  # type: ignore[index]
