"""`score` on the host: how much of each sample lies far outside the clean distribution."""

from __future__ import annotations

from functools import partial

import numpy as np

from naa_fast.kernels.cpu.planes import compiled, value_at
from naa_fast.kernels.cpu.reduce import elements, flat
from naa_fast.kernels.cpu.threads import SERIAL_BYTES, Task, run
from naa_fast.kernels.reference.score import CUT
from naa_fast.records import Array

LANES = 16
ROWS = 64


@compiled
def score_rows(
    x: Array, stride: int, channels: int, first: int, last: int, mean: Array, rate: Array, cut: float, out: Array
) -> None:
    """Scores of rows `first:last`; lanes are added up in a fixed order."""
    lanes = np.empty(LANES)
    whole = channels - channels % LANES
    for r in range(first, last):
        lanes[:] = 0.0
        for start in range(0, whole, LANES):
            for lane in range(LANES):
                lanes[lane] += beyond(value_at(x, r * stride + start + lane), mean[start + lane], rate[start + lane], cut)
        for lane in range(channels - whole):
            lanes[lane] += beyond(value_at(x, r * stride + whole + lane), mean[whole + lane], rate[whole + lane], cut)
        out[r] = lanes.sum()


@compiled
def beyond(value: float, mean: float, rate: float, cut: float) -> float:
    """How far `value` lies out past the cut; infinite if it is not finite."""
    v = np.float64(value)
    excess: float = abs(v - mean) * rate - cut
    excess = excess if excess > 0.0 else 0.0
    return excess if abs(v) < np.inf else np.inf


def score(values: Array, mean: Array, deviation: Array) -> Array:
    """Sum over channels of `max(|z| - CUT, 0)`, float64 `[samples]`; see kernels/reference/score.py."""
    values = elements(values)
    out = np.zeros(len(values))
    if values.size == 0:
        return out
    layout = flat(values)
    if layout is None or layout[1][1] != 1:
        layout = flat(np.ascontiguousarray(values))
        assert layout is not None
    data, (stride, _) = layout
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(deviation > 0, 1.0 / deviation, 0.0)
    centre = np.where(deviation > 0, mean, 0.0)
    step = ROWS if values.nbytes >= SERIAL_BYTES else len(values)
    tasks: list[Task] = [
        partial(score_rows, data, stride, values.shape[1], first, min(first + step, len(values)), centre, rate, CUT, out)
        for first in range(0, len(values), step)
    ]
    run(tasks, values.nbytes)
    return out
