"""The verdict knows detectors by a tuple alone: one that is put into it is heard."""

from __future__ import annotations

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
        return [Finding(level, layer.name, "it has a name", 1.0, 0.5) for layer in sets.layers]

    assert judge(CLEAN, SUSPECT, accept_unranked=True).verdict.outcome == "pass"
    monkeypatch.setattr(verdict, "DETECTORS", (*DETECTORS, of_names))
    found = judge(CLEAN, SUSPECT, accept_unranked=True).verdict
    assert found.outcome == outcome
    assert [finding.statement for finding in found.findings] == ["it has a name"]
