"""`score` in plain torch: how much of each sample lies far outside the clean distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from naa_fast.kernels.portable.reduce import home, spans
from naa_fast.kernels.reference.score import CUT

VALUES = 1 << 20
"""Values scored at a time."""


def score(values: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Sum over channels of `max(|z| - CUT, 0)`, float64 `[samples]`; see kernels/reference/score.py."""
    where = home(values.device)
    usable = deviation > 0
    divisor = torch.where(usable, deviation, 1.0)
    scores = torch.zeros(values.shape[0], dtype=torch.float64, device=where)
    for start, stop in spans(values.shape[0], VALUES // max(values.shape[1], 1)):
        held = values[start:stop].to(where, torch.float64)
        excess = (((held - mean).abs() / divisor) - CUT).clamp_(min=0.0).mul_(usable)
        scores[start:stop] = excess.masked_fill_(~torch.isfinite(held), torch.inf).sum(1)
    return scores
