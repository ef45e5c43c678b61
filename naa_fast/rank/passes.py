"""`RankingPass`: brings the samples of both sets to a `Scorer` while they are measured, or in passes of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.accumulate import Samples, Views
from naa_fast.capture import ClassScores, select
from naa_fast.capture.selection import Layers, Request
from naa_fast.detect.findings import plain as printable
from naa_fast.errors import InputError, NaaError
from naa_fast.inputs.batches import Batch, Rejected, Source
from naa_fast.inputs.order import Order
from naa_fast.measurement import Measurement, is_among
from naa_fast.rank.chosen import Take, bytes_of, classes_of, half, observed_in, some
from naa_fast.rank.codes import coded
from naa_fast.rank.directions import Directions
from naa_fast.rank.groups import MOST
from naa_fast.rank.handed import taken_up
from naa_fast.rank.numbers import Numbers
from naa_fast.rank.retained import taken
from naa_fast.rank.saved import arrays_of, layers_of, reference_of
from naa_fast.rank.scorer import RankingResult, Scorer
from naa_fast.rank.state import NotKept, built, from_bytes, plain, to_bytes
from naa_fast.records import Array, fold_of
from naa_fast.reference import Reference
from naa_fast.scan.chunk import Progress, Runner, first_line
from naa_fast.scan.loop import evaluating
from naa_fast.scan.observer import Observer
from naa_fast.scan.placement import Placement
from naa_fast.scan.ranks import Ranks
from naa_fast.scan.stopping import StopRequest

MOST_CLEAN = 1 << 16
"""Clean samples that are ranked by: means, deviations and the calibration are no better with more."""
OTHER_CLEAN = 0.05
"""Median difference of clean scores from which the clean sets are not the same; what two devices round is far below."""
HELD_BYTES = 256 << 20
"""Most that views and inputs of clean samples may take, where they are, until what they are scored by is known."""

SMALLEST = 64
"""Clean samples below which nothing can be ranked: half of them fix the means, the others say what chance does."""
WORDS = 300

LATE = "a layer could be read for a part of it alone"


class SamplePass(Observer):
    """Hands each sample's views to `take` while a set is run. What goes wrong ends the handing on and never the run: `error`.

    `most`: only items below it count. `fold`: a pass of its own runs samples of even (0) or odd (1) folds alone. `seen` counts
    the items that passed, unusable ones among them; `classes` is how many the model predicts, 0 where it gives no class scores.
    """

    def __init__(self, take: Take, most: int | None = None, fold: int | None = None) -> None:
        self.hand = take
        self.most = np.inf if most is None else most
        self.fold = fold
        self.seen = 0
        self.classes = 0
        self.neurons: dict[str, int] = {}
        self.error: Exception | None = None
        self.learned: Callable[[], dict[str, Any]] | None = None
        self.go_on: Callable[[Sequence[dict[str, Any]]], None] | None = None
        self._numbers = Numbers()

    def begin(self, start: int, neurons: dict[str, int]) -> None:
        self._numbers.start(start)
        self.neurons = neurons

    def left_out(self, rejected: tuple[Rejected, ...]) -> None:
        self._numbers.left_out(rejected)
        self.seen += sum(bad.index < self.most for bad in rejected)

    def wanted(self, batch: Batch) -> Batch:
        items = self._items_of(batch)
        rows = observed_in(batch) & (items < self.most)
        if self.fold is not None:
            rows &= fold_of(items) % 2 == self.fold
        return replace(taken(batch, np.flatnonzero(rows)), items=torch.from_numpy(items[rows]))

    def take(self, part: Batch, views: Views, scores: Tensor | None) -> bool:
        """Hands on what is observed of a batch, with the classes that `scores` `[samples, classes]` give."""
        if self.error is not None:
            return False
        items = self._items_of(part)
        self.seen += int((items < self.most).sum())
        rows = np.flatnonzero(observed_in(part) & (items < self.most))
        try:
            self.classes = 0 if scores is None else scores.shape[1]
            if scores is not None and self.classes > MOST:
                views = Views(views.packs, coded(scores))
            some(self.hand, rows, part, views, classes_of(part, scores, views), items)
        except Exception as error:  # the measurement goes on; whoever ranks by this says what it was
            self.error = error
        return self.error is None and self._numbers.next < self.most

    def snapshot(self) -> Callable[[], bytes] | None:
        if self.error is not None or self.learned is None:
            return None
        try:
            state = plain([self.seen, self.classes, self._numbers, self.learned()])
        except NotKept:  # inputs of the user's own types: a resumed scan has to read them again
            return None
        except Exception as error:  # as in `take`
            self.error = error
            return None
        return lambda: to_bytes(state)

    def restore(self, contents: Sequence[bytes]) -> None:
        if self.go_on is None:
            return
        try:
            seen, classes, (self._numbers, *_), learned = zip(*(built(from_bytes(content)) for content in contents), strict=True)
            self.seen, self.classes = sum(seen), max(classes)
            self.go_on(learned)
        except Exception as error:  # the measurement goes on; whoever ranks by this says what it was
            self.error = error

    def _items_of(self, batch: Batch) -> Array:
        if batch.items is None:
            return self._numbers.of(batch.size)
        items: Array = batch.items.numpy()
        self._numbers.next = max(self._numbers.next, int(items.max(initial=-1)) + 1)
        return items


class RankingPass:
    """Ranks the samples of a suspect set by a clean one: `clean` and `suspect` are the observers of their measurements.

        ranking = RankingPass(model, clean, suspect, ...)
        measured_clean = measure(model, clean, observer=ranking.clean)
        ranking.calibrate(measured_clean)
        measured = measured_clean, measure(model, suspect, observer=ranking.suspect)
        scores = ranking.result(*measured)

    Samples of even folds of the clean set fix means and covariances, those of odd folds say what chance does. Cost: no forward
    of its own, but half of the clean set where the views of the other half do not fit in HELD_BYTES and the set can be read
    again (else a fair share of it calibrates, and `notes` say so), and each set where a resumed scan has not seen all of it.
    Under `torchrun` every process fits, calibrates and scores its own chunks; what they learned is joined between the passes.
    With `saving` what was learned of the clean set is `saved` as well, on rank 0; its items begin at `first`.
    """

    def __init__(
        self,
        model: nn.Module,
        clean: Source,
        suspect: Source,
        *,
        layers: Layers | Request = None,
        device: str | torch.device = "auto",
        backend: str = "auto",
        progress: Progress | None = None,
        scores: ClassScores | None = None,
        saving: bool = False,
        first: int = 0,
    ) -> None:
        self.model = model
        self.saving, self.first = saving, first
        self.saved: Reference | None = None
        self.sources = clean, suspect
        self.orders = Order.of(clean), Order.of(suspect)
        self.layers, self.backend, self.progress, self.scores = layers, backend, progress, scores
        self.place = Placement.of(model, device)
        self.ranks = Ranks.here(model)
        self.notes: list[str] = []
        self.scorer: Scorer | None = None
        self.clean = SamplePass(self._take_clean, first + MOST_CLEAN)
        self.clean.learned, self.clean.go_on = self._learned, self._go_on
        self.suspect = SamplePass(lambda *_: None)
        self._held: list[tuple[Batch, Views, Tensor, Array]] | None = []
        self._bytes = 0
        self._offered, self._every = 0, 1
        if self.ranks.together:
            raise InputError(
                "the model is spread over several processes", "its samples are ranked with a model that one process holds"
            )
        if self.ranks.count > 1:
            with self.ranks.sharing():
                self._prime()

    def calibrate(self, clean: Measurement) -> RankingPass:
        """Fit on one half of the clean set, and score the other for the null; between the measurements. Raises NaaError."""
        if (reason := too_few(clean.samples)) is not None:
            raise InputError(reason)
        late = self._unread(clean)
        if late or not self._whole(self.clean, min(clean.samples + clean.skipped, MOST_CLEAN)):
            self.scorer, self._held, self._bytes = None, [], 0
            self.clean = SamplePass(self._take_clean, MOST_CLEAN)
            self.layers = Request.of(self.layers).without(clean.unread)
            self._again(0, self.clean, LATE if late else "this run did not see all of it")
        if self.scorer is None:
            raise InputError("no clean sample can be ranked by", "the mask leaves nothing of any", "look at the mask")
        scorer, fitted = self.scorer, self.ranks.everyone(self.scorer.fitted())
        for references in fitted:
            scorer.merge(references)
        scorer.directions.neurons = {name: record.channels for name, record in clean.layers.items()}
        scorer.directions.samples = min(clean.samples, MOST_CLEAN), self.sources[1].samples or clean.samples
        arrays = arrays_of(scorer.references) if self.saving else {}
        with self.ranks.sharing(), torch.no_grad():
            self._tell(0)
            scorer.freeze()
            done = 0
            for part in self._held or ():
                scorer.calibrate(*part)
                done += part[0].size
                self._tell(done)
        if self._held is None:
            self._again(0, SamplePass(scorer.calibrate, MOST_CLEAN, fold=1), "the views of half of it do not fit in memory")
        self._held = None
        scorer.settle()
        calibrated = self.ranks.everyone((scorer.calibration, scorer.null_top))
        scorer.calibration, scorer.null_top = calibrated[0]
        for rows, null_top in calibrated[1:]:
            scorer.merge_calibration(rows, null_top)
        if self.saving:
            arrays = {name: sums for name, sums in arrays.items() if name in scorer.layers}
            looked_at = self.ranks.gathered(scorer.directions)
            for other in looked_at[1:]:
                looked_at[0].merge(other)
            if looked_at:  # on rank 0
                layers = layers_of(arrays, looked_at[0])
                self.saved = reference_of(scorer.classes, clean.samples, layers, *scorer.calibration.joined())
        scorer.weigh()
        self.suspect = self._scoring(scorer)
        return self

    def _scoring(self, scorer: Scorer) -> SamplePass:
        passed = SamplePass(scorer.score)
        passed.learned, passed.go_on = scorer.learned_of_suspects, scorer.go_on_with_suspects
        return passed

    def _learned(self) -> dict[str, Any]:
        """What the clean set has told so far."""
        told = {"held": self._held, "bytes": self._bytes, "offered": self._offered, "every": self._every, "notes": self.notes}
        return told | {"scorer": None if self.scorer is None else self.scorer.learned_of_clean()}

    def _go_on(self, told: Sequence[dict[str, Any]]) -> None:
        waiting = [process["held"] for process in told]
        if None in waiting and self.ranks.count > 1:
            raise InputError("the checkpoint is of one process, which reads the clean set again", "go on without torchrun")
        self._held = None if None in waiting else [part for parts in waiting for part in parts]
        self._bytes, self._offered = (sum(process[key] for process in told) for key in ("bytes", "offered"))
        self._every = max(process["every"] for process in told)
        self.notes[:] = dict.fromkeys(note for process in told for note in process["notes"])
        if learned := [process["scorer"] for process in told if process["scorer"] is not None]:
            self.scorer = self._scorer(self.clean.classes)
            self.scorer.go_on_with_clean(learned)

    def result(self, clean: Measurement, suspect: Measurement) -> RankingResult | None:
        """The ranking of sets with these measurements, under `torchrun` on rank 0 alone. Raises NaaError."""
        scorer = self.scorer
        assert scorer is not None
        if self._unread(suspect):  # what was ranked by it until then has to be ranked without it
            without = Request.of(self.layers).without(clean.unread + suspect.unread)
            options = {"device": self.place.device, "backend": self.backend, "progress": self.progress}
            fresh = RankingPass(self.model, *self.sources, layers=without, **options)  # type: ignore[arg-type]
            if not self.orders[1].repeats:
                fresh._again(1, fresh.suspect, LATE)  # raises
            return fresh.calibrate(clean).result(clean, replace(suspect, layers={}))
        return scorer.result(clean, suspect) if self._all_scored(suspect) else None

    def saw(self, suspect: Measurement) -> bool:
        """Whether every suspect of this measurement was scored while it was measured, in this process."""
        seen = self.suspect.error is None and self.suspect.seen >= suspect.samples + suspect.skipped
        return self.ranks.count == 1 and seen and not self._unread(suspect)

    def _all_scored(self, suspect: Measurement) -> bool:
        """See to it that the scorer knows every suspect; False elsewhere than on rank 0."""
        scorer = self.scorer
        assert scorer is not None
        if not self._whole(self.suspect, suspect.samples + suspect.skipped):
            scorer.forget_suspects()
            self._again(1, SamplePass(scorer.score), "this run did not see all of it")
        if self.ranks.count > 1:
            scored = self.ranks.gathered(scorer.scored())
            if not scored:
                return False
            scorer.take_scored(scored)
        return True

    def take_up(self, suspect: Measurement) -> RankingPass:
        """Rank suspects that were scored elsewhere, in place of a set. Raises InputError where these were not."""
        assert self.scorer is not None
        if suspect.anomalies is None:
            raise InputError("the suspect measurement has no scores", "measure it with --against CLEAN (against=...)")
        if self.ranks.count > 1:
            raise InputError("suspects that were scored elsewhere are not ranked under torchrun", "start it without torchrun")
        known, ours = suspect.anomalies.null_scores, self.scorer.null_scores
        if len(known) != len(ours) or not np.median(np.abs(known - ours)) < OTHER_CLEAN:
            raise InputError("the suspects were scored by another clean set than the one given", "give that set, or scan them")
        self.scorer.take_scored([self.scorer.scored(), taken_up(suspect.anomalies, self.scorer)])
        self.suspect.seen = suspect.samples + suspect.skipped
        return self

    def _tell(self, done: int) -> None:
        """Say how many clean samples were scored, which tell what chance does."""
        if self.progress is not None and self._held is not None:
            self.progress("calibrating the ranking", done, sum(part[0].size for part in self._held))

    def _unread(self, measured: Measurement) -> bool:
        """Whether samples were fitted or scored by a layer that could not be read to the end."""
        return self.scorer is not None and any(is_among(name, measured.unread) for name in self.scorer.layers)

    def _whole(self, seen: SamplePass, items: int) -> bool:
        """Whether all processes together have seen so many items; raises what went wrong in any of them."""
        with self.ranks.sharing():
            if seen.error is not None:
                raise seen.error
        return sum(self.ranks.everyone(seen.seen)) >= items

    def _take_clean(self, part: Batch, views: Views, predicted: Tensor, items: Array) -> None:
        """Fit on samples of even folds, and hold those of odd folds until they can be scored."""
        if self.scorer is None:
            self.scorer = self._scorer(self.clean.classes)
        self.scorer.directions.neurons |= self.clean.neurons
        half(self.scorer.fit, 0)(part, views, predicted, items)
        half(self._hold, 1)(part, views, predicted, items)

    def _scorer(self, classes: int) -> Scorer:
        samples = self.sources[0].samples, self.sources[1].samples
        return Scorer(classes, Directions({}, (min(samples[0] or 0, MOST_CLEAN), samples[1] or 0)))

    def _can_look_again(self) -> bool:
        """Whether half of the clean set can be read once more, to be scored."""
        return self.orders[0].repeats and self.ranks.count == 1 and not self.first

    def _hold(self, part: Batch, views: Views, predicted: Tensor, items: Array) -> None:
        if self._held is None:
            return
        self._offered += 1
        if self._offered % self._every:
            return
        known = self.sources[0].samples
        if self._offered == 1 and known is not None and self._can_look_again():
            each = bytes_of(part, views) / max(part.size, 1)
            if each * (min(known, MOST_CLEAN) // 2) > HELD_BYTES:  # none of them is held for nothing
                self._held = None
                return
        self._bytes += bytes_of(part, views)
        self._held.append((part, views, predicted, items))
        if self._bytes <= HELD_BYTES:
            return
        if self._can_look_again():
            self._held = None
            return
        if self._every == 1:
            self.notes.append(
                "what calibrates the ranking: a fair share of the clean set's second half, since its views do not fit in memory "
                "and the set cannot be read again in the same order"
            )
        while self._bytes > HELD_BYTES and len(self._held) > 1:
            self._held, self._every = self._held[1::2], 2 * self._every
            self._bytes = sum(bytes_of(batch, views) for batch, views, *_ in self._held)

    def _prime(self) -> None:
        """Run the first batch of the clean set on every process: what each adds up on its own is then in the same units."""
        source, order = self.sources[0], self.orders[0]
        if not order.restarts:
            raise InputError(
                f"{source.name} can be read only once", "under torchrun every process reads its start", "use a file or a loader"
            )

        def prime(part: Batch, views: Views, predicted: Tensor, items: Array) -> None:
            scorer = self.scorer = self._scorer(primed.classes)
            half(lambda part, views, *_: scorer.prime(views), 0)(part, views, predicted, items)

        first = next((batch.size for batch in source.batches(0) if batch.size), 1)
        primed = SamplePass(prime, first)
        self._run(source, primed, first)
        if primed.error is not None:
            raise primed.error

    def _again(self, which: int, samples: SamplePass, why: str) -> None:
        """One more pass over the clean (0) or suspect (1) set, without its statistics."""
        source, order = self.sources[which], self.orders[which]
        if self.first:
            raise InputError(f"{source.name} would have to be read again: {why}", "that is not done of a part of a set")
        if self.ranks.count > 1:
            raise InputError(f"{source.name} would have to be read again: {why}", "that is not done under torchrun")
        if not order.repeats:
            raise InputError(f"{source.name} would have to be read again: {why}", order.words, "use a file, a tensor or a list")
        self._run(source, samples, None if samples.most == np.inf else int(samples.most))
        if samples.error is not None:
            raise samples.error

    def _run(self, source: Source, samples: SamplePass, most: int | None) -> None:
        selection, stop = select(self.model, self.layers), StopRequest()
        runner = Runner(self.model, source, selection, self.place, self.backend, "", stop, self.progress, scores=self.scores)
        with evaluating(self.model), torch.no_grad(), runner.capture:
            runner.run_past(samples, Samples(self.backend), most)


def too_few(clean: int | None) -> str | None:
    """Why so many clean samples cannot be ranked by; None where they can, or their number is not known."""
    return None if clean is None or clean >= SMALLEST else f"only {clean} clean samples (at least {SMALLEST} are needed)"


def in_words(error: Exception) -> str:
    """What an exception says on one line, safe to print."""
    words = (
        "; ".join((error.headline, *error.details))
        if isinstance(error, NaaError)
        else f"{type(error).__name__}: {first_line(error)}"
    )
    return printable(words)[:WORDS].rstrip(".")
