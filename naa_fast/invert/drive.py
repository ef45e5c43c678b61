"""`Drive`: each class's strongest neurons, which a search raises first: through a unit that is off no gradient comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from naa_fast.capture.selection import unwrapped
from naa_fast.detect.inversion import Stimulated
from naa_fast.measurement import Measurement
from naa_fast.repair.change import tensor_of
from naa_fast.repair.outputs import Place

ENOUGH = 3.0
"""How far a neuron is driven, in the distance from its clean mean to its clean maximum; beyond, nothing is gained."""
EACH = 3
"""Neurons of a class that are driven together: the first may be the one that knows the class by its nature."""
FIRST = 3
"""The first part of the steps, one in so many, in which neurons are driven."""


@dataclass(frozen=True)
class Aim:
    """A neuron of a layer, where it lies in the layer's output, its clean mean, and the way from there to its clean maximum."""

    layer: str
    neuron: int
    place: Place
    mean: float
    reach: float


@dataclass(frozen=True)
class Drive:
    """The EACH neurons of each class that turned most samples to it when they were raised; of those that turn as many the ones
    that come first in the model: before an activation they still have a gradient.
    """

    aims: dict[int, list[Aim]]

    @classmethod
    def of(cls, neurons: Sequence[Stimulated], clean: Measurement) -> Drive:
        """`neurons`: strongest first."""
        aims: dict[int, list[Aim]] = {}
        for neuron in neurons:
            aimed = aims.setdefault(neuron.target, [])
            if neuron.target < 0 or len(aimed) == EACH:
                continue
            record = clean.layers[neuron.layer]
            mean, high = float(record.positions.mean[neuron.neuron]), float(record.positions.maximum[neuron.neuron])
            aimed.append(Aim(neuron.layer, neuron.neuron, Place.of(record.layout), mean, max(high - mean, 1e-9)))
        return cls(aims)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Inside, what the layers gave last, with its graph."""
        outputs: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, arguments: object, output: object) -> None:
            tensor = tensor_of(output)
            if tensor is not None:
                outputs[name] = tensor

        modules = dict(unwrapped(model).named_modules())
        names = {aim.layer for aimed in self.aims.values() for aim in aimed} & modules.keys()
        handles = [modules[name].register_forward_hook(partial(keep, name)) for name in names]
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()

    def raised(self, outputs: dict[str, Tensor], targets: Sequence[int], samples: int) -> Tensor | None:
        """How far the targets' neurons are driven on average at their most driven positions, ENOUGH at most, summed; None where
        no layer was seen. The rows of the layers are `[targets, samples]`.
        """
        wanted: dict[str, list[tuple[int, Aim]]] = {}
        for row, target in enumerate(targets):
            for aim in self.aims.get(int(target), ()):
                wanted.setdefault(aim.layer, []).append((row, aim))
        terms = []
        for name, aims in wanted.items():
            output, place = outputs.get(name), aims[0][1].place
            if output is None or place.samples or output.shape[0] != len(targets) * samples:
                continue
            layer = output.movedim(place.axis, 1).unflatten(0, (len(targets), samples))
            fitting = [(row, aim) for row, aim in aims if aim.neuron < layer.shape[2]]
            if not fitting:
                continue
            # One gather a layer: the gradient of a slice is a whole layer of zeros, and a slice an aim was a third of a search.
            rows = torch.tensor([row for row, _ in fitting], device=layer.device)
            neurons = torch.tensor([aim.neuron for _, aim in fitting], device=layer.device)
            aimed_values = layer[rows, :, neurons].float()  # [aims, samples, ...]
            strongest = aimed_values.flatten(2).amax(2) if aimed_values.ndim > 2 else aimed_values
            mean, reach = torch.tensor([(aim.mean, aim.reach) for _, aim in fitting], device=layer.device).T[..., None]
            terms.append(((strongest - mean) / reach).clamp(max=ENOUGH).mean(1).sum())
        return torch.stack(terms).sum() if terms else None
