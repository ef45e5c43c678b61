"""What a harmless change explains is a shift and no trigger."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naa_fast
from naa_fast.detect.evidence import HARMLESS
from naa_fast.proof.chances import Pool, Sought
from naa_fast.proof.images import CleanImages, Offset, harmless_directions, harmless_share, offsets
from naa_fast.proof.pictures import Search

RNG = np.random.default_rng(0)
SHAPES = np.kron(RNG.random((400, 1, 4, 4)), np.ones((3, 3))).astype(np.float32) * np.linspace(0.1, 0.8, 12, dtype=np.float32)
CLEAN = CleanImages.of(SHAPES[:200])
HELD = SHAPES[200:]


@pytest.mark.parametrize(
    "changed",
    [HELD + 0.1, np.clip(HELD + 0.15, 0, 1), 0.75 * HELD + 0.05, np.roll(HELD, 1, 3)[..., 1:-1]],
    ids=["brighter", "brighter and clipped", "less contrast", "moved"],
)
def test_harmless_changes_are_explained(changed: np.ndarray) -> None:
    if changed.shape[3] != HELD.shape[3]:  # the moved ones, with their edges repeated
        changed = np.pad(changed, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="edge")
    assert harmless_share(changed, CLEAN) > HARMLESS


def test_a_pattern_of_its_own_is_not() -> None:
    pattern = RNG.random((1, 12, 12))
    assert harmless_share(0.8 * HELD + 0.2 * pattern, CLEAN) < HARMLESS
    patched = HELD.copy()
    patched[:, :, 9:, 9:] = 1
    assert harmless_share(patched, CLEAN) < HARMLESS
    assert harmless_share(SHAPES[:200], CLEAN) == 0.0


def test_offsets_of_which_a_harmless_change_explains_most_are_left_out_and_those_of_a_few_bright_images_are_not() -> None:
    wave = 0.1 * np.sin(np.arange(12) * 2 * np.pi / 3)
    lit = CleanImages.of((SHAPES[:200] + 0.3 * RNG.standard_normal((200, 1, 1, 1))).astype(np.float32))
    few = (HELD[:8] + np.linspace(-0.4, 0.7, 8)[:, None, None, None] + wave).astype(np.float32)  # brighter than most, by chance
    assert harmless_share(few, lit) > HARMLESS
    assert "offset, frequencies" in {offset.kind for offset in offsets(few, lit, most=HARMLESS)}
    assert not list(offsets(HELD[:150] + 0.2, CLEAN, most=HARMLESS))
    assert len(list(offsets(HELD[:150] + 0.2, CLEAN))) == 9


def test_clean_groups_are_read_by_the_rules_of_the_suspects() -> None:
    """A bright class was a control that turned everything, and a blend in 25 of 2,500 images was no proof beside it."""
    waves = HELD + 0.1 * np.sin(np.arange(12) * 2 * np.pi / 3)
    groups = [
        Sought(target, [(row, image.astype(np.float32)) for row, image in enumerate(images[:150])], SHAPES[:0], None)
        for target, images in enumerate((waves, HELD + 0.2, waves))
    ]
    search = Search(SimpleNamespace(), groups[0], groups[1:], [], Pool([], CLEAN, np.zeros(200, np.int64)))  # type: ignore[arg-type]
    suspects, bright, others = (
        {candidate.kind for candidate, _ in search.shared(group) if isinstance(candidate, Offset)} for group in groups
    )
    assert suspects == others
    assert "offset, frequencies" in suspects
    assert not bright


def test_noise_that_is_cut_off_at_the_edges_is_explained() -> None:
    flat = np.where(RNG.random((400, 1, 12, 12)) < np.linspace(0.05, 0.95, 12), 0.0, 1.0).astype(np.float32)  # black and white
    clean, held = CleanImages.of(flat[:200]), flat[200:]
    noisy = np.clip(held + 0.3 * RNG.standard_normal(held.shape), 0, 1).astype(np.float32)
    assert harmless_share(noisy, clean) > HARMLESS


def test_what_a_group_owes_to_its_class_is_neither_a_change_nor_a_trigger() -> None:
    marks = RNG.choice([-0.2, 0.2], (8, 1, 1, 12, 12)).astype(np.float32)  # what each of eight classes has
    classes = [SHAPES[25 * i : 25 * i + 25] + mark for i, mark in enumerate(marks)]
    clean, usual, shown = CleanImages.of(np.concatenate(classes)), classes[3].mean(0), HELD + marks[3]
    brighter = shown + 0.05
    assert harmless_share(brighter, clean) < HARMLESS < harmless_share(brighter, clean, usual)
    pattern = 0.2 * RNG.random((1, 12, 12)).astype(np.float32)
    left = clean.without((shown + pattern).mean(0) - clean.mean, usual)
    alike = clean.without(shown.mean(0) - clean.mean, usual)
    centred = pattern - pattern.mean()
    assert np.corrcoef(left.ravel(), centred.ravel())[0, 1] > 0.8
    assert (alike**2).sum() < 0.2 * (left**2).sum()
    assert np.array_equal(clean.without(pattern, clean.mean), pattern), "a class like all others owes nothing"


@pytest.mark.parametrize("shape", [(7,), (3, 6, 5), (1, 4, 4)], ids=str)
def test_the_directions_are_orthonormal_and_hold_brightness_and_contrast(shape: tuple[int, ...]) -> None:
    mean = RNG.random(shape)
    rows = harmless_directions(mean)
    assert np.allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-12)
    for change in (np.ones(mean.size), mean.ravel()):
        assert np.allclose(rows.T @ (rows @ change), change)
    assert len(harmless_directions(np.zeros(shape))) == 1, "of a black mean only brightness is left"


class Bright(nn.Module):
    """Calls every image class 1 that is brighter than clean ones: fragile, and no backdoor."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.mix(x).mean((2, 3))
        return torch.stack([hidden[:, 0], 60 * (x.mean((1, 2, 3)) - 0.53), hidden[:, 1]], 1)


@pytest.mark.parametrize("brighter", [0.1, 0.15])
def test_what_brightness_alone_explains_is_not_proved(brighter: float) -> None:
    torch.manual_seed(0)
    clean, held = (0.8 * torch.rand(400, 1, 8, 8) + 0.05 for _ in range(2))
    model = Bright()
    suspect = (held + brighter).clamp(0, 1)
    with torch.no_grad():
        assert float((model(suspect).argmax(1) == 1).float().mean()) > 0.5
    for proof in naa_fast.scan(model, clean, suspect, repair=False).proof:
        assert not proof.stands, proof
