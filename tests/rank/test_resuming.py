"""A ranking that was interrupted goes on from the checkpoint to the same bytes, and no sample runs twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank.test_passes import CLEAN, IMAGES, SUSPECT, Counting, convolutions, mlp, require_same
from torch import nn

import naa_fast
from naa_fast.errors import NaaError
from naa_fast.inputs.batches import ArraySource, Batch
from naa_fast.inputs.opening import open_source
from naa_fast.rank.state import NotKept, built, from_bytes, plain, to_bytes
from naa_fast.result import Audit


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 300), nn.ReLU(), nn.Linear(300, 5))


class Dies(ArraySource):
    """A set that cannot be read from an item on."""

    def __init__(self, x: torch.Tensor, at: int) -> None:
        whole = open_source(x, 50)
        assert isinstance(whole, ArraySource)
        super().__init__(whole.name, whole.x, None, None, 50)
        self.at = at

    def batches(self, start: int = 0, stop: int | None = None) -> Any:
        for batch in super().batches(start, stop):
            if start >= self.at:
                raise RuntimeError("gone")
            start += batch.size
            yield batch


def scanned(model: nn.Module, sets: tuple[Any, Any], folder: Path, **options: Any) -> Audit:
    return naa_fast.scan(model, *sets, proof=False, checkpoint=folder, chunk_size=100, batch_size=50, **options)


def require_same_bytes(found: Audit, want: Audit) -> None:
    a, b = found.ranking, want.ranking
    assert a is not None
    assert b is not None
    for name in ("scores", "null_scores", "predicted", "null_predicted", "items"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    assert [*a.rows()] == [*b.rows()]
    assert found.judgement.evidence.directions is not None
    for one, other in zip(found.judgement.evidence.directions, want.judgement.evidence.directions, strict=True):
        assert (one.layer, one.kind, one.effect, one.statistic) == (other.layer, other.kind, other.effect, other.statistic)
        assert one.vector.tobytes() == other.vector.tobytes()
    assert found.judgement.clean.to_bytes() == want.judgement.clean.to_bytes()
    assert found.judgement.suspect.to_bytes() == want.judgement.suspect.to_bytes()


@pytest.mark.parametrize("make", [mlp, wide])
@pytest.mark.parametrize(("clean_at", "suspect_at"), [(250, 1000), (1000, 150)], ids=["in the clean set", "among the suspects"])
def test_a_scan_that_was_killed_ranks_to_the_same_bytes(make: Any, clean_at: int, suspect_at: int, tmp_path: Path) -> None:
    want = scanned(Counting(make()), (open_source(CLEAN, 50), open_source(SUSPECT, 50)), tmp_path / "whole")
    first, again = Counting(make()), Counting(make())
    with pytest.raises(NaaError, match="reading batch"):
        scanned(first, (Dies(CLEAN, clean_at), Dies(SUSPECT, suspect_at)), tmp_path / "killed")
    sets = Dies(CLEAN, 1000), Dies(SUSPECT, 1000)
    found = scanned(again, sets, tmp_path / "killed", resume=True)
    lost = 50  # of the chunk in which it ended
    assert first.samples + again.samples == len(CLEAN) + len(SUSPECT) + lost
    require_same_bytes(found, want)


def test_a_scan_that_had_finished_runs_no_sample_again(tmp_path: Path) -> None:
    first, again = Counting(convolutions()), Counting(convolutions())
    found = scanned(first, IMAGES, tmp_path)
    resumed = scanned(again, IMAGES, tmp_path, resume=True)
    assert (first.samples, again.samples) == (510, 0)
    require_same_bytes(resumed, found)


def test_without_the_state_a_resumed_scan_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = Counting(mlp()), Counting(mlp())
    with monkeypatch.context() as patch:
        patch.setattr("naa_fast.rank.passes.SamplePass.snapshot", lambda self: None)
        found = scanned(first, (CLEAN, SUSPECT), tmp_path)
        resumed = scanned(again, (CLEAN, SUSPECT), tmp_path, resume=True)
    assert again.samples == 510, "nothing to measure, and one look at every sample"
    require_same(resumed, found)


def test_a_state_that_cannot_be_read_is_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned(mlp(), (CLEAN, SUSPECT), tmp_path)

    def broken(content: bytes) -> Any:
        raise ValueError("not a state")

    monkeypatch.setattr("naa_fast.rank.passes.from_bytes", broken)
    found = scanned(mlp(), (CLEAN, SUSPECT), tmp_path, resume=True)
    assert any("not a state" in gap for gap in found.verdict.gaps)
    assert found.verdict.outcome != "pass"


def test_only_plain_values_are_kept_and_only_known_classes_built() -> None:
    class Own:
        pass

    batch = Batch((torch.ones(2, 3), {"a": [torch.zeros(1), None]}), {"x": 2.5, "y": (1, True)}, 2, None)
    random = np.random.default_rng(5)
    random.random(7)
    kept = from_bytes(to_bytes(plain([batch, random, {("a", 1): np.arange(3)}, {3, 4}, np.float64(2.0)])))
    found, again, words, numbers, number = built(kept)
    assert torch.equal(found.arguments[0], batch.arguments[0])
    assert found.arguments[1]["a"][1] is None
    assert found.keywords == {"x": 2.5, "y": (1, True)}
    assert again.random() == random.random()
    assert words["a", 1].tolist() == [0, 1, 2]
    assert (numbers, number) == ({3, 4}, 2.0)
    with pytest.raises(NotKept, match="Own"):
        plain([Own()])
    with pytest.raises(KeyError):
        built({"kind": "os.system", "of": {}})


def test_inputs_of_the_users_own_types_leave_no_state_and_are_ranked_again(tmp_path: Path) -> None:
    class Set:
        name, samples, read_ahead = "own", 200, False

        def batches(self, start: int = 0, stop: int | None = None) -> Any:
            for at in range(start, min(200, stop or 200), 50):
                yield Batch((CLEAN[at : at + 50],), {"extra": object()}, 50, None)

    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: torch.Tensor, extra: Any = None) -> torch.Tensor:
            return self.inner(x)

    options: dict[str, Any] = {"proof": False, "checkpoint": tmp_path, "chunk_size": 100}
    found = naa_fast.scan(Takes(), Set(), SUSPECT, **options)
    resumed = naa_fast.scan(Takes(), Set(), SUSPECT, resume=True, **options)
    assert resumed.ranking is not None
    require_same(resumed, found)
