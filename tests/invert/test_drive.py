"""Neurons that a search raises first: the same as each by itself, and read once a layer."""

from __future__ import annotations

from typing import Any

import torch

from naa_fast.invert.drive import ENOUGH, Aim, Drive
from naa_fast.repair.outputs import Place

TARGETS, SAMPLES = [0, 2, 5], 4
AIMS = {0: [(1, 0.5, 2.0), (3, -0.2, 0.7)], 2: [(0, 0.0, 0.05)], 3: [(2, 0.0, 1.0)], 5: [(1, 0.1, 1.5), (9, 0.0, 1.0)]}
"""Of each target the neuron, its mean and its reach; the layer has five neurons, and nobody asks for target 3."""


def one_by_one(output: torch.Tensor) -> torch.Tensor:
    found = []
    for row, target in enumerate(TARGETS):
        for neuron, mean, reach in AIMS[target]:
            if neuron < output.shape[1]:
                own = output[row * SAMPLES : (row + 1) * SAMPLES, neuron].flatten(1).amax(1)
                found.append(((own - mean) / reach).clamp(max=ENOUGH).mean())
    return torch.stack(found).sum()


def gathers(node: Any, seen: set[Any]) -> int:
    if node is None or node in seen:
        return 0
    seen.add(node)
    own = type(node).__name__ in ("IndexBackward0", "SliceBackward0", "SelectBackward0")
    return own + sum(gathers(child, seen) for child, _ in node.next_functions)


def test_the_neurons_of_a_layer_are_read_at_once() -> None:
    place = Place(1, 0)
    drive = Drive({target: [Aim("conv", *aim[:1], place, *aim[1:]) for aim in own] for target, own in AIMS.items()})
    output = torch.randn(len(TARGETS) * SAMPLES, 5, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    raised = drive.raised({"conv": output}, TARGETS, SAMPLES)
    assert raised is not None
    expected = one_by_one(output)
    torch.testing.assert_close(raised, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, output, retain_graph=True)[0] for one in (raised, expected)))
    assert gathers(raised.grad_fn, set()) == 1


def test_layers_that_were_not_seen_or_do_not_fit_drive_nothing() -> None:
    drive = Drive({0: [Aim("conv", 1, Place(1, 0), 0.0, 1.0)]})
    assert drive.raised({}, [0], 4) is None
    assert drive.raised({"conv": torch.randn(3, 5)}, [0], 4) is None
