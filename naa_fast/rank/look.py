"""`look`: both sets past the frozen statistics of the clean one, sample by sample; `Beside`: the same while they are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from naa_fast.accumulate import Views
from naa_fast.capture import select
from naa_fast.capture.selection import LayerSpec
from naa_fast.errors import CaptureError
from naa_fast.inputs.batches import Batch, Source
from naa_fast.measurement import Measurement
from naa_fast.rank.directions import Directions
from naa_fast.rank.groups import MOST, Groups
from naa_fast.rank.keep import Draw, Kept, Top, main_tensor
from naa_fast.rank.passes import MOST_CLEAN, Clean, Suspect, Watch
from naa_fast.rank.reference import Reference, Standing, excess
from naa_fast.rank.surprise import PARTS, Surprise, fair
from naa_fast.rank.tokens import TokenCounts
from naa_fast.records import Array
from naa_fast.scan.chunk import Progress
from naa_fast.scan.loop import evaluating
from naa_fast.scan.placement import Placement
from naa_fast.scan.stopping import StopRequest

TOP = 1000
DRAWN = 4096


@dataclass
class Scored:
    """Scores of a set's samples in order, or what layers say of them, and the class predicted for each (-1: none)."""

    scores: list[Array] = field(default_factory=list)
    predicted: list[Array] = field(default_factory=list)
    count: int = 0

    def add(self, scores: Array, predicted: Array) -> None:
        self.scores.append(scores)
        self.predicted.append(predicted)
        self.count += len(predicted)

    def joined(self) -> tuple[Array, Array]:
        scores = np.concatenate(self.scores) if self.scores else np.zeros(0)
        return scores, np.concatenate(self.predicted) if self.predicted else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Look:
    """What the second look saw.

    `items` int64: the place in the suspect set of every sample that could be used.
    `scores`, `predicted` of every suspect sample and `null_scores`, `null_predicted` of the clean samples that fixed nothing
    (float64, int64); `layers` the names behind the layer numbers in `top`, and how many neurons each has; `drawn` clean batches
    with their predicted classes; `clean_tokens`, `suspect_tokens` None unless the input is token ids. `top` are the
    highest-ranked suspects, `null_top` clean ones by the excess of single neurons alone: their scores are not known while they
    pass.
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


class Ranker:
    """What `fit` learns of clean samples, `null` of others that fixed nothing, and how `rank` scores suspects by it.

    In this order, with `freeze` after the first and `weigh` after the second. Memory: `(groups + 2) x 2 x neurons` float64 and
    covariances of .6 MB a layer at most, three numbers a layer for each clean sample that is scored, the kept samples, and the
    scores.
    """

    def __init__(self, groups: Groups, backend: str, directions: Directions) -> None:
        self.groups = groups
        self.backend = backend
        self.directions = directions
        self.references: dict[str, Reference] = {}
        self.null_scored, self.found = Scored(), Scored()
        self.draw, self.top, self.null_top = Draw(DRAWN), Top(TOP), Top(TOP)
        self.tokens: dict[str, TokenCounts] = {}

    def fit(self, part: Batch, views: Views, predicted: Array) -> None:
        group = torch.from_numpy(self.groups.of(predicted))
        for name, view in views.items():
            if name not in self.references:
                self.references[name] = Reference(self.groups.count, view)
            self.references[name].add(view, group)
        self.directions.add(0, views, len(predicted), half=0)
        self._drawn(part, predicted)

    def freeze(self) -> None:
        if not self.references:
            raise CaptureError("no layer's rows belong to samples", "none can be ranked", "choose other layers")
        for reference in self.references.values():
            reference.freeze()

    def null(self, part: Batch, views: Views, predicted: Array) -> None:
        self.directions.add(0, views, len(predicted), half=1)
        said = self._said(self._standing(views, predicted), len(predicted))
        # Ranked by the plain sum: how surprising the others are is not known before the last of these samples.
        self.null_top.add(self.null_scored.count, np.nan_to_num(said[..., 0]).sum(1), predicted, part)
        self.null_scored.add(said, predicted)
        self._drawn(part, predicted)

    def weigh(self) -> None:
        """Fix what clean samples make of the layers' numbers, and score them as if they were fresh."""
        said, self.null_predicted = self.null_scored.joined()
        self.null_scored.scores.clear()
        group = self.groups.of(self.null_predicted)
        self.surprise = Surprise(said, group, self.groups.count)
        self.null_scores = fair(said, group, self.groups.count)

    def rank(self, part: Batch, views: Views, predicted: Array) -> None:
        self.directions.add(1, views, len(predicted))
        standing = self._standing(views, predicted)
        total = self.surprise.of(self._said(standing, len(predicted)), self.groups.of(predicted))

        def lit(rows: Array) -> tuple[Array, Array]:
            lit_z = np.zeros((len(rows), len(self.references)))
            feature = np.zeros(lit_z.shape, np.int64)
            for place, name in enumerate(self.references):
                if name in standing:
                    z = standing[name].z
                    largest = z[torch.from_numpy(rows).to(z.device)].abs().max(1)
                    lit_z[:, place], feature[:, place] = largest.values.cpu().numpy(), largest.indices.cpu().numpy()
            return lit_z, feature

        self.top.add(self.found.count, total, predicted, part, lit)
        self.found.add(total, predicted)
        self._count_tokens("suspect", part, predicted)

    def looked(self, items: Array, largest: int, clean: Measurement) -> Look:
        """All that was seen. `items` the suspect samples' places, `largest` the most that ran at once."""
        scores, predicted = self.found.joined()
        counted = self.tokens if not any(one.overflown for one in self.tokens.values()) else {}
        neurons = {name: record.channels for name, record in clean.layers.items()}
        return Look(
            items,
            scores,
            predicted,
            self.null_scores,
            self.null_predicted,
            {name: neurons.get(name, 0) for name in self.references},
            self.groups,
            self.top.finished(),
            self.null_top.finished(),
            self.draw.batches,
            max(largest, 1),
            counted.get("clean"),
            counted.get("suspect"),
            self.directions,
        )

    def _standing(self, views: Views, predicted: Array) -> dict[str, Standing]:
        group = torch.from_numpy(self.groups.of(predicted))
        return {name: self.references[name].standing(view, group) for name, view in views.items() if name in self.references}

    def _said(self, standing: dict[str, Standing], samples: int) -> Array:
        """What each layer says of the samples, float64 `[samples, layers, PARTS]` on the host; of a branch that this batch did
        not take an excess of 0, and NaN.
        """
        said = np.full((samples, len(self.references), PARTS), np.nan)
        said[..., 0] = 0.0
        for place, name in enumerate(self.references):
            if name in standing:
                one = standing[name]
                columns = excess(one.z, self.backend), one.distance, one.margin
                said[:, place] = torch.stack([column.to(one.z.device) for column in columns], 1).cpu().numpy()
        return said

    def _drawn(self, part: Batch, predicted: Array) -> None:
        self.draw.add(part, predicted)
        self._count_tokens("clean", part, predicted)

    def _count_tokens(self, name: str, part: Batch, predicted: Array) -> None:
        x = main_tensor(part)
        if x.ndim == 2 and not x.is_floating_point():
            counts = self.tokens.setdefault(name, TokenCounts(self.groups.count))
            counts.add(x, self.groups.of(predicted), part.mask)


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
    """Score every suspect sample by how surprising what its layers do is beside clean samples of the same predicted class.

    Half of the clean set (its even folds) fixes each class's mean, the deviations and covariances; the other half is scored like
    the suspects and says what chance would give (`Surprise`). `measured`: the two sets' measurements, for the classes that occur.
    Cost: one more forward of each set (of MOST_CLEAN clean samples at most), a copy of the scores to the host each batch, the
    memory of a `Ranker`, and what `Directions` holds.
    """
    neurons = {name: record.channels for name, record in measured[0].layers.items()}
    directions = Directions(neurons, (min(measured[0].samples, MOST_CLEAN), measured[1].samples))
    ranker = Ranker(Groups(*(measurement.predictions for measurement in measured)), backend, directions)
    with evaluating(model), torch.no_grad():
        watch = watcher(model, clean, layers, device, backend, progress)
        with watch.capture:
            sizes = [watch.watch(clean, MOST_CLEAN, ranker.fit, 0)[1]]
            ranker.freeze()
            sizes.append(watch.watch(clean, MOST_CLEAN, ranker.null, 1)[1])
            ranker.weigh()
            items, largest = watch.watch(suspect, None, ranker.rank, None)
    return ranker.looked(items, max(largest, *sizes), measured[0])


def watcher(
    model: nn.Module,
    source: Source,
    layers: str | LayerSpec | Sequence[LayerSpec] | None,
    device: str | torch.device,
    backend: str,
    progress: Progress | None,
) -> Watch:
    return Watch(model, source, select(model, layers), Placement.of(model, device), backend, "", StopRequest(), progress)


class Beside:
    """`look` while the sets are measured: `clean` and `suspect` are the onlookers of the two passes, `settle` stands between.

    Costs no forward but one of half the clean set where its views do not fit in passes.HELD_BYTES, and beside what `look` costs
    that memory. Gives up, and leaves it to `look`, where that would see something else: more than groups.MOST classes (which
    get a group is not known before both sets are counted), a pass that did not see every sample in this process (a resumed
    one), or anything that went wrong.
    """

    def __init__(self, model: nn.Module, source: Source, suspects: Source, **options: Any) -> None:
        """`source` is the clean set, which `suspects` follow; `options` as of `watcher`: layers, device, backend, progress."""
        self.model, self.source, self.suspects, self.options = model, source, suspects, options
        self.clean = Clean(self._fit)
        self.suspect: Suspect | None = None
        self.ranker: Ranker | None = None
        self.largest = 0

    def _fit(self, part: Batch, views: Views, predicted: Array, classes: int) -> None:
        if self.ranker is None:
            if classes > MOST:
                raise CaptureError(f"{classes} classes", f"at most {MOST} have groups that are known beforehand", "look again")
            samples = self.source.samples, self.suspects.samples
            directions = Directions({}, (min(samples[0] or 0, MOST_CLEAN), samples[1] or 0))
            self.ranker = Ranker(Groups.every(classes), self.options["backend"], directions)
        self.ranker.directions.neurons |= self.clean.neurons
        self.ranker.fit(part, views, predicted)

    def settle(self, clean: Measurement) -> None:
        """Score the other half of the clean set; to be called between the measurements."""
        ranker, self.largest = self.ranker, self.clean.largest
        if ranker is None or not self.clean.whole(clean.samples):
            return
        directions = ranker.directions
        directions.neurons = {name: record.channels for name, record in clean.layers.items()}
        directions.samples = min(clean.samples, MOST_CLEAN), self.suspects.samples or clean.samples
        try:
            ranker.freeze()
            with torch.no_grad():
                if self.clean.held is None:
                    self._run_again(ranker)
                for part in self.clean.held or ():
                    ranker.null(*part)
                if not ranker.null_scored.count:
                    return  # too small a set
                ranker.weigh()
        except Exception:  # `look` will say what it was
            return
        self.clean.held = None
        self.suspect = Suspect(ranker.rank)

    def _run_again(self, ranker: Ranker) -> None:
        with evaluating(self.model):
            watch = watcher(self.model, self.source, **self.options)
            with watch.capture:
                self.largest = max(self.largest, watch.watch(self.source, MOST_CLEAN, ranker.null, 1)[1])

    def looked(self, measured: tuple[Measurement, Measurement]) -> Look | None:
        """What `look` would have seen; None where it has to be asked."""
        if self.ranker is None or self.suspect is None or not self.suspect.whole(measured[1].samples):
            return None
        if not np.array_equal(self.ranker.groups.classes, Groups(*(one.predictions for one in measured)).classes):
            return None  # what looked like class scores was something else
        items = np.concatenate([np.zeros(0, np.int64), *self.suspect.items])
        return self.ranker.looked(items, max(self.largest, self.suspect.largest), measured[0])
