"""`look`: both sets once more past the frozen statistics of the clean one, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.accumulate import Samples, Views, chosen_classes, class_scores
from naa_fast.capture import select
from naa_fast.capture.selection import LayerSpec
from naa_fast.errors import CaptureError
from naa_fast.inputs.batches import Batch, Source
from naa_fast.measurement import Measurement
from naa_fast.rank.directions import Directions
from naa_fast.rank.groups import Groups
from naa_fast.rank.keep import Draw, Kept, Top, main_tensor, taken
from naa_fast.rank.reference import Reference, excess
from naa_fast.rank.tokens import TokenCounts
from naa_fast.records import Array, fold_of
from naa_fast.scan.chunk import Progress, Runner
from naa_fast.scan.loop import evaluating
from naa_fast.scan.placement import Placement
from naa_fast.scan.stopping import StopRequest

MOST_CLEAN = 1 << 16
"""Clean samples looked at: means, deviations and the null are no better with more."""
TOP = 1000
DRAWN = 4096


@dataclass
class Scored:
    """Scores of a set's samples in order, and the class predicted for each (-1: none)."""

    scores: list[Array] = field(default_factory=list)
    predicted: list[Array] = field(default_factory=list)
    count: int = 0

    def joined(self) -> tuple[Array, Array]:
        scores = np.concatenate(self.scores) if self.scores else np.zeros(0)
        return scores, np.concatenate(self.predicted) if self.predicted else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Look:
    """What the second look saw.

    `items` int64: the place in the suspect set of every sample that could be used.
    `scores`, `predicted` of every suspect sample and `null_scores`, `null_predicted` of the clean samples that fixed nothing
    (float64, int64); `layers` the names behind the layer numbers in `top`, and how many neurons each has; `drawn` clean batches
    with their predicted classes; `clean_tokens`, `suspect_tokens` None unless the input is token ids.
    """

    items: Array
    scores: Array
    predicted: Array
    null_scores: Array
    null_predicted: Array
    layers: dict[str, int]
    groups: Groups
    top: list[Kept]
    null_top: list[Kept]
    drawn: list[tuple[Batch, Array]]
    largest: int
    clean_tokens: TokenCounts | None
    suspect_tokens: TokenCounts | None
    directions: Directions


class Watch(Runner):
    """Runs a set and hands `take` each forward's part, views and predicted classes; keeps no statistics of its own."""

    take: Callable[[Batch, Views, Array], None]
    largest = 0

    def watch(self, source: Source, most: int | None, take: Callable[[Batch, Views, Array], None], half: int | None) -> None:
        """`half`: only samples of even (0) or odd (1) folds; None: all."""
        self.source, self.take = source, take
        self.accumulator = self.capture.observer = Samples(self._consume)  # type: ignore[assignment]
        self.predictions = self  # type: ignore[assignment]
        at = self.done = item = 0
        self.items: list[int] = []
        bad: set[int] = set()  # may be told before its turn comes
        for batch in self.readable_batches(0, most):
            bad |= {rejected.index for rejected in batch.rejected}
            wanted = (
                observed_in(batch) if half is None else observed_in(batch) & (fold_of(at + np.arange(batch.size)) % 2 == half)
            )
            for seen in wanted:
                while item in bad:
                    item += 1
                self.items += [item] if seen else []
                item += 1
            part = batch if wanted.all() else taken(batch, np.flatnonzero(wanted))
            at += batch.size
            if part.size:
                self.run_batch(part, 0, 0)
            self.done += batch.size
            if self.progress is not None and batch.size:
                self.progress(f"ranking by {source.name}", self.done, source.samples)

    def forward(self, batch: Batch) -> Any:
        self._part = batch
        self._predicted = np.full(batch.size, -1, np.int64)
        return super().forward(batch)

    def observe(self, output: Any, size: int, mask: Tensor | None) -> None:
        scores = class_scores(output, size, mask)
        if scores is not None:
            self._predicted = chosen_classes(scores).cpu().numpy()

    def _consume(self, views: Views) -> None:
        self.largest = max(self.largest, self._part.size)
        self.take(self._part, views, self._predicted)


def observed_in(batch: Batch) -> Array:
    """Which samples of a batch its mask leaves anything of: bool `[size]`."""
    if batch.mask is None:
        return np.ones(batch.size, bool)
    mask = batch.mask.cpu()
    whole: Array = (mask if mask.ndim == 1 else mask.any(1)).numpy()
    return whole


def look(
    model: nn.Module,
    clean: Source,
    suspect: Source,
    measured: tuple[Measurement, Measurement],
    *,
    layers: str | LayerSpec | Sequence[LayerSpec] | None = None,
    device: str | torch.device = "auto",
    backend: str = "auto",
    progress: Progress | None = None,
) -> Look:
    """Score every suspect sample by how far its neurons lie from what the clean set does under the same predicted class.

    Half of the clean set (its even folds) fixes each class's mean and the deviations; the other half is scored like the
    suspects and says what chance would give. `measured`: the two sets' measurements, for the classes that occur. Cost: one more
    forward of each set (of MOST_CLEAN clean samples at most), a copy of the scores to the host each batch, `(classes + 2) x
    2 x neurons` float64, and what `Directions` holds.
    """
    place, selection = Placement.of(model, device), select(model, layers)
    groups = Groups(*(measurement.predictions for measurement in measured))
    references: dict[str, Reference] = {}
    weights: dict[str, float] = {}
    null, found = Scored(), Scored()
    draw, top, null_top = Draw(DRAWN), Top(TOP), Top(TOP)
    tokens: dict[str, TokenCounts] = {}
    neurons = {name: record.channels for name, record in measured[0].layers.items()}
    directions = Directions(neurons, (min(measured[0].samples, MOST_CLEAN), measured[1].samples))

    def count_tokens(name: str, part: Batch, group: Array) -> None:
        x = main_tensor(part)
        if x.ndim == 2 and not x.is_floating_point():
            tokens.setdefault(name, TokenCounts(groups.count)).add(x, group, part.mask)

    def fit(part: Batch, views: Views, predicted: Array) -> None:
        group = torch.from_numpy(groups.of(predicted))
        for name, view in views.items():
            if name not in references:
                references[name] = Reference(groups.count, view)
            references[name].add(view, group)
        directions.add(0, views, len(predicted), half=0)
        draw.add(part, predicted)
        count_tokens("clean", part, group.numpy())

    def layer_scores(views: Views, predicted: Array) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        group = torch.from_numpy(groups.of(predicted))
        z = {name: references[name].residual(view, group) for name, view in views.items() if name in references}
        return z, {name: excess(values, backend).cpu() for name, values in z.items()}

    def fit_null(part: Batch, views: Views, predicted: Array) -> None:
        directions.add(0, views, len(predicted), half=1)
        _, scores = layer_scores(views, predicted)
        absent = np.zeros(len(predicted))  # a branch that this batch did not take
        per_layer = np.stack([scores[name].numpy() if name in scores else absent for name in references], 1)
        null.scores.append(per_layer)
        null.predicted.append(predicted)
        nothing = np.zeros((len(predicted), 0))
        # Ranked by the plain sum: the layers' weights are not known before the last of these samples.
        null_top.add(0, per_layer.sum(1), predicted, nothing, nothing, part)
        draw.add(part, predicted)
        count_tokens("clean", part, groups.of(predicted))

    def rank(part: Batch, views: Views, predicted: Array) -> None:
        directions.add(1, views, len(predicted))
        z, scores = layer_scores(views, predicted)
        total = np.sum([scores[name].numpy() * weights[name] for name in scores], axis=0) + np.zeros(len(predicted))
        lit_z, lit_feature = np.zeros((len(predicted), len(references))), np.zeros((len(predicted), len(references)), np.int64)
        for place, name in enumerate(references):
            if name in z:
                strongest = z[name].abs().max(1)
                lit_z[:, place], lit_feature[:, place] = strongest.values.cpu().numpy(), strongest.indices.cpu().numpy()
        first, found.count = found.count, found.count + len(predicted)
        found.scores.append(total)
        found.predicted.append(predicted)
        top.add(first, total, predicted, lit_z, lit_feature, part)
        count_tokens("suspect", part, groups.of(predicted))

    with evaluating(model), torch.no_grad():
        watch = Watch(model, clean, selection, place, backend, "", StopRequest(), progress)
        with watch.capture:
            watch.watch(clean, MOST_CLEAN, fit, 0)
            if not references:
                raise CaptureError("no layer's rows belong to samples", "none can be ranked", "choose other layers")
            for reference in references.values():
                reference.freeze()
            watch.watch(clean, MOST_CLEAN, fit_null, 1)
            per_layer, null_predicted = null.joined()
            usual = np.nanmean(np.where(np.isfinite(per_layer), per_layer, np.nan), 0)
            weights = {name: 1.0 / (mean + 0.01) for name, mean in zip(references, usual, strict=True)}
            null_scores = per_layer @ np.array(list(weights.values()))
            watch.watch(suspect, None, rank, None)
            items = np.array(watch.items, np.int64)
    scores, predicted = found.joined()
    counted = tokens if not any(one.overflown for one in tokens.values()) else {}
    return Look(
        items,
        scores,
        predicted,
        null_scores,
        null_predicted,
        {name: neurons.get(name, 0) for name in references},
        groups,
        top.finished(),
        null_top.finished(),
        draw.batches,
        max(watch.largest, 1),
        counted.get("clean"),
        counted.get("suspect"),
        directions,
    )
