"""`Runner`: one chunk of a set through the model, into one measurement."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from naa_fast.accumulate import Accumulator, Decoder, Predictions, Samples, Views
from naa_fast.accumulate.frame import Shorten
from naa_fast.capture import Capture, ClassScores, Selection
from naa_fast.capture.class_names import numbers_by_name
from naa_fast.capture.hooks import Enough
from naa_fast.capture.lengths import shortener
from naa_fast.capture.loaded import told_of
from naa_fast.capture.row_order import RowOrder
from naa_fast.capture.selection import unwrapped
from naa_fast.errors import InputError, ModelError, NaaError, Stopped, UsageError
from naa_fast.inputs.batches import Batch, Rejected, Source
from naa_fast.inputs.fingerprint import Fingerprint
from naa_fast.inputs.labels import LabelOrder
from naa_fast.measurement import Measurement, Shard
from naa_fast.records import Array
from naa_fast.scan.faults import raising_layer, rose_in_this_package
from naa_fast.scan.feeding import Feed
from naa_fast.scan.last_logits import LastLogits
from naa_fast.scan.live import LiveSignature
from naa_fast.scan.memory import is_out_of_memory, pieces, release
from naa_fast.scan.observer import Observer
from naa_fast.scan.placement import Placement
from naa_fast.scan.probes import decoder_calls, row_orders
from naa_fast.scan.quarantine import Quarantine
from naa_fast.scan.stopping import StopRequest
from naa_fast.scan.times import Times

Progress = Callable[[str, int, int | None], None]
"""Called after each batch with the set's name, the samples done, and the total if it is known."""


class Stage(Protocol):
    """Takes what the hooks see of a batch, which counts wholly or not at all: `Accumulator`, or `Samples` alone.

    `x` is a view `[outer, channels, inner]`, `mask` bool `[size]` or `[size, positions]`. `again`: the batch in flight has to be
    discarded and run once more. `shorten`: see `Frame`.
    """

    again: bool
    shorten: Shorten | None

    def begin(self, size: int, start: int, mask: Tensor | None = None, decoder: Decoder | None = None) -> None: ...
    def observe(self, layer: str, x: Tensor, layout: str) -> None: ...
    def views(self) -> Views: ...
    def drop(self, layers: set[str]) -> None: ...
    def commit(self) -> None: ...
    def discard(self) -> None: ...


class OutOfMemory(Exception):
    """A forward of more than one sample ran out of memory; fewer may fit."""


@dataclass(frozen=True)
class ChunkResult:
    """What a chunk gave: its `measurement`, without layers if nothing in it could be decoded, None if there was nothing or too
    much of it could not be used; and the items it left out, by index in the whole set.
    """

    measurement: Measurement | None
    rejected: tuple[Rejected, ...]


class Runner:
    """Runs chunks of `source` (`run_chunk`); what it learns on the way (the batch that fits, the set's dtype) holds for the next.

    `together`: the model is spread over ranks that run every batch together, so that none may stop or take a smaller batch by
    itself. `observer` sees each sample's own views; `stop_early` ends each forward after the last chosen layer.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        selection: Selection,
        place: Placement,
        backend: str,
        fingerprint: str,
        stop: StopRequest,
        progress: Progress | None,
        first: int = 0,
        quarantine: Quarantine | None = None,
        times: Times | None = None,
        scores: ClassScores | None = None,
        observer: Observer | None = None,
        together: bool = False,
        stop_early: bool = False,
        histograms: bool = True,
        live: LiveSignature | None = None,
    ) -> None:
        self.model = model
        self.source = source
        self.place = place
        self.backend = backend
        self.fingerprint = fingerprint
        self.stop = stop
        self.progress = progress
        self.first = first
        self.quarantine = quarantine or Quarantine()
        self.times = times or Times()
        self.scores = scores or ClassScores()
        self.unscored = False
        self.shorten = shortener(model)
        self.decoder_calls: frozenset[tuple[str, int]] | None = None
        self.feed = Feed(source, (), 0, None, stop)
        self.together = together
        self.observer = observer
        self.histograms = histograms
        self.live = live
        self.stage: Stage = Accumulator(backend)
        self.predictions = Predictions()
        known = numbers_by_name(unwrapped(model))
        self.labels = LabelOrder(getattr(source, "label_names", ()), getattr(source, "labelled", ""), known)
        self.selection = selection
        self.capture = Capture(model, selection, self.stage)
        self.capture.stop_early = stop_early
        self.last_logits = LastLogits.of(model, [layer.module for layer in selection.layers])
        self.score_mask: Tensor | None = None
        self.most: float = float("inf")
        self.input_dtype = ""
        self.batches_seen = 0
        self.done = 0

    def run_chunk(self, feed: Feed, start: int, bad: int) -> ChunkResult:
        """Run the next range of `feed`, which begins at item `start`; `bad` items were left out of the set before it.

        Raises Stopped between batches once a stop was asked for; a chunk that was not finished is not counted.
        """
        self.feed = feed
        accumulator = self.stage = self.capture.observer = Accumulator(self.backend, self.histograms)
        if self.observer is not None:
            accumulator.samples = Samples()
            self.observer.begin(self.first + start, accumulator.samples.neurons)
        self.predictions = Predictions(self.predictions.varied)
        rejected = self.quarantine.pending = list[Rejected]()
        done = 0
        for batch in self.fed_batches():
            rejected += [replace(item, index=self.first + item.index) for item in batch.rejected]
            if batch.rejected and self.quarantine.exceeded(bad + len(rejected), self.source.samples):
                return ChunkResult(None, tuple(rejected))
            if self.observer is not None:
                self.observer.left_out(batch.rejected)
            if batch.size == 0:
                continue
            self.require_same_dtype(batch)
            done = self.run_batch(batch, self.first + start, done)
            self.done += batch.size
            if self.progress is not None:
                if self.live is not None:
                    self.live.tell(self.progress, accumulator)
                self.progress(self.source.name, self.done, self.source.samples)
            if self.stop and not self.together:
                raise Stopped(f"stopped by {self.stop.name}")
        if done == 0 and not rejected:
            return ChunkResult(None, ())
        shard = Shard(self.shard_digest(self.feed.fingerprint, start), done, len(rejected))
        if done == 0:
            return ChunkResult(Measurement(shards=(shard,)), tuple(rejected))
        began = perf_counter()
        records, predictions = accumulator.records(), self.predictions.read()
        self.times.ours += perf_counter() - began
        measurement = Measurement(
            records,
            self.fingerprint,
            self.input_dtype,
            (shard,),
            self.provenance(accumulator),
            predictions,
            labelled=self.labelled(len(predictions) - 1),
        )
        return ChunkResult(measurement, tuple(rejected))

    def go_on_after(self, samples: int) -> None:
        """So many samples were measured before, by a run that this one goes on from; progress counts them."""
        self.done = samples

    def labelled(self, classes: int) -> Array:
        """What the labels say (`Measurement.labelled`); nothing where they cannot be those of a model of that many classes. Int64
        `[2, classes + 1]`.
        """
        labelled = self.predictions.read_labelled()
        guessed = getattr(self.source, "labels_guessed", False) and labelled[0, classes:].any()
        return np.zeros((2, 0), np.int64) if guessed or not self.labels.fits(classes) else labelled

    def run_past(self, observer: Observer, samples: Samples, most: int | None) -> None:
        """Show the first `most` items of the set to `observer`, until it has seen enough; nothing is measured."""
        self.observer, self.stage, self.capture.observer = observer, samples, samples
        observer.begin(0, samples.neurons)
        for batch in self.readable_batches(0, most):
            observer.left_out(batch.rejected)
            part = observer.wanted(batch) if batch.size else batch
            if part.size:
                self.run_batch(part, 0, 0)
            if self.seen_enough:
                return
            self.done += batch.size
            if self.progress is not None and batch.size:
                self.progress(f"ranking by {self.source.name}", self.done, self.source.samples)

    @property
    def seen_enough(self) -> bool:
        """Whether the observer wants no more."""
        return self.observer is None

    def shard_digest(self, fingerprint: Fingerprint, start: int) -> str:
        """What was read, and from which item on: a set may repeat itself, but not at the same place."""
        digest = fingerprint.hexdigest()
        return f"{digest}@{self.first + start}" if digest else ""

    def read_again(self, start: int, stop: int) -> str:
        """The shard digest of items `start:stop` without running the model."""
        for _ in self.readable_batches(start, stop):
            pass
        return self.shard_digest(self.feed.fingerprint, start)

    def run_batch(self, batch: Batch, start: int, done: int) -> int:
        """Run one batch, in halves if it does not fit; returns how many samples of the chunk are done then."""
        pending = deque([batch])
        while pending:
            part, *rest = pieces(pending.popleft(), self.most)
            pending.extendleft(reversed(rest))
            decoder, self.stage.shorten = self.decoder(part), self.shorten
            self.stage.begin(part.size, start + done, part.mask, decoder)
            self.capture.begin(part.size, part.mask)
            fits = True
            began, hooks = perf_counter(), self.capture.seconds
            try:
                output = self.forward(part)
                returned, hooks = perf_counter(), self.capture.seconds - hooks
                if self.stage.again or self.settle_rows(part):
                    self.times.forward += returned - began - hooks
                    pending.appendleft(part)
                    continue
                if self.capture.gone:
                    self.stage.drop(self.capture.gone)
                scores = self.class_scores(output, part)
                labels = None if part.labels is None else self.labels.of(part.labels)
                self.predictions.observe(scores, part.mask, labels)
                views = Views() if self.observer is None else self.stage.views()
            except Exception as error:
                if self.together or not (isinstance(error, OutOfMemory) or (part.size > 1 and is_out_of_memory(error))):
                    raise
                fits = False
            if fits:
                self.stage.commit()
                if self.observer is not None and not self.observer.take(part, views, scores):
                    self.observer = None
                    if isinstance(self.stage, Accumulator):
                        self.stage.samples = None
                self.times.forward += returned - began - hooks
                self.times.ours += perf_counter() - returned + hooks
                done += part.size
                continue
            # Nothing of this part was counted. Memory is given back here, where the exception no longer holds its tensors.
            self.stage.discard()
            release()
            self.most = part.size // 2
            self.capture.notes.append(f"out of memory with {part.size} samples at a time; went on with {self.most}")
            pending.appendleft(part)
        self.batches_seen += 1
        return done

    def settle_rows(self, part: Batch) -> bool:
        """Find in what order layers give several rows a sample; whether the batch was read in another."""
        layers = frozenset(self.capture.undecided)
        if not layers:
            return False
        orders = row_orders(self, part, layers)
        self.capture.settle(orders)
        return any(order is not RowOrder.SAMPLE_FIRST for order in orders.values())

    def decoder(self, part: Batch) -> Decoder | None:
        """Where the mask of a decoder's own positions counts, of models that have one."""
        if part.decoder_mask is None:
            return None
        if self.decoder_calls is None:
            self.decoder_calls = decoder_calls(self, part)
        return Decoder(part.decoder_mask, self.decoder_calls)

    def forward(self, batch: Batch) -> Any:
        """The model's output for one batch. Its exception becomes a ModelError that names the batch and the layer it rose in."""
        try:
            with self.scores.followed(self.model):
                asked, self.score_mask = self.last_logits.narrowed(batch)
                output = self.model(*self.place.moved(asked.arguments), **self.place.moved(asked.keywords))
            self.capture.completed()
            return None if self.capture.stop_early else output  # predictions of the first batch alone would tell nothing
        except Enough:
            return None
        except NaaError:
            raise
        except Exception as error:
            if is_out_of_memory(error) and batch.size > 1 and not self.together:
                raise OutOfMemory from error
            if rose_in_this_package(error.__traceback__):
                raise ModelError(
                    f"measuring raised {type(error).__name__} on batch {self.batches_seen}",
                    f"in layer: {raising_layer(unwrapped(self.model), error.__traceback__)}",
                    f"message: {first_line(error)}",
                    "this is a fault of naa-fast: leave the layer out, and report it with --debug's traceback",
                ) from error
            shapes = ", ".join(f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in tensors_of(batch))
            raise ModelError(
                f"the model raised {type(error).__name__} on batch {self.batches_seen}",
                f"in layer: {raising_layer(unwrapped(self.model), error.__traceback__)}",
                f"input: {shapes}",
                f"message: {first_line(error)}",
                *([hint] if (hint := getattr(self.source, "hint", "")) else []),
                "check that the data has the shape and dtype the model expects",
            ) from error

    def class_scores(self, output: Any, part: Batch) -> Tensor | None:
        """The scores in what the model returned for a batch; the first one decides where they are. `[samples, classes]`."""
        if self.capture.stop_early:
            return None
        x = next(iter(tensors_of(part)), None)
        ids = x if x is not None and x.ndim == 2 and not x.is_floating_point() and part.decoder_mask is None else None
        scores = self.scores.read(output, part.size, self.score_mask, ids)
        self.unscored = self.unscored or scores is None
        return scores

    def readable_batches(self, start: int, stop: int | None) -> Iterator[Batch]:
        """Items `start:stop` of the source, on this thread; errors as in `fed_batches`."""
        self.feed = Feed(self.source, [(start, stop)], 0, None, self.stop)
        yield from self.fed_batches()

    def fed_batches(self) -> Iterator[Batch]:
        """The next range's batches; an exception of the user's own loader becomes an InputError that names the batch."""
        batches = self.feed.batches()
        while True:
            began = perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except NaaError:
                raise
            except Exception as error:
                where = f"reading batch {self.batches_seen} of {self.source.name} failed"
                raise InputError(where, f"{type(error).__name__}: {first_line(error)}", *self.reader()) from error
            finally:
                read_seconds = self.feed.own_seconds()
                self.times.waiting += perf_counter() - began - read_seconds
                self.times.ours += read_seconds
            yield batch

    def reader(self) -> tuple[str, ...]:
        """What to do about a set that cannot be read from another thread, where one reads it."""
        advice = "a thread of its own read it: prefetch=0 (--prefetch 0) reads it on the thread that made it"
        return (advice,) if self.feed.threaded else ()

    def require_same_dtype(self, batch: Batch) -> None:
        first = next(iter(tensors_of(batch)), None)
        if first is None:
            raise UsageError("a batch holds no tensor", "expected a tensor, a tuple whose first item is one, or a dict of them")
        dtype = str(first.dtype).removeprefix("torch.")
        if dtype != (self.input_dtype or dtype):
            where = f"batch {self.batches_seen} of {self.source.name} is {dtype}"
            raise InputError(where, f"expected {self.input_dtype}, as in the first batch")
        self.input_dtype = dtype

    def provenance(self, accumulator: Accumulator) -> dict[str, tuple[str, ...]]:
        """What produced the measurement, in strings that accumulate when measurements merge."""
        scores = self.scores.provenance(self.unscored, self.predictions.varied)
        packages = ("naa-fast", "torch", "numpy", "numba", "cupy-cuda12x", "cupy-cuda13x")
        return {
            "python": (platform.python_version(),),
            "versions": tuple(f"{name} {version}" for name in packages if (version := version_of(name))),
            "device": (str(self.place),),
            "backends": tuple(accumulator.backends()),
            "layers": (self.selection.words,),
            "notes": tuple(self.capture.remarks()),
            **({"doubts": tuple(self.capture.doubts)} if self.capture.doubts else {}),
            **{key: told for key, told in self.told().items() if told},
            **scores,
            "gaps": (*told_of(unwrapped(self.model)).gaps, *scores.get("gaps", ())),
        }

    def told(self) -> dict[str, tuple[str, ...]]:
        """How model and set were read, what of them was not, and where the labels come from."""
        loaded = told_of(unwrapped(self.model))
        return {
            "inputs": (*loaded.reading, *getattr(self.source, "reading", ())),
            "left_out": (*loaded.left_out, *getattr(self.source, "left_out", ())),
            "labels": (self.labels.words,) if self.predictions.labelled is not None else (),
            "excluded": self.selection.excluded,
            "unread": (*self.selection.left_out, *self.capture.left_out),
        }


def tensors_of(batch: Batch) -> list[Tensor]:
    return [value for value in (*batch.arguments, *batch.keywords.values()) if isinstance(value, Tensor)]


@cache
def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
