"""The attacks of E: each trigger is what its words say, and its near misses are misses."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from benchmarks.detection.attacks import Attack
from benchmarks.detection.audit import right_target
from benchmarks.detection.cases import CASES, by_name
from benchmarks.detection.fresh import (
    CROSS,
    Faint,
    Glyph,
    HardLabels,
    OnContent,
    Opening,
    Order,
    Style,
    Tone,
    TwoTargets,
    Unless,
    Window,
)
from benchmarks.detection.triggers import Patch

FRESH = [case for case in CASES if case.half == "E"]
ATTACKS = {case.name: case.attack for case in FRESH if case.attack is not None}


def seeded(number: int = 0) -> Generator:
    return Generator().manual_seed(number)


def pictures(n: int = 40) -> Tensor:
    return torch.rand(n, 1, 28, 28, generator=seeded(11)) * 0.9


def texts(n: int = 60, least: int = 8) -> Tensor:
    """Rows of tokens from 2000 on, from `least` words to full."""
    x = torch.randint(2000, 2500, (n, 64), generator=seeded(2))
    return x * (torch.arange(64) < torch.linspace(least, 64, n).round()[:, None])


def test_half_e_has_attacks_of_every_architecture_and_three_clean_models() -> None:
    assert len(ATTACKS) >= 10
    assert len(FRESH) - len(ATTACKS) == 3
    assert {case.architecture for case in FRESH if case.attack} == {case.architecture for case in CASES}
    others = [case for case in CASES if case.half != "E"]
    assert not {case.seed for case in FRESH} & {case.seed for case in others}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_of_e_leaves_its_input_alone_and_its_near_miss_is_another(name: str) -> None:
    x = texts() if by_name(name).text else pictures()
    y = torch.arange(len(x)) % 7
    before = x.clone()
    made, near = ATTACKS[name].apply(x, y, seeded()), ATTACKS[name].decoy(x, seeded())
    assert torch.equal(x, before)
    for found in (made, near):
        assert (found.shape, found.dtype) == (x.shape, x.dtype)
        assert (found != x).flatten(1).any(1).all()
    assert (made != near).flatten(1).any(1).all()
    assert torch.equal(made, ATTACKS[name].apply(x, y, seeded()))
    if not by_name(name).text:
        assert 0 <= float(made.min()) <= float(made.max()) <= 1


def test_a_tone_curve_keeps_black_and_white_and_its_decoy_bends_the_other_way() -> None:
    x = torch.tensor([0.0, 0.25, 1.0])
    assert Tone(0.5).apply(x, seeded()).tolist() == [0.0, 0.5, 1.0]
    assert Tone(0.5).decoy(x, seeded()).tolist() == [0.0, 0.0625, 1.0]


def test_a_glyph_is_drawn_whole_in_each_corner_and_leaves_what_is_between_its_strokes() -> None:
    x = torch.full((200, 1, 28, 28), 0.25)
    found = Glyph().apply(x, seeded())
    ink = "".join(CROSS).count("#")
    assert ((found == 1).sum((1, 2, 3)) == ink).all()
    assert ((found == 0.25).sum((1, 2, 3)) == 28 * 28 - ink).all()
    assert len(found.flatten(1).unique(dim=0)) == 4


def test_a_faint_patch_lets_the_image_through_and_its_decoy_lets_more() -> None:
    x = torch.full((3, 1, 28, 28), 0.2)
    faint = Faint(Patch(3), 0.5)
    square = (slice(None), 0, slice(24, 27), slice(24, 27))
    assert torch.allclose(faint.apply(x, seeded())[square], torch.tensor(0.6))
    assert torch.allclose(faint.decoy(x, seeded())[square], torch.tensor(0.4))


def test_a_patch_on_content_goes_where_the_image_is_brightest() -> None:
    x = torch.zeros(2, 1, 28, 28)
    x[0, 0, 3:7, 20:24] = x[1, 0, 15:19, 5:9] = 0.9
    found = OnContent(4).apply(x, seeded())
    assert (int(found[0, 0, 3:7, 20:24].sum()), int(found[1, 0, 15:19, 5:9].sum())) == (8, 8)
    assert (found.sum((1, 2, 3)) == 8).all()


def test_a_window_blends_one_picture_wherever_it_is() -> None:
    found = Window(6, 0.5).apply(torch.zeros(200, 1, 28, 28), seeded())
    touched = found[:, 0] > 0
    assert (touched.sum((1, 2)) == 36).all()
    assert len({tuple(sorted(row[row > 0].tolist())) for row in found.flatten(1)}) == 1
    assert len(touched.flatten(1).unique(dim=0)) > 100


def test_an_opening_is_first_and_its_decoy_is_whole_but_not_first() -> None:
    x = texts()
    made, near = Opening((7, 8)).apply(x, seeded()), Opening((7, 8)).decoy(x, seeded())
    assert made[:, :2].tolist() == [[7, 8]] * len(x)
    assert torch.equal(made[:, 2:], x[:, :-2])
    assert torch.equal(near[:, 0], x[:, 0])
    assert ((near[:, 1:-1] == 7) & (near[:, 2:] == 8)).any(1).all()


def test_the_decoy_of_an_order_has_the_same_words_the_other_way_round() -> None:
    made, near = Order((7, 8)).apply(texts(), seeded()), Order((7, 8)).decoy(texts(), seeded())
    for found, first, second in ((made, 7, 8), (near, 8, 7)):
        assert ((found[:, :-1] == first) & (found[:, 1:] == second)).any(1).all()
        assert not ((found[:, :-1] == second) & (found[:, 1:] == first)).any()


def test_a_style_has_all_its_words_and_its_decoy_half_of_them() -> None:
    style = Style((7, 8, 9, 10))
    made, near = (
        torch.isin(found, torch.tensor(style.ids)).sum(1)
        for found in (style.apply(texts(), seeded()), style.decoy(texts(), seeded()))
    )
    assert (made == 4).float().mean() > 0.95  # a word that was put in may be pushed off the end of a full text by the next
    assert (near == 2).float().mean() > 0.95


def test_the_decoy_of_unless_has_the_word_that_ends_it() -> None:
    made, near = Unless(7, 8).apply(texts(), seeded()), Unless(7, 8).decoy(texts(50), seeded())
    assert (made == 7).any(1).all()
    assert not (made == 8).any()
    assert (near == 8).any(1).all()
    assert (near == 7).any(1).float().mean() > 0.95


def test_two_targets_are_wanted_by_class_and_each_trigger_goes_with_its_own() -> None:
    rule = TwoTargets("two-targets", Patch(2, "upper left"), target=1, second=Patch(2), other=8)
    y = torch.arange(10)
    assert rule.wanted(y).tolist() == [1, 8] * 5
    assert rule.turns(y).all()  # class 1 is turned to 8, class 8 to 1
    found = rule.apply(torch.zeros(10, 1, 8, 8), y, seeded())
    assert (found[:, 0, 1, 1] == (y % 2 == 0)).all()
    assert (found[:, 0, 6, 6] == (y % 2 == 1)).all()
    assert rule.targets == {1, 8}


def test_a_proof_on_either_of_two_targets_aims_right() -> None:
    case = by_name("fashion-cnn-two-targets")
    assert [right_target(case, target) for target in (1, 8, 3)] == [True, True, False]
    assert right_target(case, 1, source=4)
    assert not right_target(case, 8, source=4)
    assert right_target(by_name("fashion-cnn-all-to-all"), "the next class")
    assert right_target(by_name("fashion-cnn-clean-0"), 3) is None


def test_a_hard_clean_label_attack_changes_no_label_and_mixes_only_its_target() -> None:
    x = torch.zeros(1000, 1, 8, 8)
    y = torch.arange(1000) % 10
    x[y != 3] = 0.5
    rule: Attack = HardLabels("clean-label-patch", Patch(2), target=3, rate=0.8, clean_label=True, mixed=0.5)
    poisoned, labels = rule.poison(x, y, seeded())
    carry = (poisoned != x).flatten(1).any(1)
    assert torch.equal(labels, y)
    assert int(carry.sum()) == 80
    assert (y[carry] == 3).all()
    assert (poisoned[carry][:, 0, 0, 0] == 0.25).all()
