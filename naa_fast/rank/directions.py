"""Directions along which the suspect set differs from the clean one, layer by layer: `Directions.add`, then `.projected`.

In a transformer no single neuron has to move for a trigger to be there: what moves is a direction, spread over coordinates.
`Sketch` is the covariance in little memory that whitening takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.accumulate import Views
from naa_fast.accumulate.samples import Layout, Pack
from naa_fast.detect.directions import FEWEST, KINDS, Projected
from naa_fast.kernels.portable.reduce import home
from naa_fast.records import Array, fold_of
from naa_fast.reference import BUFFER, EXACT, ROWS

WIDEST, MOST = 4096, 1 << 15
"""Most neurons of a layer, and of all together, that directions are sought in, evenly spaced where there are more."""
SKETCHED = 4096
"""Samples of each set that fix the directions: they are no better with more."""
WAITING_BYTES = 16 << 20
"""Rows of a set that wait to enter its sketches."""
HELD = 2048
HELD_BYTES = 24 << 20
"""Samples of each set that the directions are measured on, and what those of all layers may take together."""
FEWEST_HELD = 128
RIDGE = 0.02
"""Share of the mean variance added to every variance: clean samples are too few to know that a direction has none."""


class Sketch:
    """Count, mean and low-rank scatter of rows seen one batch after the other.

    Frequent Directions (Liberty, KDD 2013; Ghashami, Liberty, Phillips and Woodruff, SIAM J. Comput. 45(5), 2016) of the rows
    centred on their own mean: each batch on its own, and one more row for how far its mean lies from that of the rows before
    (Ross, Lim, Lin and Yang, IJCV 77, 2008), so no mean has to be known beforehand. With A the centred rows and B what is kept,
    0 <= A'A - B'B <= `lost` <= |A - A_k|_F^2 / (ROWS - k) for every k < ROWS, also after merging.

    Memory: BUFFER x neurons float32, or neurons^2 float64 up to EXACT neurons (then `lost` is 0). float32 because rows are
    centred: their rounding is far below what the sketch leaves out. A value that is not finite counts as its neuron's mean in
    the batch.
    """

    def __init__(self, neurons: int, where: torch.device) -> None:
        self.neurons = neurons
        self.exact = neurons <= EXACT
        self.count = 0
        self.mean = torch.zeros(neurons, dtype=torch.float64, device=where)
        self.energy = torch.zeros((), dtype=torch.float64, device=where)  # of A: the sum of all its squares
        self.lost = 0.0
        self._scatter = torch.zeros((neurons, neurons) if self.exact else (0, 0), dtype=torch.float64, device=where)
        self._rows = torch.zeros((0, 0) if self.exact else (BUFFER, neurons), dtype=torch.float32, device=where)
        self._held = 0

    def add(self, rows: Tensor) -> None:
        """Enter `rows` `[samples, neurons]`."""
        if not len(rows):
            return
        x = rows.to(self.mean.device, torch.float64)
        mean = x.sum(0) / len(x)
        if x.device.type == "cpu" and torch.isfinite(mean).all():  # so is every value; a GPU would have to wait for the answer
            self._enter((x - mean).float(), mean, len(x))
            return
        known = torch.isfinite(x)
        x = torch.where(known, x, 0.0)
        mean = x.sum(0) / known.sum(0).clamp(min=1)
        self._enter(torch.where(known, x - mean, 0.0).float(), mean, len(x))

    def merge(self, other: Sketch) -> None:
        """Enter what `other` has seen."""
        if other.count:
            self.lost += other.lost
            self.energy += other.energy - (other.rows().double() ** 2).sum() if not self.exact else 0.0
            self._enter(other.rows(), other.mean, other.count)

    def saved(self) -> dict[str, Array]:
        """Its state as `naa_fast.reference.LayerReference` has it."""
        counted = np.array([self.count, float(self.energy), self.lost])
        rows = self._scatter if self.exact else self._rows[: self._held]
        return {"rows_count": counted, "rows_mean": self.mean.cpu().numpy().copy(), "rows": rows.cpu().numpy().copy()}

    @classmethod
    def restored(cls, saved: Mapping[str, Array]) -> Sketch:
        """Inverse of `saved`, on the host."""
        made = cls(len(saved["rows_mean"]), torch.device("cpu"))
        made.count, made.lost = int(saved["rows_count"][0]), float(saved["rows_count"][2])
        made.energy, made.mean = torch.tensor(saved["rows_count"][1]), torch.tensor(saved["rows_mean"])
        if made.exact:
            made._scatter = torch.tensor(saved["rows"])
        else:
            made._held = len(saved["rows"])
            made._rows[: made._held] = torch.tensor(saved["rows"])
        return made

    def rows(self) -> Tensor:
        """B: float32 `[at most BUFFER, neurons]`, B'B the scatter about the mean as far as it is kept."""
        if not self.exact:
            return self._rows[: self._held]
        values, vectors = self.axes()
        return (vectors * values.sqrt()[:, None]).to(self.mean.device).float()

    def axes(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of B'B and its eigenvectors `[rank, neurons]`, float64 on the host."""
        if self.exact:
            values, vectors = torch.linalg.eigh(self._scatter.cpu())
            return values.clamp(min=0), vectors.T
        rows = self.rows().cpu().double()
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        known = values > 1e-10 * values.max().clamp(min=1e-300)
        return values[known], (vectors[:, known].T @ rows) / values[known].sqrt()[:, None]

    def _enter(self, centred: Tensor, mean: Tensor, count: int) -> None:
        total = self.count + count
        apart = (mean - self.mean) * (self.count * count / total) ** 0.5
        self.mean = self.mean + (mean - self.mean) * (count / total)
        self.count = total
        rows = torch.cat([centred, apart.float()[None]])
        if self.exact:
            self._scatter += (rows.T @ rows).double()
            self.energy = self._scatter.trace()
            return
        self.energy += (rows.double() ** 2).sum()
        while len(rows):
            part = rows[: BUFFER - self._held]
            self._rows[self._held : self._held + len(part)] = part
            self._held += len(part)
            rows = rows[len(part) :]
            if self._held == BUFFER:
                self._shrink()

    def _shrink(self) -> None:
        # On a GPU too, which it waits for: of 128 rows 131 kB would come home every 96 samples of each layer.
        values, vectors = torch.linalg.eigh(
            torch.nan_to_num((self._rows @ self._rows.T).to(home(self._rows.device), torch.float64))
        )
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        cut = float(values[ROWS])
        self.lost += cut
        scale = ((values[:ROWS] - cut).clamp(min=0) / values[:ROWS].clamp(min=1e-300)).sqrt()
        self._rows[:ROWS] = (vectors[:, :ROWS] * scale).T.to(self._rows.device, torch.float32) @ self._rows
        self._held = ROWS


@dataclass(frozen=True)
class Covariance:
    """A covariance: `vectors` `[rank, neurons]` with their `values`, `rest` in every other direction; float64, on the host."""

    vectors: Tensor
    values: Tensor
    rest: float

    @classmethod
    def of(cls, sketch: Sketch) -> Covariance:
        """What a sketch lost of each direction is given back (Desai, Ghashami and Phillips, TKDE 28(7), 2016)."""
        freedom = max(sketch.count - 1, 1)
        values, vectors = sketch.axes()
        values = (values + sketch.lost) / freedom
        total = float(sketch.energy) / freedom
        others = sketch.neurons - len(values)
        ridge = max(RIDGE * total / sketch.neurons, 1e-30)
        rest = max(total - float(values.sum()), 0.0) / others if others else 0.0
        return cls(vectors, values + ridge, rest + ridge)

    def power(self, x: Tensor, exponent: float) -> Tensor:
        """`x` `[..., neurons]` times the covariance to the `exponent`."""
        inside = x @ self.vectors.T
        return (x - inside @ self.vectors) * self.rest**exponent + (inside * self.values**exponent) @ self.vectors


def three(clean: Sketch, suspect: Sketch) -> Tensor:
    """Unit directions of KINDS, float64 `[3, neurons]` on the host: of the difference of means, the same whitened by the clean
    covariance, and the direction along which suspects vary most compared with clean samples, about the clean mean (the largest
    generalised eigenvalue in the span of what was kept).
    """
    covariance = Covariance.of(clean)
    difference = suspect.mean.cpu() - clean.mean.cpu()
    rows = torch.cat([suspect.rows().cpu().double(), suspect.count**0.5 * difference[None]])
    white = covariance.power(rows, -0.5)
    _, vectors = torch.linalg.eigh(white @ white.T)
    most = covariance.power(vectors[:, -1] @ white, -0.5)
    most = most if float(most @ difference) >= 0 else -most
    directions = torch.stack([difference, covariance.power(difference, -1.0), most])
    return directions / directions.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Rows:
    """Samples of all layers of one device, side by side: `values` `[samples, neurons of all]` as `layout` says, and their places
    in the set, int64.
    """

    layout: Layout
    values: Tensor
    items: Array

    def layers(self) -> Iterator[tuple[str, Tensor]]:
        at = 0
        for name, wide in self.layout:
            yield name, self.values[:, at : at + wide]
            at += wide


class Directions:
    """Fixes directions on the even folds of both sets, and keeps samples of the odd ones to measure them on.

    `neurons` and `samples`: how many the layers and the two sets have, which may be known better later; 0 samples: unknown. Of a
    large set a fixed share is taken, evenly: work and memory do not grow with it. Only the per-sample means count, the first
    `neurons` features of a view. Rows wait side by side, in WAITING_BYTES at most, before they enter the sketches: `add` takes
    two operations, whatever the number of layers. Memory: bounded whatever the number of layers, since at most MOST neurons are
    looked at: 2 BUFFER float32 each, and HELD_BYTES of samples of each set (FEWEST_HELD a neuron where that is more, up to four
    times that where samples were not announced). Time: at most 2 SKETCHED rows a layer, on one core 5 us each at 128 neurons, 240
    at 4,096.
    """

    def __init__(self, neurons: Mapping[str, int], samples: tuple[int, int]) -> None:
        self.neurons = dict(neurons)
        self.samples = samples
        self._sketches: list[dict[str, Sketch]] = [{}, {}]
        self._waiting: list[list[Rows]] = [[], []]
        self._kept: list[list[Rows]] = [[], []]
        self._taken_of: dict[tuple[int, int], int] = {}
        self._columns: dict[tuple[Layout, tuple[int, ...]], tuple[Tensor, Layout]] = {}
        self._widest = 0

    def add(self, which: int, views: Views, items: Array, half: int | None = None) -> None:
        """Enter samples `items` (int64, their places in the set) of the clean (0) or suspect (1) set; `half`: all of even (0) or
        odd (1) folds. `[samples]`.
        """
        folds = fold_of(items) % 2 if half is None else np.full(len(items), half)
        self.fix({name: features for pack in views.packs for name, features in pack.layout})
        for side in (0, 1):
            most = self._most_held() if side else SKETCHED
            share = min(1.0, most / max(self.samples[which] / 2, 1))
            chosen = np.flatnonzero((folds == side) & evenly(items, share))
            taken = self._taken_of.get((which, side), 0)
            chosen = chosen[: max(4 * most - taken, 0)]  # more samples than were announced
            self._taken_of[which, side] = taken + len(chosen)
            for pack in views.packs if len(chosen) else ():
                columns, layout = self._columns_of(pack)
                values = pack.values if len(chosen) == len(items) else pack.rows(chosen).values
                rows = Rows(layout, values.index_select(1, columns), items[chosen])
                (self._kept if side else self._waiting)[which].append(rows)
        if sum(rows.values.nbytes for rows in self._waiting[which]) > WAITING_BYTES:
            self._sketch(which)

    def saved(self, features: Mapping[str, int], which: int = 0) -> dict[str, dict[str, Array]]:
        """What is known of one set, as `naa_fast.reference.Directed` has it, of the layers that it has seen, and of those with so
        many `features`.
        """
        self._sketch(which)
        kept: dict[str, list[tuple[Tensor, Array]]] = {}
        for rows in self._kept[which]:
            for name, values in rows.layers():
                kept.setdefault(name, []).append((values, rows.items))
        layers = {}
        for name, wide in (features or dict.fromkeys(self._sketches[which], 0)).items():
            sketch = self._sketches[which].get(name) or Sketch(len(self._looked_at(name, wide)), torch.device("cpu"))
            parts = kept.get(name, [])
            aside = torch.cat([values for values, _ in parts]).float().cpu().numpy() if parts else np.zeros((0, sketch.neurons))
            items = np.concatenate([items for _, items in parts]) if parts else np.zeros(0, np.int64)
            layers[name] = sketch.saved() | {"held": aside.astype(np.float32), "held_items": items}
        return layers

    def restore(self, saved: Mapping[str, Mapping[str, Array]], which: int = 0) -> None:
        """Take up what `saved` gave."""
        self._sketches[which] = {name: Sketch.restored(arrays) for name, arrays in saved.items()}
        self._kept[which] = [
            Rows(((name, arrays["held"].shape[1]),), torch.tensor(arrays["held"]), arrays["held_items"])
            for name, arrays in saved.items()
        ]

    def of_one(self, which: int) -> dict[str, Any]:
        """What was taken of one set alone."""
        taken = {key: count for key, count in self._taken_of.items() if key[0] == which}
        return {"sketches": self._sketches[which], "waiting": self._waiting[which], "kept": self._kept[which], "taken": taken}

    def take_one(self, which: int, told: dict[str, Any]) -> None:
        """Go on from what `of_one` gave."""
        self._sketches[which], self._waiting[which], self._kept[which] = (told[key] for key in ("sketches", "waiting", "kept"))
        self._taken_of |= told["taken"]

    def forget(self, which: int) -> None:
        """Begin the clean (0) or suspect (1) set anew."""
        self._sketches[which], self._kept[which], self._waiting[which] = {}, [], []
        self._taken_of = {key: taken for key, taken in self._taken_of.items() if key[0] != which}

    def merge(self, other: Directions) -> None:
        """Enter what `other` has taken of other samples of the same sets."""
        for which in (0, 1):
            self._sketch(which)
            other._sketch(which)
            for name, sketch in other._sketches[which].items():
                if name in self._sketches[which]:
                    self._sketches[which][name].merge(sketch)
                else:
                    self._sketches[which][name] = sketch
            self._kept[which] += other._kept[which]
        for key, taken in other._taken_of.items():
            self._taken_of[key] = self._taken_of.get(key, 0) + taken

    def projected(self) -> list[Projected]:
        """The samples held back, along each layer's directions; layers without enough samples are left out."""
        projections = []
        every: list[dict[str, list[Tensor]]] = [{}, {}]
        for which in (0, 1):
            self._sketch(which)
            for kept in self._kept[which]:
                for name, rows in kept.layers():
                    every[which].setdefault(name, []).append(rows)
        for name, clean in self._sketches[0].items():
            suspect = self._sketches[1].get(name)
            measured = [every[which].get(name, []) for which in (0, 1)]
            if suspect is None or min(clean.count, suspect.count, *(sum(map(len, rows)) for rows in measured)) < FEWEST:
                continue
            vectors = three(clean, suspect)
            values = [along(rows, vectors, clean.mean) for rows in measured]
            step = self._step(name, clean.neurons)
            for place, kind in enumerate(KINDS):
                vector = vectors[place].numpy()
                if np.isfinite(vector).all():
                    projections.append(Projected(name, kind, vector, step, values[0][place], values[1][place]))
        return projections

    def _sketch(self, which: int) -> None:
        """Enter the rows that wait into the sketches: many at a time, since a sketch waits for the device."""
        waiting, self._waiting[which] = self._waiting[which], []
        for (layout, _), alike in groupby(waiting, key=lambda rows: (rows.layout, rows.values.device)):
            together = list(alike)
            values, items = torch.cat([rows.values for rows in together]), np.concatenate([rows.items for rows in together])
            for name, rows in Rows(layout, values, items).layers():
                self._sketches[which].setdefault(name, Sketch(rows.shape[1], rows.device)).add(rows)

    def _most_held(self) -> int:
        """Samples of a set that are held; known once half of the clean set was seen, and the same then for both sets."""
        layers = dict(layer for rows in self._waiting[0][:1] for layer in rows.layout)
        neurons = sum((layers | {name: sketch.neurons for name, sketch in self._sketches[0].items()}).values())
        return min(HELD, max(FEWEST_HELD, HELD_BYTES // (4 * max(neurons, 1))))

    def _step(self, name: str, neurons: int) -> int:
        """That of the clean sketch, if there is one: a power of two, which its width tells."""
        sketch, wide = self._sketches[0].get(name), self.neurons.get(name, neurons)
        return step_of(wide, self._widest or WIDEST if sketch is None else sketch.neurons)

    def fix(self, features: Mapping[str, int]) -> None:
        """Decide how many neurons of a layer are looked at, by layers with so many features; only the first time counts."""
        self._widest = self._widest or widest({name: self.neurons.get(name) or wide for name, wide in features.items()})

    def _looked_at(self, name: str, features: int) -> range:
        """Which of a layer's features directions are sought in."""
        return range(0, min(self.neurons.get(name) or features, features), self._step(name, features))

    def _columns_of(self, pack: Pack) -> tuple[Tensor, Layout]:
        """Which columns of a pack directions are sought in, and how many of each layer: its neurons, evenly spaced where it has
        many.
        """
        neurons = tuple(self.neurons.get(name) or features for name, features in pack.layout)
        if (pack.layout, neurons) not in self._columns:
            at, columns, layout = 0, list[int](), list[tuple[str, int]]()
            for name, features in pack.layout:
                taken = self._looked_at(name, features)
                columns += [at + column for column in taken]
                layout.append((name, len(taken)))
                at += features
            self._columns[pack.layout, neurons] = torch.tensor(columns, device=pack.values.device), tuple(layout)
        return self._columns[pack.layout, neurons]


def widest(neurons: Mapping[str, int]) -> int:
    """The most neurons of a layer so that no more than MOST are looked at in all, a power of two."""
    most = WIDEST
    while most > 1 and sum(-(-wide // step_of(wide, most)) for wide in neurons.values()) > MOST:
        most //= 2
    return most


def step_of(neurons: int, most: int) -> int:
    """How far apart they are if so many at most are looked at: the least power of two, so that two parts of a set, and who knows
    only how many were looked at, take the same.
    """
    step = 1
    while -(-neurons // step) > most:
        step *= 2
    return step


def evenly(numbers: Array, share: float) -> Array:
    """Which samples belong to a fixed `share` of them, spread evenly over any stretch: multiples of the golden ratio. Bool
    `[samples]`, as many as `numbers`.
    """
    return (numbers.astype(np.uint64) * np.uint64(2654435769) % np.uint64(1 << 32)).astype(np.float64) < share * 2.0**32


def along(parts: Sequence[Tensor], vectors: Tensor, mean: Tensor) -> Array:
    """Samples along unit `vectors`, from the clean mean on: float64 `[vectors, samples]`; 0 for what is not finite."""
    values = [torch.nan_to_num(rows.double() - mean.to(rows.device), 0.0, 0.0, 0.0) @ vectors.T.to(rows.device) for rows in parts]
    return torch.cat(values).T.cpu().numpy()
