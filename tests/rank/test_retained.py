"""`Top` keeps the highest of all samples in any cut, with inputs as far as they fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from naa_fast.inputs.batches import Batch
from naa_fast.rank.retained import Top

RNG = np.random.default_rng(0)
SCORES = RNG.integers(0, 400, 900).astype(float)  # with ties
SCORES[::50] = np.nan
SCORES[7] = np.inf
X = torch.arange(900)[:, None] * torch.ones(1, 3)
Z, FEATURES = RNG.random((900, 5)), RNG.integers(0, 9, (900, 5))


@pytest.mark.parametrize("size", [1, 7, 64, 900])
@pytest.mark.parametrize("room", [0, 6, 30])
def test_the_highest_are_kept_whatever_the_batches(size: int, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naa_fast.rank.retained.INPUT_BYTES", 12 * room)
    top = Top(20)
    for at in range(0, 900, size):
        rows = np.arange(at, min(at + size, 900))

        layers = np.argsort(-Z[rows], 1)[:, :3]
        deviating = np.stack([layers, *(np.take_along_axis(values[rows], layers, 1) for values in (FEATURES, Z))], 2)
        mask = torch.ones(len(rows), 3, dtype=torch.bool)
        top.add(rows, SCORES[rows], rows % 4, Batch((X[rows],), {}, len(rows), mask), deviating)
    kept = top.finished()
    known = np.flatnonzero(~np.isnan(SCORES))
    want = known[np.argsort(-SCORES[known], kind="stable")][:20]
    assert [SCORES[one.sample] for one in kept] == SCORES[want].tolist()
    assert all(one.predicted == one.sample % 4 and one.score == SCORES[one.sample] for one in kept)
    assert [one.row is not None for one in kept] == [place < room for place in range(20)]
    for one in kept:
        layers = np.argsort(-Z[one.sample])[:3]
        assert one.deviating == tuple((int(n), int(FEATURES[one.sample, n]), float(Z[one.sample, n])) for n in layers)
        assert one.row is None or (one.row.tolist() == [one.sample] * 3 and one.mask is not None)
