"""Localisation: is what a scan found where the backdoor sits? Silence it and measure what is left of attack and accuracy.

The repair is chosen as an auditor would choose it, without truth: the one that changes the predictions of the highest-ranked
suspect samples most while it leaves those of clean samples alone. Only then are attack and accuracy measured, by the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from benchmarks.detection.cases import Case
from benchmarks.detection.sets import Suspect
from benchmarks.detection.train import predictions

AGREEMENT = 0.98
"""Share of clean predictions a repair must leave as they are."""
CLEAN, LIT, TESTED = 800, 200, 2000
LAYERS = 8
MOST = 0.2
"""Of a layer's neurons at most this share is silenced."""

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Repair:
    """`change` is what the layer's output `[rows, channels]` goes through; `control` the same on as many random neurons, or along
    a random direction.
    """

    layer: str
    method: str
    axis: int
    change: Change
    control: Change


def repair_row(case: Case, model: nn.Module, audit: Any, clean: Tensor, suspect: Suspect, held: tuple[Tensor, Tensor]) -> dict:
    """Attack success rate and accuracy before, after the chosen repair, and after its random control.

    `held`: samples and classes that the repair was not chosen on.
    """
    assert case.attack is not None
    lit = suspect.x[torch.from_numpy(highest(audit, suspect))]
    known = clean[:CLEAN]
    before_clean, before_lit = predictions(model, known), predictions(model, lit)
    best: tuple[float, float, Repair] | None = None
    for repair in candidates(model, audit, known, lit):
        with applied(model, repair, repair.change):
            agreement = float((predictions(model, known) == before_clean).double().mean())
            if agreement < AGREEMENT:
                continue
            changed = float((predictions(model, lit) != before_lit).double().mean())
        if best is None or (changed, agreement) > best[:2]:
            best = (changed, agreement, repair)
    measured = partial(rates, case, model, *held)
    row: dict[str, Any] = {"before": measured(), "method": None}
    if best is None:
        return row
    changed, agreement, repair = best
    row |= {"method": repair.method, "layer": repair.layer, "changed": changed, "agreement": agreement}
    for name, change in (("after", repair.change), ("control", repair.control)):
        with applied(model, repair, change):
            row[name] = measured()
    return row


def rates(case: Case, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy, and attack success rate, on TESTED of the held samples."""
    assert case.attack is not None
    generator = Generator().manual_seed(case.seed)
    chosen = torch.randperm(len(x), generator=generator)[:TESTED]
    x, y = x[chosen], y[chosen]
    meant = case.attack.turns(y)
    turned = predictions(model, case.attack.apply(x[meant], generator)) == case.attack.wanted(y[meant])
    accuracy = (predictions(model, x) == y).double().mean()
    return {"accuracy": round(float(accuracy), 4), "asr": round(float(turned.double().mean()), 4)}


def highest(audit: Any, suspect: Suspect) -> np.ndarray:
    """The samples that a scan ranks highest: one in a hundred, at least 10; all are alike to a scan that does not rank."""
    ranking = getattr(audit, "ranking", None)
    if ranking is None:
        return np.random.default_rng(0).permutation(len(suspect.x))[:LIT]
    scores = np.nan_to_num(np.asarray(ranking.scores, float), nan=-np.inf)
    return np.argsort(-scores, kind="stable")[: min(LIT, max(10, len(scores) // 100))]


def candidates(model: nn.Module, audit: Any, clean: Tensor, lit: Tensor) -> Iterator[Repair]:
    """Zeroing, clipping and projecting in the layers with the largest z; never in the scores themselves."""
    layers = {name: layer for name, layer in audit.layers.items() if name != "logits" and np.isfinite(layer.z).any()}
    strongest = sorted(layers, key=lambda name: -float(np.nanmax(layers[name].z)))[:LAYERS]
    random = Generator().manual_seed(0)
    for name in strongest:
        axis = int(layers[name].clean.layout.split()[1])
        known, shown = outputs(model, name, axis, clean), outputs(model, name, axis, lit)
        count = min(max(1, len(layers[name].abnormal)), max(1, int(MOST * known.shape[1])))
        order = torch.from_numpy(np.argsort(-np.nan_to_num(layers[name].z)).copy())
        found, chance = order[:count], torch.randperm(known.shape[1], generator=random)[:count]
        yield Repair(name, "zero", axis, partial(zero, found), partial(zero, chance))
        low, high = (quantile(known, q) for q in (0.01, 0.99))
        yield Repair(name, "clip", axis, partial(clip, found, low, high), partial(clip, chance, low, high))
        middle, width = known.mean(0), known.std(0)
        usable = width > 1e-6
        away = torch.where(usable, (extreme(shown, middle) - extreme(known, middle)) / width.clamp(min=1e-6), 0.0)
        for method, direction in (
            ("project, means", torch.where(usable, (shown.mean(0) - middle) / width.clamp(min=1e-6), 0.0)),
            ("project, extremes", away),
        ):
            if float(direction.norm()) == 0:
                continue
            other = torch.where(usable, torch.randn(len(direction), generator=random), 0.0)
            made = [bounded(known, middle, width, d / d.norm()) for d in (direction, other)]
            yield Repair(name, method, axis, *made)


def extreme(x: Tensor, middle: Tensor) -> Tensor:
    """Mean of the tenth of the rows that lie farthest above `middle`, neuron by neuron: where a small trigger shows."""
    kept = max(1, len(x) // 10)
    return (x - middle).topk(kept, dim=0).values.mean(0)


def quantile(x: Tensor, q: float) -> Tensor:
    rows = x[:: max(1, len(x) // 20_000)]
    return torch.quantile(rows, q, dim=0)


def zero(neurons: Tensor, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, neurons] = 0
    return x


def clip(neurons: Tensor, low: Tensor, high: Tensor, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, neurons] = x[:, neurons].clamp(low[neurons], high[neurons])
    return x


def bounded(known: Tensor, middle: Tensor, width: Tensor, direction: Tensor) -> Change:
    """Along one direction of the standardised activations nothing may go farther than clean samples do in 99 of 100 rows."""
    scale = width.clamp(min=1e-6)
    limit = torch.quantile((((known - middle) / scale) @ direction)[:: max(1, len(known) // 20_000)], 0.99)

    def change(x: Tensor) -> Tensor:
        along = ((x - middle) / scale) @ direction
        return x - (along - limit).clamp(min=0)[:, None] * direction * scale

    return change


@torch.no_grad()
def outputs(model: nn.Module, layer: str, axis: int, x: Tensor) -> Tensor:
    """What a layer gives for `x`, every position a row: `[rows, channels]`."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, arguments, output: kept.append(output.detach().movedim(axis, -1).reshape(-1, output.shape[axis]))
    )
    try:
        for part in x.split(500):
            model(part)
    finally:
        handle.remove()
    return torch.cat(kept)


@contextmanager
def applied(model: nn.Module, repair: Repair, change: Change) -> Iterator[None]:
    """Inside, the layer's output goes through `change`."""

    def hook(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        moved = output.movedim(repair.axis, -1)
        return change(moved.reshape(-1, moved.shape[-1])).reshape(moved.shape).movedim(-1, repair.axis)

    handle = model.get_submodule(repair.layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
