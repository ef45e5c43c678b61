"""The benchmark of long runs: what a run says of itself is read, and promises that are not kept are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import ranks
from naa_fast.scan.times import Times


def test_the_words_of_a_scan_are_read_back() -> None:
    line = json.dumps({"event": "note", "message": Times(waiting=1.0, forward=16.0, ours=2.0, total=20.0).words()})
    told = f'hello\n{{"event": "progress"}}\n{line}\n'
    assert ranks.times_of(told) == {"seconds": 20.0, "waiting": 0.05, "forward": 0.8, "ours": 0.1}
    with pytest.raises(RuntimeError, match="did not say where its time went"):
        ranks.times_of("hello\n")


def test_promises_that_are_not_kept_are_named() -> None:
    fine: list[dict[str, Any]] = [
        {"ranks": 2, "times_one_rank": 1.7, "same_bytes": True},
        {"variant": "cnn", "share_outside_forward": 0.09, "growth_MB": 1.0},
        {"variant": "mlp", "share_outside_forward": 0.6, "growth_MB": 1.0},
    ]
    assert ranks.verdicts(fine) == []
    bad: list[dict[str, Any]] = [
        {"ranks": 2, "times_one_rank": float("nan"), "same_bytes": False},
        {"variant": "cnn", "share_outside_forward": 0.2, "growth_MB": 90.0},
    ]
    assert len(ranks.verdicts(bad)) == 4


def test_the_set_has_the_shape_the_models_take(tmp_path: Path) -> None:
    import torch

    ranks.make_set(tmp_path / "x.npy", 30)
    x = np.load(tmp_path / "x.npy")
    assert (x.shape, x.dtype) == ((30, *ranks.SHAPE), np.float16)
    found: dict[str, object] = {}
    exec(ranks.MODELS, found)
    for name in ("cnn", "mlp"):
        assert found[name]()(torch.from_numpy(x).float()).shape == (30, 10)  # type: ignore[operator]
