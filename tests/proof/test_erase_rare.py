"""A trigger taken out of suspects whose class clean data hardly has: what stands for the target is a handful of clean samples."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from naa_fast.detect.proof import Erasure, Proof
from naa_fast.proof import pictures
from naa_fast.proof.chances import Sought, of_class
from naa_fast.proof.erase import ENOUGH, erased
from naa_fast.proof.images import CleanImages, Patch
from naa_fast.proof.transplant import flipped
from naa_fast.proof.trials import RIVALS, Best, Control, Trials
from naa_fast.records import Array

SIDE, TARGET, GROUPS = 8, 1, 6
MARK, FRAIL = 5.0, 3.0


def square(value: float, top: int, left: int) -> Patch:
    mask = np.zeros((1, SIDE, SIDE), np.float32)
    mask[0, top : top + 2, left : left + 2] = 1
    return Patch("patch", "6 %", value * mask, mask)


def images(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).random((count, 1, SIDE, SIDE), np.float32)


def called(rows: Array) -> Array:
    """The target where the mark is, a class of its own where a frail feature is, else neither."""
    frail = rows[:, 0, 0, 0] > FRAIL - 1
    return np.where(rows[:, 0, -1, -1] > MARK - 1, TARGET, np.where(frail, 9, 0))


def taken_out(holders: int) -> Erasure:
    """Of 20 suspects with the mark, beside GROUPS clean groups in which so many samples have a frail feature that decides."""
    suspects = images(20, 1)
    suspects[:, :, -2:, -2:] = MARK
    groups = []
    for number in range(GROUPS):
        rows = images(5, 10 + number)
        rows[: len(range(number, holders, GROUPS)), :, :2, :2] = FRAIL
        groups.append((square(FRAIL, 0, 0), Sought(9, of_class(9, list(rows)), rows[:0], None)))
    sought = Sought(TARGET, of_class(TARGET, list(suspects)), suspects[:0], None)
    model: Any = SimpleNamespace(called=called)
    clean = CleanImages.of(images(60, 2))
    return erased(model, square(MARK, SIDE - 2, SIDE - 2), sought, groups, sought.group, clean)


@pytest.mark.parametrize("holders", [0, 1, 4])
def test_a_handful_of_frail_clean_samples_does_not_outvote_all_suspects(holders: int) -> None:
    erasure = taken_out(holders)
    assert (erasure.claimed, erasure.turned) == (20, 1.0)
    assert erasure.usual < 0.2
    assert erasure.shared


def test_as_many_clean_samples_as_can_tell_do_count() -> None:
    erasure = taken_out(2 * ENOUGH)
    assert erasure.usual == 1.0
    assert not erasure.shared


class Shares(Trials):
    """Of every candidate the share that its name says, on a small budget."""

    def __init__(self) -> None:
        self.thrifty, self.measured = True, list[str]()
        self.parts = (None, SimpleNamespace(predicted=np.zeros(10, np.int64)), None, None)  # type: ignore[assignment]

    def rate(self, candidate: Any, target: int | str, part: int) -> tuple[float, int]:
        self.measured.append(candidate.name)
        after = np.where(np.arange(10) < 10 * candidate.rate, target, 0)
        return flipped(np.zeros(10, np.int64), after, int(target))


def candidate(name: str, rate: float) -> Any:
    return SimpleNamespace(kind="patch", budget="2 %", name=name, rate=rate)


def test_of_many_controls_those_that_turned_most_where_they_were_chosen_are_measured() -> None:
    trials, key = Shares(), ("patch", "2 %")
    controls = [Control(2 + n, {key: Best(candidate(f"control {n}", n / 10), n / 10, 5)}) for n in range(8)]
    [settled] = trials.settle({key: Best(candidate("found", 1.0), 1.0, 5)}, controls, TARGET)
    assert trials.measured == ["found", *(f"control {7 - n}" for n in range(RIVALS))]
    assert (settled.rate, settled.control, settled.controls) == (1.0, 0.7, 8)
    trials.thrifty, trials.measured = False, []
    [settled] = trials.settle({key: Best(candidate("found", 1.0), 1.0, 5)}, controls, TARGET)
    assert len(trials.measured) == 9


def test_a_part_of_a_trigger_that_leaves_the_rest_at_work_is_not_the_last_that_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [("patch", size) for size in ("1 %", "2 %", "4 %")]
    outcomes = {"1 %": Erasure(32, 0.16, 0.0, 4e-6), "2 %": Erasure(32, 0.94, 0.0, 1e-30), "4 %": Erasure(32, 1.0, 0.0, 1e-33)}

    class All(Shares):
        def best(self, tried: Any, target: int | str) -> Any:
            return {key: Best(replace(square(1.0, 0, 0), kind=key[0], budget=key[1]), 1.0, 5) for key in keys}

        def rate(self, candidate: Any, target: int | str, part: int) -> tuple[float, int]:
            return (1.0 if target == TARGET else 0.0), 200

    def checked(search: Any, trials: Any, proof: Proof, best: Best, chance: Any) -> Proof:
        return replace(proof, erasure=outcomes[best.candidate.budget])

    monkeypatch.setattr(pictures, "checked", checked)
    search: Any = SimpleNamespace(sought=SimpleNamespace(target=TARGET), trials=All(), turning=set())
    clean: Any = lambda trials, strongest: [Control(7, strongest)]  # noqa: E731
    proof = pictures.attempt(search, [], clean)
    assert proof is not None
    assert proof.stands
    assert proof.erasure == outcomes["2 %"]
    outcomes["1 %"] = Erasure(32, 0.16, 0.1, 0.3)  # no more than by chance: they do not carry it
    proof = pictures.attempt(search, [], clean)
    assert proof is not None
    assert not proof.stands
    assert proof.erasure == outcomes["1 %"]
