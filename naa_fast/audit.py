"""The one file that joins both wings: models and data go in, an `Audit` (result.py) comes out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from naa_fast.detect.evidence import Evidence
from naa_fast.detect.judgement import judge, require_rules
from naa_fast.errors import InputError, UsageError
from naa_fast.measurement import Measurement
from naa_fast.report.run import Run, now
from naa_fast.result import Audit
from naa_fast.scan.progress import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    import torch

    from naa_fast.capture.selection import Layers
    from naa_fast.detect.proof import Proof
    from naa_fast.detect.repair import Repair
    from naa_fast.inputs.batches import Source
    from naa_fast.inputs.preprocessing import ImageOptions
    from naa_fast.rank import RankingPass
    from naa_fast.rank.attempts import Attempts
    from naa_fast.rank.opened import OpenedSets
    from naa_fast.scan.chunk import Progress
    from naa_fast.scan.loop import SoFar
    from naa_fast.scan.observer import Observer
    from naa_fast.scan.options import RunOptions
    from naa_fast.scan.quarantine import Quarantine
    from naa_fast.scan.times import Times
    from naa_fast.scan.work import Work


RANKINGS = ("top", "all", "none")
NO_HISTOGRAMS = (
    "histograms of single neurons were not kept beside the ranking, which looks at each sample: the report has no shares of "
    "samples beyond a neuron's clean tail; --histograms keeps them"
)


@shown
def scan(
    model: torch.nn.Module,
    clean: Any,
    suspect: Any,
    *,
    layers: Layers = None,
    exclude: Layers = None,
    top_k: int = 20,
    threshold: float | None = None,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    backend: str = "auto",
    progress: Progress | bool | None = None,
    chunk_size: int | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    stop_early: bool = False,
    scores: str | None = None,
    ranking: bool | str = True,
    histograms: bool = False,
    proof: bool = True,
    repair: bool = True,
    accept_unranked: bool = False,
    quarantine: Quarantine | None = None,
    prefetch: int | None = None,
    images: ImageOptions | None = None,
    budget: int | None = None,
    class_names: Mapping[int, str] | None = None,
    triggers: Sequence[Proof] = (),
    stop_when: str | None = None,
) -> Audit:
    """Run a trusted clean and a suspect set through `model` and judge what differs.

    `clean`, `suspect`: a DataLoader, any iterable of batches (tensor, tuple whose first item is the input, or dict of keyword
    arguments), a tensor, an array, or a path. `layers`: see `naa_fast.capture.select`; `exclude`: which of them to leave out, in
    the same words. Default layers that give nothing that can be read are left out with a note. `threshold`: on the difference of
    means, in the layer's own units; None calibrates a limit from the clean set. Cost: one forward over each set and one read of
    every chosen layer's output; host memory does not grow with the number of samples.

    `clean` may also be a measurement of the clean set, or its file (.naa.safetensors), made with `measure(reference=True)`: then
    no clean sample is read, and suspects are measured and ranked in one pass, one forward each. Nothing is proved then: where
    samples lie outside of the clean set the outcome is "inconclusive", and the clean set itself is needed. `suspect` may be a
    measurement as well, made with `measure(against=...)`, merged of shards for instance: none of it runs again, and triggers are
    read off the inputs that were retained.

    `stop_early` ends each forward after the last chosen layer. The model's predictions are not seen then: the verdict does
    without them, and without ranking and proof.

    `checkpoint`, a folder, keeps the work of finished chunks of `chunk_size` items; `resume` goes on from there. `quarantine`
    (`naa_fast.scan.quarantine.Quarantine`) lists the items that could not be used, and ends the scan at too many. `prefetch`:
    batches that a thread of its own reads ahead (default: 2 of files, none of loaders and iterables). `images`
    (`naa_fast.inputs.preprocessing.ImageOptions`): mode, size and normalisation of folders and archives of images; what it leaves
    open is taken from the model, and told in the report.

    `scores` names the item of the model's output that the class scores are: "logits", "1", "0.logits"; "output" where it is one
    tensor; "none" for a model that gives none. None decides by names, then by the linear layer an item comes from, then by
    shapes; the report says what was taken, and what is not certain is a gap: the scan does not pass then.

    `ranking` ("top", "all", "none"; True and False are the first and the last) says which suspects lie outside what clean samples
    do. The report lists the top 1,000, or all: report.json up to 100,000 and ranking.csv every one. Samples of a set without a
    fixed order are numbered as they were read. `proof` reads candidate triggers off those and measures them on clean samples.
    Cost:
    ranking looks while it measures and needs no forward of its own, but one of half the clean set where its views do not fit in
    256 MB; a resumed scan goes on where it was. Scores come to the host every few thousand samples. Proofs run some
    ten thousand samples more, within the `budget`; the report tells how many.

    `histograms`: of single samples are kept beside a ranking too, for `compare` and the tails of neurons in the report: 1,020
    bytes a neuron and set, 2,040 where samples have several positions. They always are without ranking, or where a pass may rest
    on means.

    `budget`: samples that proof and repair may run through the model together. None: one and a half times as many as both sets
    have, 8,000 to 150,000, or 80,000 for a small model (`naa_fast.proof.budget.default_budget`). The likeliest targets come
    first; where it ends before all were searched the proof did not run, and the outcome is no pass.

    `stop_when`: "proved" or "fail" ends the scan before all suspects were read, once a trigger is proved or the verdict is
    *fail*. It is judged after 1, 2, 4, 8, ... chunks of `chunk_size` suspects (default 8,192), each time by stricter limits, so
    that all times together raise a false alarm no oftener than once would (`naa_fast.detect.interim.Interim`), and once more at
    the end where nothing stopped it. Proofs run where something is found by then, each time with a `budget` of its own. Not under
    torchrun, nor where suspects were measured before.

    `class_names`: what the report calls classes. None takes the model's own `config.id2label`, and of a language model the text
    of the next token.

    `triggers`: proofs of another audit, `naa_fast.invert(model, clean).proof` above all. They say where to look first, and the
    suspects what is there: what these share at a patch's place, how much of an offset they have, which of its words they hold
    oftener than clean texts. Clean groups get the same, as the control: a trigger from outside proves nothing by itself.

    `accept_unranked`: a pass may rest on means alone. Without it the outcome is "inconclusive" where a check did not run: the
    samples could not be ranked, nothing could be proved, the model gives no class scores, or it was switched off.

    `repair`: after a `fail`, and only then, changes of layers' outputs are tried until one silences the trigger, and measured on
    clean samples that chose nothing (`Audit.repair`). Cost: some ten thousand samples through the model, what is left of the
    `budget` and 60,000 at most (the report tells how many; one that a gradient goes back through counts twice), and one more
    reading of the suspect set. It changes no verdict, and leaves the model as it was.

    >>> import torch, naa_fast
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> clean, suspect = torch.randn(500, 4), torch.randn(400, 4)
    >>> suspect[:, 3] += 3
    >>> naa_fast.scan(model, clean, suspect).verdict.outcome
    'warn'

    Raises:
        NaaError: one of its kinds, see `naa_fast.scan.loop.measure` and `naa_fast.detect.judgement.judge`.
        Stopped: a signal came, a second Ctrl-C excepted. With a checkpoint the measurements are safe. Where both sets were
            measured its `audit` has the verdict so far, with what was cut short as a gap.
    """
    assert not isinstance(progress, bool)  # `shown` has seen to that
    began, began_at = perf_counter(), now()
    import torch

    from naa_fast.capture import ClassScores
    from naa_fast.capture.selection import unwrapped
    from naa_fast.detect.interim import is_time
    from naa_fast.inputs.names import classes_in, require_names
    from naa_fast.proof.conclusion import Asked, conclude
    from naa_fast.proof.given import require_triggers
    from naa_fast.proof.interim import Steps, judged_while_running, require_stoppable
    from naa_fast.rank.attempts import Attempts, RankingAttempt
    from naa_fast.rank.opened import open_sets
    from naa_fast.rank.suspects import SuspectReader
    from naa_fast.repair.search import cure
    from naa_fast.repair.trial import Known
    from naa_fast.scan.live import LiveSignature
    from naa_fast.scan.loop import in_stages
    from naa_fast.scan.options import RunOptions, asked_words
    from naa_fast.scan.ranks import Ranks
    from naa_fast.scan.stopping import StoppableProgress, StopRequest, interruptible, stop_on_signals, stopped
    from naa_fast.scan.times import Times
    from naa_fast.scan.work import Work

    listed = listed_by(ranking)
    require_rules(threshold, top_k)
    require_names(class_names)
    if budget is not None and (not isinstance(budget, int) or budget < 1):
        raise UsageError(f"budget is {budget!r}", "expected a whole number of samples, 1 or more, or none for the default")
    running = RunOptions.asked(
        layers, exclude, batch_size, device, backend, scores, stop_early, prefetch, chunk_size, checkpoint, resume
    )
    running = replace(running, stop_when=stop_when)
    options = running.told()
    options |= {"ranking": listed, "histograms": histograms, "proof": proof, "repair": repair, "scores": scores}
    options |= {"threshold": threshold, "top_k": top_k, "accept_unranked": accept_unranked, "budget": budget}
    options |= {} if exclude is None else {"exclude": asked_words(exclude)}
    times, class_scores, seed = Times(), ClassScores(scores), torch.initial_seed()
    ranks, watch = Ranks.here(model), StoppableProgress(progress, StopRequest())
    work = Work(model, device, class_scores, watch, tuple(triggers))
    sets = open_sets(model, clean, suspect, batch_size, images)
    require_triggers(triggers, looked_for=proof and listed != "none" and not stop_early and sets.clean_measured is None)
    options |= {"triggers": [f"{proof.kind} to {proof.target}" for proof in triggers]} if triggers else {}

    require_stoppable(stop_when, running, sets, listed, proof, ranks)
    company: dict[str, Any] = {"progress": progress, "quarantine": quarantine, "times": times, "scores": class_scores}

    def staged(name: str, source: Source, observer: Observer | None) -> Generator[SoFar, None, None]:
        if quarantine is not None:
            quarantine.begin(name)
        suspects = name == "suspect"
        company["live"] = LiveSignature(of_clean) if suspects and progress is not None else None
        pause = is_time if suspects and stop_when is not None else None
        return in_stages(model, source, running.of(name), pause, observer=observer, **company)

    def measured(name: str, source: Source, observer: Observer | None) -> Measurement:
        [stage] = staged(name, source, observer)
        return stage.measurement

    # Measure both sets. The ranking sees their samples as they pass, and is calibrated in between.
    attempts = Attempts()
    on_the_way = RankingAttempt(attempts, times, ranking_passes(work, sets, running, listed, attempts))
    tails = histograms or bool(attempts.checks) or accept_unranked  # checks: it is known already that nothing is ranked
    running = replace(running, histograms=tails)
    if not tails and (sets.clean_measured is None or sets.suspect_measured is None):
        attempts.notes += (NO_HISTOGRAMS,)
    of_clean = sets.clean_measured or measured("clean", sets.clean, on_the_way.clean)
    with interruptible(watch, checkpoint if ranks.count == 1 else None):
        on_the_way.calibrate(of_clean)
    running, work = running.without(of_clean.unread), replace(work, classes=classes_in([of_clean.predictions]))
    asked = Asked(threshold, top_k, accept_unranked, budget, proof, listed, class_names, common=layers is None)
    interim = conclusion = None
    if sets.suspect_measured is not None:
        on_the_way.take_up(sets.suspect_measured)
        of_suspect = sets.suspect_measured
    elif stop_when is None:
        of_suspect = measured("suspect", sets.suspect, on_the_way.suspect)
    else:  # judged while it runs, to be ended once the evidence holds
        stages, signals = staged("suspect", sets.suspect, on_the_way.suspect), partial(interruptible, watch, checkpoint)
        steps = Steps(on_the_way, sets, work, asked, times, signals)
        of_suspect, interim, conclusion = judged_while_running(stages, stop_when, chunk_size, of_clean, steps)
        options["judged"] = interim.report()
    pair = asked.comparable(of_clean, of_suspect)  # before anything else is spent

    with stop_on_signals(watch.stop):  # from here on a signal leaves the verdict so far
        # Rank the suspect samples.
        ranked = on_the_way.result(*pair) if conclusion is None else conclusion.ranked

        with ranks.waiting() as wait:  # under torchrun rank 0 proves and repairs, and tells the others
            # Reconstruct triggers, prove them, find the samples that hold them, and judge, once: what follows changes no verdict.
            if conclusion is None:
                conclusion = conclude(pair, ranked, sets.suspect, sets.clean, work, attempts, asked, wait, times, interim)
            judgement = conclusion.judgement

            # Repair what failed.
            cured: tuple[Repair | None, str] = None, ""
            if repair and ranked is not None and ranks.rank == 0 and judgement.verdict.outcome == "fail":
                with times.measuring("repair"):
                    reader = SuspectReader(sets.suspect, ranked, watch)
                    rows = None if conclusion.inputs is None else conclusion.inputs[0]
                    known = Known(ranked.reservoir, ranked.largest, None, rows, reader)
                    cured = cure(judgement, known, work, conclusion.budget.left)
            cured, cut, signal = wait.tell((cured, watch.cut, watch.stop.name))
            judgement = judgement.with_repair(*cured)

    # Report: the audit can be shown, saved and computed with.
    times.total = perf_counter() - began
    this_run = Run(type(unwrapped(model)).__qualname__, "", sets.clean_name, sets.suspect.name, (), began_at, now())
    audit = Audit(judgement, options, times, this_run, seed)
    if cut:
        raise stopped(signal, checkpoint, audit)
    return audit


def ranking_passes(
    work: Work, sets: OpenedSets, running: RunOptions, listed: str, attempts: Attempts
) -> Callable[[], RankingPass] | None:
    """What makes the ranking of these sets; None, with the reason in `attempts`, where none is asked for or it cannot be had."""
    from naa_fast.rank import RankingPass, ReferencePass
    from naa_fast.rank.passes import too_few

    if listed == "none" or running.stop_early:
        attempts.unranked("the forwards ended early" if running.stop_early else "it was switched off")
        return None
    chosen: dict[str, Any] = {"layers": running.layers, "device": running.device, "backend": running.backend}
    chosen |= {"progress": work.watch, "scores": work.scores}
    if sets.clean_measured is not None:
        return lambda: ReferencePass(work.model, sets.suspect, **chosen)
    if (reason := too_few(sets.clean.samples)) is not None:
        attempts.unranked(reason)
        return None
    return lambda: RankingPass(work.model, sets.clean, sets.suspect, **chosen)


def listed_by(ranking: bool | str) -> str:
    """Which of RANKINGS is asked for."""
    listed = ("top" if ranking else "none") if isinstance(ranking, bool) else ranking
    if listed not in RANKINGS:
        raise UsageError(f"ranking is {ranking!r}", f"expected one of {', '.join(RANKINGS)}, or True or False")
    return listed


@shown
def measure(
    model: torch.nn.Module,
    data: Any,
    *,
    layers: Layers = None,
    exclude: Layers = None,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    backend: str = "auto",
    progress: Progress | bool | None = None,
    first_index: int = 0,
    chunk_size: int | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    stop_early: bool = False,
    quarantine: Quarantine | None = None,
    times: Times | None = None,
    prefetch: int | None = None,
    shard: tuple[int, int] | None = None,
    scores: str | None = None,
    images: ImageOptions | None = None,
    reference: bool = False,
    against: Measurement | str | Path | None = None,
    retain: bool = False,
    histograms: bool | None = None,
) -> Measurement:
    """One set's statistics under `model`: the half of `scan` that needs the model. See `scan` for the arguments.

    `first_index`: where `data` begins in a larger set of which it is a part, so that merged parts equal one pass over the whole.
    `shard` (i, n) measures the i-th of n parts, from 1 on, and says so in the measurement: `naa-fast merge` joins them. `times`
    is added to. `reference`: keep what `scan` ranks suspects by, so that it can be given the measurement and not the clean set.
    Cost: that of a ranking's clean half, and per neuron some 700 bytes of sums, up to 2,600 of what directions are found by, and
    .6 MB a layer, whatever the number of samples and classes. `against`, a clean measurement with a reference, or its file: also
    rank the samples by it (`Measurement.anomalies`), in the same pass; parts merge, and `scan` takes the whole in place of its
    suspect set. `retain`: keep the inputs of the highest-ranked as well, 1,000 and 256 MB at most, which proofs are read off.
    `histograms`: of single samples, 1,020 bytes a neuron, twice that where samples have several positions, and as much as twice
    the time of all else; None: where no ranking looks at each sample, so with neither `reference` nor `against`.

    >>> naa_fast.measure(model, clean)
    Measurement(500 samples, 3 layers)
    """
    assert not isinstance(progress, bool)  # `shown` has seen to that
    from naa_fast.inputs.batches import PartOfSource
    from naa_fast.inputs.identity import identity_of
    from naa_fast.inputs.images import fit_images
    from naa_fast.inputs.opening import open_source
    from naa_fast.inputs.padding import fitted
    from naa_fast.parts import Part, cut_from
    from naa_fast.rank import RankingPass, ReferencePass
    from naa_fast.rank.opened import given_measurement, require_model_of
    from naa_fast.scan.loop import measure as run
    from naa_fast.scan.options import RunOptions
    from naa_fast.scan.ranks import Ranks

    running = RunOptions.asked(
        layers, exclude, batch_size, device, backend, scores, stop_early, prefetch, chunk_size, checkpoint, resume
    )
    ranked = reference or against is not None
    running = replace(running, histograms=(stop_early or not ranked) if histograms is None else histograms)
    source = fitted(model, open_source(data, batch_size, images=images))
    fit_images(model, [source], images)
    parts: tuple[Part, ...] = ()
    whole: dict[str, tuple[str, ...]] = {}
    if shard is not None:
        if source.samples is None:
            raise InputError(
                f"{source.name} does not say how many samples it has", "a shard is a share of a known number", "use a file"
            )
        if first_index:
            raise UsageError("a shard and a first index", "a shard begins where it begins", "leave the first index out")
        parts = (Part.asked(shard, source.samples),)
        first_index = parts[0].start
        whole = cut_from(identity_of(source), source.name)
        source = PartOfSource(source, parts[0].start, parts[0].stop)
    company: dict[str, Any] = {"progress": progress, "quarantine": quarantine, "times": times, "first_index": first_index}
    chosen: dict[str, Any] = {"layers": running.layers, "device": device, "backend": backend, "progress": progress}
    if against is not None:
        if reference or stop_early:
            raise UsageError(
                "against with reference or stop_early", "a set is ranked, by its classes, or ranked by", "leave it out"
            )
        if (clean := given_measurement(against)) is None:
            raise UsageError(f"against is {against!r}", "expected a measurement or its file, .naa.safetensors")
        require_model_of(clean, model)
        by = ReferencePass(model, source, **chosen).calibrate(clean)
        measured = run(model, source, running, observer=by.suspect, **company)
        measured = Ranks.here(model).share(replace(measured, anomalies=by.handed(clean, measured, retain)))
        return replace(measured, parts=parts, provenance={**measured.provenance, **whole})
    if retain:
        raise UsageError("retain without against", "inputs are retained of ranked samples", "name the clean measurement")
    ranking = RankingPass(model, source, source, saving=True, first=first_index, **chosen) if reference else None
    measured = run(model, source, running, observer=None if ranking is None else ranking.clean, **company)
    if ranking is not None:
        measured = Ranks.here(model).share(replace(measured, reference=ranking.calibrate(measured).saved))
    return replace(measured, parts=parts, provenance={**measured.provenance, **whole})


def compare(
    clean: Measurement,
    suspect: Measurement,
    *,
    threshold: float | None = None,
    top_k: int = 20,
    options: dict[str, Any] | None = None,
    evidence: Evidence | None = None,
    accept_unranked: bool = False,
) -> Audit:
    """Judge two measurements of one model; needs neither the model nor torch. See `naa_fast.detect.judgement.judge`.

    No trigger is proved from measurements, and samples are ranked where the suspects were measured `against` the clean set:
    without `accept_unranked` like sets are inconclusive.

    >>> sets = naa_fast.measure(model, clean), naa_fast.measure(model, suspect)
    >>> naa_fast.compare(*sets).verdict.outcome
    'warn'
    """
    resolved = {"threshold": threshold, "top_k": top_k, "accept_unranked": accept_unranked, **(options or {})}
    return Audit(judge(clean, suspect, threshold, top_k, evidence, accept_unranked), resolved)
