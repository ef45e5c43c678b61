"""`outputs`: what layers give for some samples, and which of them a repair can be made in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.capture.selection import unwrapped
from naa_fast.proof.transplant import PredictedSamples, Transplant
from naa_fast.records import Axes
from naa_fast.repair.change import tensor_of

HELD_BYTES = 512 << 20
"""Most that the outputs of the layers that one forward gives may take on the host."""


@dataclass
class Given:
    """A layer's outputs in parts `[samples, positions, neurons]`; not `usable` where it is called more than once a forward, gives
    no tensor, or one of the class scores' shape: what is changed there is the answer, not the model.
    """

    parts: list[Tensor] = field(default_factory=list)
    usable: bool = True

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True)
class Place:
    """Where a layer's neurons and samples are: axes of its output."""

    axis: int
    samples: int

    @classmethod
    def of(cls, layout: str) -> Place:
        """Of a record's layout."""
        axes = Axes.read(layout)
        return cls(axes.axis, axes.samples)

    def parts(self, output: Tensor) -> Tensor:
        """A layer's output `[...]` as float32 `[samples, positions, neurons]`, on the host."""
        moved = output.detach().movedim(self.axis, -1)
        first = self.samples if self.samples < self.axis % output.ndim else 0
        return moved.movedim(first, 0).reshape(output.shape[self.samples], -1, output.shape[self.axis]).float().cpu()


def outputs(transplant: Transplant, samples: PredictedSamples, places: Mapping[str, Place]) -> dict[str, Given]:
    """What the named layers give for these samples, the unusable ones without parts."""
    modules = dict(unwrapped(transplant.model).named_modules())
    given = {name: Given() for name in places}
    now: dict[str, list[Tensor]] = {}

    def begin(module: nn.Module, arguments: Any) -> None:
        now.clear()

    def hook(name: str) -> Any:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            tensor = tensor_of(output)
            # A copy: the next layer may work in place.
            now.setdefault(name, []).append(torch.zeros(0) if tensor is None else tensor.detach().clone())

        return keep

    handles = [modules[name].register_forward_hook(hook(name)) for name in places]
    handles.append(unwrapped(transplant.model).register_forward_pre_hook(begin))
    try:
        for batch, _ in samples.batches:
            for part, scores in transplant.scores(batch):
                for name, place in places.items():
                    calls = now.get(name, [])
                    layer = given[name]
                    layer.usable = layer.usable and len(calls) == 1 and fits(calls[0], place, part.size, scores)
                    if layer.usable:
                        layer.parts.append(place.parts(calls[0]))
                    else:
                        layer.parts.clear()
    finally:
        for handle in handles:
            handle.remove()
    return given


def fits(output: Tensor, place: Place, size: int, scores: Tensor | None) -> bool:
    """Whether an output `[...]` can be changed: `size` samples at their axis, and not the answer itself, whose scores are
    `[samples, classes]`.
    """
    if (
        output.ndim < 2
        or not output.numel()
        or not -output.ndim <= place.axis < output.ndim
        or output.shape[place.samples] != size
    ):
        return False
    if scores is None:
        return True
    # The answer itself, or what it is read from: one number a sample, or the scores of every position.
    single = scores.shape[1] == 2 and output.numel() == size
    every = output.ndim == 3 and output.shape[2] == scores.shape[1]
    return output.shape != scores.shape and not single and not every


def in_groups(transplant: Transplant, samples: PredictedSamples, places: Mapping[str, Place]) -> list[dict[str, Place]]:
    """The usable layers in groups whose outputs for thrice the `samples` fit into HELD_BYTES, without those that alone do not."""
    first = samples.of(np.arange(1))
    sizes = {name: 3 * given.bytes * len(samples.predicted) for name, given in outputs(transplant, first, places).items()}
    groups: list[dict[str, Place]] = []
    room = 0
    for name, size in sizes.items():
        if size == 0 or size > HELD_BYTES:
            continue
        if size > room:
            groups.append({})
            room = HELD_BYTES
        groups[-1][name] = places[name]
        room -= size
    return groups
