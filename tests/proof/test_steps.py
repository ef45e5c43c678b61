"""The steps from ranked samples to evidence: what several of them take is made once, also where that fails."""

from __future__ import annotations

import pytest
import torch

import naa_fast
from naa_fast.proof import evidence
from naa_fast.rank.scorer import RankingResult


def test_clean_inputs_that_cannot_be_had_are_tried_once_and_told_by_each_step_that_needs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[RankingResult] = []

    def without(ranked: RankingResult) -> None:
        tried.append(ranked)
        raise MemoryError("no room for the clean inputs")

    monkeypatch.setattr(evidence, "clean_images", without)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    audit = naa_fast.scan(model, torch.randn(300, 4), torch.randn(200, 4))
    assert len(tried) == 1
    reasons = {check.name: check.reason for check in audit.verdict.checks}
    assert "no room for the clean inputs" in reasons["proof"]
    assert any("no room for the clean inputs" in gap for gap in audit.judgement.evidence.gaps)
