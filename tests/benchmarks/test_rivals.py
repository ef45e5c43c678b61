"""The rivals' table: right answers are timed, wrong ones are not, traps are published, absences are said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import rivals
from benchmarks.overhead import WrongAnswer
from benchmarks.rivals import RIVALS, Case, Rival

HERE = [rival for rival in RIVALS if rival.module in ("naa_fast", "torch", "numpy", "sklearn")]
FIELDS = {
    "case",
    "rival",
    "dtype",
    "shape",
    "median_ms",
    "p20_ms",
    "p80_ms",
    "times_ours",
    "mean_error",
    "variance_error",
    "status",
}


class OffByOne(rivals.VarMean):
    def result(self) -> rivals.Partial:
        mean, variance = super().result()
        assert mean is not None
        return np.asarray(mean) + 1, variance


def small(trap: str = "") -> Case:
    return Case("small", list(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).split(16)), trap)


def test_every_rival_that_is_here_gets_a_full_row_and_a_right_answer() -> None:
    right = [rival for rival in HERE if rival.make is not rivals.BatchMeans]  # whose last batch must not be short
    rows = rivals.measured(small(), right, 1)
    for row in rows:
        assert set(row) >= FIELDS
        assert row["status"] == "ok"
        assert row["median_ms"] > 0
        assert row["cannot"] or row["rival"].startswith("naa-fast")


def test_a_wrong_answer_is_refused_and_gets_no_time() -> None:
    wrong = Rival("wrong", OffByOne, "torch", ())
    with pytest.raises(WrongAnswer, match="mean_error"):
        rivals.check(rivals.errors(rivals.answer(wrong, small().batches), rivals.expected(small().batches)))
    ours, row = rivals.measured(small(), [RIVALS[0], wrong], 1)
    assert ours["status"] == "ok"
    assert row["status"].startswith("wrong: mean_error")
    assert row["median_ms"] is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_wrong(value: float) -> None:
    want = rivals.expected(small().batches)
    with pytest.raises(WrongAnswer):
        rivals.check(rivals.errors((np.full(6, value), None), want))


def test_an_answer_of_another_shape_is_wrong() -> None:
    with pytest.raises(WrongAnswer, match=r"shape \(1,\), expected \(6,\)"):
        rivals.errors((np.zeros(1), None), rivals.expected(small().batches))


def test_a_trap_is_published_with_its_error() -> None:
    batch_means = next(rival for rival in RIVALS if rival.name == "x.mean of batches")
    case = Case("ragged", [torch.zeros(32, 6) + torch.randn(32, 6), torch.randn(2, 6) + 1.0], "ragged last batch")
    ours, row = rivals.measured(case, [RIVALS[0], batch_means], 1)
    assert ours["status"] == "ok"
    assert row["status"] == "wrong: ragged last batch"
    assert row["mean_error"] > 0.1
    assert row["median_ms"] > 0


def test_a_rival_that_is_absent_or_broken_has_a_row_that_says_so() -> None:
    class Breaks(rivals.VarMean):
        def update(self, x: torch.Tensor) -> None:
            raise RuntimeError("no such kernel\nand more")

    absent = Rival("absent", rivals.VarMean, "a_package_that_is_not_here", ())
    breaks = Rival("breaks", Breaks, "torch", ())
    _, first, second = rivals.measured(small(), [RIVALS[0], absent, breaks], 1)
    assert first["status"] == "not installed"
    assert second["status"] == "fails: RuntimeError: no such kernel"
    assert set(first) >= FIELDS


def test_the_cases_have_the_shapes_they_are_named_for() -> None:
    rows, images, ragged, offset = rivals.cases(scale=32)
    assert rows.shape == (2048, 32)
    assert images.shape == (64, 8, 28, 28)
    assert len(ragged.batches[-1]) < len(ragged.batches[0])
    assert ragged.trap
    assert float(offset.batches[0].mean()) == pytest.approx(1e4, rel=1e-3)
