"""`Scorer`: learns what clean samples do (`fit`, `calibrate`) and scores suspects by it (`score`); `Look`: what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from naa_fast.accumulate import Views
from naa_fast.errors import CaptureError
from naa_fast.inputs.batches import Batch
from naa_fast.measurement import Measurement
from naa_fast.rank.directions import Directions
from naa_fast.rank.groups import Groups
from naa_fast.rank.keep import Draw, Kept, Top, main_tensor
from naa_fast.rank.reference import Reference, Standing, excess
from naa_fast.rank.surprise import PARTS, Surprise, fair
from naa_fast.rank.tokens import TokenCounts, TokenTally
from naa_fast.records import Array

TOP = 1000
DRAWN = 4096


@dataclass
class Rows:
    """Samples of a set as they come: their items (int64), what is said of them, and the class predicted for each (-1: none)."""

    items: list[Array] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)
    predicted: list[Array] = field(default_factory=list)

    def add(self, items: Array, values: Array, predicted: Array) -> None:
        self.items.append(items)
        self.values.append(values)
        self.predicted.append(predicted)

    def merge(self, other: Rows) -> None:
        self.items += other.items
        self.values += other.values
        self.predicted += other.predicted

    def joined(self) -> tuple[Array, Array, Array]:
        """Items, values and classes in the order of the set."""
        if not self.items:
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
        items, values, predicted = (np.concatenate(parts) for parts in (self.items, self.values, self.predicted))
        order = np.argsort(items, kind="stable")
        return items[order], values[order], predicted[order]


@dataclass(frozen=True)
class Look:
    """What ranking the samples gave.

    `items` int64: the place in the suspect set of every sample that could be used.
    `scores`, `predicted` of every suspect sample and `null_scores`, `null_predicted` of the clean samples that fixed nothing
    (float64, int64); `layers` the names behind the layer numbers in `top`, and how many neurons each has; `drawn` clean batches
    with their predicted classes; `clean_tokens`, `suspect_tokens` None unless the input is token ids. `top` are the
    highest-ranked suspects, `null_top` clean ones by the excess of single neurons alone: their scores are not known while they
    pass. Both are numbered as the scores are.
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


@dataclass(frozen=True)
class Scored:
    """What one of several processes hands in at the end."""

    suspects: Rows
    top: Top
    directions: Directions
    draw: Draw
    tokens: dict[str, TokenTally]
    largest: int


class Scorer:
    """Scores samples by how far they lie outside what clean samples of the same predicted class do, layer by layer.

    In this order: `fit` samples of the clean set, `freeze`, `calibrate` others of it, `weigh`, `score` suspects. What several
    processes learned of parts of a set merges before `freeze` (`merge`), before `weigh` (`merge_calibration`) and at the end
    (`take_scored`). Memory: `(groups + 2) x 2 x neurons` float64 and covariances of .6 MB a layer at most, three numbers a layer
    for each clean sample that calibrates, the retained samples, and the scores.
    """

    def __init__(self, classes: int, backend: str, directions: Directions) -> None:
        """`classes`: how many the model predicts, 0 where it gives no class scores."""
        self.groups = Groups.every(classes)
        self.backend = backend
        self.directions = directions
        self.references: dict[str, Reference] = {}
        self.calibration, self.suspects = Rows(), Rows()
        self.draw, self.top, self.null_top = Draw(DRAWN), Top(TOP), Top(TOP)
        self.tokens = {"clean": TokenTally(), "suspect": TokenTally()}
        self.largest = 1

    def fit(self, part: Batch, views: Views, predicted: Array, items: Array) -> None:
        """Enter clean samples that fix means, deviations and covariances."""
        group = torch.from_numpy(self.groups.of(predicted))
        for name, view in views.items():
            if name not in self.references:
                self.references[name] = Reference(self.groups.count, view)
            self.references[name].add(view, group)
        self.directions.add(0, views, items, half=0)
        self._drawn(part, predicted)

    def prime(self, views: Views) -> None:
        """Fix pivots and widths by samples that are not counted: the same for every process that takes part."""
        self.references = {name: Reference(self.groups.count, view) for name, view in views.items()}

    def merge(self, references: Mapping[str, Reference]) -> None:
        """Enter what another process fitted on another part of the clean set, primed by the same samples."""
        for name, reference in references.items():
            if name in self.references:
                self.references[name].merge(reference)
            else:
                self.references[name] = reference

    def freeze(self) -> None:
        """Fix what was fitted. Raises CaptureError where no layer's rows belong to samples."""
        self.references = {name: one for name, one in self.references.items() if float(one.count.sum())}
        if not self.references:
            raise CaptureError("no layer's rows belong to samples", "none can be ranked", "choose other layers")
        for reference in self.references.values():
            reference.freeze()

    def calibrate(self, part: Batch, views: Views, predicted: Array, items: Array) -> None:
        """Enter clean samples that fixed nothing: they say what chance does."""
        self.directions.add(0, views, items, half=1)
        said = self._said(self._standing(views, predicted), len(predicted))
        # Ranked by the plain sum: how surprising the others are is not known before the last of these samples.
        self.null_top.add(items, np.nan_to_num(said[..., 0]).sum(1), predicted, part)
        self.calibration.add(items, said, predicted)
        self._drawn(part, predicted)

    def merge_calibration(self, rows: Rows, null_top: Top) -> None:
        """Enter the samples another process was calibrated on; both were frozen alike."""
        self.calibration.merge(rows)
        self.null_top.merge(null_top)

    def weigh(self) -> None:
        """Fix what clean samples make of the layers' numbers, and score them as if they were fresh."""
        self.null_items, said, self.null_predicted = self.calibration.joined()
        if not len(said):
            raise CaptureError("no clean sample was left to say what chance does", "half of the clean set fixes the means")
        self.calibration = Rows()
        group = self.groups.of(self.null_predicted)
        self.surprise = Surprise(said, group, self.groups.count)
        self.null_scores = fair(said, group, self.groups.count)

    def score(self, part: Batch, views: Views, predicted: Array, items: Array) -> None:
        """Score suspect samples and retain the highest."""
        self.directions.add(1, views, items)
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

        self.top.add(items, total, predicted, part, lit)
        self.suspects.add(items, total, predicted)
        self._count_tokens("suspect", part, predicted)

    def forget_suspects(self) -> None:
        """Begin the suspect set anew."""
        self.suspects, self.top, self.tokens["suspect"] = Rows(), Top(TOP), TokenTally()
        self.directions.forget(1)

    def scored(self) -> Scored:
        """What this process has learned of its suspects, and the clean samples it retained."""
        return Scored(self.suspects, self.top, self.directions, self.draw, self.tokens, self.largest)

    def take_scored(self, parts: Sequence[Scored]) -> None:
        """Hold what several processes, calibrated alike, have `scored`, in their order, instead of one's own."""
        first, *others = parts
        self.suspects, self.top, self.directions, self.draw, self.tokens = (
            first.suspects,
            first.top,
            first.directions,
            first.draw,
            first.tokens,
        )
        for other in others:
            self.suspects.merge(other.suspects)
            self.top.merge(other.top)
            self.directions.merge(other.directions)
            self.draw.merge(other.draw)
            for name, tally in self.tokens.items():
                tally.merge(other.tokens[name])
        self.largest = max(part.largest for part in parts)

    def result(self, clean: Measurement, suspect: Measurement) -> Look:
        """All that was seen of sets with these measurements."""
        items, scores, predicted = self.suspects.joined()
        tallies = tuple(self.tokens.values())
        known = all(tally.samples and not tally.overflown for tally in tallies)
        # Words are sought under the classes that the model calls samples by, however many it knows.
        groups = Groups(clean.predictions, suspect.predictions)
        clean_tokens, suspect_tokens = (tally.of(groups) if known else None for tally in tallies)
        neurons = {name: record.channels for name, record in clean.layers.items()}
        return Look(
            items,
            scores,
            predicted,
            self.null_scores,
            self.null_predicted,
            {name: neurons.get(name, 0) for name in self.references},
            groups,
            numbered(self.top.finished(), items),
            numbered(self.null_top.finished(), self.null_items),
            self.draw.batches,
            self.largest,
            clean_tokens,
            suspect_tokens,
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
        self.largest = max(self.largest, part.size)
        x = main_tensor(part)
        if x.ndim == 2 and not x.is_floating_point():
            self.tokens[name].add(x, predicted, part.mask)


def numbered(retained: Sequence[Kept], items: Array) -> list[Kept]:
    """Retained samples by their place among `items` (ascending), not in the set."""
    return [kept.at(int(np.searchsorted(items, kept.sample))) for kept in retained]
