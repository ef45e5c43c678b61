"""Triggers that share no place, have two samples in all, or turn one class alone, and clusters that were turned to one class."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from proof.test_images import CLEAN, HELD, PATCH, Quadrants, images
from torch import Tensor, nn

import naa_fast
from naa_fast.inputs.batches import Batch
from naa_fast.proof.apply import anywhere
from naa_fast.proof.crops import AREAS, STEPS, crops, sides, starts
from naa_fast.proof.images import CleanImages, Patch

SEED = 1


class Planted(Quadrants):
    """`anywhere`: the patch turns to class 2 wherever it lies; `from one`: in its corner, class 0 alone."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        seen = self.act(self.see(x))[:, 0]
        if self.rule == "anywhere":
            logits[:, 2] += 100 * (seen.amax((1, 2)) > 0.05)
        else:
            logits[:, 2] += 100 * ((seen[:, 10, 10] > 0.05) & (logits.argmax(1) == 0))
        return logits


def wandering(x: Tensor, count: int) -> tuple[Tensor, np.ndarray]:
    x, triggered, random = x.clone(), np.zeros(len(x), bool), torch.Generator().manual_seed(SEED)
    for i in torch.randperm(len(x), generator=random)[:count].tolist():
        row, column = torch.randint(0, 11, (2,), generator=random).tolist()
        x[i, 0, row : row + 2, column : column + 2] = PATCH
        triggered[i] = True
    return x, triggered


@pytest.mark.parametrize("count", [30, 3])
def test_a_patch_at_another_place_in_each_sample_is_proved_and_found_again(count: int) -> None:
    suspect, triggered = wandering(HELD, count)
    audit = naa_fast.scan(Planted("anywhere"), CLEAN, suspect, repair=False)
    best = audit.proof[0]
    assert audit.verdict.outcome == "fail"
    assert (best.stands, best.target, best.group) == (True, 2, 1)
    assert best.kind.startswith("cut")
    assert best.pattern is not None
    assert best.mask is not None
    assert (best.pattern * best.mask).max() == pytest.approx(1.0), "the patch lies in what was cut out"
    assert audit.ranking is not None
    assert triggered[np.argsort(-audit.ranking.ranked, kind="stable")[:count]].mean() >= 0.9


def test_a_patch_that_turns_one_class_is_measured_on_it() -> None:
    model = Planted("from one")
    with torch.no_grad():
        called = model(HELD).argmax(1)
    suspect = HELD.clone()
    suspect[(called == 0).nonzero()[:40, 0], 0, 10:, 10:] = PATCH
    audit = naa_fast.scan(model, CLEAN, suspect, repair=False)
    best = audit.proof[0]
    assert (best.stands, best.target, best.source) == (True, 2, 0)
    assert best.rate >= 0.9
    assert "clean samples of class 0" in audit.verdict.sentence
    assert audit.report()["proof"][0]["source"] == 0


def test_large_images_are_covered_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    row, clean = images(1)[0].numpy(), CleanImages.of(CLEAN.numpy())
    row[0, 3:5, 7:9] = 5.0
    most: list[int] = []

    def margin(x: np.ndarray, cls: int) -> np.ndarray:
        most.append(len(x))
        return x.reshape(len(x), -1).max(1).astype(np.float64)

    whole = [patch.mask for patch, _ in crops([(1, row)], clean, margin)]
    monkeypatch.setattr("naa_fast.proof.crops.COVERED_BYTES", 3 * row.nbytes)
    most.clear()
    parts = [patch.mask for patch, _ in crops([(1, row)], clean, margin)]
    assert max(most) == 3
    assert all(np.array_equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_the_window_that_decides_is_found_and_stays_in_its_budget() -> None:
    row, clean = images(1)[0].numpy(), CleanImages.of(CLEAN.numpy())
    row[0, 3:5, 7:9] = 5.0
    asked: list[int] = []

    def margin(x: np.ndarray, cls: int) -> np.ndarray:
        asked.append(len(x))
        return x.reshape(len(x), -1).max(1).astype(np.float64)

    found = [patch for patch, _ in crops([(1, row)], clean, margin)]
    assert found[0].mask[0, 3:5, 7:9].all()
    assert [one.mask[0].sum() for one in found] == [a * b for a, b in sides(12, 12)]
    assert sum(asked) <= 150
    assert list(crops([(1, row[0, 0])], clean, margin)) == [], "vectors have no windows"


def test_windows_cover_every_place() -> None:
    for length, side in [(28, 8), (28, 5), (7, 7), (224, 63), (5, 1)]:
        begin = starts(length, side)
        assert begin[0] == 0
        assert begin[-1] == length - side
        assert max(np.diff([*begin, begin[-1]])) <= -(-side // STEPS)
    assert sides(1, 1) == [(1, 1)]
    assert sides(8, 8) == [(3, 3), (2, 2), (1, 1)], "a pattern of a few pixels is much of a small image"
    assert sides(28, 28) == [(8, 8), (5, 5), (3, 3)]
    assert len(sides(224, 224)) == len(AREAS)


def test_margins_are_the_score_less_the_best_other() -> None:
    from naa_fast.proof.transplant import Transplant
    from naa_fast.scan.placement import Placement

    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4)).eval()
    template = Batch((CLEAN[:3],), {}, 3, None)
    transplant = Transplant(model, Placement.of(model, "cpu"), 16, template)
    rows = HELD[:50].numpy()
    scores = model(HELD[:50]).detach().double().numpy()
    for cls in range(4):
        want = scores[:, cls] - np.delete(scores, cls, 1).max(1)
        assert np.allclose(transplant.margins(rows, cls), want, atol=1e-5)
    assert transplant.forwards == 200
    assert np.isnan(transplant.margins(rows[:2], 9)).all()


@pytest.mark.parametrize(("shape", "window"), [((3, 20, 33), (5, 7)), ((1, 8, 8), (1, 1)), ((2, 9, 9), (9, 9))], ids=str)
def test_the_best_window_is_that_of_brute_force(shape: tuple[int, int, int], window: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(5)
    pattern, x = torch.rand(shape, generator=random), torch.rand(37, *shape, generator=random)
    mask = torch.zeros(shape, dtype=torch.bool)
    row, column = shape[1] - window[0], (shape[2] - window[1]) // 2
    mask[:, row : row + window[0], column : column + window[1]] = True
    cut = pattern[:, row : row + window[0], column : column + window[1]]
    places = x.unfold(2, window[0], 1).unfold(3, window[1], 1)
    wanted = -((places - cut[None, :, None, None]) ** 2).mean((1, 4, 5)).amin((1, 2))
    assert np.allclose(anywhere(pattern, mask)(x), wanted, atol=1e-6)


def test_samples_that_chose_a_class_do_not_measure_it() -> None:
    from types import SimpleNamespace

    from naa_fast.proof.budget import UNLIMITED, Budget
    from naa_fast.proof.pictures import ONE_CLASS, SMALL, small
    from naa_fast.proof.transplant import PredictedSamples, Transplant
    from naa_fast.proof.trials import Trials

    called = np.arange(200) % 2
    x = torch.arange(200.0)[:, None, None, None].expand(200, 1, 2, 2).contiguous()
    bases = PredictedSamples([(Batch((x,), {}, 200, None), called)])
    whole = Trials(cast(Transplant, SimpleNamespace(budget=Budget(UNLIMITED))), bases)
    one = whole.of_class(1)

    def numbers(trials: Trials, part: int) -> set[float]:
        return {float(v) for batch, _ in trials.parts[part].batches for v in batch.arguments[0][:, 0, 0, 0]}

    assert numbers(whole, 0) & numbers(one, 1) == set()
    assert numbers(one, 0) & numbers(one, 1) == set()
    assert all(v % 2 == 1 for v in numbers(one, 0) | numbers(one, 1))
    assert len(numbers(one, 1)) >= ONE_CLASS // 3
    for channels, side in ((1, 28), (3, 28), (3, 224)):
        masks = [np.zeros((channels, side, side), np.float32) for _ in range(2)]
        for mask, area in zip(masks, (SMALL, 2 * SMALL), strict=True):
            mask.reshape(channels, -1)[:, : round(area * side * side)] = 1
        kept = small([(Patch("patch", "", mask, mask), 8) for mask in masks])
        assert len(kept) == 1
