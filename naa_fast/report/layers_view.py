"""Where: the strip of all layers, the charts of the worst ones, and the tables, as the page prints them: `layers_view`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from naa_fast.detect.directions import BEYOND
from naa_fast.detect.evidence import Ranking
from naa_fast.detect.findings import ROOT
from naa_fast.detect.judgement import Judgement
from naa_fast.report.bars import Chart, chart_of
from naa_fast.report.panel import TailSignature
from naa_fast.report.strip import CHANCE_STEPS, STEPS, Cell, Strip, strip_of
from naa_fast.report.units import percent, web_text
from naa_fast.report.words import counted, number

NAME = 120
SHORT = 14
"""Characters of a name inside a cell: see `short_names`."""
ROWS = 20
CARRIED = 5
"""Layers, and neurons of each, that triggered samples are shown by."""


@dataclass(frozen=True)
class WorstLayer:
    """A layer's two charts, of means and of tails; `tails` None where no histograms were kept."""

    label: str
    name: str
    neurons: int
    means: Chart
    tails: Chart | None


@dataclass(frozen=True)
class CellView:
    """A cell's colours as names of the stylesheet, and what a pointer on it reads."""

    label: str
    colour: str
    tail_colour: str
    title: str
    short: str


@dataclass(frozen=True)
class LayersView:
    """`legend` and `tail_legend` name the steps of both strips; `rare`: only the tails show something; `carried`: see there."""

    cells: tuple[CellView, ...]
    rows: tuple[Cell, ...]
    labelled: tuple[Cell, ...]
    worst: tuple[WorstLayer, ...]
    legend: tuple[tuple[str, str], ...]
    tail_legend: tuple[tuple[str, str], ...]
    has_tails: bool
    rare: bool
    abnormal: int
    tailed: int
    limit: str
    tail_limit: str
    neurons: int
    top: tuple[tuple[str, ...], ...]
    direction: str
    carried: tuple[tuple[str, str, str], ...]


def layers_view(judgement: Judgement) -> LayersView:
    strip = strip_of(judgement)
    limit = f"{number(judgement.limit)} σ" if judgement.limit_on == "z" else f"{number(judgement.limit)} in its own units"
    return LayersView(
        tuple(map(cell_view, strip.cells, short_names([cell.name for cell in strip.cells]))),
        strip.cells,
        tuple(sorted((cell for cell in strip.worst if cell.label), key=lambda cell: cell.label)),
        tuple(worst_layer(judgement, strip, cell) for cell in strip.worst),
        legend_of([f"{step:g}" for step in STEPS], "σ"),
        legend_of([percent(step * strip.tail_limit).removesuffix(" %") for step in CHANCE_STEPS], "%"),
        strip.has_tails,
        strip.rare,
        sum(cell.abnormal for cell in strip.cells),
        sum(cell.tailed for cell in strip.cells),
        limit,
        percent(strip.tail_limit) if np.isfinite(strip.tail_limit) else "",
        sum(cell.neurons for cell in strip.cells),
        top_rows(judgement),
        direction_of(judgement),
        carried_by(judgement.evidence.ranking),
    )


def short_names(names: Sequence[str]) -> list[str]:
    """Names of SHORT characters at most that tell layers apart: without the parts that all begin with, then all parts but the
    last by their first letter, then the last parts of that; a name that would stand twice is shown by its place from 1 on.

    >>> short_names(["bert.encoder.layer.0", "bert.encoder.layer.0.output.dense", "bert.encoder.layer.0.attention.output.dense"])
    ['layer.0', 'l.0.o.dense', 'l.0.a.o.dense']
    """
    parts = [web_text(name or "the whole model", NAME).split(".") for name in names]
    same = 0
    while len(parts) > 1 and min(map(len, parts)) > same + 1 and len({tuple(part[: same + 1]) for part in parts}) == 1:
        same += 1
    same -= same > 0 and any(part[same].isdigit() for part in parts)  # "layer.0" says more than "0"
    shown = []
    for part in (part[same:] for part in parts):
        whole, first = ".".join(part), ".".join([*(word if word.isdigit() else word[:1] for word in part[:-1]), part[-1]])
        while len(first) > SHORT and "." in first:
            first = first.partition(".")[2]
        fit = next((name for name in (whole, first) if len(name) <= SHORT), f"…{first[1 - SHORT :]}")
        shown.append(fit)
    return [name if shown.count(name) == 1 else f"{at}. {name}"[:SHORT] for at, name in enumerate(shown, 1)]


def cell_view(cell: Cell, short: str) -> CellView:
    name = web_text(cell.name or "the whole model", NAME)
    z = f"largest difference {number(cell.z)} σ (neuron {cell.neuron})" if cell.step is not None else "cannot be compared"
    tail = f", {percent(cell.tail)} beyond the clean tail (neuron {cell.tail_neuron})" if cell.tail_step is not None else ""
    colour, tail_colour = ("none" if step is None else str(step) for step in (cell.step, cell.tail_step))
    return CellView(cell.label, colour, tail_colour, f"{cell.place}. {name}: {z}{tail}", short)


def worst_layer(judgement: Judgement, strip: Strip, cell: Cell) -> WorstLayer:
    tails = strip.tails[cell.name]
    known = np.isfinite(tails).any()
    tail_chart = chart_of(TailSignature(cell.name, tails, strip.tail_limit)) if known else None
    return WorstLayer(cell.label, cell.name, cell.neurons, chart_of(judgement.layers[cell.name]), tail_chart)


def legend_of(steps: Sequence[str], unit: str) -> tuple[tuple[str, str], ...]:
    """Colour and range of each step."""
    ranges = [f"{low} to {high} {unit}" for low, high in pairwise(steps)]
    words = [f"below {steps[0]} {unit}", *ranges, f"{steps[-1]} {unit} and more"]
    return tuple((str(colour), word) for colour, word in enumerate(words))


def top_rows(judgement: Judgement) -> tuple[tuple[str, ...], ...]:
    """The most abnormal neurons as rows: layer, neuron, z, the view it is of, difference, means, tail."""
    rows = []
    for row in judgement.top(ROWS):
        means = (number(row.difference), number(row.clean_mean), number(row.suspect_mean))
        tail = "" if row.tail != row.tail else percent(row.tail)
        rows.append((web_text(row.layer, NAME), str(row.neuron), number(row.z), row.view, *means, tail))
    return tuple(rows)


def carried_by(ranking: Ranking | None) -> tuple[tuple[str, str, str], ...]:
    """Of the triggered samples that are listed: the layers of the neurons that deviate most in them, those of most samples first:
    layer, in how many of the samples, and its neurons.
    """
    listed = [] if ranking is None else [sample for sample in ranking.top if sample.triggered and sample.deviating]
    neurons: dict[str, Counter[int]] = {}
    samples: Counter[str] = Counter()
    for sample in listed:
        samples.update(list(dict.fromkeys(layer for layer, _, _ in sample.deviating)))
        for layer, neuron, _ in sample.deviating:
            neurons.setdefault(layer, Counter())[neuron] += 1
    rows = []
    for layer, many in samples.most_common(CARRIED):
        first = ", ".join(f"{neuron} (in {count:,})" for neuron, count in neurons[layer].most_common(CARRIED))
        rest = len(neurons[layer]) - CARRIED
        more = f" and {counted(rest, 'other')}" if rest > 0 else ""
        rows.append((web_text(layer or ROOT, NAME), f"{many:,} of {len(listed):,}", first + more))
    return tuple(rows)


def direction_of(judgement: Judgement) -> str:
    """The direction farthest above chance, in a sentence; empty where none was sought."""
    if not judgement.evidence.directions:
        return ""
    strongest = judgement.evidence.directions[0]
    than = "more than chance" if strongest.stands else "no more than chance"
    kind = "whitened mean difference" if strongest.kind == "whitened" else strongest.kind
    return (
        f"The strongest direction is the {kind} in {web_text(strongest.layer, NAME) or 'the whole model'}: suspects lie "
        f"{number(strongest.effect)} clean standard deviations out, {percent(strongest.beyond)} of them beyond "
        f"{100 * BEYOND:g} % of clean samples ({than}: "
        f"t {number(strongest.statistic)}, chance reaches {number(strongest.limit)}). Its neurons: "
        + ", ".join(str(neuron) for neuron, _ in strongest.neurons)
        + "."
    )
