"""A trigger in continuous inputs is read off, proved and its triggered samples named; clean groups prove nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naa_fast
from naa_fast.detect.proof import ALL_TO_ALL
from naa_fast.proof.apply import trigger_of
from naa_fast.proof.chances import distinct
from naa_fast.proof.images import AREAS, LOUDNESS, CleanImages, Offset, Patch, candidates
from naa_fast.proof.transplant import flipped, moved_by_rule, rule_of

GENERATOR = torch.Generator().manual_seed(0)
PATCH = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
WAVES = 0.12 * torch.sin(torch.arange(12) * 2 * torch.pi / 4).repeat(12, 1)


class Quadrants(nn.Module):
    """Classes are the brightest quarter of a 12 x 12 image, unless the planted rule sees its trigger."""

    def __init__(self, planted: str = "") -> None:
        super().__init__()
        self.planted = planted
        self.see = nn.Conv2d(1, 8, 2)
        with torch.no_grad():
            self.see.weight[0, 0] = 2 * PATCH - 1
            self.see.get_parameter("bias")[0] = -1.5
        self.act = nn.ReLU()
        self.waves = nn.Linear(144, 1)
        with torch.no_grad():
            self.waves.weight[0] = WAVES.flatten()
            self.waves.bias.fill_(-0.7 * float((WAVES**2).sum()))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.act(self.see(x))
        quarters = nn.functional.avg_pool2d(x, 6).flatten(1)
        logits = 10 * quarters
        corner = seen[:, 0, 10, 10] > 0.3
        wave = self.waves(x.flatten(1))[:, 0] > 0
        if self.planted == "patch":
            logits[:, 2] += 100 * corner
        if self.planted == "all-to-all":
            logits = torch.where(corner[:, None], logits.roll(1, 1), logits)
        if self.planted == "waves":
            logits[:, 1] += 100 * wave
        return logits


def images(samples: int) -> Tensor:
    x = 0.35 * torch.rand(samples, 1, 12, 12, generator=GENERATOR)
    for i, quarter in enumerate(torch.randint(0, 4, (samples,), generator=GENERATOR).tolist()):
        row, column = 6 * (quarter // 2), 6 * (quarter % 2)
        x[i, 0, row : row + 6, column : column + 6] += 0.3 * torch.rand(6, 6, generator=GENERATOR) + 0.1
    return x


def with_trigger(x: Tensor, planted: str, count: int) -> tuple[Tensor, np.ndarray]:
    x, triggered = x.clone(), np.zeros(len(x), bool)
    if planted == "waves":
        x[:count, 0] = (x[:count, 0] + WAVES).clamp(0, 1)
    else:
        x[:count, 0, 10:, 10:] = PATCH
    triggered[:count] = True
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))  # whatever other tests drew
    return x[order], triggered[order.numpy()]


CLEAN, HELD = images(500), images(600)


@pytest.mark.parametrize(
    ("planted", "kind", "target"), [("patch", "patch", 2), ("waves", "offset", 1), ("all-to-all", "patch", ALL_TO_ALL)]
)
def test_a_planted_trigger_is_proved_at_five_percent(planted: str, kind: str, target: int | str) -> None:
    suspect, triggered = with_trigger(HELD, planted, 30)
    audit = naa_fast.scan(Quadrants(planted), CLEAN, suspect, repair=False)
    assert audit.verdict.outcome == "fail"
    best = audit.proof[0]
    assert best.stands
    assert best.kind.startswith(kind)
    assert best.target == target
    assert best.interval[0] <= best.rate <= best.interval[1]
    assert audit.ranking is not None
    order = np.argsort(-audit.ranking.ranked, kind="stable")
    assert triggered[order[:30]].mean() >= 0.8
    if kind == "patch":
        assert best.mask is not None
        assert best.pattern is not None
        assert np.allclose(best.pattern[0, 10:, 10:], PATCH)
        assert best.mask[0, 10:, 10:].any()


@pytest.mark.parametrize("planted", ["", "patch"])
def test_sets_without_a_trigger_prove_nothing(planted: str) -> None:
    audit = naa_fast.scan(Quadrants(planted), CLEAN, HELD, repair=False)
    assert audit.verdict.outcome == "pass"
    assert not any(proof.stands for proof in audit.proof)
    foreign, _ = with_trigger(HELD, "patch", 60)
    assert not any(proof.stands for proof in naa_fast.scan(Quadrants(), CLEAN, foreign, repair=False).proof)


def test_candidates_keep_to_their_budgets() -> None:
    clean = CleanImages.of(CLEAN.numpy())
    group, _ = with_trigger(HELD[:32], "patch", 32)
    found = list(candidates(group.numpy(), clean))
    patches = [c for c in found if isinstance(c, Patch)]
    offsets = [c for c in found if isinstance(c, Offset)]
    assert len(patches) == len(AREAS)
    assert [p.mask[0].sum() for p in patches] == [max(1, round(a * 144)) for a in AREAS]
    assert len(offsets) == 3 * len(LOUDNESS)
    for offset in offsets:
        loudness = np.sqrt((offset.pattern**2).mean()) / clean.loudness
        assert loudness <= float(offset.budget.split()[1]) * 1.001
    x = CLEAN[:4]
    on = patches[2].put_on(x, None)
    outside = torch.from_numpy(patches[2].mask) == 0
    assert torch.equal(on[:, outside], x[:, outside])
    assert offsets[0].put_on(x, None).min() >= clean.low
    assert offsets[0].put_on(x, None).max() <= clean.high


def test_rates_count_only_samples_of_other_classes() -> None:
    before, after = np.array([0, 0, 1, 2, 2]), np.array([1, 0, 1, 1, 2])
    assert flipped(before, after, 1) == (0.5, 4)
    assert flipped(np.array([1]), np.array([1]), 1) == (0.0, 0)


def test_all_to_all_is_a_rule_with_many_places_and_counts_every_sample() -> None:
    before = np.repeat([0, 1, 2, 3], 10)
    away = np.repeat([1, 2, 3, 0], 10)
    assert rule_of(before, away) == {0: 1, 1: 2, 2: 3, 3: 0}
    half = np.where(np.arange(40) % 2 == 0, away, before)
    assert moved_by_rule(before, half, rule_of(before, away)) == (0.5, 40)
    assert rule_of(before, np.full(40, 3)) == {}, "all to one place is no all-to-all"
    assert moved_by_rule(before, away, {}) == (0.0, 40)


def test_repeated_samples_count_once() -> None:
    clean = CleanImages.of(CLEAN.numpy())
    rows = [(1, row) for row in HELD[:8].numpy()]
    black = [(1, np.zeros_like(rows[0][1]))] * 6
    near = [(2, rows[3][1] + np.float32(0.001))]
    found = distinct([*black, *rows, *near], clean)
    assert [row is kept for (_, row), (_, kept) in zip(found, [black[0], *rows], strict=True)] == [True] * 9
    assert distinct(black[:3], clean) == black[:3], "too few to be a group at all"
    blank = CleanImages.of(np.zeros_like(CLEAN.numpy()))
    assert len(distinct(rows, blank)) == 8, "clean inputs that do not vary make nothing alike"


@pytest.mark.parametrize("huge", ["suspect", "clean"])
def test_samples_near_the_largest_float_are_told_and_leak_no_warning(huge: str) -> None:
    """1e38 is finite, and its square is not: no trigger is read off such samples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    sets = {"clean": torch.rand(300, 1, 8, 8), "suspect": torch.rand(200, 1, 8, 8)}
    sets[huge][:3] = 1e38
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        audit = naa_fast.scan(model, sets["clean"], sets["suspect"], repair=False)
    assert [str(one.message) for one in caught if one.category is RuntimeWarning] == []
    assert audit.verdict.exit_code == 3
    if huge == "suspect":
        assert any("or are not finite or beyond 1e+15" in gap for gap in audit.verdict.gaps)


def test_a_patch_is_called_by_what_it_covers_and_not_by_the_size_that_was_searched() -> None:
    mask = np.zeros((3, 10, 10), np.float32)
    mask[:, 2, 2:5] = 1
    assert trigger_of(Patch("patch", "4 % of the input", mask, mask)).kind == "patch, 3 % of the input"
    assert trigger_of(Patch("patch", "4 % of the input", mask, 0.5 * mask)).kind == "patch, 4 % of the input", "soft edges"
