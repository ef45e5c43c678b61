"""`stimulate`: which neurons own the output? Single neurons are raised beyond all that clean samples do, and what the model says
then is counted. Forward only (Liu et al., ABS, CCS 2019, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.capture.selection import unwrapped
from naa_fast.detect.inversion import Stimulated
from naa_fast.invert.setting import Setting
from naa_fast.measurement import Measurement
from naa_fast.records import Array, LayerRecord
from naa_fast.repair.change import replaced
from naa_fast.repair.outputs import Place

LAYERS, NEURONS = 6, 64
"""Layers, the last ones, and neurons of each that are raised: those with the widest range, and of wide layers an even draw."""
SAMPLES = 10
RAISED = 2.0
"""How far a neuron is raised beyond its clean mean, in the distance from there to its clean maximum."""
MOST_ROWS = 640


def stimulate(setting: Setting, clean: Measurement) -> tuple[list[Stimulated], str]:
    """The neurons that turn most, strongest first, and in words how many of all were tried; none where no layer can be raised.

    Cost: SAMPLES forwards a neuron, LAYERS x NEURONS at most.
    """
    x, predicted = setting.rows(setting.fit)
    x, predicted = x[:SAMPLES], predicted[:SAMPLES]
    modules = dict(unwrapped(setting.transplant.model).named_modules())
    usable = {name: record for name, record in clean.layers.items() if name in modules and not record.of_rows}
    usable = {name: record for name, record in usable.items() if record.channels != setting.classes}
    chosen = list(usable.items())[-LAYERS:]
    owners: list[Stimulated] = []
    for name, record in chosen:
        neurons = widest(record)
        share = max(1, MOST_ROWS // len(x))
        for at in range(0, len(neurons), share):
            part = neurons[at : at + share]
            called = raised(setting, modules[name], record, part, x)
            if called is None:
                break
            owners += [one_of(name, int(neuron), row, predicted.cpu().numpy()) for neuron, row in zip(part, called, strict=True)]
    total = sum(record.channels for record in usable.values())
    owners.sort(key=lambda neuron: -neuron.share)
    return owners, f"{len(owners):,} of {total:,} neurons raised, in {len(chosen)} layers"


def widest(record: LayerRecord) -> Array:
    """The neurons to raise, int64: half by their range, half at even steps."""
    spread = record.positions.maximum - record.positions.mean
    usable = np.flatnonzero(np.isfinite(spread) & (spread > 0))
    if len(usable) <= NEURONS:
        return usable
    wide = usable[np.argsort(-spread[usable], kind="stable")[: NEURONS // 2]]
    rest = np.setdiff1d(usable, wide)
    return np.concatenate([wide, rest[np.linspace(0, len(rest) - 1, NEURONS - len(wide)).astype(int)]])


def one_of(layer: str, neuron: int, called: Array, predicted: Array) -> Stimulated:
    """The class that a raised neuron turns most samples of others to; `called` with it and `predicted` without: `[samples]`."""
    counts = {int(c): float((called[predicted != c] == c).mean()) for c in np.unique(called) if c >= 0 and (predicted != c).any()}
    target = max(counts, key=lambda c: counts[c], default=-1)
    return Stimulated(layer, neuron, target, counts.get(target, 0.0))


@torch.no_grad()
def raised(setting: Setting, module: nn.Module, record: LayerRecord, neurons: Array, x: Tensor) -> Array | None:
    """Predicted class int64 `[neurons, samples]` with each neuron raised; None where the layer's output cannot be changed so."""
    levels = record.positions.mean + RAISED * (record.positions.maximum - record.positions.mean)
    values = torch.from_numpy(levels[neurons]).float()
    place = Place.of(record.layout)
    with changed(module, place, torch.from_numpy(neurons), values, len(x)) as fits:
        rows = x.repeat(len(neurons), *(1,) * (x.ndim - 1))
        called = setting.scores(rows).argmax(1).view(len(neurons), len(x)).cpu().numpy()
    return called if fits else None


@contextmanager
def changed(module: nn.Module, place: Place, neurons: Tensor, values: Tensor, samples: int) -> Iterator[list[bool]]:
    """Inside, `module` gives sample group i with neuron i at its value, both `[neurons]`; the list is empty where its output does
    not fit.
    """
    fitted: list[bool] = []

    def through(output: Tensor) -> Tensor:
        if place.samples or output.ndim < 2 or output.shape[0] != len(neurons) * samples:
            return output
        moved = output.movedim(place.axis, 1)
        if moved.shape[1] <= int(neurons.max()):
            return output
        changed_rows = moved.reshape(len(neurons), samples, *moved.shape[1:]).clone()
        rows = torch.arange(len(neurons), device=changed_rows.device)
        level = values.to(changed_rows.device, changed_rows.dtype).view(-1, *(1,) * (changed_rows.ndim - 2))
        changed_rows[rows, :, neurons.to(changed_rows.device)] = level
        fitted.append(True)
        return changed_rows.flatten(0, 1).movedim(1, place.axis)

    def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
        return replaced(output, through)

    handle = module.register_forward_hook(hook)
    try:
        yield fitted
    finally:
        handle.remove()


def ranked_classes(neurons: Sequence[Stimulated], classes: int) -> list[int]:
    """All classes, those that a single neuron turns most samples to first."""
    best = np.zeros(classes)
    for neuron in neurons:
        if 0 <= neuron.target < classes:
            best[neuron.target] = max(best[neuron.target], neuron.share)
    return [int(target) for target in np.argsort(-best, kind="stable")]
