"""Predicted classes that rise beyond chance are a finding, by their names, however small the rise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import naa_fast
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.findings import find_in_predictions
from naa_fast.detect.names import TOKEN, Names, quoted
from naa_fast.detect.rises import CHANCE, rises
from naa_fast.measurement import Measurement

BASE = naa_fast.measure(nn.Linear(2, 2), torch.randn(64, 2, generator=torch.Generator().manual_seed(0)))


def predicting(**counts: int) -> Measurement:
    """A measurement whose model predicted class `c3` so often."""
    held = np.zeros(50_001, np.int64)
    for name, count in counts.items():
        held[int(name[1:])] = count
    return replace(BASE, predictions=held)


def test_a_token_that_no_clean_text_has_is_a_finding_far_below_half_of_the_set() -> None:
    clean, suspect = predicting(c5=100, c9=74), predicting(c5=80, c9=51, c10375=69)
    [one] = rises(clean, suspect)
    assert (one.cls, one.suspects, one.suspect, one.cleans, one.clean) == (10375, 69, 200, 0, 174)
    assert one.p_value < 1e-15
    assert one.share == pytest.approx(0.345)
    names = Evidence(names=Names({10375: " Click"}, TOKEN))
    [finding] = find_in_predictions([one], names)
    assert finding.level == "shift"
    assert "next token ' Click' for 69 of 200 suspect and 0 of 174 clean samples" in finding.statement
    assert finding.about == "10375"


def test_a_rise_by_half_is_told_by_its_own_finding_and_a_fall_by_none() -> None:
    clean, suspect = predicting(c1=100, c2=100), predicting(c1=10, c2=190)
    assert [one.cls for one in rises(predicting(c1=500, c2=500), predicting(c1=10, c2=990))] == [2]
    assert find_in_predictions(rises(predicting(c1=100, c2=100), predicting(c2=200)), Evidence()) == []
    assert [one.cls for one in rises(clean, suspect)] == [2]


def test_between_two_draws_of_one_distribution_nothing_rises() -> None:
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(300):
        counts = [np.append(np.bincount(random.zipf(1.5, 200).clip(max=2000), minlength=2001), 0) for _ in range(2)]
        alarms += bool(rises(*(replace(BASE, predictions=count) for count in counts)))
    assert alarms <= 2  # CHANCE is .001 of a set; 3 of 300 has a chance of .004
    assert CHANCE == 1e-3


def test_without_predictions_nothing_rises() -> None:
    assert rises(replace(BASE, predictions=np.zeros(0, np.int64)), predicting(c1=3)) == []
    assert rises(predicting(), predicting(c1=30)) == []


def test_a_scan_names_what_rose() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(600, 4)
    with torch.no_grad():
        called = model(x).argmax(1)
    rare = int(called.bincount(minlength=3).argmin())
    rows = torch.randn(20_000, 4)
    more = rows[model(rows).argmax(1) == rare][:150]
    audit = naa_fast.scan(model, x, torch.cat([x[:400], more]), class_names={rare: "stop sign"}, proof=False, repair=False)
    told = [finding.statement for finding in audit.verdict.findings if finding.layer == "(predictions)"]
    assert any(f"class {rare} ('stop sign') for" in statement for statement in told)


def test_names_are_safe_to_print_and_short() -> None:
    assert quoted(" Click") == "' Click'"
    assert quoted("a\x1b[2J\u202e") == r"'a\x1b[2J\u202e'"
    assert quoted("\ud800") == "'?'"
    assert len(quoted("x" * 100)) == 42
    assert Names({3: "x"}).called(-1) == "no class"
    assert Names({}, TOKEN).of(7) == "next token 7"
