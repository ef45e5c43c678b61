"""A layer called several times in a forward is observed once a sample: the mean of the calls' means, the largest maximum."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cuda_on_host import host
from tolerances import assert_record
from torch import Tensor

from naa_fast.accumulate import Accumulator
from naa_fast.accumulate import accumulator as accumulator_module
from naa_fast.accumulate.calls import samples_in
from naa_fast.errors import CaptureError
from naa_fast.kernels import reference
from naa_fast.records import FOLDS, Folds, LayerRecord, Moments, fold_of, histogram

SIZES = (50, 33, 67)
Forward = list[tuple[Tensor, Tensor | None]]
"""The calls of one forward: values `[samples, channels, positions]` and the mask of their positions."""


def forwards(inners: list[list[int]], kind: str = "plain", seed: int = 0) -> list[Forward]:
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for size, calls in zip(SIZES, inners, strict=True):
        mask = torch.rand(size, max(calls), generator=generator) < 0.6 if kind == "masked" else None
        if mask is not None:
            mask[3] = False
        batch: Forward = []
        for inner in calls:
            x = torch.randn(size, 5, inner, generator=generator) + 3
            if kind == "not finite":
                x[2, 1, 0], x[4] = torch.nan, torch.inf
            batch.append((x, mask if mask is None or inner > 1 else mask.any(1, keepdim=True)))
        batches.append(batch)
    return batches


def brute(batches: list[Forward]) -> tuple[LayerRecord, np.ndarray]:
    """The definition, from all values, and its histograms."""
    positions, seen_at, means, tops, observed = [], [], [], [], []
    for batch in batches:
        each = []
        for x, mask in batch:
            values = x.double().numpy()
            valid = np.ones((len(x), x.shape[2]), bool) if mask is None else mask.numpy()
            positions.append(values.transpose(0, 2, 1).reshape(-1, 5))
            seen_at.append(valid.reshape(-1))
            each.append(Moments.of(values, valid[:, None], axis=2))
        counted = np.stack([m.count > 0 for m in each])
        with np.errstate(invalid="ignore"):
            means.append(np.stack([np.where(m.count > 0, m.mean, 0) for m in each]).sum(0) / counted.sum(0))
        tops.append(np.where(counted.any(0), np.stack([m.maximum for m in each]).max(0), np.nan))
        observed.append(np.stack([(m.count + m.nonfinite)[:, 0] > 0 for m in each]).any(0))
    mean, top, seen = np.concatenate(means), np.concatenate(tops), np.concatenate(observed)
    folds = fold_of(np.arange(len(mean)))

    def parts(x: np.ndarray) -> Folds:
        each = [Moments.of(x[folds == fold], seen[folds == fold, None]) for fold in range(FOLDS)]
        return Folds(*(np.stack([getattr(part, name) for part in each]).astype(float) for name in ("count", "mean", "m2")))

    every = Moments.of(np.concatenate(positions), np.concatenate(seen_at)[:, None])
    of_means, of_tops = (Moments.of(x, seen[:, None]) for x in (mean, top))
    return LayerRecord("", "", every, of_means, of_tops, parts(mean), parts(top)), histogram(top, np.isfinite(top))


def accumulated(batches: list[Forward], backend: str) -> tuple[LayerRecord, int]:
    """The record, and how many forwards were run once more."""
    accumulator, start, again = Accumulator(backend), 0, 0
    for batch in batches:
        size, masks = len(batch[0][0]), [mask for _, mask in batch if mask is not None]
        for _ in range(2):
            accumulator.begin(size, start, max(masks, key=lambda mask: mask.shape[1]) if masks else None)
            for x, _ in batch:
                held = x.clone()
                accumulator.observe("a", held, "l")
                held.fill_(-7.0)  # as an in-place activation would
            if not accumulator.again:
                break
            again += 1
        accumulator.commit()
        start += size
    return accumulator.records()["a"], again


@pytest.mark.parametrize("backend", ["cpu", "portable", "reference"])
@pytest.mark.parametrize("kind", ["plain", "masked", "not finite"])
@pytest.mark.parametrize(
    "inners",
    [
        [[1, 1, 1]] * 3,
        [[9, 9]] * 3,
        [[9, 1], [9, 1], [9, 1]],
        [[1, 1], [1], [1, 1, 1, 1]],
        [[9], [9, 9], [9]],
        [[9], [9, 1], [1]],
    ],
    ids=str,
)
def test_a_record_is_that_of_the_stored_calls(inners: list[list[int]], kind: str, backend: str) -> None:
    batches = forwards(inners, kind)
    want, tops = brute(batches)
    record, again = accumulated(batches, backend)
    assert again == 0, "a number of calls that was seen before costs no forward"
    assert_record(record, want, "float32", str(inners))
    assert np.array_equal(record.tails[1], tops)
    assert record.tails[0].sum() == (np.isfinite(want.sample_mean.mean) * want.sample_mean.count).sum()


@pytest.mark.skipif(host.missing() is not None, reason=host.missing() or "")
@pytest.mark.parametrize("inners", [[[1, 1, 1]] * 3, [[9], [9, 9], [9, 1]]], ids=str)
@pytest.mark.parametrize("kind", ["plain", "masked", "not finite"])
def test_so_it_is_on_a_cuda_device(inners: list[list[int]], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SimpleNamespace(backend="cuda", module=host.HostBackend(host.HostRuntime()))
    monkeypatch.setattr(accumulator_module, "choose", lambda op, x, name: backend)
    batches = forwards(inners, kind)
    want, tops = brute(batches)
    record, _ = accumulated(batches, "cuda")
    assert_record(record, want, "float32", str(inners))
    assert np.array_equal(record.tails[1], tops)


@pytest.mark.parametrize("backend", ["cpu", "portable", "reference"])
def test_a_further_call_that_comes_late_costs_one_forward_and_no_sample(backend: str) -> None:
    batches = forwards([[1], [1, 1], [1, 1, 1]])
    record, again = accumulated(batches, backend)
    assert again == 1
    assert_record(record, brute(batches)[0], "float32")


def test_a_late_call_is_never_counted_without_the_forward_it_needs() -> None:
    accumulator = Accumulator("reference")
    for calls in (1, 2):
        accumulator.begin(10, 0)
        for _ in range(calls):
            accumulator.observe("a", torch.ones(10, 2, 1), "l")
        if calls == 1:
            accumulator.commit()
    with pytest.raises(
        CaptureError, match=r"a layer was called more often than in the batches before\n.*\n  run the batch again"
    ):
        accumulator.commit()


@pytest.mark.parametrize("size", [7, 64, 150])
def test_the_cut_into_batches_changes_nothing(size: int) -> None:
    x = torch.randn(150, 4, 3, generator=torch.Generator().manual_seed(1))
    records = []
    for step in (size, 33):
        accumulator = Accumulator("reference")
        for start in range(0, 150, step):
            part = x[start : start + step]
            accumulator.begin(len(part), start)
            for call in range(3):
                accumulator.observe("a", part[:, :, call, None], "l")
            accumulator.commit()
        records.append(accumulator.records()["a"])
    assert_record(records[0], records[1], "float64")


def test_calls_of_one_value_are_the_sample_that_a_single_call_is() -> None:
    """The clean set's folds calibrate chance: twelve equal calls must not look like twelve samples."""
    x = torch.randn(200, 4, 1, generator=torch.Generator().manual_seed(1))
    records = []
    for calls in (1, 12):
        accumulator = Accumulator("cpu")
        accumulator.begin(200, 0)
        for _ in range(calls):
            accumulator.observe("a", x, "l")
        accumulator.commit()
        records.append(accumulator.records()["a"])
    once, often = records
    for view in ("sample_mean", "sample_max"):
        assert getattr(often, view).count.tolist() == [200] * 4
        assert np.allclose(getattr(often, view).m2, getattr(once, view).m2, rtol=1e-6)
    assert np.array_equal(often.mean_folds.count, once.mean_folds.count)
    assert np.array_equal(often.tails[1], once.tails[1])
    assert often.positions.count.tolist() == [12 * 200] * 4


@pytest.mark.skipif(host.missing() is not None, reason=host.missing() or "")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", ["plain", "not finite", "long", "huge"])
def test_the_samples_in_the_partials_of_a_cuda_device_are_those_of_the_reference(kind: str, dtype: str) -> None:
    x = forwards([[9]] * 3, kind)[0][0][0].to(getattr(torch, dtype))
    x = x.repeat(1, 1, 700) if kind == "long" else x
    if kind == "huge" and dtype != "float64":
        x[:, 0] = torch.finfo(x.dtype).max * torch.rand(x[:, 0].shape).to(x.dtype)
    found = samples_in(host.HostBackend(host.HostRuntime()).reduce(x, None, 0))
    wanted = samples_in(reference.reduce(x.double().numpy(), None, 0))
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=2e-6, equal_nan=True)
