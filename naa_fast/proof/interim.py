"""`judged_while_running`: a scan that ends once its evidence holds, judged after 1, 2, 4, 8, ... chunks of its suspects."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass

from naa_fast.detect.enrichment import TAIL_P
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.interim import Interim, times_before
from naa_fast.detect.judgement import judge
from naa_fast.errors import NaaError, UsageError
from naa_fast.inputs.batches import Source
from naa_fast.measurement import Measurement
from naa_fast.proof.conclusion import Asked, Conclusion, conclude
from naa_fast.rank.attempts import RankingAttempt
from naa_fast.rank.evidence import ranking_of
from naa_fast.rank.opened import OpenedSets
from naa_fast.rank.scorer import RankingResult
from naa_fast.scan.loop import CHUNK_SIZE, SoFar
from naa_fast.scan.options import RunOptions
from naa_fast.scan.ranks import Patience, Ranks
from naa_fast.scan.times import Times
from naa_fast.scan.work import Work

JUDGING = "judging what was read"


def require_stoppable(
    stop_when: str | None, running: RunOptions, sets: OpenedSets, listed: str, proof: bool, ranks: Ranks
) -> None:
    """Raise UsageError where a scan cannot be judged while it runs, or where what it is to stop at cannot come."""
    if stop_when is None:
        return
    asked = f"stop when {stop_when}"
    if ranks.count > 1:
        raise UsageError(
            f"{asked}, under torchrun",
            "a scan is judged while it runs by one process that has read all there is",
            "leave one out",
        )
    if sets.suspect_measured is not None:
        raise UsageError(f"{asked}, of suspects that were measured before", "nothing of them is left to be read", "leave it out")
    if stop_when == "proved":
        why = {
            "samples are not ranked": listed == "none",
            "the forwards end early, and nothing is ranked": running.stop_early,
            "proofs are switched off": not proof,
            "the clean set was measured before, and nothing is proved without its samples": sets.clean_measured is not None,
        }
        for reason, holds in why.items():
            if holds:
                raise UsageError(f"{asked}, where nothing can be proved", reason, "stop when it fails, or leave it out")


@dataclass(frozen=True)
class Steps:
    """What a scan is judged with on its way: the ranking beside it, the sets, the model's `work`, what was `asked` for.
    `interruptible`: inside of it a signal ends the step in hand, and then the scan.
    """

    on_the_way: RankingAttempt
    sets: OpenedSets
    work: Work
    asked: Asked
    times: Times
    interruptible: Callable[[], AbstractContextManager[None]]


def judged_while_running(
    stages: Generator[SoFar, None, None], stop_when: str, chunk_size: int | None, of_clean: Measurement, steps: Steps
) -> tuple[Measurement, Interim, Conclusion | None]:
    """The suspects as far as they were read, when they were judged, and the conclusion they were stopped at; None: all were read,
    and it is to be drawn yet.

    Each time the suspects read so far are held against the clean set at the level of `Interim`. Cost each time: one exact test
    of the ranked samples and the comparison of means; proofs, and a budget of their own, where either finds something. So a clean
    set is stopped, and costs a proof, with no more chance than is shared out, whatever a proof would say.
    """
    suspect = steps.sets.suspect
    with closing(stages):
        for stage in stages:
            so_far = stage.measurement
            read = so_far.samples + so_far.skipped
            earlier = [min((chunk_size or CHUNK_SIZE) << place, read) for place in range(times_before(stage.chunks))]
            interim = Interim((*earlier, read), suspect.samples, stopped=not stage.whole)
            if stage.whole:
                return so_far, interim, None
            with steps.interruptible():
                if steps.work.watch is not None:
                    steps.work.watch(JUDGING, read, suspect.samples)
                conclusion = judged_so_far(of_clean, so_far, interim, stop_when, steps)
            if conclusion is not None:
                return so_far, interim, conclusion
    raise AssertionError("the last stage is the whole")


def judged_so_far(
    of_clean: Measurement, so_far: Measurement, interim: Interim, stop_when: str, steps: Steps
) -> Conclusion | None:
    """The conclusion that the scan is to stop at, None where it goes on."""
    attempts, sets = steps.on_the_way.attempts.copy(), steps.sets
    try:
        pair = steps.asked.comparable(of_clean, so_far)
    except NaaError:  # too few samples yet, or a layer that has not fired
        return None
    ranked = steps.on_the_way.so_far(attempts, *pair)
    if not suspicious(pair, ranked, sets.suspect, steps.asked, interim, stop_when):
        return None
    alone = Patience(Ranks.here(steps.work.model), None)
    conclusion = conclude(pair, ranked, sets.suspect, sets.clean, steps.work, attempts, steps.asked, alone, steps.times, interim)
    return conclusion if holds(conclusion, stop_when) else None


def suspicious(
    pair: tuple[Measurement, Measurement],
    ranked: RankingResult | None,
    suspect: Source,
    asked: Asked,
    interim: Interim,
    stop_when: str,
) -> bool:
    """Whether what was read so far is worth a full judgement: more samples lie outside than by chance, at this time's level, or
    means alone would fail.
    """
    if ranked is not None and ranking_of(ranked, suspect, whole=False).p_value < TAIL_P * interim.share:
        return True
    if stop_when != "fail":
        return False
    means = judge(*pair, asked.threshold, asked.top_k, Evidence(interim=interim))
    return means.verdict.outcome == "fail"


def holds(conclusion: Conclusion, stop_when: str) -> bool:
    """Whether a conclusion is what the scan is to stop at."""
    verdict = conclusion.judgement.verdict
    proved = any(proof.stands for proof in conclusion.judgement.evidence.proof)
    return proved if stop_when == "proved" else verdict.outcome == "fail"
