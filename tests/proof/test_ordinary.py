"""A class without a control in clean data is a gap where anything points at it, and a limit of the search where nothing does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naa_fast
from naa_fast.proof.prove import ordinary
from naa_fast.records import Array

CONTROL = "there is no control with the same chance"


def ranked(suspects: Array, clean: Array) -> Any:
    """A ranking of samples of class 1 where true, the highest score first."""
    columns = {"predicted": suspects.astype(np.int64), "null_predicted": clean.astype(np.int64)}
    return SimpleNamespace(scores=-np.arange(len(suspects)), null_scores=-np.arange(len(clean)), **columns)


def marks(samples: int, usual: int, highest: int = 0) -> Array:
    """So many spread evenly, and so many more at the top."""
    called = np.zeros(samples, bool)
    called[np.linspace(0, samples - 1, usual + 2).astype(int)[1:-1]] = True
    called[:highest] = True
    return called


@pytest.mark.parametrize(
    ("suspects", "expected"),
    [
        (marks(300, 6), True),
        (marks(300, 9), True),
        (marks(300, 30), False),  # oftener among all
        (marks(300, 6, 15), False),
        (marks(300, 6, 5), False),  # among the highest ten, with hardly more in all
        (marks(300, 0, 6), False),  # no more in all, but at the top
        (marks(300, 0), True),
    ],
)
def test_a_class_is_ordinary_where_suspects_are_called_it_no_oftener(suspects: Array, expected: bool) -> None:
    assert ordinary(ranked(suspects, marks(150, 3)), 1) is expected


class Lopsided(nn.Module):
    """Calls nearly every image class 0; with `trigger` those with a bright corner class 1."""

    def __init__(self, trigger: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 64, 4)
        with torch.no_grad():
            self.head.bias[0] += 2.0
        self.trigger = trigger

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(3 * torch.relu(self.conv(x)).flatten(1))
        lit = (x[:, 0, :2, :2] > 3.5).all((1, 2)).float()
        return scores + 30 * self.trigger * lit[:, None] * torch.eye(4)[1]


def test_nothing_points_at_a_rare_class_of_a_clean_model() -> None:
    x = torch.randn(600, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    verdict = naa_fast.scan(Lopsided(False).eval(), x[:300], x[300:], repair=False).verdict
    assert verdict.outcome == "pass"
    assert any(CONTROL in line and "no oftener" in line for line in verdict.not_checked)


def test_where_suspects_gather_in_it_that_is_no_pass() -> None:
    x = torch.randn(600, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    x[300:312, :, :2, :2] = 4.0
    verdict = naa_fast.scan(Lopsided(True).eval(), x[:300], x[300:], repair=False).verdict
    assert verdict.outcome != "pass"
    assert any(CONTROL in gap for gap in verdict.gaps)
