"""`Everywhere`: scores samples in the layers of all devices at once, and orders the numbers once they are on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from naa_fast.accumulate import Views
from naa_fast.accumulate.samples import Pack
from naa_fast.rank.packed import Scored, Scoring
from naa_fast.rank.reference import Reference
from naa_fast.rank.retained import SHOWN
from naa_fast.records import Array


class Everywhere:
    """A `Scoring` for each device that has layers; numbers meet on the first one. Layers in the order of `references`."""

    def __init__(self, references: Mapping[str, Reference]) -> None:
        places: dict[torch.device, dict[str, Reference]] = {}
        for name, reference in references.items():
            places.setdefault(reference.pivot.device, {})[name] = reference
        self.scorings = {device: Scoring(of_device) for device, of_device in places.items()}
        names = [name for scoring in self.scorings.values() for name in scoring.plan.names]
        self.number = np.array([list(references).index(name) for name in names])
        self.layers = len(names)
        self._at_home: list[tuple[Array, Array, Array]] | None = None
        self._there: tuple[Tensor, ...] | None = None

    def score(self, views: Views, group: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """`(parts [samples, PARTS, layers], layer, column, z)` on the first device, and layers that this batch did not take."""
        packs = {pack.values.device: pack for pack in views.packs}
        scored, base, absent = [], 0, list[int]()
        for device, scoring in self.scorings.items():
            pack = packs.get(device) or Pack((), torch.zeros(len(group), 1, device=device))
            parts, lacks = scoring.score(pack, group.to(device))
            scored.append(joined(parts))
            absent += [base + layer for layer in lacks]
            base += len(scoring.plan.names)
        return (scored[0] if len(scored) == 1 else together(scored)), tuple(absent)

    def at_home(self, numbers: Sequence[Array], absent: Sequence[tuple[int, tuple[int, ...]]]) -> tuple[Array, Array]:
        """Of samples on the host: what each layer says of them, float64 `[samples, layers, PARTS]`, and the layers that deviate
        most, float64 `[samples, at most SHOWN, 3]`, as `retained.Top` takes them. Of a branch that a batch did not take
        (`absent`, after how many samples the batch has) the excess is 0 and the rest NaN.
        """
        parts, layer, column, z = numbers
        by_layer = np.empty((len(parts), self.layers, parts.shape[1]))
        by_layer[:, self.number] = parts.transpose(0, 2, 1)
        at = 0
        for samples, layers in absent:
            if layers:
                by_layer[at : at + samples, self.number[list(layers)]] = [0.0, np.nan, np.nan]
            at += samples
        return by_layer, np.stack([self.number[layer], self._features(layer, column), z], 2).astype(np.float64)

    def on_device(self, numbers: Sequence[Tensor], absent: Sequence[tuple[int, tuple[int, ...]]]) -> tuple[Tensor, Tensor]:
        """As `at_home`, where the numbers are: what each layer says, and the layers that deviate most, float64 both."""
        parts, layer, column, z = numbers
        by_layer = parts.mT.double()
        at = 0
        for samples, layers in absent:
            if layers:
                places = torch.tensor(layers, device=parts.device)
                rows = by_layer.narrow(0, at, samples)
                rows.index_fill_(1, places, torch.nan).select(2, 0).index_fill_(1, places, 0.0)
            at += samples
        number, start, deal, first = self._tables(parts.device)
        features = deal[start[layer] + column] - first[layer]
        return by_layer.index_select(1, number.argsort()), torch.stack([number[layer], features, z], 2)

    def _tables(self, device: torch.device) -> tuple[Tensor, ...]:
        """By layers as they are scored, of all devices: their numbers, first columns and first features; and `deal`."""
        if self._there is None:
            starts, deals, firsts = zip(*(scoring.plan.at_home() for scoring in self.scorings.values()), strict=True)
            before = np.cumsum([0, *map(len, deals)])
            start = np.concatenate([one + base for one, base in zip(starts, before, strict=False)])
            tables = self.number, start, np.concatenate(deals), np.concatenate(firsts)
            self._there = tuple(torch.from_numpy(table.astype(np.int64)).to(device) for table in tables)
        return self._there

    def _features(self, layer: Array, column: Array) -> Array:
        """Which feature of its layer lies in a layer's `column`."""
        if self._at_home is None:
            self._at_home = [scoring.plan.at_home() for scoring in self.scorings.values()]
        features, base = np.zeros_like(layer), 0
        for start, deal, first in self._at_home:
            here = (layer >= base) & (layer < base + len(start))
            features[here] = deal[start[layer[here] - base] + column[here]] - first[layer[here] - base]
            base += len(start)
        return features


def joined(parts: list[Scored]) -> tuple[Tensor, ...]:
    """What was scored a part at a time."""
    columns = [(scored.parts.permute(1, 0, 2), scored.layer, scored.column, scored.z) for scored in parts]
    return columns[0] if len(columns) == 1 else tuple(torch.cat(column_parts) for column_parts in zip(*columns, strict=True))


def together(devices: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What several devices say of the same samples, on the first of them."""
    device, base, moved = devices[0][0].device, 0, list[tuple[Tensor, ...]]()
    for parts, layer, column, z in devices:
        moved.append((parts.to(device), layer.to(device) + base, column.to(device), z.to(device)))
        base += parts.shape[2]
    parts, layer, column, z = (torch.cat(pieces, 2 if place == 0 else 1) for place, pieces in enumerate(zip(*moved, strict=True)))
    farthest = z.topk(min(SHOWN, z.shape[1]), 1)
    return parts, layer.gather(1, farthest.indices), column.gather(1, farthest.indices), farthest.values
