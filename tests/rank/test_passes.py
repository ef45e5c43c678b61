"""Looking while measuring sees what passes of their own see, and leaves it to them where it could not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from capture import models
from capture.models import hook_count
from torch import Tensor, nn

import naa_fast
from naa_fast.inputs.batches import Batch, Rejected, Source
from naa_fast.rank.numbers import Numbers
from naa_fast.rank.passes import SamplePass
from naa_fast.result import Audit

GENERATOR = torch.Generator().manual_seed(0)
CLEAN, SUSPECT = torch.randn(300, 12, generator=GENERATOR), torch.randn(210, 12, generator=GENERATOR)
IMAGES = torch.randn(300, 3, 9, 9, generator=GENERATOR), torch.randn(210, 3, 9, 9, generator=GENERATOR)
IDS = torch.randint(1, 60, (300, 8), generator=GENERATOR), torch.randint(1, 60, (210, 8), generator=GENERATOR)


class Counting(nn.Module):
    """Counts the samples it is given; more than `most` at once are too many for its memory."""

    def __init__(self, inner: nn.Module, most: int = 1000) -> None:
        super().__init__()
        self.inner, self.most, self.samples = inner, most, 0

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        x = next(iter((*arguments, *keywords.values())))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("no room")
        self.samples += len(x)
        return self.inner(*arguments, **keywords)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return models.mlp()


def convolutions(classes: int = 5) -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 7, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(63, classes)
    return nn.Sequential(*layers)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.up, self.head = nn.Embedding(60, 6), nn.Linear(6, 9), nn.Linear(9, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(torch.relu(self.up(self.embed(input_ids))).mean(1))


def texts(ids: Tensor) -> list[dict[str, Tensor]]:
    mask = torch.arange(8) < torch.randint(0, 9, (len(ids), 1), generator=torch.Generator().manual_seed(3))
    return [{"input_ids": ids[at : at + 50], "attention_mask": mask[at : at + 50].long()} for at in range(0, len(ids), 50)]


class Holes(Source):
    """A set some of whose items cannot be used."""

    read_ahead = False

    def __init__(self, x: Tensor, bad: set[int]) -> None:
        self.name, self.x, self.bad, self.samples = "holes", x, bad, len(x)

    def batches(self, start: int = 0, stop: int | None = None) -> Any:
        stop = len(self.x) if stop is None else min(stop, len(self.x))
        for first in range(start, stop, 40):
            items = range(first, min(first + 40, stop))
            kept = [i for i in items if i not in self.bad]
            rejected = tuple(Rejected(i, None, "broken") for i in items if i in self.bad)
            yield Batch((self.x[kept],), {}, len(kept), None, rejected)


def scanned(model: nn.Module, clean: Any, suspect: Any, **options: Any) -> Audit:
    return naa_fast.scan(model, clean, suspect, proof=False, **options)


def require_same(found: Audit, want: Audit) -> None:
    a, b = found.ranking, want.ranking
    assert a is not None
    assert b is not None
    assert np.allclose(a.scores, b.scores, rtol=1e-4, atol=1e-4)
    assert np.allclose(a.null_scores, b.null_scores, rtol=1e-4, atol=1e-4)
    assert np.array_equal(a.predicted, b.predicted)
    assert np.array_equal(a.null_predicted, b.null_predicted)
    assert {one.sample for one in a.top} == {one.sample for one in b.top}
    mine, others = ({one.sample: one for one in ranking.top} for ranking in (a, b))
    for sample in [one.sample for one in b.top[:20]]:
        assert [deviating[:2] for deviating in mine[sample].deviating] == [
            deviating[:2] for deviating in others[sample].deviating
        ]
        assert np.allclose(
            [deviating[2] for deviating in mine[sample].deviating],
            [deviating[2] for deviating in others[sample].deviating],
            rtol=1e-3,
        )
    for one, other in ((found.judgement.clean, want.judgement.clean), (found.judgement.suspect, want.judgement.suspect)):
        assert one.to_bytes() == other.to_bytes(), "measured the same bytes"


def ranked_by_passes_of_their_own(
    model: nn.Module, clean: Any, suspect: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Audit:
    """A scan whose ranking saw nothing while the sets were measured, as one that was resumed."""

    def blind(self: SamplePass, part: Any, views: Any, scores: Any) -> bool:
        return False

    watched = SamplePass.take

    def only_alone(self: SamplePass, part: Any, views: Any, scores: Any) -> bool:
        alone = part.items is not None  # a pass of its own numbers what it runs
        return watched(self, part, views, scores) if alone else blind(self, part, views, scores)

    with monkeypatch.context() as patch:
        patch.setattr(SamplePass, "take", only_alone)
        return scanned(model, clean, suspect, **options)


def npz(path: Path, x: Tensor, mask: np.ndarray) -> Path:
    np.savez(path, x=x.numpy(), mask=mask)
    return path


CASES: dict[str, Any] = {
    "vectors": lambda tmp: (mlp(), CLEAN, SUSPECT, {}),
    "images": lambda tmp: (convolutions(), *IMAGES, {"batch_size": 37}),
    "texts, some of them empty": lambda tmp: (Tokens(), texts(IDS[0]), texts(IDS[1]), {}),
    "a mask of samples": lambda tmp: (
        mlp(),
        npz(tmp / "c.npz", CLEAN, np.arange(300) % 7 > 0),
        npz(tmp / "s.npz", SUSPECT, np.arange(210) % 5 > 0),
        {"batch_size": 64},
    ),
    "items that cannot be used": lambda tmp: (
        mlp(),
        Holes(CLEAN, {0, 39, 41, 120, 299}),
        Holes(SUSPECT, {*range(40, 80), 100, 209}),
        {},
    ),
    "items that cannot be used, in chunks": lambda tmp: (
        mlp(),
        Holes(CLEAN, {79, 80, 81}),
        Holes(SUSPECT, {0, 159, 160}),
        {"chunk_size": 80},
    ),
    "no class scores": lambda tmp: (nn.Sequential(convolutions(1)), *IMAGES, {}),
}


@pytest.mark.parametrize("held", [True, False], ids=["held", "run again"])
@pytest.mark.parametrize("name", CASES)
def test_a_scan_that_looks_while_it_measures_ranks_as_one_that_looks_again(
    name: str, held: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, clean, suspect, options = CASES[name](tmp_path)
    model = Counting(inner)
    if not held:
        monkeypatch.setattr("naa_fast.rank.passes.HELD_BYTES", 0)
    found = scanned(model, clean, suspect, **options)
    assert hook_count(model) == 0
    measured = found.judgement.clean.samples + found.judgement.suspect.samples
    assert model.samples == measured if held else measured < model.samples < 1.5 * measured
    require_same(found, ranked_by_passes_of_their_own(model, clean, suspect, options, monkeypatch))


def test_without_ranking_the_measurements_are_the_same_bytes() -> None:
    ranked, plain = (naa_fast.scan(convolutions(), *IMAGES, ranking=flag, histograms=True, proof=False) for flag in (True, False))
    assert ranked.judgement.clean.to_bytes() == plain.judgement.clean.to_bytes()
    assert ranked.judgement.suspect.to_bytes() == plain.judgement.suspect.to_bytes()


def test_batches_that_do_not_fit_are_ranked_in_halves_and_each_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Counting(mlp(), most=60)
    found = scanned(model, CLEAN, SUSPECT, batch_size=100)
    assert model.samples == 510
    own = ranked_by_passes_of_their_own(Counting(mlp(), most=60), CLEAN, SUSPECT, {"batch_size": 100}, monkeypatch)
    require_same(found, own)


def test_many_classes_take_no_pass_of_their_own() -> None:
    model = Counting(convolutions(40))
    audit = scanned(model, *IMAGES)
    assert model.samples == 510
    assert audit.ranking is not None


def test_what_goes_wrong_in_the_ranking_never_ends_the_measuring_and_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("broken")

    want = scanned(mlp(), CLEAN, SUSPECT)
    for verb in ("fit", "calibrate", "score"):
        with monkeypatch.context() as patch:
            patch.setattr(f"naa_fast.rank.scorer.Scorer.{verb}", broken)
            found = scanned(mlp(), CLEAN, SUSPECT)
            assert found.judgement.suspect.to_bytes() == want.judgement.suspect.to_bytes(), verb
            assert any("RuntimeError: broken" in gap for gap in found.verdict.gaps), verb
            assert found.verdict.outcome != "pass", verb


def test_bucketed_texts_are_ranked_while_they_are_measured_and_keep_their_numbers() -> None:
    class Bucketed(Holes):
        def batches(self, start: int = 0, stop: int | None = None) -> Any:
            order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(7))
            for items in order.split(40):
                yield Batch((self.x[items],), {}, len(items), None, items=items)

    model = Counting(mlp())
    found = scanned(model, CLEAN, Bucketed(SUSPECT, set()))
    want = scanned(mlp(), CLEAN, SUSPECT)
    assert model.samples == 510
    assert found.ranking is not None
    assert want.ranking is not None
    assert np.allclose(found.ranking.scores, want.ranking.scores, rtol=1e-4, atol=1e-4)


def test_numbers_skip_what_was_left_out() -> None:
    numbers = Numbers()
    numbers.left_out((Rejected(1, None, ""), Rejected(4, None, "")))
    assert numbers.of(3).tolist() == [0, 2, 3]
    assert numbers.of(0).tolist() == []
    numbers.start(8)
    assert numbers.of(1).tolist() == [8]
