"""Rows that turn out not to be samples are rows from the first batch on, in one process and in many."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from tolerances import assert_moments

import naa_fast
from naa_fast.accumulate import Accumulator, Samples
from naa_fast.measurement import Measurement, Shard
from naa_fast.records import ROWS, LayerRecord, Moments

X = torch.randn(200, 4, 3, generator=torch.Generator().manual_seed(0))


def accumulated(counts: list[int], inner: int = 1, start: int = 0) -> LayerRecord:
    """Of batches of 8 samples, in each so many rows."""
    accumulator, at = Accumulator("reference"), start
    for rows in counts:
        accumulator.begin(8, 0)
        accumulator.observe("a", X[at : at + rows, :, :inner], "axis 1 of 2")
        accumulator.commit()
        at += rows
    return accumulator.records()["a"]


@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("counts", [[24, 19, 16], [8, 19], [21, 24, 8], [16, 0]], ids=str)
def test_every_batch_is_of_rows_whichever_shows_it(counts: list[int], inner: int) -> None:
    record = accumulated(counts, inner)
    rows = X[: sum(counts), :, :inner].double()
    assert record.layout == f"axis 1 of 2, {ROWS}"
    assert record.bins == 0
    assert_moments(record.positions, Moments.of(rows.transpose(1, 2).reshape(-1, 4).numpy()), "float64")
    if inner == 1 or counts[0] % 8 == 0:
        for view in (record.sample_mean, record.sample_max):
            assert_moments(view, record.positions, "float64")


def test_a_call_among_others_can_show_it_too() -> None:
    accumulator = Accumulator("reference")
    for _ in range(2):
        accumulator.begin(8, 0)
        for rows in (8, 19):
            accumulator.observe("a", X[:rows, :, :1], "axis 1 of 2")
        accumulator.commit()
    record = accumulator.records()["a"]
    assert record.layout.endswith(ROWS)
    assert record.positions.count.tolist() == record.sample_mean.count.tolist() == [54] * 4


@pytest.mark.parametrize("inner", [1, 3])
def test_parts_merge_to_rows_in_any_order(inner: int) -> None:
    parts = [accumulated([24, 16], inner), accumulated([19], inner, 40), accumulated([16, 13], inner, 59)]
    assert [part.of_rows for part in parts] == [False, True, True]
    want = Moments.of(X[:88, :, :inner].double().transpose(1, 2).reshape(-1, 4).numpy())
    for a, b, c in permutations(parts):
        for whole in (a.merge(b).merge(c), a.merge(b.merge(c))):
            assert whole.layout == f"axis 1 of 2, {ROWS}"
            assert whole.bins == 0
            for view in (whole.positions, whole.sample_mean, whole.sample_max):
                assert_moments(view, want, "float64")
            assert whole.mean_folds.count.sum() == 0


def measurement(record: LayerRecord, digest: str) -> Measurement:
    return Measurement({"a": record}, "model", "float32", (Shard(digest, 16),))


def test_samples_of_one_set_are_compared_and_merged_with_rows_of_the_other_as_rows() -> None:
    samples, rows = accumulated([24, 16]), accumulated([19, 16], 1, 40)
    judged = naa_fast.compare(measurement(samples, "b"), measurement(rows, "c"))
    assert judged.verdict.outcome == "inconclusive"
    assert "a: its rows cannot be told apart by sample" in judged.verdict.sentence
    layer = judged.layers["a"]
    means = X[:40, :, 0].double().mean(0), X[40:75, :, 0].double().mean(0)
    assert np.allclose(layer.difference, (means[1] - means[0]).abs(), atol=1e-9)
    one, other = measurement(samples, "b"), measurement(rows, "c")
    assert one.merge(other).to_bytes() == other.merge(one).to_bytes()
    assert one.merge(other).layers["a"].of_rows


def test_views_of_samples_end_where_rows_begin() -> None:
    accumulator = Accumulator("reference")
    accumulator.samples = Samples()
    for rows, seen in ((24, ["a"]), (19, []), (16, [])):
        accumulator.begin(8, 0)
        accumulator.observe("a", X[:rows], "axis 1 of 2")
        assert [*accumulator.views()] == seen
        accumulator.commit()
    accumulator.begin(8, 0)
    accumulator.observe("b", X[:8], "axis 1 of 2")
    accumulator.observe("b", X[:19], "axis 1 of 2")
    assert accumulator.views() == {}
