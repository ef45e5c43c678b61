"""`conclude`: from measured and ranked suspects to a judgement, at the end of a scan or while it runs (`interim.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from naa_fast.detect.coverage import with_common_layers
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.interim import Interim
from naa_fast.detect.judgement import Judgement, judge, require_comparable
from naa_fast.inputs.batches import Source
from naa_fast.inputs.names import miscounted, names_of
from naa_fast.measurement import Measurement
from naa_fast.proof.budget import Budget, default_budget
from naa_fast.proof.evidence import evidence_of
from naa_fast.proof.prove import CleanInputs
from naa_fast.proof.token_heat import token_heat
from naa_fast.rank.attempts import Attempts
from naa_fast.rank.scorer import RankingResult
from naa_fast.scan.ranks import Patience
from naa_fast.scan.times import Times
from naa_fast.scan.work import Work


@dataclass(frozen=True)
class Asked:
    """How a scan is to be judged; the fields are arguments of `naa_fast.scan`. `listed`: which samples reports list; `common`:
    only layers that both sets reached count.
    """

    threshold: float | None
    top_k: int
    accept_unranked: bool
    budget: int | None
    proof: bool
    listed: str
    class_names: Mapping[int, str] | None
    common: bool

    def comparable(self, clean: Measurement, suspect: Measurement) -> tuple[Measurement, Measurement]:
        """Both, ready to be judged. Raises what `judge` would, before anything else is spent."""
        pair = with_common_layers(clean, suspect) if self.common else (clean, suspect)
        require_comparable(*pair, self.threshold, self.top_k)
        return pair

    def allowed(self, model: nn.Module, samples: int) -> Budget:
        """What proof and repair may run."""
        return Budget(default_budget(model, samples) if self.budget is None else self.budget)


@dataclass(frozen=True)
class Conclusion:
    """A judgement, what the samples' ranks were, the clean inputs that a repair is tried on, and what is left of the budget."""

    judgement: Judgement
    ranked: RankingResult | None
    inputs: CleanInputs | None
    budget: Budget


def conclude(
    pair: tuple[Measurement, Measurement],
    ranked: RankingResult | None,
    suspect: Source,
    clean: Source,
    work: Work,
    attempts: Attempts,
    asked: Asked,
    wait: Patience,
    times: Times,
    interim: Interim | None = None,
) -> Conclusion:
    """Reconstruct triggers from the highest-ranked samples, prove them on clean ones, find the samples that hold them, and judge.

    `pair`: both measurements, `ranked` the suspects' ranks, None where there are none, and on all ranks but the first. Cost: see
    `evidence_of`. Of a scan that is judged while it runs, chances of a false alarm are those of `interim`.
    """
    of_clean, of_suspect = pair
    budget = asked.allowed(work.model, of_clean.samples + of_suspect.samples)
    evidence, inputs, share = Evidence(), None, 1.0 if interim is None else interim.share
    if wait.ranks.rank == 0:
        if ranked is not None:
            with times.measuring("proof"):
                evidence, inputs = evidence_of(
                    ranked, suspect, work, attempts, budget if asked.proof else None, asked.listed, share
                )
                assert evidence.ranking is not None
                heat = partial(token_heat, ranked, evidence.ranking.order, of_clean, suspect, work)
                evidence = replace(evidence, heat=attempts.shown("which tokens deviate", heat, ()))
        counts = of_clean.predictions, of_suspect.predictions
        notes = (*attempts.notes, *miscounted(asked.class_names, counts))
        names = names_of(work.model, (clean, suspect), counts, asked.class_names)
        gaps = attempts.gaps
        if interim is not None:
            notes, gaps = (*notes, *interim.notes), (*interim.gaps, *gaps)
        evidence = replace(evidence, checks=attempts.checks, gaps=gaps, notes=notes, names=names, interim=interim)
    evidence = wait.tell(evidence)
    judgement = judge(*pair, asked.threshold, asked.top_k, evidence, asked.accept_unranked)
    return Conclusion(judgement, ranked, inputs, budget)
