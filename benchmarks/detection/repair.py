"""Localisation: is what a scan found where the backdoor sits? Repair it and measure by the truth what is left of the attack.

The repair is the scan's own (`naa_fast.repair`), chosen without truth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from benchmarks.detection.cases import Case
from benchmarks.detection.train import predictions, share
from naa_fast.repair import Repair, applied

TESTED = 2000


def repair_row(case: Case, model: nn.Module, repair: Repair | None, held: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Attack success rate and accuracy before, after the repair that a scan came to, and after its random control; and what the
    scan `said` of it.

    `held`: samples and classes that the repair was not chosen on.
    """
    row: dict[str, Any] = {"before": rates(case, model, *held), "method": None}
    if repair is None:
        return row
    row |= {
        "method": " and ".join(change.words for change in repair.changes),
        "layer": " and ".join(change.layer for change in repair.changes),
        "forwards": repair.forwards,
        "said": {"on": repair.on, "after": repair.after, "control": repair.control, "kept": repair.kept},
    }
    for name, changes in (("after", repair.changes), ("control", repair.random)):
        with applied(model, changes):
            row[name] = rates(case, model, *held)
    return row


def rates(case: Case, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy, attack success rate, and its `floor`: the share that goes there without a trigger. On TESTED samples."""
    assert case.attack is not None
    generator = Generator().manual_seed(case.seed)
    chosen = torch.randperm(len(x), generator=generator)[:TESTED]
    x, y = x[chosen], y[chosen]
    meant = case.attack.turns(y)
    wanted, untouched = case.attack.wanted(y[meant]), predictions(model, x)
    turned = predictions(model, case.attack.apply(x[meant], y[meant], generator)) == wanted
    return {"accuracy": share(untouched == y), "asr": share(turned), "floor": share(untouched[meant] == wanted)}
