"""While suspects run, the neurons that differ most are told, as the comparison at the end then has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import naa_fast
from naa_fast.accumulate import Accumulator
from naa_fast.scan import live
from naa_fast.scan.live import LiveNeuron, LiveSignature

RANDOM = torch.Generator().manual_seed(0)
CLEAN, SUSPECT = torch.randn(200, 6, generator=RANDOM), torch.randn(120, 6, generator=RANDOM)
SUSPECT[:, 4] += 3


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))


@pytest.mark.parametrize("backend", ["reference", "cpu", "portable"])
def test_it_is_the_comparison_of_what_was_seen_so_far(backend: str) -> None:
    clean, suspect = (naa_fast.measure(model(), x, backend=backend) for x in (CLEAN, SUSPECT))
    accumulator = Accumulator(backend)
    net = model().eval()
    with torch.no_grad():
        for at in (0, 60):
            x = SUSPECT[at : at + 60]
            accumulator.begin(60, at)
            for name, layer in net.named_children():
                x = layer(x)
                accumulator.observe(name, x[:, :, None], "[N,D]")
            accumulator.commit()
    found = LiveSignature(clean, most=4).of(accumulator)
    compared = naa_fast.compare(clean, suspect).judgement.layers
    every = sorted(((float(one.z_mean[i]), name, i) for name, one in compared.items() for i in range(one.neurons)), reverse=True)
    assert [(one.layer, one.neuron) for one in found] == [(name, i) for _, name, i in every[:4]]
    assert np.allclose([one.z for one in found], [z for z, *_ in every[:4]], rtol=1e-6)
    assert LiveSignature(naa_fast.measure(model(), CLEAN, layers="1"), most=9).of(accumulator)[0].layer == "1"


def test_a_scan_tells_it_to_a_progress_that_wants_it() -> None:
    class Asking:
        signature: tuple[LiveNeuron, ...] = ()

        def __init__(self) -> None:
            self.seen: list[tuple[str, int]] = []

        def __call__(self, label: str, done: int, total: int | None) -> None:
            self.seen.append((label, len(self.signature)))

    asking: Any = Asking()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "EVERY_S", 0.0)
        naa_fast.scan(model(), CLEAN, SUSPECT, batch_size=40, progress=asking, ranking=False)
    measured = [count for label, count in asking.seen]
    assert measured[:5] == [0] * 5, "the clean set has nothing to differ from"
    assert set(measured[5:8]) == {3}
    assert str(asking.signature[0]).endswith("σ")
