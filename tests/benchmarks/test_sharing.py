"""Ways of sharing statistics among classes are compared on the same samples, and what the table shows is of the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.sharing.__main__ import about, ranked, table
from benchmarks.sharing.cases import CASES, CHOSEN, REPORTED, Seen
from benchmarks.sharing.ways import WAYS, Samples

CLASSES = 40
WEAK = (
    "one mean beyond 32 classes",
    "no classes",
    "nearest class's mean",
    "the whole mean for fewer than 8 samples",
)


def seen() -> Seen:
    """Samples that are what they are called, and suspects that are something else."""
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(CLASSES, CLASSES, generator=random) + 8 * torch.eye(CLASSES)
    inside = 4 * torch.randn(CLASSES, 20, generator=random)

    def views(called: torch.Tensor, truly: torch.Tensor) -> dict[str, torch.Tensor]:
        many = len(called)
        return {
            "inside": inside[truly] + torch.randn(many, 20, generator=random),
            "before": inside[truly] + 2 * torch.randn(many, 20, generator=random),
            "scores": scores[called] + 0.3 * torch.randn(many, CLASSES, generator=random),
        }

    clean, held = (torch.randint(0, CLASSES, (many,), generator=random) for many in (600, 200))
    target = torch.full_like(held, 3)
    said = {"clean": views(clean, clean), "held": views(held, held), "triggered": views(target, held)}
    return Seen(said, {"clean": clean, "held": held, "triggered": target}, scores, (held != 3).numpy(), 3)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_ranks_samples_of_another_class_above_chance(way: str) -> None:
    found = seen()
    scores = WAYS[way](Samples.of(found, CLASSES))
    assert all(scores[part].shape == (200,) and np.isfinite(scores[part]).all() for part in ("held", "triggered"))
    if way not in WEAK:  # 8 of the fitted 300 are more than most classes have
        assert ranked(found, scores)["auc_0.05"] > 0.8


def test_halves_share_no_model_and_each_size_has_both() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {(case.classes, case.half) for case in CASES} == {
        (n, half) for n in (10, 43, 100, 1000) for half in (CHOSEN, REPORTED)
    }


def test_the_table_leaves_out_models_whose_backdoor_does_not_work() -> None:
    row = about(CASES[0], seen()) | {
        "way": "16 sums",
        "auc_0.05": 0.9,
        "precision_0.05": 0.5,
        "auc_0.01": 0.8,
        "precision_0.01": 0.4,
    }
    told = table([row | {"success": 1.0}, row | {"success": 0.5, "model": "other", "auc_0.05": 0.1}])
    assert "| 16 sums | 0.900, 0.50 / 0.800, 0.40 |" in told
    assert "chosen on (1)" in told
