"""Batches count wholly or not at all, in every split, mask and call pattern."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerances import assert_moments, assert_record, assert_tails
from torch import Tensor

from naa_fast.accumulate import Accumulator, Predictions
from naa_fast.errors import BackendUnavailable, CaptureError, UsageError
from naa_fast.records import LayerRecord, Moments, histogram

X = torch.randn(150, 6, 9, generator=torch.Generator().manual_seed(2))


def accumulated(x: Tensor, size: int, mask: Tensor | None = None, backend: str = "reference") -> LayerRecord:
    accumulator = Accumulator(backend)
    for start in range(0, len(x), size):
        part = x[start : start + size]
        accumulator.begin(len(part), start, None if mask is None else mask[start : start + size])
        accumulator.observe("a", part, "axis 1 of 3")
        accumulator.commit()
    return accumulator.records()["a"]


@pytest.mark.parametrize("size", [1, 7, 64, 150])
def test_batch_size_changes_nothing(size: int) -> None:
    assert_record(accumulated(X, size), accumulated(X, 33), "float64")


def test_the_record_is_the_brute_force_one() -> None:
    record = accumulated(X, 40)
    positions = X.double().permute(0, 2, 1).reshape(-1, 6).numpy()
    assert_moments(record.positions, Moments.of(positions), "float64")
    assert_moments(record.sample_mean, Moments.of(X.double().mean(2).numpy()), "float64", e=1e-15)
    assert_moments(record.sample_max, Moments.of(X.double().amax(2).numpy()), "float64")


@pytest.mark.parametrize("backend", ["reference", "cpu", "portable"])
@pytest.mark.parametrize("size", [7, 64])
def test_histograms_are_those_of_the_samples_whatever_the_batches(size: int, backend: str) -> None:
    generator = torch.Generator().manual_seed(9)
    mask = torch.rand(150, 9, generator=generator) < 0.3
    x = X.clone()
    x[3, 2], x[5, 1, 4] = torch.nan, torch.inf
    tails = accumulated(x, size, mask, backend).tails
    valid = np.asarray(mask)[:, None, :]
    moments = Moments.of(x.double().numpy(), valid, axis=2)
    assert_tails(tails, moments, 1e-6)
    single = accumulated(x[:, :, :1], size, mask[:, :1], backend).tails
    of_one = Moments.of(x[:, :, :1].double().numpy(), valid[:, :, :1], axis=2)
    assert_tails(single, of_one, 0.0)


@pytest.mark.parametrize("backend", ["reference", "cpu", "portable"])
@pytest.mark.parametrize(("size", "first"), [(777, 0), (9000, 0), (64, 0), (1000, 4090), (333, 5003)])
def test_of_many_samples_with_one_position_every_eighth_is_counted(size: int, first: int, backend: str) -> None:
    """By the place in the set, so that neither batches nor shards change what is counted."""
    x = torch.randn(9000 - first, 3, 1, generator=torch.Generator().manual_seed(4))
    x[5, 1] = torch.nan
    accumulator = Accumulator(backend)
    for start in range(0, len(x), size):
        accumulator.begin(len(x[start : start + size]), first + start)
        accumulator.observe("a", x[start : start + size], "axis 1 of 2")
        accumulator.commit()
    places = first + np.arange(len(x))
    counted = (places < 4096) | (places % 8 == 0)
    assert np.array_equal(accumulator.records()["a"].tails[0], histogram(x[counted, :, 0].numpy()))


def test_no_histograms_where_none_are_wanted_or_rows_are_not_samples() -> None:
    for accumulator, rows in ((Accumulator("reference", tails=False), 10), (Accumulator("reference"), 7)):
        accumulator.begin(10, 0)
        accumulator.observe("a", X[:rows], "l")
        accumulator.commit()
        assert accumulator.records()["a"].tails.shape == (2, 0, 6)


def test_an_output_that_is_overwritten_after_the_hook_counts_as_it_was() -> None:
    for inner in (1, 9):
        x = X[:, :, :inner].clone()
        accumulator = Accumulator("cpu")
        accumulator.begin(150, 0)
        accumulator.observe("a", x, "l")
        x.fill_(-5.0)
        accumulator.commit()
        assert np.array_equal(accumulator.records()["a"].tails, accumulated(X[:, :, :inner], 150, backend="cpu").tails)


def test_a_discarded_batch_leaves_nothing_behind() -> None:
    accumulator = Accumulator("reference")
    accumulator.begin(100, 0)
    accumulator.observe("a", X[:100], "l")
    accumulator.commit()
    before = accumulator.records()["a"].packed()
    tails = accumulator.records()["a"].tails
    accumulator.begin(50, 100)
    accumulator.observe("a", X[100:], "l")
    accumulator.discard()
    assert all(np.array_equal(a, b) for a, b in zip(before, accumulator.records()["a"].packed(), strict=True))
    assert np.array_equal(tails, accumulator.records()["a"].tails)
    accumulator.begin(50, 100)  # a batch that was never committed is forgotten by the next begin as well
    accumulator.observe("a", X[100:], "l")
    accumulator.begin(50, 100)
    accumulator.observe("a", X[100:], "l")
    accumulator.commit()
    assert_record(accumulator.records()["a"], accumulated(X, 150), "float64")


def test_masks_of_positions_and_of_samples() -> None:
    generator = torch.Generator().manual_seed(4)
    positions = torch.rand(150, 9, generator=generator) < 0.7
    record = accumulated(X, 40, positions)
    kept = X.double().permute(0, 2, 1)[positions].numpy()
    assert_moments(record.positions, Moments.of(kept), "float64")
    samples = torch.rand(150, generator=generator) < 0.5
    assert_record(accumulated(X, 150, samples), accumulated(X, 150, samples[:, None].expand(150, 9)), "float64")
    assert accumulated(X, 40, samples).sample_mean.count[0] == int(samples.sum())
    pooled = accumulated(X[:, :, :1], 40, positions)
    assert pooled.sample_mean.count[0] == int(positions.any(1).sum())


def test_a_mask_that_does_not_fit_is_refused_with_both_lengths() -> None:
    accumulator = Accumulator("reference")
    accumulator.begin(150, 0, torch.ones(150, 4, dtype=torch.bool))
    with pytest.raises(CaptureError, match="layer a has 9 positions a sample, the mask 4"):
        accumulator.observe("a", X, "l")
    accumulator = Accumulator("reference")
    accumulator.begin(40, 0, torch.ones(40, dtype=torch.bool))
    with pytest.raises(CaptureError, match="layer a gives 150 rows for a batch of 40 samples"):
        accumulator.observe("a", X, "l")


@pytest.mark.parametrize(
    ("changed", "words"),
    [(X[:, :5], "neurons: 6 / 5"), (X.double(), "dtype: float32 / float64")],
)
def test_a_layer_that_changes_between_batches_is_refused(changed: Tensor, words: str) -> None:
    accumulator = Accumulator("reference")
    accumulator.begin(150, 0)
    accumulator.observe("a", X, "l")
    with pytest.raises(CaptureError, match=words):
        accumulator.observe("a", changed, "l")
    with pytest.raises(CaptureError, match="layout: l / other"):
        accumulator.observe("a", X, "other")


def test_a_backend_asked_for_by_name_is_had_or_refused_with_every_reason() -> None:
    accumulator = Accumulator("cuda")
    accumulator.begin(150, 0)
    with pytest.raises(BackendUnavailable, match="backend 'cuda' cannot run reduce\n  cuda: the array is on cpu"):
        accumulator.observe("a", X, "l")
    accumulator = Accumulator("gpu")
    with pytest.raises(UsageError, match="unknown backend 'gpu'"):
        accumulator.observe("a", X, "l")


def test_rows_that_are_parts_of_samples_are_their_positions() -> None:
    accumulator = Accumulator("reference")
    for start in (0, 10):
        accumulator.begin(10, start)
        accumulator.observe("windows", X[start * 5 : start * 5 + 50], "l")
        accumulator.commit()
    samples = X[:100].reshape(20, 5, 6, 9).transpose(1, 2).reshape(20, 6, 45)
    assert_record(accumulator.records()["windows"], accumulated(samples, 20), "float64")


def test_rows_that_cannot_be_told_apart_by_sample_stay_rows_and_say_so() -> None:
    accumulator = Accumulator("reference")
    for start, rows in ((0, 41), (10, 59)):
        accumulator.begin(10, start)
        accumulator.observe("tokens", X[start : start + rows], "l")
        accumulator.commit()
    record = accumulator.records()["tokens"]
    assert record.layout == "l, rows, not samples"
    assert record.sample_mean.count.tolist() == [100] * 6


def test_predictions_are_counted_with_masks_and_broken_rows_apart() -> None:
    predictions = Predictions()
    scores = torch.eye(4)[[0, 1, 1, 3, 3, 3]].clone()
    scores[5, 0] = float("nan")
    predictions.observe(scores, None)
    predictions.observe(scores, torch.tensor([True, False, False, False, False, True]))
    predictions.observe(None, None)  # a batch without class scores
    assert predictions.read().tolist() == [2, 2, 0, 2, 2]
    assert Predictions().read().tolist() == []
