"""Of a suspect on a device its class and its score come home, 8 bytes, and nothing is ranked otherwise by that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rank.test_anomaly import classes, said
from rank.test_passes import CLEAN, SUSPECT, mlp
from torch import Tensor

import naa_fast
from naa_fast.inputs.batches import Batch
from naa_fast.rank import scorer, waiting
from naa_fast.rank.anomaly import AnomalyScale, ScaleOnDevice
from naa_fast.rank.waiting import Entry, Waiting
from naa_fast.result import Audit


@pytest.mark.parametrize("tied", [False, True])
def test_a_score_is_the_same_where_the_numbers_are(tied: bool) -> None:
    clean, group, seen, called = said(300, 0), classes(300, 0, 3), said(400, 1), classes(400, 1, 3)
    if tied:
        clean[:280, :, 0] = 0.0  # the tail of the excess begins beyond most clean samples
    seen[7, 2, 0], seen[8, 1], seen[9, :, 2], seen[10, 0, 1] = np.inf, [0.0, np.nan, np.nan], 60.0, np.nan
    clean[:, 4, 0] = np.nan  # a layer that says nothing of single neurons
    scale = AnomalyScale(clean, group, 3)
    want = scale.of(seen, called)
    found = ScaleOnDevice(scale, torch.device("cpu")).of(torch.from_numpy(seen), torch.from_numpy(called)).numpy()
    assert np.isinf(want[7])
    assert np.allclose(found, want, rtol=1e-12, atol=1e-12)


def scanned(monkeypatch: pytest.MonkeyPatch | None, sets: Any = (CLEAN, SUSPECT)) -> tuple[Audit, float]:
    """A scan whose host is taken for a device, and the bytes a suspect that came home meanwhile."""
    came, rows = [0], [0]
    if monkeypatch is not None:
        monkeypatch.setattr(scorer, "scores_on", lambda device: True)
    arrived = Waiting._arrived

    def counted(self: Waiting) -> Any:
        entries, home, staying = arrived(self)
        if entries[0].verb == "score":
            came[0] += sum(column.nbytes for column in home)
            rows[0] += sum(len(entry.items) for entry in entries)
        return entries, home, staying

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Waiting, "_arrived", counted)
        patch.setattr(waiting, "SAMPLES", 80)
        audit = naa_fast.scan(mlp(), *sets, batch_size=32, proof=False)
    return audit, came[0] / rows[0]


def test_eight_bytes_a_suspect_come_home_and_the_ranking_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = CLEAN, torch.cat([SUSPECT, torch.full((1, 12), torch.nan), 4 * SUSPECT[:30]])
    (want, before), (found, now) = scanned(None, sets), scanned(monkeypatch, sets)
    assert now == 8
    assert before > 68
    a, b = want.ranking, found.ranking
    assert a is not None
    assert b is not None
    assert np.allclose(b.scores, a.scores, rtol=1e-6, atol=0)
    assert np.array_equal(a.predicted, b.predicted)
    assert b.predicted.dtype == np.int64
    assert [one.sample for one in b.top] == [one.sample for one in a.top]
    assert [one.deviating for one in b.top] == [one.deviating for one in a.top]
    assert any(one.deviating for one in b.top)


def test_copies_of_every_device_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is spread has its classes on another device than the numbers of its layers."""
    recorded, waited = list[str](), list[str]()

    class Event:
        def record(self, stream: str) -> None:
            self.stream = stream
            recorded.append(stream)

        def synchronize(self) -> None:
            waited.append(self.stream)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", str)
    monkeypatch.setattr(torch, "cat", lambda parts: parts[0])

    class Column:
        def __init__(self, device: str) -> None:
            self.device = torch.device(device)

        def to(self, *_: Any, **__: Any) -> Tensor:
            return torch.zeros(3)

    columns: Any = (Column("cuda:1"), Column("cuda:0"), Column("cuda:0"))
    held = Waiting()
    assert not list(held.add(Entry("score", Batch((torch.zeros(3, 2),), {}, 3, None), np.arange(3), columns)))
    [(_, home, _)] = held.rest()
    assert len(home) == 3
    assert sorted(recorded) == sorted(waited) == ["cuda:0", "cuda:1"]
