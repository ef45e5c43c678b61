"""The one pass over a batch's values by which scoring on the host begins: kernels/cpu/deviations.py, for tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from naa_fast.rank.reference import FARTHEST
from naa_fast.records import Array


def deviations_on_host(
    values: Tensor,
    deal: Tensor,
    pivot: Tensor,
    expected: Tensor,
    member: Tensor | None,
    per_deviation: Tensor,
    scale: Tensor,
    unknown: Tensor | None,
    bounds: Array,
    cut: float,
) -> tuple[Tensor, ...]:
    """What `Scoring._deviations` gives of samples `values` `[samples, features + 1]` on the host. Needs Numba."""
    from naa_fast.kernels.cpu.deviations import deviations  # where it is missing, torch does the same

    rows = np.arange(len(values)) if member is None else member.numpy()
    blank = np.zeros(0, np.int64) if unknown is None else np.flatnonzero(unknown.numpy())
    found = deviations(
        values.numpy(),
        deal.numpy(),
        pivot.numpy(),
        expected.numpy(),
        rows,
        per_deviation.numpy(),
        scale.numpy(),
        blank,
        bounds,
        cut,
        FARTHEST,
    )
    return tuple(map(torch.from_numpy, found))
