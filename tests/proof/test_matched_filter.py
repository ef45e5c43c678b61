"""Of a group that others were ranked among, the samples that share something are found, and what they share is read off them."""

from __future__ import annotations

import numpy as np
import pytest
from proof.test_images import CLEAN, HELD

from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Patch
from naa_fast.proof.erase import Eraser
from naa_fast.proof.images import CleanImages, Offset, offsets
from naa_fast.proof.matched_filter import FEWEST, Filter, refined_groups
from naa_fast.proof.pictures import good, strongest

IMAGES = CleanImages.of(CLEAN.numpy())
PICTURE = np.random.default_rng(0).standard_normal((1, 12, 12)).astype(np.float32)


def mixed(triggered: int, others: int, loudness: float = 0.15, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Images of which the first `triggered` hold PICTURE, shuffled but for the first eight, of which six do; and which do."""
    rng = np.random.default_rng(seed)
    x = HELD.numpy()[rng.permutation(len(HELD))[: triggered + others]].copy()
    x[:triggered] += loudness * PICTURE
    holds = np.arange(len(x)) < triggered
    first = np.r_[:6, triggered : triggered + 2]
    order = np.r_[first, rng.permutation(np.setdiff1d(np.arange(len(x)), first))]
    return x[order], holds[order]


@pytest.mark.parametrize("triggered", [12, 40])
def test_the_members_are_those_that_share_the_picture(triggered: int) -> None:
    rows, holds = mixed(triggered, 150)
    groups = list(refined_groups(rows, IMAGES, None, IMAGES.x))
    assert groups
    assert holds[groups[0]].mean() >= 0.95
    assert holds[groups[0]].sum() >= 0.9 * triggered


def test_samples_that_share_nothing_are_no_group_of_their_own_noise() -> None:
    """Each row is told by the others alone: eight rows that share nothing hold no more of their mean than clean ones do."""
    for seed in range(5):
        rows, _ = mixed(0, 150, seed=seed)
        for members in refined_groups(rows, IMAGES, None, IMAGES.x):
            assert len(set(members.tolist()) & set(range(8))) <= FEWEST
    few = HELD.numpy()[: FEWEST - 1]
    assert list(refined_groups(few, IMAGES, None, IMAGES.x)) == []
    assert list(refined_groups(few, IMAGES, None, IMAGES.x[:0])) == [], "no clean inputs to hold them against"


def test_of_an_offset_each_image_gives_back_what_it_holds() -> None:
    eraser = Eraser(Offset("offset, pixels", "", 0.3 * PICTURE, IMAGES.low, IMAGES.high), IMAGES)
    x = HELD.numpy()[:60].copy()
    x[:20] += 0.3 * PICTURE
    x[20:40] += 0.6 * PICTURE
    amounts = eraser.amounts(x)
    assert amounts.shape == (60, 1, 1, 1)
    assert amounts.min() >= 0
    assert np.median(amounts[:20]) == pytest.approx(1, abs=0.2)
    assert np.median(amounts[20:40]) == pytest.approx(2, abs=0.2)
    assert np.median(amounts[40:]) < 0.2
    [without] = eraser.of(x)
    left = np.abs((without - HELD.numpy()[:60])[:40]).mean()
    assert left < 0.35 * np.abs((x - HELD.numpy()[:60])[:40]).mean()


def test_a_row_is_left_out_of_what_it_is_held_against() -> None:
    rows, _ = mixed(12, 60)
    filtering = Filter(rows, IMAGES, None, IMAGES.x)
    members = np.arange(8)
    without = np.delete(members, 3)
    shared = rows[without].mean(0) - IMAGES.mean
    wanted = np.fft.ifftn(np.fft.fftn(shared, axes=(1, 2)) / filtering.power, axes=(1, 2)).real
    whole = rows[members].mean(0) - IMAGES.mean
    both = np.fft.ifftn(np.fft.fftn(whole, axes=(1, 2)) / filtering.power, axes=(1, 2)).real
    held = (8 * filtering.along(rows[3:4], both)[0] - filtering.itself(3)) / 7
    assert held == pytest.approx(filtering.along(rows[3:4], wanted)[0], rel=1e-3)


def test_a_faint_picture_of_every_frequency_comes_back_weighed() -> None:
    rows, holds = mixed(40, 2, loudness=0.05)
    found = {one.kind: one for one in offsets(rows[holds], IMAGES) if isinstance(one, Offset) and one.budget.endswith("0.3")}
    likeness = {kind: float(np.corrcoef(one.pattern.ravel(), PICTURE.ravel())[0, 1]) for kind, one in found.items()}
    assert likeness["offset, weighed"] > 0.8
    assert likeness["offset, weighed"] == max(likeness.values())


def proof(rate: float, control: float = 0.0) -> Proof:
    return Proof(Patch(np.ones(3, np.float32), np.ones(3, np.float32)), 1, rate, control, 288, 8)


def test_of_what_stands_the_strongest_is_kept_and_of_what_does_not_all() -> None:
    weak, better, none = proof(0.7), proof(0.85), proof(0.3)
    assert strongest([weak, None, better, none]) == [better]
    assert strongest([None, none, proof(0.5)])[0] is none
    assert len(strongest([none, proof(0.5)])) == 2
    assert not good([weak, better])
    assert good([weak, proof(0.95)])
    assert not good([proof(0.95, control=0.9), None]), "does not stand"
