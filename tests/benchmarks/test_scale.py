"""The scale benchmark: memory that grows is noticed, the stream is never held, rows say what was promised."""

from __future__ import annotations

import types
import weakref

import pytest
import torch

from benchmarks import scale


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No garbage collection: that of a whole test process takes a third of a second, and there are dozens of looks."""
    monkeypatch.setattr(scale, "gc", types.SimpleNamespace(collect=lambda: 0))


needs_statm = pytest.mark.skipif(not scale.STATM.exists(), reason="resident memory is read from /proc, which this system lacks")


@needs_statm
def test_a_run_that_keeps_its_samples_is_noticed() -> None:
    kept: list[torch.Tensor] = []
    growth = scale.Growth()
    for samples in (1000, 1_200_000):
        stream = scale.Stream(samples, 1000)
        scale.peak_of(kept.extend, stream)
        growth.peaks.append(stream.peak)
        kept.clear()
    assert growth.megabytes > 50  # 307 MB of values, less what the process had free for them
    assert not growth.within()


@needs_statm
def test_rows_by_samples_have_every_field_and_promises_are_checked() -> None:
    rows = scale.sample_rows([500, 2000], batch=100)
    for row in rows:
        assert {"samples", "total_s", "resident_MB", "growth_MB", "drift", "share_outside_forward", "shape"} <= set(row)
        assert row["share_outside_forward"] < 1
    fine = {**rows[-1], "growth_within_limit": True, "drift": 1.0}
    assert scale.verdicts([fine]) == []
    assert scale.verdicts([{**fine, "growth_within_limit": False, "growth_MB": 9.0}]) == ["memory grew by 9.0 MB, allowed 5 MB"]
    assert scale.verdicts([{**fine, "drift": 3.0}]) == ["the last batches of 2000 samples took 3.00 times the first"]


def test_rows_by_neurons_read_the_same_bytes() -> None:
    rows = scale.neuron_rows([16, 64], 1 << 16, rounds=1)
    assert [row["neurons"] for row in rows] == [16, 64]
    assert len({row["bytes"] for row in rows}) == 1
    assert rows[0]["time_a_value_to_first"] == 1.0


@needs_statm
def test_the_stream_gives_every_sample_and_holds_none() -> None:
    sizes, alive = [], []
    for x in scale.Stream(1050, 100):
        sizes.append(len(x))
        alive.append(weakref.ref(x))
        del x
    assert sum(sizes) == 1050
    assert sum(held() is not None for held in alive) <= 1


def test_drift_tells_a_slow_end_from_a_single_interruption() -> None:
    stream = scale.Stream(300, 1)
    stream.taken = [1.0] * 300
    stream.taken[250] = 1000.0
    assert stream.drift == pytest.approx(1.0)
    stream.taken = [1.0] * 150 + [4.0] * 150
    assert stream.drift == pytest.approx(4.0)
