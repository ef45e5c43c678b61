"""What a notebook gets: a short page, axes in and axes out, and tables."""

from __future__ import annotations

import sys
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from report.examples import HOSTILE, classic, deep, judged, pair, pictured

from naa_fast.detect.judgement import Judgement
from naa_fast.errors import UsageError
from naa_fast.report.page import short_page
from naa_fast.result import Audit


def axes_of(judgement: Judgement, layer: str | None = None, of: str | None = None) -> matplotlib.axes.Axes:
    ax = Figure().add_subplot()
    assert Audit(judgement).plot(layer, of, ax) is ax
    return ax


def bars_above_in(ax: matplotlib.axes.Axes) -> list[int]:
    (bars,) = [child for child in ax.get_children() if child.get_gid() == "above" and isinstance(child, Collection)]
    places = [np.asarray(path.vertices)[:, 0] for path in bars.get_paths()]
    return [round(float(x.min() + x.max()) / 2) for x in places]


def test_an_audit_shows_itself_as_the_short_page() -> None:
    assert Audit(pictured())._repr_html_() == short_page(pictured(), {"options": {}})


def test_axes_in_are_axes_out_with_the_layer_that_stands_out_most() -> None:
    ax = axes_of(classic())
    assert bars_above_in(ax) == list(range(10, 20))
    assert ax.get_title(loc="left") == "fc\n|mean difference| (activation units)"
    assert ax.get_xlabel() == "neuron index"
    judgement = judged({"a": pair(8), "b": pair(8, {3: 9.0})}, 2.0)
    assert bars_above_in(axes_of(judgement)) == [3]
    assert bars_above_in(axes_of(judgement, "a")) == []


def test_tails_are_drawn_where_they_show_more() -> None:
    judgement = deep(6, 128)
    assert bars_above_in(axes_of(judgement)) == list(range(100, 120))
    assert bars_above_in(axes_of(judgement, of="means")) == []
    assert "beyond the clean tail" in axes_of(judgement, "model.layers.0.mlp.act_fn", "tails").get_title(loc="left")


def test_without_axes_there_is_a_figure_of_ones_own() -> None:
    matplotlib.use("agg")
    ax = Audit(classic()).plot()
    assert isinstance(ax.figure, Figure)
    assert ax.figure.number in matplotlib.pyplot.get_fignums()
    matplotlib.pyplot.close(ax.figure)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"layer": "fcc"}, "no layer 'fcc'\n  this audit has 1: fc"),
        ({"of": "shares"}, "of is 'shares'\n  expected one of means, tails, or None"),
        ({"of": "tails"}, "no tails to draw\n  the measurements have no histograms"),
    ],
)
def test_what_cannot_be_drawn_is_said(words: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Audit(classic()).plot(**words)
    assert said in str(caught.value)


def test_a_frame_has_a_row_a_neuron() -> None:
    pytest.importorskip("pandas", reason="to_frame gives pandas tables, and pandas is not installed")
    judgement = deep(3, 128)
    frame = Audit(judgement).to_frame()
    assert list(frame.columns) == ["layer", "neuron", "z", "view", "difference", "clean_mean", "suspect_mean", "tail", "abnormal"]
    assert len(frame) == 3 * 128
    row = frame[(frame.layer == "model.layers.2.mlp.act_fn") & (frame.neuron == 105)].iloc[0]
    layer = judgement.layers["model.layers.2.mlp.act_fn"]
    assert (row.z, row.difference, row["view"]) == (layer.z[105], layer.difference[105], "mean")
    assert row["tail"] >= 0.1
    assert not row.abnormal
    assert Audit(classic()).to_frame().query("abnormal").neuron.tolist() == list(range(10, 20))


def test_a_ranking_is_a_frame_in_its_own_order() -> None:
    pandas = pytest.importorskip("pandas", reason="to_frame gives pandas tables, and pandas is not installed")
    ranking = pictured().evidence.ranking
    assert ranking is not None
    frame = ranking.to_frame()
    assert frame["sample"].tolist() == [row.sample for row in ranking.rows()]
    assert frame.triggered.tolist() == [True] * 9 + [False] * 121
    assert frame.triggered.dtype == pandas.BooleanDtype()
    assert frame.deviating[0][0] == (HOSTILE, 3, 12.5)
    assert np.array_equal(frame.score, ranking.scores[ranking.order])


def test_without_pandas_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError) as caught:
        Audit(classic()).to_frame()
    assert "to_frame() needs pandas, which is not installed\n  install it: pip install pandas" in str(caught.value)
    ranking = pictured().evidence.ranking
    assert ranking is not None
    with pytest.raises(UsageError, match="needs pandas"):
        ranking.to_frame()
