"""What the ranking knows of single classes is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from naa_fast.rank.attempts import Attempts, RankingAttempt
from naa_fast.rank.groups import FEWEST, MOST, coverage
from naa_fast.scan.times import Times


def counts(*found: int) -> np.ndarray:
    return np.array([*found, 0])  # the last: no class


def test_classes_that_clean_data_hardly_has_are_counted_with_the_share_of_suspects() -> None:
    told = coverage(counts(100, 100, FEWEST - 1, 0), counts(60, 20, 15, 5))
    assert "2 of 4 have statistics of their own" in told
    assert "2 with fewer than 16 clean samples, which 20 % of the suspects are called" in told


def test_nothing_is_said_where_all_are_known_or_no_suspect_is_called_one() -> None:
    assert coverage(counts(100, FEWEST), counts(50, 50)) == ""
    assert coverage(counts(100, 100, 0), counts(50, 50, 0)) == ""
    assert coverage(np.zeros(0), counts(5, 5)) == ""
    assert coverage(counts(5, 5), counts(0, 0)) == ""


def test_of_many_classes_none_is_known_by_itself_and_how_many_suspects_are_called_a_rare_one_is_said() -> None:
    many, clean = np.ones(1001, np.int64), np.full(1001, FEWEST)
    assert "none of 1,000 has statistics of its own, which 32 at most get" in coverage(many, many)
    assert "held against what clean samples of such class scores do" in coverage(many, many)
    assert "held against the whole clean set" in coverage(many, many, coded=False)
    clean[:100], clean[:50] = 3, 0
    assert "10 % of the suspects are called a class with fewer than 16 clean samples, 5 % one with none" in coverage(clean, many)
    assert coverage(np.full(MOST + 1, 20), np.full(MOST + 1, 20)) == ""


@pytest.mark.parametrize("coded", [False, True])
def test_a_scan_that_is_judged_on_its_way_says_of_classes_what_it_says_at_its_end(coded: bool) -> None:
    measured: Any = SimpleNamespace(predictions=np.full(1001, FEWEST))
    passes: Any = SimpleNamespace(
        notes=(), scorer=SimpleNamespace(coded=coded), saw=lambda suspect: True, result=lambda *measurements: None
    )
    at_end, on_the_way = Attempts(), Attempts()
    attempt = RankingAttempt(at_end, Times(), lambda: passes)
    attempt.so_far(on_the_way, measured, measured)
    attempt.result(measured, measured)
    assert on_the_way.notes == at_end.notes == (coverage(measured.predictions, measured.predictions, coded),)
