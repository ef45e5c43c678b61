"""`measure`: one pass of a set through a model, chunk by chunk, on one process or several; `in_stages`: the same with stops."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from naa_fast.capture import ClassScores, select
from naa_fast.capture.fast_path import fast_path_off
from naa_fast.capture.fingerprint import model_fingerprint
from naa_fast.capture.padding import padding_known
from naa_fast.capture.runnable import require_runnable
from naa_fast.capture.selection import unwrapped
from naa_fast.errors import InputError, NaaError, RankLost, StateMismatch, Stopped, UsageError
from naa_fast.inputs.batches import Source
from naa_fast.inputs.identity import identity_of
from naa_fast.inputs.order import Order
from naa_fast.measurement import Measurement
from naa_fast.records import LayerRecord
from naa_fast.scan.checkpoint import UNKNOWN, Checkpoints, Progressed
from naa_fast.scan.chunk import Progress, Runner, version_of
from naa_fast.scan.feeding import Feed, Range, batches_ahead
from naa_fast.scan.live import LiveSignature
from naa_fast.scan.observer import Observer
from naa_fast.scan.options import RunOptions
from naa_fast.scan.placement import Placement
from naa_fast.scan.quarantine import Quarantine
from naa_fast.scan.ranks import Ranks, Round, Turn
from naa_fast.scan.stopping import StopRequest, stop_on_signals
from naa_fast.scan.times import Times

CHUNK_SIZE = 8192
"""Items a chunk where there are checkpoints or ranks; else the whole set is one. One copy of the state (600 bytes a neuron
and its histograms) comes home after each: rare enough to cost nothing, often enough that what an interruption loses is small."""


@dataclass(frozen=True)
class SoFar:
    """A set as far as it was read: its `measurement` after so many `chunks`, and whether that is the `whole` of it."""

    measurement: Measurement
    chunks: int
    whole: bool


def measure(
    model: nn.Module,
    source: Source,
    options: RunOptions = RunOptions(),  # noqa: B008  (frozen)
    *,
    progress: Progress | None = None,
    first_index: int = 0,
    quarantine: Quarantine | None = None,
    times: Times | None = None,
    observer: Observer | None = None,
    scores: ClassScores | None = None,
    live: LiveSignature | None = None,
) -> Measurement:
    """Per-neuron records of the chosen layers over all samples of `source`.

    The model runs in eval mode without gradients and is given back in the mode it came in, with no hook left on it, also when
    it raises. A batch that does not fit into memory is halved until it does, and the notes say so. Floating-point inputs are cast
    to the model's own precision.

    `first_index`: global index of the set's first sample, for a part of a larger set; it decides the calibration folds and tells
    parts apart when they merge.

    With a checkpoint the set is cut into chunks whose records merge in order; a run that goes on from one gives the same bytes as
    one that was never interrupted. Under `torchrun` with an initialised process group the ranks share the chunks, and
    every rank returns the whole. Batch and chunk size change no more than the last bits; the number of ranks nothing. A rank that
    fails ends the job on all of them, with a checkpoint of what was finished.

    `quarantine` takes the items that could not be used, and says how many are too many. `times` is added to. `observer` sees each
    sample's own views of the layers on the way and changes no bit; what it does with them comes to the cost. `scores` says which
    output the class scores are where another set has been asked already; None: by `options.scores` and the first batch. `live`
    tells `progress` which neurons differ most so far.

    Raises:
        InputError: no sample, a batch that cannot be read, or too many bad items. ModelError: the forward raised; names layer
            and batch.
        CaptureError: a requested layer never fired, or gives nothing that can be measured.
        UsageError: a layer pattern that matches nothing, or no output of the key in `scores`. BackendUnavailable: a device or
            backend that cannot be had.
        StateMismatch: the checkpoint is of something else. Stopped: a signal came, and the checkpoint is written.
        RankLost: another rank failed or died.
    """
    company: dict[str, Any] = {"progress": progress, "quarantine": quarantine, "times": times, "observer": observer}
    [stage] = in_stages(model, source, options, None, first_index=first_index, scores=scores, live=live, **company)
    return stage.measurement


def in_stages(
    model: nn.Module,
    source: Source,
    options: RunOptions,
    pause: Callable[[int], bool] | None,
    *,
    progress: Progress | None = None,
    first_index: int = 0,
    quarantine: Quarantine | None = None,
    times: Times | None = None,
    observer: Observer | None = None,
    scores: ClassScores | None = None,
    live: LiveSignature | None = None,
) -> Generator[SoFar, None, None]:
    """As `measure`: the set as far as it was read after each number of chunks at which there is a `pause`, and at last the whole.

    Between two stages the model is free: it has no hook and its own mode, and a checkpoint is written. A set that repeats its
    order is not being read meanwhile. What the whole comes to is not changed by pauses, bit for bit. Whoever wants no more closes
    the iterator.
    """
    if options.chunk_size is None and (pause is not None or options.checkpoint is not None or Ranks.here().count > 1):
        options = replace(options, chunk_size=CHUNK_SIZE)
    chunk_size = options.chunk_size
    sampler = getattr(getattr(source, "data", None), "sampler", None)
    if chunk_size is not None and isinstance(sampler, torch.utils.data.RandomSampler):
        raise UsageError(
            "the loader shuffles", "chunks, checkpoints and ranks need one order of the samples", "use shuffle=False"
        )
    if first_index < 0:
        raise UsageError(f"first index is {first_index}", "expected 0 or more")
    require_runnable(model)
    scores = scores or ClassScores(options.scores)
    place = Placement.of(model, options.device)
    selection = select(model, options.layers)
    fingerprint = model_fingerprint(unwrapped(model))
    checkpoints = None
    if options.checkpoint is not None:
        subject = {
            "model": fingerprint,
            "data": source.name,
            "samples": str(source.samples),
            "content of the data": identity_of(source) or UNKNOWN,
            "reading of the data": getattr(source, "read_as", ""),
            "layers": ", ".join(layer.label for layer in selection.layers),
            "device": place.device.type,
            "first index": str(first_index),
            **options.bound(),
            "batch size": str(getattr(source, "batch_size", "as given")),
            "version": version_of("naa-fast"),
        }
        checkpoints = Checkpoints(options.checkpoint, subject, options.interval_s)
    stop = StopRequest()
    quarantine, times = quarantine or Quarantine(), times or Times()
    times.device = place.device.type
    times.feeding = getattr(source, "feeding", times.feeding)
    with evaluating(model), torch.no_grad():
        runner = Runner(
            model,
            source,
            selection,
            place,
            options.backend,
            fingerprint,
            stop,
            progress,
            first_index,
            quarantine,
            times,
            scores,
            observer,
            together=Ranks.here(model).together,
            stop_early=options.stop_early,
            histograms=options.histograms,
            live=live,
        )
    with closing(run_chunks(runner, options, checkpoints, pause)) as chunks:
        whole = False
        while not whole:
            began = perf_counter()
            # Without a checkpoint there is nothing to finish for: signals keep their usual meaning.
            signals = stop_on_signals(stop) if checkpoints is not None else nullcontext()
            with evaluating(model), torch.no_grad(), signals, runner.capture as capture:
                try:
                    stage, fresh = next(chunks)
                finally:
                    times.total += perf_counter() - began
                    if Ranks.here().rank == 0:
                        quarantine.write()
                total, whole = stage.measurement, stage.whole
                if whole and total.samples == 0:
                    left_out = f"{total.skipped} items could not be decoded" if total.skipped else "it is empty"
                    raise InputError(
                        f"{source.name} gave no sample", left_out, "expected at least two samples: check the path or the loader"
                    )
                if whole and fresh:
                    capture.require_all_fired()
            yield stage


def run_chunks(
    runner: Runner, options: RunOptions, checkpoints: Checkpoints | None, pause: Callable[[int], bool] | None = None
) -> Generator[tuple[SoFar, bool], None, None]:
    """All chunks, joined in order, as far as they were run at each `pause` and at the end, and whether this process ran any
    itself. Without a chunk size the set is one chunk.

    Round by round every rank takes one chunk; rank 0 joins them and writes the checkpoints. A round in which a rank was stopped
    or failed is dropped: the resumed scan runs its chunks again from their start.
    """
    ranks, source, quarantine = Ranks.here(runner.model), runner.source, runner.quarantine
    chunk_size = options.chunk_size
    begun, samples, bad = begin(runner, ranks, checkpoints, options.resume, chunk_size)
    seen = samples + bad
    total, chunk, more, fresh = begun.measurement, begun.next_chunk, not begun.finished, False

    watcher = runner.observer if checkpoints is not None else None
    if watcher is not None and options.resume and (snapshot := ranks.dealt(begun.observers)):
        watcher.restore(snapshot)
    learned = None if watcher is None else watcher.snapshot()

    def keep(finished: bool = False) -> None:
        """Every rank hands in what its observer learned of its own chunks, and rank 0 writes."""
        if checkpoints is None:
            return
        gathered = [] if watcher is None else ranks.gathered(b"" if learned is None else learned())
        if ranks.rank == 0:
            observers = tuple(gathered) if all(gathered) else ()
            checkpoints.save(Progressed(chunk, total, tuple(quarantine.found), finished, observers=observers))

    ahead = batches_ahead(source, runner.place.device, options.prefetch)
    pinned = runner.place.device if ahead > 0 and runner.place.device.type == "cuda" else None
    # A rank of a model that is spread over all of them may not stop by itself between two batches.
    stop = StopRequest() if ranks.together else runner.stop
    # Whoever is given a stage may read a set once more that can be: two readings of one archive at a time would mix.
    lets_go = pause is not None and Order.of(source).repeats

    def fed() -> Feed:
        return open_feed.enter_context(Feed(source, spans(chunk + ranks.first, ranks.step, chunk_size), ahead, pinned, stop))

    if pause is not None and more and pause(chunk):  # it may have ended while it was being looked at
        yield SoFar(total, chunk, False), fresh
    with ExitStack() as open_feed:
        feed = fed()
        while more and not quarantine.exceeded(bad, source.samples, seen):
            turn, error = take_turn(runner, feed, (chunk + ranks.first) * (chunk_size or 0), bad)
            turn = replace(turn, due=checkpoints is not None and checkpoints.due)
            if ranks.together and error is not None:
                keep()
                raise error  # the others wait in the model, not for a word
            try:
                told = ranks.gather(turn)
            except RankLost:
                if watcher is None:  # else what a rank had learned is lost with it: the checkpoint before has all of them
                    keep()
                raise
            if told.stop or told.fault:
                keep()
                raise error or stopped_at(total, checkpoints, told)
            bad, seen = bad + told.bad, seen + told.items
            quarantine.pending = []
            if quarantine.exceeded(bad, source.samples, seen):
                keep()  # without this round, whose chunks may not be whole
                quarantine.found.extend(told.rejected)
                break
            quarantine.found.extend(told.rejected)
            fresh = fresh or turn.part is not None
            for part in told.parts:
                total = joined_chunks(total, part)
            chunk += ranks.step
            learned = None if watcher is None else watcher.snapshot()
            more = told.more and chunk_size is not None
            more = more and not (source.samples is not None and chunk * (chunk_size or 0) >= source.samples)
            paused = more and pause is not None and pause(chunk)
            if not more or told.due or paused:
                keep(finished=not more)
            if paused:
                if lets_go:
                    open_feed.close()
                yield SoFar(total, chunk, False), fresh
                feed = fed() if lets_go else feed
    if quarantine.exceeded(bad, source.samples, seen):
        raise quarantine.too_many(source.name, bad)
    yield SoFar(ranks.share(total), chunk, True), fresh


def spans(chunk: int, step: int, size: int | None) -> Iterator[Range]:
    """The ranges of items of every `step`-th chunk of `size` from `chunk` on; of the whole set without a size."""
    if size is None:
        yield 0, None
        return
    for number in count(chunk, step):
        yield number * size, (number + 1) * size


def take_turn(runner: Runner, feed: Feed, start: int, bad: int) -> tuple[Turn, Exception | None]:
    """Run one chunk. What it raises comes back as a value: the other ranks wait to be told."""
    try:
        chunk = runner.run_chunk(feed, start, bad)
        return Turn(chunk.measurement, chunk.rejected, f"stopped by {runner.stop.name}" if runner.stop else ""), None
    except Stopped as stop:
        return Turn(stop=stop.headline), None
    except Exception as error:
        return Turn(fault=str(error) or type(error).__name__), error


def joined_chunks(total: Measurement, part: Measurement) -> Measurement:
    """Two chunks of one scan: a layer that fired in only one of them (a branch, an expert) counts nothing in the other."""

    def whole(measurement: Measurement, other: Measurement) -> Measurement:
        missing = {
            name: LayerRecord.zero(record.channels, record.layout, record.dtype, record.bins)
            for name, record in other.layers.items()
            if name not in measurement.layers
        }
        predictions, labelled = measurement.predictions, measurement.labelled
        if predictions.shape != other.predictions.shape:  # the width of the scores changed: they are no classes
            predictions, labelled = np.zeros(0, np.int64), np.zeros((2, 0), np.int64)
        return replace(measurement, layers={**measurement.layers, **missing}, predictions=predictions, labelled=labelled)

    if not total.layers or not part.layers:
        return total.merge(part)
    return whole(total, part).merge(whole(part, total))


def begin(
    runner: Runner, ranks: Ranks, checkpoints: Checkpoints | None, resume: bool, chunk_size: int | None
) -> tuple[Progressed, int, int]:
    """Where to start, how many samples were measured until there, and how many items left out: rank 0 reads the checkpoint, all
    ranks go by it.
    """
    progressed, fault = Progressed(0, Measurement.zero()), None
    if checkpoints is not None and ranks.rank == 0:
        try:
            progressed = resumed(runner, checkpoints, chunk_size or 0) if resume else progressed
            if not resume:
                checkpoints.clear()
        except NaaError as error:
            fault = error
    seen = progressed.measurement.samples, progressed.measurement.skipped
    next_chunk, samples, skipped, finished = ranks.tell((progressed.next_chunk, *seen, progressed.finished), fault)
    runner.go_on_after(samples)
    runner.quarantine.found[:] = progressed.rejected
    if progressed.note and runner.progress is not None:
        runner.progress(progressed.note, samples, runner.source.samples)
    return replace(progressed, next_chunk=next_chunk, finished=finished), samples, skipped


def resumed(runner: Runner, checkpoints: Checkpoints, chunk_size: int) -> Progressed:
    """The newest checkpoint, or nothing yet. The last chunk it holds is read once more: another set of the same length must not
    be mixed in.
    """
    progressed = checkpoints.load()
    if progressed is None or progressed.next_chunk == 0:
        return progressed or Progressed(0, Measurement.zero())
    known = runner.source.samples
    chunks = progressed.next_chunk if known is None else min(progressed.next_chunk, -(-known // chunk_size))
    last = (chunks - 1) * chunk_size
    digest = runner.read_again(last, last + chunk_size)
    if digest and digest not in {shard.digest for shard in progressed.measurement.shards}:
        raise StateMismatch(
            "cannot resume: the data differs",
            f"items {last} to {last + chunk_size} are not those the checkpoint was made from",
            "resume with the same data, or start again without --resume",
        )
    return progressed


def stopped_at(total: Measurement, checkpoints: Checkpoints | None, told: Round) -> NaaError:
    """The error that says why the ranks broke off, and how to go on. What is finished is saved already."""
    if told.fault:
        headline, *details = told.fault.splitlines()
        return RankLost(headline, *(line.strip() for line in details))
    if checkpoints is None:
        return Stopped(told.stop, "nothing was saved: name a folder with --checkpoint to be able to resume")
    return Stopped(
        told.stop, f"{total.samples} samples are safe in {checkpoints.folder}", "go on with the same command and --resume"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, every module's own mode afterwards: a scan must not move batch-norm statistics or drop units.

    Fused attention is off meanwhile (see `fast_path_off`): hooks break it.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with fast_path_off(), padding_known(model):
            yield
    finally:
        for module, training in modes:
            module.training = training
