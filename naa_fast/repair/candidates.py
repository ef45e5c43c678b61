"""`candidates`: changes of one layer that may silence a trigger, each with a random one of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from naa_fast.detect.change import Ablate, Change, Clip, Zero
from naa_fast.records import Array
from naa_fast.repair.space import Space, moved

EDGES = (0.99, 0.95, 0.999)
"""Shares of the clean rows that a direction leaves alone."""
COUNTS = (0.01, 0.05, 0.2, 0.5)
"""Shares of a layer's neurons that are silenced."""
WIDER = 4
"""Directions that are taken out together, where one is not enough."""
LOW, HIGH = 0.01, 0.99
NAMED = 10


@dataclass(frozen=True)
class Seen:
    """A layer's outputs `[samples, positions, neurons]`, in parts: of clean samples (`known`), of these with the trigger on them
    (`triggered`, None without a proof) and of the highest-ranked suspect samples (`shown`, None without such). `z`: how far each
    neuron's mean differs between the sets.
    """

    layer: str
    axis: int
    z: Tensor
    known: Sequence[Tensor]
    triggered: Sequence[Tensor] | None
    shown: Sequence[Tensor] | None


Pair = tuple[Change, Change]
"""A change, and the same with as many random ones of the other neurons, or along as many random directions."""


def candidates(seen: Seen, random: Generator) -> Iterator[Pair]:
    """The likeliest first: directional ablation along what the trigger moves, then clipping and zeroing the neurons it moves
    most.
    """
    space = Space.of(seen.known)
    if space is None:
        return
    away: dict[str, Tensor] = {}
    effect = seen.z
    if seen.triggered is not None:
        mean, largest, effect = moved(space, seen.known, seen.triggered)
        away["what the trigger adds"] = mean
        if seen.known[0].shape[1] > 1:
            away["what it adds where it adds most"] = largest
    if seen.shown is not None:
        away["where the suspects lie"] = space.mean(seen.shown)
        if seen.known[0].shape[1] > 1:
            away["where they lie farthest"] = space.outlying(seen.shown) - space.outlying(seen.known).mean(0)
    for edge in EDGES:
        for choice, apart in away.items():
            yield turning(seen, space, f"{choice}, {edge:g}", apart, edge, random, 1)
    for choice, apart in away.items():
        yield turning(seen, space, f"{choice}, {EDGES[0]:g}", apart, EDGES[0], random, WIDER)
    neurons = len(effect)
    order = effect.nan_to_num(0).argsort(descending=True)
    counts = sorted({count for share in COUNTS if (count := max(1, round(share * neurons))) <= neurons // 2})
    low, high = (torch.quantile(space.rows, edge, dim=0) for edge in (LOW, HIGH))
    for count in counts:
        chance = order[count:][torch.randperm(neurons - count, generator=random)[:count]]  # of the others
        yield clipping(seen, order[:count], low, high), clipping(seen, chance, low, high)
        yield zeroing(seen, order[:count]), zeroing(seen, chance)


def zeroing(seen: Seen, neurons: Tensor) -> Change:
    """The change that zeroes these `neurons`, int64 `[count]`."""
    return Zero(seen.layer, seen.axis, "moved most", neurons.numpy())


def clipping(seen: Seen, neurons: Tensor, low: Tensor, high: Tensor) -> Change:
    """The change that keeps these `neurons`, int64 `[count]`, between `low` and `high` `[all neurons]`."""
    return Clip(seen.layer, seen.axis, "moved most", neurons.numpy(), array(low[neurons]), array(high[neurons]))


def turning(seen: Seen, space: Space, choice: str, apart: Tensor, edge: float, random: Generator, many: int) -> Pair:
    """Directional ablation along the mean of `apart` `[samples, neurons]`, the samples' deviations, and the `many - 1` directions
    they vary most in.
    """
    mean = apart.mean(0)
    chance = torch.randn(many, len(mean), generator=random)
    directions = mean[None]
    if many > 1:
        varied = torch.linalg.svd(apart - mean, full_matrices=False)[2][: many - 1]
        directions = torch.cat([directions, varied])
    return turning_back(seen, space, choice, directions, edge), turning_back(seen, space, choice, chance, edge)


def turning_back(seen: Seen, space: Space, choice: str, directions: Tensor, edge: float) -> Ablate:
    """Rows farther along the first of the whitened `directions` than a share `edge` of the clean rows are moved back, along all
    of them, to the clean mean. `directions` float32 `[directions, neurons]`.
    """
    detect = space.whitened(directions)  # [directions, neurons]
    inner = torch.linalg.pinv(detect @ directions.T)
    along = (inner.T @ detect) / space.width  # along[i] @ (pushes[j]) is 1 where i is j
    pushes = directions * space.width
    gate = detect[0] / space.width
    limit = float(torch.quantile(space.rows @ gate, edge))
    strongest = pushes.abs().amax(0).argsort(descending=True)[:NAMED]
    return Ablate(
        seen.layer,
        seen.axis,
        choice,
        strongest.numpy(),
        gate=array(gate),
        limit=limit,
        along=array(along),
        centres=array(along @ space.middle),
        pushes=array(pushes),
    )


def random_like(change: Ablate, seen: Seen, space: Space, random: Generator) -> Ablate:
    """As many random directions as a tuned change has, along which as many clean rows are turned back."""
    edge = float((space.rows @ torch.from_numpy(change.gate) <= change.limit).double().mean())
    return turning_back(seen, space, change.choice, torch.randn(change.pushes.shape, generator=random), edge)


def array(x: Tensor) -> Array:
    """Float32 of the same shape `[...]`, on the host."""
    return x.float().contiguous().numpy()
