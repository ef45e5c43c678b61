"""Reading ahead: in the source's order, to the same bits, beside the forward, and with nothing left behind."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import naa_fast
from naa_fast.errors import InputError, Stopped
from naa_fast.inputs.batches import Batch, Source
from naa_fast.inputs.opening import open_source
from naa_fast.scan.feeding import Feed, batches_ahead
from naa_fast.scan.loop import measure
from naa_fast.scan.options import RunOptions
from naa_fast.scan.stopping import StopRequest
from naa_fast.scan.times import Times

ROWS = torch.randn(230, 12, generator=torch.Generator().manual_seed(1))


class Slow:
    """Twenty batches, each of which takes its time."""

    name = "slow"
    samples: int | None = 200
    read_ahead = True

    def __init__(self, seconds: float, raises_at: int = -1) -> None:
        self.seconds = seconds
        self.raises_at = raises_at
        self.read = 0

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        for first in range(start, 200 if stop is None else min(stop, 200), 10):
            time.sleep(self.seconds)
            self.read += 1
            if first == self.raises_at:
                raise OSError("disk on fire")
            yield Batch((ROWS[first : first + 10],), {}, 10, None)


class Pause(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "naa-fast reader"]


def test_a_slow_source_is_read_while_the_model_runs() -> None:
    def seconds(prefetch: int) -> tuple[float, Times]:
        times = Times()
        measure(Pause(0.04), Slow(0.04), RunOptions(layers="", backend="reference", prefetch=prefetch), times=times)
        return times.total, times

    apart, before = seconds(0)
    beside, after = seconds(2)
    assert apart >= 20 * 0.08
    assert beside < 0.8 * apart  # half of it on a quiet machine
    assert before.waiting >= 20 * 0.04
    assert after.waiting < 0.7 * before.waiting
    for times in (before, after):
        assert times.forward >= 20 * 0.04
        assert 0 < times.waiting + times.forward + times.ours <= times.total


@pytest.mark.parametrize("chunk_size", [None, 7, 64])
def test_reading_ahead_changes_no_bit(tmp_path: Path, chunk_size: int | None) -> None:
    np.save(tmp_path / "x.npy", ROWS.numpy())
    makers: list[Callable[[], object]] = [
        lambda: tmp_path / "x.npy",
        lambda: DataLoader(TensorDataset(ROWS), batch_size=33),
        lambda: iter(ROWS.split(41)),
    ]
    model = nn.Sequential(nn.Linear(12, 3), nn.ReLU())
    for make in makers:
        found = {
            naa_fast.measure(model, make(), batch_size=20, chunk_size=chunk_size, backend="reference", prefetch=ahead).digest()
            for ahead in (0, 1, 2, 50)
        }
        assert len(found) == 1


def test_what_the_source_raises_comes_in_its_place_and_names_the_batch() -> None:
    told: list[int] = []
    for prefetch in (0, 2):
        told.clear()
        with pytest.raises(InputError, match="reading batch 7 of slow failed\n  OSError: disk on fire"):
            measure(
                nn.Identity(), Slow(0, 70), RunOptions(prefetch=prefetch), progress=lambda label, done, total: told.append(done)
            )
        assert told == [10, 20, 30, 40, 50, 60, 70]


def test_a_model_that_raises_stops_the_reading() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    source = Slow(0.001)
    with pytest.raises(naa_fast.NaaError, match="the model raised RuntimeError on batch 0"):
        measure(Breaks(), source, RunOptions(layers=""))
    assert source.read <= 5


def test_a_request_to_stop_is_seen_while_nothing_comes() -> None:
    request = StopRequest()

    class Stuck(Source):
        name, samples = "stuck", None

        def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
            yield Batch((ROWS,), {}, 230, None)
            while not request:
                time.sleep(0.01)
            time.sleep(0.5)

    with Feed(Stuck(), [(0, None)], 2, None, request) as feed:
        batches = feed.batches()
        assert next(batches).size == 230
        request.name = "SIGTERM"
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            next(batches)


def test_no_more_is_read_than_was_asked_for() -> None:
    source = Slow(0)
    with Feed(source, [(0, 100), (100, None)], 2, None, StopRequest()) as feed:
        batches = feed.batches()
        next(batches)
        time.sleep(0.2)
        assert source.read <= 4  # one taken, two waiting, one in the reader's hand


def test_the_reader_computes_no_gradients() -> None:
    weight = torch.ones(12, requires_grad=True)

    class Computes(Slow):
        def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
            for batch in super().batches(start, stop):
                assert not (batch.arguments[0] * weight).requires_grad
                yield batch

    assert measure(nn.Identity(), Computes(0)).samples == 200


def test_what_is_at_hand_already_gets_no_thread() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    tensor, stream = open_source(ROWS, 10), open_source(iter([ROWS]), 10)
    assert [batches_ahead(s, cpu, None) for s in (tensor, stream, Slow(0))] == [0, 0, 2]
    assert [batches_ahead(s, cuda, None) for s in (tensor, stream, Slow(0))] == [2, 0, 2]
    assert batches_ahead(stream, cpu, 5) == 5
    loaders = [open_source(DataLoader(TensorDataset(ROWS), num_workers=workers), 10) for workers in (0, 1)]
    assert [batches_ahead(loader, cpu, None) for loader in loaders] == [0, 0]


@pytest.mark.parametrize("kind", ["sqlite", "signal", "local"])
def test_a_set_bound_to_the_thread_that_made_it_is_read_there(kind: str) -> None:
    local = threading.local()
    local.scale = 1.0

    class Bound(Dataset[Tensor]):
        def __init__(self) -> None:
            self.table = sqlite3.connect(":memory:")
            self.table.execute("create table rows (value real)")
            self.table.executemany("insert into rows values (?)", [(float(i),) for i in range(64)])

        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> Tensor:
            if kind == "signal":
                signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGALRM))
            value = index * (local.scale if kind == "local" else 1.0)
            if kind == "sqlite":
                (value,) = self.table.execute("select value from rows limit 1 offset ?", (index,)).fetchone()
            return torch.full((3,), value)

    loader = DataLoader(Bound(), batch_size=9)
    found = naa_fast.measure(nn.Linear(3, 2), loader, backend="reference")
    assert found.samples == 64
    with pytest.raises(InputError, match=r"reading batch 0 of DataLoader failed\n.*\n  a thread of its own read it: prefetch=0"):
        naa_fast.measure(nn.Linear(3, 2), loader, prefetch=2)
