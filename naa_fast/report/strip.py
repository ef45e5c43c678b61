"""The strip of all layers, one cell a layer, and which layers a picture shows: `strip_of`. Nothing is drawn here. NumPy only."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

import numpy as np

from naa_fast.detect.comparison import LayerComparison
from naa_fast.detect.findings import largest_finite
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.tails import tail_limit, tail_signature
from naa_fast.records import Array

STEPS = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
"""Standard deviations at which a cell's colour changes: eight colours, the last of 8 and more."""
CHANCE_STEPS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""The same of shares of the suspect samples, in what chance reaches: of twelve samples one is 8 %, and nothing."""
COLOURS = ("#eef1f5", "#dde3ec", "#f6ddc4", "#f3bd8d", "#e9905a", "#c2452a", "#a3201b", "#7f0f12")
"""Of the steps on white; the page's stylesheet has the same."""
LABELLED = 5
WORST = 5


@dataclass(frozen=True)
class Cell:
    """One layer: its place in the model from 1 on, its largest standardised difference `z` and share `tail` of the suspect
    samples beyond a neuron's clean 99.9 % point (NaN: unknown), their colours as steps from 0 (None: unknown), the numbers of
    neurons above each limit, and the neurons these numbers are of. `label`: from "1" on for the layers to look at first.
    """

    place: int
    name: str
    neurons: int
    z: float
    tail: float
    step: int | None
    tail_step: int | None
    abnormal: int
    tailed: int
    unknown: int
    neuron: int
    tail_neuron: int
    label: str = ""

    @property
    def stands_out(self) -> bool:
        return self.abnormal > 0 or self.tailed > 0


@dataclass(frozen=True)
class Strip:
    """The `cells` in model order, the WORST of them, worst first; `tail_limit` is what chance reaches (infinite without
    histograms); `tails` by name each layer's share of samples beyond the tail of every neuron.
    """

    cells: tuple[Cell, ...]
    worst: tuple[Cell, ...]
    tail_limit: float
    tails: dict[str, Array]

    @property
    def has_tails(self) -> bool:
        return any(np.isfinite(cell.tail) for cell in self.cells)

    @property
    def rare(self) -> bool:
        """Whether only the tails show something: few samples carry what was found, and a mean drowns them."""
        return any(cell.tailed for cell in self.cells) and not any(cell.abnormal for cell in self.cells)


def strip_of(judgement: Judgement) -> Strip:
    """Every layer as a cell. Labelled are the LABELLED farthest above their limits; none is where nothing stands out.

    Cost: two sums over every neuron's histograms, some 10 ms for a layer of 4,096 neurons.
    """
    layers = list(judgement.layers.values())
    limit = tail_limit(layers)
    cells, tails = [], {}
    for place, layer in enumerate(layers, 1):
        tails[layer.name] = tail_signature(layer)
        cells.append(cell_of(place, layer, tails[layer.name], limit))
    order = sorted(cells, key=lambda cell: severity(cell, judgement.layers[cell.name], limit), reverse=True)
    first = [cell.place for cell in order if cell.stands_out][:LABELLED]
    labels = {place: str(number) for number, place in enumerate(first, 1)}
    labelled = [replace(cell, label=labels.get(cell.place, "")) for cell in cells]
    worst = tuple(labelled[cell.place - 1] for cell in order[:WORST])
    return Strip(tuple(labelled), worst, limit, tails)


def cell_of(place: int, layer: LayerComparison, tails: Array, limit: float) -> Cell:
    """What the strip shows of a layer; `tails` float64 `[neurons]`."""
    known = np.isfinite(layer.z)
    z = float(layer.z[known].max()) if known.any() else float("nan")
    tail = float(np.nanmax(tails)) if np.isfinite(tails).any() else float("nan")
    with np.errstate(invalid="ignore"):
        tailed = int((tails >= limit).sum())
    return Cell(
        place,
        layer.name,
        layer.neurons,
        z,
        tail,
        step_of(z, STEPS),
        step_of(tail / limit, CHANCE_STEPS),
        len(layer.abnormal),
        tailed,
        len(layer.unknown),
        int(np.where(known, layer.z, -1.0).argmax()) if layer.neurons else 0,
        int(np.nan_to_num(tails, nan=-1.0).argmax()) if layer.neurons else 0,
    )


def step_of(value: float, steps: tuple[float, ...]) -> int | None:
    """The colour of a value: how many of the `steps` it has reached; None for NaN."""
    return None if value != value else bisect_right(steps, value)


def severity(cell: Cell, layer: LayerComparison, limit: float) -> tuple[bool, bool, float]:
    """What sorts layers: those above a limit, then those that cannot be compared, each by how far above it they are."""
    above = largest_finite(layer.measure) / layer.limit if 0 < layer.limit < np.inf else largest_finite(layer.z)
    beyond = cell.tail / limit if np.isfinite(cell.tail) and limit > 0 else 0.0
    return cell.stands_out, cell.unknown > 0, max(above, beyond)
