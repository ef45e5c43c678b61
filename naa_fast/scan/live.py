"""`LiveSignature`: the neurons that differ most from the clean set so far, told while suspects are still running."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.accumulate import Accumulator
from naa_fast.accumulate.accumulator import LayerState
from naa_fast.detect.comparison import RESOLUTION, known_mean
from naa_fast.measurement import Measurement

EVERY_S = 5.0
MOST = 3


@dataclass(frozen=True)
class LiveNeuron:
    """A neuron of a layer, and the difference of its samples' means in pooled standard deviations."""

    layer: str
    neuron: int
    z: float

    def __str__(self) -> str:
        return f"{self.layer}[{self.neuron}] {self.z:.2g} σ"


class LiveSignature:
    """Compares the chunk in hand with a clean measurement, on the device, every EVERY_S seconds.

    Cost: one `compare` for each device and dtype over the neurons of all layers, and `most` indices and values that come home.
    It is no verdict: nothing in it is corrected for how many neurons there are, or for how often it is told. A layer that is
    called more than once a forward takes no part.
    """

    def __init__(self, clean: Measurement, most: int = MOST) -> None:
        self.most = most
        self._means = {name: record.sample_mean for name, record in clean.layers.items()}
        self._clean: dict[tuple[tuple[str, ...], torch.device | None], tuple[Any, Any]] = {}
        self._told = time.monotonic()

    def tell(self, progress: object, accumulator: Accumulator) -> None:
        """Put the neurons that differ most into `progress.signature`, where it has one, if it is time for that."""
        if hasattr(progress, "signature") and time.monotonic() - self._told >= EVERY_S:
            progress.signature = self.of(accumulator)
            self._told = time.monotonic()

    def of(self, accumulator: Accumulator) -> tuple[LiveNeuron, ...]:
        """The neurons that differ most, the farthest first."""
        groups: dict[tuple[Any, Any, torch.dtype], list[tuple[str, LayerState]]] = {}
        for name, layer in accumulator.layers.items():
            clean = self._means.get(name)
            if layer.several is None and not layer.fresh and clean is not None and clean.mean.shape == (layer.channels,):
                where = getattr(layer.state.sample_means()[1], "device", None)
                groups.setdefault((layer.module, where, layer.dtype), []).append((name, layer))
        neurons = [n for (module, where, dtype), layers in groups.items() for n in self._farthest(module, where, dtype, layers)]
        return tuple(sorted(neurons, key=lambda n: -n.z)[: self.most])

    def _farthest(
        self, module: Any, where: Any, dtype: torch.dtype, layers: Sequence[tuple[str, LayerState]]
    ) -> list[LiveNeuron]:
        count, mean, m2 = (joined(parts) for parts in zip(*(layer.state.sample_means() for _, layer in layers), strict=True))
        names = tuple(name for name, _ in layers)
        if (names, where) not in self._clean:
            records = [self._means[name] for name in names]
            means, variances = [known_mean(record) for record in records], [record.variance for record in records]
            arrays = np.concatenate(means), np.concatenate(variances)
            on_host = not isinstance(mean, Tensor)
            self._clean[names, where] = arrays if on_host else tuple(torch.tensor(array, device=where) for array in arrays)  # type: ignore[assignment]
        resolution = RESOLUTION.get(str(dtype).removeprefix("torch."), RESOLUTION["float32"])
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = m2 / (count - 1)
            z = module.compare(*self._clean[names, where], mean, variance, resolution=resolution, k=1).z
        most = min(self.most, len(z))
        if isinstance(z, Tensor):
            top = torch.nan_to_num(z, 0.0, 0.0, 0.0).topk(most)
            places, values = top.indices.tolist(), top.values.tolist()
        else:
            z = np.nan_to_num(z, nan=0.0, posinf=0.0)
            places = np.argsort(-z, kind="stable")[:most].tolist()
            values = z[places].tolist()
        ends = np.cumsum([layer.channels for _, layer in layers])
        neurons = []
        for place, value in zip(places, values, strict=True):
            number = int(np.searchsorted(ends, place, "right"))
            first = int(ends[number - 1]) if number else 0
            neurons.append(LiveNeuron(names[number], place - first, value))
        return neurons


def joined(parts: Sequence[Any]) -> Any:
    """Arrays or tensors of several layers, end to end."""
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else np.concatenate(parts)
