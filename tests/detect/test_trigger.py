"""A trigger is known again by its kind, its place, its words and its pattern, also by way of a report."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naa_fast.detect.trigger import (
    Crop,
    Offset,
    Patch,
    TokenPair,
    Tokens,
    Trigger,
    TriggerKey,
    alike_places,
    box_of,
    key_of,
    pooled,
)

BOXES = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda p: (p[0], p[0] + p[1])), min_size=1, max_size=3)
KEYS = st.builds(
    TriggerKey,
    st.sampled_from(["patch", "offset", "token"]),
    st.none() | BOXES.map(tuple),
    st.text(max_size=5),
    st.lists(st.integers(0, 99), max_size=3).map(tuple),
    st.lists(st.floats(-9, 9, width=32), max_size=5).map(tuple),
)


@given(key=KEYS)
def test_a_report_keeps_a_key(key: TriggerKey) -> None:
    assert TriggerKey.read(json.loads(json.dumps(key.report()))) == key


@given(key=KEYS, other=KEYS)
def test_a_named_key_covers_itself_and_none_of_another_kind_or_word(key: TriggerKey, other: TriggerKey) -> None:
    assert key.covers(key) == bool(key.pattern or key.words or key.tokens or key.place)
    if (key.kind, key.words) != (other.kind, other.words):
        assert not key.covers(other)


def test_places_are_alike_where_they_share_half() -> None:
    box = ((0, 1), (4, 8), (4, 8))
    assert alike_places(box, box)
    assert alike_places(box, ((0, 1), (4, 8), (3, 8)))
    assert not alike_places(box, ((0, 1), (4, 8), (6, 10)))  # a third
    assert not alike_places(box, ((0, 1), (8, 12), (4, 8)))
    assert not alike_places(box, None)
    assert not alike_places(box, ((4, 8), (4, 8)))
    assert not alike_places(((3, 3),), ((3, 3),)), "an empty box is no place"


def test_the_box_holds_all_of_the_mask_and_an_empty_mask_has_none() -> None:
    mask = np.zeros((3, 10, 10), np.float32)
    assert box_of(mask) is None
    mask[:, 2, 3] = mask[:, 7, 4] = 1
    assert box_of(mask) == ((0, 3), (2, 8), (3, 5))


def test_patterns_are_means_over_cells_whatever_the_size() -> None:
    x = np.random.default_rng(0).standard_normal((2, 19, 5))
    assert len(pooled(x)) == 2 * 8 * 5
    assert pooled(np.full((300,), 2.5)) == (2.5,) * 8
    assert np.isfinite(pooled(np.array([np.nan, np.inf, -np.inf, 1e300]))).all()


def test_how_loud_an_offset_is_changes_nothing_and_what_a_patch_puts_does() -> None:
    pattern = np.random.default_rng(0).standard_normal((1, 30, 30)).astype(np.float32)
    mask = np.zeros_like(pattern)
    mask[:, 3:9, 3:9] = 1
    assert key_of("offset, pixels", pattern, None, (), "").covers(key_of("offset, weighed", 0.1 * pattern, None, (), ""))
    assert not key_of("offset", pattern, None, (), "").covers(key_of("offset", -pattern, None, (), ""))
    grey = key_of("patch, 4 % of the input", 0 * mask + 0.5, mask, (), "")
    assert not grey.covers(key_of("patch", -0.5 * mask, mask, (), ""))
    assert key_of("offset", 0 * pattern, None, (), "").pattern == (0.0,) * 64


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("patch", "a trigger without a kind"),
        ({"kind": ""}, "a trigger without a kind"),
        ({"kind": "patch", "place": 3}, "a place that is no list"),
        ({"kind": "patch", "place": [[1]]}, "a place that is no list"),
        ({"kind": "patch", "place": [[1, 2.5]]}, "a place that is no list"),
        ({"kind": "token", "words": 3}, "words that are no text"),
        ({"kind": "token", "tokens": [True]}, "tokens that are no list"),
        ({"kind": "offset", "pattern": [1.0]}, "a pattern that is no base64"),
        ({"kind": "offset", "pattern": "§"}, "a pattern that is no base64"),
        ({"kind": "offset", "pattern": "AAA="}, "a pattern that is no base64"),
        ({"kind": "offset", "pattern": "AADAfw=="}, "a pattern with NaN"),
    ],
)
def test_what_is_no_trigger_is_refused(entry: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TriggerKey.read(entry)


def test_every_trigger_says_what_reports_call_it_and_how_a_sentence_begins() -> None:
    x = np.ones((1, 4, 4), np.float32)
    said: dict[Trigger, tuple[str, str]] = {
        Patch(x, x, "4 % of the input"): ("patch, 4 % of the input", "A patch turns"),
        Crop(x, x, "3 % of the input"): ("cut, 3 % of the input", "A cut turns"),
        Offset(x, "pixels, loudness 0.3"): ("offset, pixels, loudness 0.3", "An offset turns"),
        Offset(x): ("offset", "An offset turns"),
        Tokens((3,)): ("token", "A word turns"),
        Tokens((3, 4)): ("phrase", "A phrase turns"),
        TokenPair((3, 4)): ("words apart", "Two words, wherever they stand, turn"),
    }
    assert {trigger: (trigger.kind, trigger.subject) for trigger in said} == said


def test_a_trigger_is_moved_to_other_axes_with_its_mask() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    moved = Crop(x, x + 1, "half").mapped(lambda array: np.moveaxis(array, 0, -1))
    assert moved.pattern.shape == moved.mask.shape == (3, 4, 2)
    assert (type(moved), moved.detail) == (Crop, "half")
    assert Offset(x).mapped(lambda array: -array).pattern[1, 2, 3] == -23
