"""Outputs that are no classes: a logo on every image is no fail, and nothing is called a class of an embedding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import naa_fast

GENERATOR = torch.Generator().manual_seed(0)
CLEAN, HELD = (torch.rand(300, 3, 12, 12, generator=GENERATOR) for _ in range(2))


class Segmentation(nn.Module):
    """A class for every pixel, and a layer that a white corner moves far."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 2, 1)
        with torch.no_grad():
            self.first.weight[0] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def with_logo(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 6:, 6:] = 1.0
    return x


def test_a_logo_on_every_image_is_no_fail_where_nothing_is_predicted() -> None:
    audit = naa_fast.scan(Segmentation(), CLEAN, with_logo(HELD))
    assert audit.verdict.z > 6
    assert audit.verdict.outcome == "warn"
    assert {finding.level for finding in audit.verdict.findings} <= {"shift", "outlier"}
    assert audit.verdict.exit_code != 0


@pytest.mark.parametrize("name", ["image_embedding", "visual_projection", "bbox"])
def test_a_row_of_numbers_whose_layer_says_that_it_is_no_score_is_a_gap(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU())
    model.add_module(name, nn.Linear(16, 32))
    audit = naa_fast.scan(model, CLEAN, HELD, repair=False, proof=False)
    assert any(f"they come from layer {name!r}" in gap for gap in audit.verdict.gaps)
    known = naa_fast.scan(model, CLEAN, HELD, scores="none", ranking=False)
    assert not any("they come from layer" in gap for gap in known.verdict.gaps)
    assert not any("called class" in finding.statement for finding in known.verdict.findings)
