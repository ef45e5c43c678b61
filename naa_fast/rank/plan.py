"""`Plan`: what a scan will keep, and where, said before it starts (`planned`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.accumulate import Samples, Views
from naa_fast.capture import select
from naa_fast.capture.selection import Layers, Request
from naa_fast.errors import InputError, UsageError
from naa_fast.inputs.batches import Batch, Source
from naa_fast.inputs.order import Order
from naa_fast.measurement import Measurement
from naa_fast.rank.codes import CODES, rows_of_sums
from naa_fast.rank.directions import FEWEST_HELD, HELD, HELD_BYTES, WAITING_BYTES, step_of, widest
from naa_fast.rank.groups import Groups
from naa_fast.rank.packed import place_of
from naa_fast.rank.passes import HELD_BYTES as VIEW_BYTES
from naa_fast.rank.passes import MOST_CLEAN
from naa_fast.rank.retained import INPUT_BYTES, main_tensor, taken
from naa_fast.rank.scorer import RESERVOIR, TOP
from naa_fast.rank.waiting import INPUT_BYTES as WAITING_INPUTS
from naa_fast.rank.waiting import SAMPLES as WAITING_SAMPLES
from naa_fast.reference import BUFFER, EXACT
from naa_fast.scan.chunk import Runner
from naa_fast.scan.loop import evaluating
from naa_fast.scan.observer import Observer
from naa_fast.scan.placement import Placement
from naa_fast.scan.stopping import StopRequest

SCORE_BYTES = 75
"""Bytes a suspect sample takes on the host at the end, where all are put in order: 8 while a scan runs."""
STATE, BIN_BYTES = 600, 1020
"""Bytes a neuron of statistics, and of one histogram (means; maxima where samples have several positions)."""


@dataclass(frozen=True)
class Plan:
    """What a scan keeps: `layers` with `neurons` in all, `samples` of both sets (None: not known), `passes` over each, and bytes
    by what they are for, on the `device` (most at a time) and on the host.
    """

    device: torch.device
    layers: int
    neurons: int
    samples: tuple[int | None, int | None]
    passes: tuple[int, int]
    on_device: dict[str, int]
    on_host: dict[str, int]

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"{self.layers:,} layer{'s' * (self.layers != 1)}, {self.neurons:,} neurons"]
        for name, samples, passes in zip(("clean", "suspect"), self.samples, self.passes, strict=True):
            many = "an unknown number of samples" if samples is None else f"{samples:,} samples"
            told.append(f"{name}: {many}, {passes} pass{'es' * (passes != 1)}" if passes else f"{name}: none is read")
        for where, parts in ((str(self.device), self.on_device), ("host", self.on_host)):
            each = ", ".join(f"{what} {in_units(size)}" for what, size in parts.items() if size)
            told.append(f"{where}: {in_units(sum(parts.values()))} at most ({each})")
        told.append(f"on the device {sum(self.on_device.values()) / max(self.neurons, 1):,.0f} bytes a neuron")
        return told

    @property
    def line(self) -> str:
        """For a person who did not ask."""
        sets = []
        for name, samples, passes in zip(("clean", "suspect"), self.samples, self.passes, strict=True):
            many = "unknown" if samples is None else f"{samples:,}"
            sets.append(f"{many} {name} samples{f' in {passes} passes' if passes > 1 else ''}" if passes else f"no {name} sample")
        sizes = f"{in_units(self.needs[0])} on {self.device}, {in_units(self.needs[1])} on the host"
        return f"will keep at most {sizes}: {self.layers:,} layers, {self.neurons:,} neurons, {' and '.join(sets)}"

    @property
    def needs(self) -> tuple[int, int]:
        """Bytes on the device and on the host."""
        return sum(self.on_device.values()), sum(self.on_host.values())

    def require_room(self, free: tuple[int | None, int | None]) -> None:
        """Raise UsageError where more is kept than is `free` on the device (None: unknown, or the host) and on the host."""
        device, host = self.needs
        wanted = (device, host) if self.device.type != "cpu" else (0, device + host)
        for where, need, there in zip((str(self.device), "the host"), wanted, free, strict=True):
            if there is not None and need > there:
                most = max((self.on_device | self.on_host).items(), key=lambda part: part[1])
                raise UsageError(
                    f"the scan would keep {in_units(need)} on {where}, where {in_units(max(there, 0))} are free",
                    f"{self.layers:,} layers, {self.neurons:,} neurons; most of it: {most[0]}, {in_units(most[1])}",
                    "choose fewer --layers, or --no-ranking; --dry-run lists what is kept",
                )


def in_units(size: int) -> str:
    """Bytes as a person says them."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


class Shapes(Observer):
    """Looks at one sample: how many features each layer has, and how many classes there are."""

    def __init__(self) -> None:
        self.neurons: dict[str, int] = {}
        self.features: dict[str, int] = {}
        self.classes = 0
        self.input_bytes = 0

    def begin(self, start: int, neurons: dict[str, int]) -> None:
        self.neurons = neurons

    def wanted(self, batch: Batch) -> Batch:
        return replace(taken(batch, np.arange(1)), items=None)

    def take(self, part: Batch, views: Views, scores: Tensor | None) -> bool:
        """Notes the shapes; of `scores` `[samples, classes]` alone how many classes. False: one sample is enough."""
        self.features = {name: view.shape[1] for name, view in views.items()}
        self.classes = 0 if scores is None else scores.shape[1]
        self.input_bytes = main_tensor(part).nbytes
        return False


def planned(
    model: nn.Module,
    clean: Source | Measurement,
    suspect: Source,
    *,
    layers: Layers | Request = None,
    device: str | torch.device = "auto",
    backend: str = "auto",
    ranking: bool = True,
    histograms: bool = False,
) -> Plan:
    """What a scan of these sets will keep. Cost: one sample through the model.

    Raises InputError where a set can be read only once, or its first batch has no sample.
    """
    source = suspect if isinstance(clean, Measurement) else clean
    if not Order.of(source).restarts:
        raise InputError(
            f"{source.name} can be read only once", "a plan reads its first sample", "use a file, a tensor or a loader"
        )
    place, shapes = Placement.of(model, device), Shapes()
    runner = Runner(model, source, select(model, layers), place, backend, "", StopRequest(), None)
    with evaluating(model), torch.no_grad(), runner.capture:
        runner.run_past(shapes, Samples(backend), 1)
    if not shapes.features:
        raise InputError(
            f"{source.name} gave no sample whose layers could be read", "nothing can be planned", "choose other layers"
        )
    neurons = sum(shapes.neurons[name] for name in shapes.features)
    several = sum(shapes.neurons[name] for name, wide in shapes.features.items() if wide > shapes.neurons[name])
    on_device = {"statistics": STATE * neurons, "histograms": BIN_BYTES * (neurons + several) * histograms}
    on_host = {"measurements": 2 * sum(on_device.values())}
    of_clean = None if isinstance(clean, Measurement) else clean.samples
    if ranking:
        more, kept = of_ranking(shapes, of_clean, suspect.samples, isinstance(clean, Measurement))
        on_device, on_host = on_device | more, on_host | kept
    views = min(of_clean or MOST_CLEAN, MOST_CLEAN) // 2 * (4 * sum(shapes.features.values()) + shapes.input_bytes)
    again = ranking and not isinstance(clean, Measurement) and views > VIEW_BYTES and Order.of(source).repeats
    if again and of_clean is not None:  # then none of them is held
        on_device["clean samples' views"] = 0
    passes = 0 if isinstance(clean, Measurement) else 1 + again, 1
    return Plan(place.device, len(shapes.features), neurons, (of_clean, suspect.samples), passes, on_device, on_host)


def of_ranking(
    shapes: Shapes, clean: int | None, suspect: int | None, by_reference: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """Most bytes that ranking keeps at a time, on the device and on the host."""
    features, coded = sum(shapes.features.values()), Groups.coded(shapes.classes)
    groups = 1 + CODES if coded else Groups.every(shapes.classes).count
    rows = rows_of_sums(features) if coded else groups
    places = [place_of(wide) for wide in shapes.features.values()]
    wide = [width for width, _ in places]
    fitting = (rows + 3) * 8 * features + sum(8 * width * (width + groups) for width in wide)
    columns = sum(width * tiles for width, tiles in places)
    scoring = (rows + 4) * 4 * columns + sum(4 * width * (width + groups) for width in wide)
    neurons = [shapes.neurons[name] for name in shapes.features]
    most_neurons = widest({name: shapes.neurons[name] for name in shapes.features})
    looked_at = [-(-wide // step_of(wide, most_neurons)) for wide in neurons]
    sketches = 2 * sum(8 * n * n if n <= EXACT else 4 * BUFFER * n for n in looked_at)
    row = 4 * sum(looked_at)
    most = min(HELD, max(FEWEST_HELD, HELD_BYTES // max(row, 1)))
    aside = sum(min(most, MOST_CLEAN if samples is None else samples // 2 + 1) * row for samples in (clean, suspect))
    waiting = sum(min(WAITING_BYTES, (MOST_CLEAN if samples is None else samples // 2 + 1) * row) for samples in (clean, suspect))
    calibrating = min(clean or MOST_CLEAN, MOST_CLEAN) // 2 * 4 * features
    numbers = 2 * WAITING_SAMPLES * (12 * len(shapes.features) + 68)
    on_device = {"ranking": max(fitting, scoring), "directions": sketches + aside + waiting, "numbers that wait": numbers}
    on_device["clean samples' views"] = 0 if by_reference else min(VIEW_BYTES, calibrating)
    inputs = min(INPUT_BYTES, TOP * shapes.input_bytes)
    on_host = {"retained samples": inputs if by_reference else 2 * inputs + min(INPUT_BYTES, RESERVOIR * shapes.input_bytes)}
    on_host["samples that wait"] = 2 * min(WAITING_INPUTS, WAITING_SAMPLES * shapes.input_bytes)
    on_host["scores"] = SCORE_BYTES * (suspect or 0) + (24 + 12 * len(shapes.features)) * ((clean or 0) // 2)
    return on_device, on_host
