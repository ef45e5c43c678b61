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

from benchmarks.detection.audit import neuron_axis
from benchmarks.detection.cases import Case
from benchmarks.detection.sets import Suspect
from benchmarks.detection.train import predictions, share

AGREEMENT = 0.98
"""Share of clean predictions a repair must leave as they are."""
CLEAN, LIT, TESTED = 600, 200, 2000
LEAST = 10
LAYERS = 6
MOST_ROWS = 20_000
SHRINKAGE = 0.2
EDGES = (0.99, 0.95)
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
    """Accuracy, attack success rate, and its `floor`: the share that goes there without a trigger. On TESTED samples."""
    assert case.attack is not None
    generator = Generator().manual_seed(case.seed)
    chosen = torch.randperm(len(x), generator=generator)[:TESTED]
    x, y = x[chosen], y[chosen]
    meant = case.attack.turns(y)
    wanted, untouched = case.attack.wanted(y[meant]), predictions(model, x)
    turned = predictions(model, case.attack.apply(x[meant], generator)) == wanted
    return {"accuracy": share(untouched == y), "asr": share(turned), "floor": share(untouched[meant] == wanted)}


def highest(audit: Any, suspect: Suspect) -> np.ndarray:
    """Samples that carry a proven trigger, else those beyond what clean samples score, else the LEAST highest; at most LIT,
    from the first to the last, because the most extreme ones alone say little about the others.
    """
    ranking = getattr(audit, "ranking", None)
    if ranking is None:
        return np.random.default_rng(0).permutation(len(suspect.x))[:LIT]
    scores = np.nan_to_num(np.asarray(ranking.ranked, float), nan=-np.inf)
    order = np.argsort(-scores, kind="stable")
    carriers = 0 if ranking.carriers is None else int(ranking.carriers.sum())  # these are ranked before all others
    lit = order[: max(LEAST, carriers or ranking.beyond)]
    return lit[np.linspace(0, len(lit) - 1, min(LIT, len(lit))).round().astype(int)]


def candidates(model: nn.Module, audit: Any, clean: Tensor, lit: Tensor) -> Iterator[Repair]:
    """Zeroing, clipping and turning back along a direction, in the layers with the largest z; never in the scores themselves."""
    layers = {name: layer for name, layer in audit.layers.items() if name != "logits" and np.isfinite(layer.z).any()}
    strongest = sorted(layers, key=lambda name: -float(np.nanmax(layers[name].z)))[:LAYERS]
    random = Generator().manual_seed(0)
    for name in strongest:
        axis = neuron_axis(layers[name])
        known, shown = outputs(model, name, axis, clean), outputs(model, name, axis, lit)
        if known is None or shown is None:
            continue
        rows = known.flatten(0, 1)
        rows = rows[:: max(1, len(rows) // MOST_ROWS)]
        neurons = rows.shape[1]
        count = min(max(1, len(layers[name].abnormal)), max(1, int(MOST * neurons)))
        order = torch.from_numpy(np.argsort(-np.nan_to_num(layers[name].z)).copy())
        found, chance = order[:count], torch.randperm(neurons, generator=random)[:count]
        yield Repair(name, "zero", axis, partial(zero, found), partial(zero, chance))
        low, high = torch.quantile(rows, 0.01, dim=0), torch.quantile(rows, 0.99, dim=0)
        yield Repair(name, "clip", axis, partial(clip, found, low, high), partial(clip, chance, low, high))
        space = Space.of(rows)
        if space is None:
            continue
        away = {"turn back, means": space.scaled(shown).mean((0, 1)), "turn back, outlying": space.outlying(shown, known)}
        other = torch.randn(neurons, generator=random)
        for method, direction in away.items():
            for edge in EDGES:
                yield Repair(
                    name, f"{method}, {edge}", axis, space.turning_back(direction, edge), space.turning_back(other, edge)
                )


@dataclass(frozen=True)
class Space:
    """A layer's activations in standard deviations of its clean rows, and the inverse of their (shrunk) correlations."""

    rows: Tensor
    middle: Tensor
    width: Tensor
    precision: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Space | None:
        """None if nothing varies. A neuron that is silent on clean data keeps a small width: it may be the one that matters."""
        middle, width = rows.mean(0), rows.std(0)
        typical = width[width > 0]
        if not len(typical):
            return None
        width = width.clamp(min=0.1 * float(typical.median()))
        scaled = (rows - middle) / width
        shrunk = (1 - SHRINKAGE) * (scaled.T @ scaled) / len(scaled) + SHRINKAGE * torch.eye(rows.shape[1])
        return cls(rows, middle, width, torch.linalg.inv(shrunk))

    def scaled(self, x: Tensor) -> Tensor:
        return (x - self.middle) / self.width

    def outlying(self, shown: Tensor, known: Tensor) -> Tensor:
        """Mean of each sample's most unusual position, less the same of clean samples: where a small trigger shows."""

        def most(x: Tensor) -> Tensor:
            scaled = self.scaled(x)
            unusual = ((scaled @ self.precision) * scaled).sum(-1)
            return scaled[torch.arange(len(x)), unusual.argmax(1)].mean(0)

        return most(shown) - most(known)

    def turning_back(self, direction: Tensor, edge: float) -> Change:
        """Rows farther along the whitened `direction` than a share `edge` of the clean rows are moved back to the clean mean."""
        detect = self.precision @ direction
        push = direction / (detect @ direction).clamp(min=1e-12)
        limit = torch.quantile(self.scaled(self.rows) @ detect, edge)

        def change(x: Tensor) -> Tensor:
            along = self.scaled(x) @ detect
            return x - torch.where(along > limit, along, 0.0)[:, None] * push * self.width

        return change


def zero(neurons: Tensor, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, neurons] = 0
    return x


def clip(neurons: Tensor, low: Tensor, high: Tensor, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, neurons] = x[:, neurons].clamp(low[neurons], high[neurons])
    return x


@torch.no_grad()
def outputs(model: nn.Module, layer: str, axis: int, x: Tensor) -> Tensor | None:
    """What a layer gives for `x`: `[samples, positions, channels]`; None for one that is called more than once a forward."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, arguments, output: kept.append(
            output.detach().movedim(axis, -1).reshape(len(output), -1, output.shape[axis])
        )
    )
    try:
        for part in x.split(500):
            model(part)
    finally:
        handle.remove()
    return torch.cat(kept) if len(kept) == len(x.split(500)) else None


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
