"""`Scorer`: learns what clean samples do (`fit`, `calibrate`) and scores suspects (`score`); `RankingResult` is the outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.accumulate import Views
from naa_fast.errors import CaptureError
from naa_fast.inputs.batches import Batch
from naa_fast.measurement import Measurement
from naa_fast.rank.anomaly import AnomalyScale, ScaleOnDevice, fair, scores_on
from naa_fast.rank.codes import codes_of
from naa_fast.rank.directions import Directions
from naa_fast.rank.everywhere import Everywhere
from naa_fast.rank.groups import Groups
from naa_fast.rank.packed import Fitting, begun
from naa_fast.rank.reference import Reference
from naa_fast.rank.retained import Reservoir, Retained, Top, main_tensor
from naa_fast.rank.tokens import TokenCounts, TokenTally
from naa_fast.rank.waiting import Entry, Waiting
from naa_fast.records import Array

TOP = 1000
RESERVOIR = 4096


@dataclass
class Rows:
    """Samples of a set as they come: their items (int64), what is said of them, and the class predicted for each (-1: none).

    Items without a gap are kept as their first and their number: of a score in float32 and a class in int32, 8 bytes a sample.
    """

    items: list[Array | tuple[int, int]] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)
    predicted: list[Array] = field(default_factory=list)

    def add(self, items: Array, values: Array, predicted: Array) -> None:
        """Enter samples that follow those before: `[samples]` all, or `values` `[samples, ...]`."""
        whole = len(items) > 0 and bool((np.diff(items) == 1).all())
        self.items.append((int(items[0]), len(items)) if whole else items)
        self.values.append(values)
        self.predicted.append(predicted)

    def merge(self, other: Rows) -> None:
        self.items += other.items
        self.values += other.values
        self.predicted += other.predicted

    def joined(self) -> tuple[Array, Array, Array]:
        """Items, values (float64) and classes (int64) in the order of the set. `[samples]` all."""
        if not self.items:
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
        items = np.concatenate(
            [np.arange(span[0], span[0] + span[1]) if isinstance(span, tuple) else span for span in self.items]
        )
        values, predicted = np.concatenate(self.values).astype(np.float64), np.concatenate(self.predicted).astype(np.int64)
        if (np.diff(items) > 0).all():
            return items, values, predicted
        order = np.argsort(items, kind="stable")
        return items[order], values[order], predicted[order]


@dataclass(frozen=True)
class RankingResult:
    """What ranking the samples gave.

    `items` int64: the place in the suspect set of every sample that could be used. `scores`, `predicted` of every suspect sample
    and `null_scores`, `null_predicted` of the clean samples that fixed nothing (float64, int64); `layers` the names behind the
    layer numbers in `top`, and how many neurons each has; `reservoir` clean batches with their predicted classes; `clean_tokens`,
    `suspect_tokens` None unless the input is token ids. `top` are the highest-ranked suspects, `null_top` clean ones by the
    excess of single neurons alone: their scores are not known while they pass. Both are numbered as the scores are.
    `by_reference`: the clean set was measured before, and none of its samples is here.
    """

    items: Array
    scores: Array
    predicted: Array
    null_scores: Array
    null_predicted: Array
    layers: dict[str, int]
    groups: Groups
    top: list[Retained]
    null_top: list[Retained]
    reservoir: list[tuple[Batch, Array]]
    largest: int
    clean_tokens: TokenCounts | None
    suspect_tokens: TokenCounts | None
    directions: Directions
    by_reference: bool = False


@dataclass(frozen=True)
class Scored:
    """What one of several processes hands in at the end."""

    suspects: Rows
    top: Top
    directions: Directions
    reservoir: Reservoir
    tokens: dict[str, TokenTally]
    largest: int


class Scorer:
    """Scores samples by how far they lie outside what clean samples of the same predicted class do, layer by layer.

    In this order: `fit` samples of the clean set, `freeze`, `calibrate` others of it, `weigh`, `score` suspects. What several
    processes learned of parts of a set merges before `freeze` (`merge`), before `weigh` (`merge_calibration`) and at the end
    (`take_scored`). Memory: `(groups + 2) x 2 x neurons` float64 and covariances of .6 MB a layer at most, three numbers a layer
    for each clean sample that calibrates, the retained samples, and the scores.
    """

    def __init__(self, classes: int, directions: Directions, coded: bool | None = None) -> None:
        """`classes`: how many the model predicts, 0: none; `coded`: whether codes expect the means (None: of many classes)."""
        self.classes = classes
        self.coded = Groups.coded(classes) if coded is None else coded
        self.groups = Groups.every(classes)
        self._groups = None if self.coded else self.groups.count
        self.directions = directions
        self.fitting: dict[torch.device, Fitting] = {}
        self.references: dict[str, Reference] = {}
        self.waiting = Waiting(self._reduced)
        self.scoring: Everywhere | None = None
        self.by_reference = False
        self._names: list[str] = []
        self._tables: dict[torch.device, Tensor] = {}
        self.calibration, self.suspects = Rows(), Rows()
        self.reservoir, self.top, self.null_top = Reservoir(RESERVOIR), Top(TOP), Top(TOP)
        self.tokens = {"clean": TokenTally(), "suspect": TokenTally()}
        self.largest = 1

    def fit(self, part: Batch, views: Views, predicted: Tensor, items: Array) -> None:
        """Enter clean samples that fix means, deviations and covariances; `predicted` int64 on the device, -1 where none, and
        `items`: `[samples]`.
        """
        member = self._member(predicted, views)
        for pack in views.packs:
            where = pack.values.device
            fitting = self.fitting.get(where)
            known = {} if fitting is None else dict(fitting.plan.layout)
            if any(name not in known for name, _ in pack.layout):
                references = {} if fitting is None else fitting.references()
                new = [name for name, _ in pack.layout if name not in known]
                references |= begun(views, new, self._groups, self.fitting.values())
                fitting = self.fitting[where] = Fitting(references)
            assert fitting is not None
            fitting.add(pack, member.to(where))
        self.directions.add(0, views, items, half=0)
        self._wait("fit", part, items, (predicted,))

    def prime(self, views: Views) -> None:
        """Fix pivots and widths by samples that are not counted: the same for every process that takes part."""
        self.directions.fix({name: features for pack in views.packs for name, features in pack.layout})
        layouts = {pack.values.device: [name for name, _ in pack.layout] for pack in views.packs}
        self.fitting = {where: Fitting(begun(views, names, self._groups, ())) for where, names in layouts.items()}

    def fitted(self) -> dict[str, Reference]:
        """What was fitted so far, layer by layer."""
        return {name: reference for fitting in self.fitting.values() for name, reference in fitting.references().items()}

    @property
    def layers(self) -> list[str]:
        """The layers that samples are ranked by."""
        return self._names or [*self.references] or [name for fitting in self.fitting.values() for name, _ in fitting.plan.layout]

    def merge(self, references: Mapping[str, Reference]) -> None:
        """Enter what another process fitted on another part of the clean set, primed by the same samples."""
        for name, reference in references.items():
            if name in self.references:
                self.references[name].merge(reference)
            else:
                self.references[name] = reference

    def freeze(self) -> None:
        """Fix what was merged. Raises CaptureError where no layer's rows belong to samples."""
        places = {name: device for device, fitting in self.fitting.items() for name, _ in fitting.plan.layout}
        first = next(iter(self.fitting), torch.device("cpu"))
        self.references = {name: layer.to(places.get(name, first)) for name, layer in self.references.items()}
        self.fitting = {}
        self.references = {name: one for name, one in self.references.items() if float(one.samples)}
        if not self.references:
            raise CaptureError("no layer's rows belong to samples", "none can be ranked", "choose other layers")
        for reference in self.references.values():
            reference.freeze()
        self._names = [*self.references]
        if not self.by_reference:
            self._place()

    def _place(self) -> None:
        """Lay what was frozen side by side; nothing else of it is needed any more."""
        self.scoring, self.references = Everywhere(self.references), {}

    def calibrate(self, part: Batch, views: Views, predicted: Tensor, items: Array) -> None:
        """Enter clean samples that fixed nothing: they say what chance does. `predicted` and `items` int64 `[samples]`."""
        assert self.scoring is not None
        self.directions.add(0, views, items, half=1)
        numbers, absent = self.scoring.score(views, self._member(predicted, views))
        self._wait("calibrate", part, items, (predicted, *numbers), absent)

    def merge_calibration(self, rows: Rows, null_top: Top) -> None:
        """Enter the samples another process was calibrated on; both were frozen alike."""
        self.calibration.merge(rows)
        self.null_top.merge(null_top)

    def weigh(self) -> None:
        """Fix the scale of scores by the clean samples that calibrate (`AnomalyScale`), and score these as fresh ones would
        be.
        """
        self.settle()
        self.null_items, parts, self.null_predicted = self.calibration.joined()
        if not len(parts):
            raise CaptureError("no clean sample was left to say what chance does", "half of the clean set fixes the means")
        self.calibration = Rows()
        group = self.groups.of(self.null_predicted)
        self._scales: dict[torch.device, ScaleOnDevice] = {}
        self.anomaly = AnomalyScale(parts, group, self.groups.count)
        self.null_scores = fair(parts, group, self.groups.count)

    def score(self, part: Batch, views: Views, predicted: Tensor, items: Array) -> None:
        """Score suspect samples and retain the highest. `predicted` and `items` int64 `[samples]`."""
        if self.scoring is None:  # the clean set was measured before: its layers go where the model's are
            places = {name: pack.values.device for pack in views.packs for name, _ in pack.layout}
            first = next(iter(places.values()), predicted.device)
            self.references = {name: reference.to(places.get(name, first)) for name, reference in self.references.items()}
            self._place()
        self.directions.add(1, views, items)
        assert self.scoring is not None
        numbers, absent = self.scoring.score(views, self._member(predicted, views))
        self._wait("score", part, items, (predicted, *numbers), absent)

    def settle(self) -> None:
        """Take in what is still on the device."""
        for arrived in self.waiting.rest():
            self._enter(*arrived)

    def forget_suspects(self) -> None:
        """Begin the suspect set anew."""
        self.waiting.forget()
        self.suspects, self.top, self.tokens["suspect"] = Rows(), Top(TOP), TokenTally()
        self.directions.forget(1)

    def learned_of_clean(self) -> dict[str, Any]:
        """What the clean samples have told before they are frozen, all of it at home (rank/state.py)."""
        self.settle()
        told = {"fitted": self.fitted(), "reservoir": self.reservoir, "tokens": self.tokens["clean"], "largest": self.largest}
        return told | {"directions": self.directions}

    def go_on_with_clean(self, told: Sequence[dict[str, Any]]) -> None:
        """Go on from what one process or several have told."""
        first, *others = told
        fitted: dict[str, Reference] = first["fitted"]
        self.reservoir, self.tokens["clean"], self.largest = first["reservoir"], first["tokens"], first["largest"]
        self.directions = first["directions"]
        for other in others:
            for name, sums in other["fitted"].items():
                if name in fitted:
                    fitted[name].merge(sums)
                else:
                    fitted[name] = sums
            self.reservoir.merge(other["reservoir"])
            self.tokens["clean"].merge(other["tokens"])
            self.largest = max(self.largest, other["largest"])
            self.directions.merge(other["directions"])
        places: dict[torch.device, dict[str, Reference]] = {}
        for name, sums in fitted.items():
            places.setdefault(sums.pivot.device, {})[name] = sums
        self.fitting = {device: Fitting(references) for device, references in places.items()}

    def learned_of_suspects(self) -> dict[str, Any]:
        """What the suspects have told, all of it at home."""
        self.settle()
        told = {"suspects": self.suspects, "top": self.top, "tokens": self.tokens["suspect"], "largest": self.largest}
        return told | {"directions": self.directions.of_one(1)}

    def go_on_with_suspects(self, told: Sequence[dict[str, Any]]) -> None:
        """Go on from what one process or several have told."""
        first, *others = told
        self.suspects, self.top, self.tokens["suspect"], self.largest = (
            first[key] for key in ("suspects", "top", "tokens", "largest")
        )
        self.directions.take_one(1, first["directions"])
        self.take_scored([self.scored(), *map(self._handed_in, others)])

    def _handed_in(self, told: dict[str, Any]) -> Scored:
        directions = Directions(self.directions.neurons, self.directions.samples)
        directions.take_one(1, told["directions"])
        tokens = {"clean": TokenTally(), "suspect": told["tokens"]}
        return Scored(told["suspects"], told["top"], directions, Reservoir(RESERVOIR), tokens, told["largest"])

    def scored(self) -> Scored:
        """What this process has learned of its suspects, and the clean samples it retained."""
        self.settle()
        return Scored(self.suspects, self.top, self.directions, self.reservoir, self.tokens, self.largest)

    def take_scored(self, parts: Sequence[Scored]) -> None:
        """Hold what several processes, calibrated alike, have `scored`, in their order, instead of one's own."""
        first, *others = parts
        self.suspects, self.top, self.directions, self.reservoir, self.tokens = (
            first.suspects,
            first.top,
            first.directions,
            first.reservoir,
            first.tokens,
        )
        for other in others:
            self.suspects.merge(other.suspects)
            self.top.merge(other.top)
            self.directions.merge(other.directions)
            self.reservoir.merge(other.reservoir)
            for name, tally in self.tokens.items():
                tally.merge(other.tokens[name])
        self.largest = max(part.largest for part in parts)

    def result(self, clean: Measurement, suspect: Measurement) -> RankingResult:
        """All that was seen of sets with these measurements."""
        self.settle()
        items, scores, predicted = self.suspects.joined()
        tallies = tuple(self.tokens.values())
        known = all(tally.samples and not tally.overflown for tally in tallies)
        # Words are sought under the classes that the model calls samples by, however many it knows.
        groups = Groups(clean.predictions, suspect.predictions)
        clean_tokens, suspect_tokens = (tally.of(groups) if known else None for tally in tallies)
        neurons = {name: record.channels for name, record in clean.layers.items()}
        return RankingResult(
            items,
            scores,
            predicted,
            self.null_scores,
            self.null_predicted,
            {name: neurons.get(name, 0) for name in self.layers},
            groups,
            numbered(self.top.finished(), items),
            numbered(self.null_top.finished(), self.null_items),
            self.reservoir.batches,
            self.largest,
            clean_tokens,
            suspect_tokens,
            self.directions,
            self.by_reference,
        )

    def _member(self, predicted: Tensor, views: Views) -> Tensor:
        """Group of each predicted class, int64 on its device, or the codes of the samples' class scores."""
        return codes_of(views) if self.coded else self._table(predicted.device).index_select(0, predicted + 1)

    def _table(self, device: torch.device) -> Tensor:
        """The groups of no class, class 0, 1, ..."""
        if device not in self._tables:
            self._tables[device] = torch.from_numpy(self.groups.of(np.arange(-1, self.classes))).to(device)
        return self._tables[device]

    def _wait(self, verb: str, part: Batch, items: Array, numbers: tuple[Tensor, ...], absent: tuple[int, ...] = ()) -> None:
        for arrived in self.waiting.add(Entry(verb, part, items, numbers, absent)):
            self._enter(*arrived)

    def _reduced(self, entries: list[Entry], numbers: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of suspects on a device the class and the score, 8 bytes each, come home; which neurons deviate most stays there, since
        it is wanted of the highest-ranked alone.
        """
        predicted, *rest = numbers
        where = (rest or numbers)[0].device
        if entries[0].verb != "score" or not scores_on(where):
            return numbers, []
        assert self.scoring is not None
        if where not in self._scales:
            self._scales[where] = ScaleOnDevice(self.anomaly, where)
        parts, deviating = self.scoring.on_device(rest, [(len(entry.items), entry.absent) for entry in entries])
        scores = self._scales[where].of(parts, self._table(where).index_select(0, predicted.to(where) + 1))
        return [predicted.int(), scores.float()], [deviating]

    def _enter(self, entries: list[Entry], numbers: list[Array], staying: list[Tensor]) -> None:
        """What came home of samples that went the same way, and which of their neurons deviate, where that is not at home."""
        verb, predicted, *rest = entries[0].verb, *numbers
        parts: Array | None = None
        deviating: Array | Tensor | None = None
        scores: Array | None = None
        if staying:
            scores, [deviating] = rest[0].astype(np.float64), staying
            predicted = predicted.astype(np.int64)
        elif verb != "fit":
            assert self.scoring is not None
            parts, deviating = self.scoring.at_home(rest, [(len(entry.items), entry.absent) for entry in entries])
            # Clean samples by the plain sum: how surprising the others are is not known before the last of them.
            plain = verb == "calibrate"
            with np.errstate(over="ignore"):  # infinitely far, of a sample whose values overflow
                scores = np.nan_to_num(parts[..., 0]).sum(1) if plain else self.anomaly.of(parts, self.groups.of(predicted))
        at = 0
        for entry in entries:
            rows = slice(at, at + len(entry.items))
            at = rows.stop
            classes = predicted[rows]
            if deviating is not None and scores is not None:
                if parts is not None and verb == "calibrate":
                    self.null_top.add(entry.items, scores[rows], classes, entry.part)
                    self.calibration.add(entry.items, parts[rows], classes)
                else:
                    self.top.add(entry.items, scores[rows], classes, entry.part, deviating[rows])
                    self.suspects.add(entry.items, scores[rows].astype(np.float32), classes.astype(np.int32))
            if verb != "score":
                self.reservoir.add(entry.part, classes)
            self._count_tokens("suspect" if verb == "score" else "clean", entry.part, classes)

    def _count_tokens(self, name: str, part: Batch, predicted: Array) -> None:
        self.largest = max(self.largest, part.size)
        x = main_tensor(part)
        if x.ndim == 2 and not x.is_floating_point():
            self.tokens[name].add(x, predicted, part.mask)


def numbered(retained: Sequence[Retained], items: Array) -> list[Retained]:
    """Retained samples by their place among `items` (ascending), not in the set. `[samples]`."""
    return [sample.at(int(np.searchsorted(items, sample.sample))) for sample in retained]
