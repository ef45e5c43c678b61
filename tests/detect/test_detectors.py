"""The verdict knows detectors by a tuple alone: one that is put into it is heard."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from detect.test_null import measured

from naa_fast.detect import verdict
from naa_fast.detect.detectors import DETECTORS
from naa_fast.detect.findings import Finding
from naa_fast.detect.judgement import judge
from naa_fast.detect.sets import Sets

RNG = np.random.default_rng(2)
CLEAN, SUSPECT = (measured(RNG.standard_normal((n, 12)).astype(np.float32), name) for n, name in ((500, "c"), (300, "s")))


@pytest.mark.parametrize(("level", "outcome"), [("outlier", "warn"), ("backdoor-like", "fail")])
def test_a_detector_in_the_tuple_is_heard_after_those_before_it(
    level: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_names(sets: Sets) -> list[Finding]:
        assert sets.clean is CLEAN
        return [Finding(level, layer.name, "it has a name", 1.0, 0.5, unit="number") for layer in sets.layers]

    assert judge(CLEAN, SUSPECT, accept_unranked=True).verdict.outcome == "pass"
    monkeypatch.setattr(verdict, "DETECTORS", (*DETECTORS, of_names))
    found = judge(CLEAN, SUSPECT, accept_unranked=True).verdict
    assert found.outcome == outcome
    assert [finding.statement for finding in found.findings] == ["it has a name"]


@pytest.mark.parametrize("unit", [{}, {"unit": ""}, {"unit": "%"}])
def test_a_finding_says_the_unit_of_its_number(unit: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match="unit"):
        Finding("outlier", "layer", "a tenth of the samples", 0.1, 0.05, **unit)


def test_the_class_a_finding_is_about_is_told_from_words() -> None:
    abouts = ("7", "all-to-all", "", "tail", "a word of a detector to come")
    assert [Finding("outlier", "layer", "x", 1, 0, about, unit="t").target for about in abouts] == ["7", "all-to-all", "", "", ""]
