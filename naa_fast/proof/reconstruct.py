"""`reconstruct_and_prove`: triggers read off the highest-ranked samples and measured on clean ones, as a step of a scan."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from naa_fast.detect.checks import Check, did_not_run, ran
from naa_fast.detect.enrichment import hypergeometric_tail
from naa_fast.detect.evidence import Ranking
from naa_fast.detect.findings import GATHERED
from naa_fast.inputs.batches import Source
from naa_fast.inputs.text import decoder
from naa_fast.proof.budget import Budget
from naa_fast.proof.examples import with_words
from naa_fast.proof.prove import CleanInputs, Proved, prove
from naa_fast.proof.transplant import samples_of
from naa_fast.rank.attempts import Found
from naa_fast.rank.scorer import RankingResult
from naa_fast.rank.suspects import SuspectReader
from naa_fast.scan.work import Work


def reconstruct_and_prove(
    ranked: RankingResult, suspect: Source, inputs: CleanInputs | None, work: Work, budget: Budget
) -> Found[Proved]:
    """What came nearest to a proof for each target (see `prove`), its tokens in words. The check ran if every target was
    searched.

    `inputs`: clean continuous inputs, None for others. The suspect set is read again to take a trigger out of its samples.
    """
    fetch = partial(samples_of, SuspectReader(suspect, ranked), predicted=ranked.predicted)
    proved = prove(work, ranked, inputs, fetch, budget)
    decode = decoder(suspect)
    untried = "; ".join(proved.notes)
    checks = did_not_run(untried, "proof", in_part=proved.forwards > 0) if untried else ran("proof")
    return Found(replace(proved, proofs=tuple(with_words(proof, decode) for proof in proved.proofs)), checks, proved.limits)


FAR_P = 0.05
"""How likely as many samples lie far out by chance, below which they would have to be proved."""
FAR = 2
"""A sample with so many times the largest score of a clean one would have to be proved. Chosen on the demo's network and on
random data, where clean suspects stay below 1.5; two samples with the demo's trigger lie above.
"""


NAMED = 5
"""Samples beyond every clean one that a note names."""


def beyond_every_clean_one(ranking: Ranking) -> tuple[str, ...]:
    """A note that names the suspects that lie farther out than any clean sample, where these are no more than chance puts there:
    which of them carries a trigger, if one does, only clean samples can tell.
    """
    if not ranking.outside:
        return ()
    sizes = [int(np.isfinite(scores).sum()) for scores in (ranking.scores, ranking.null_scores)]
    chance = hypergeometric_tail(ranking.outside, sizes[0], 0, sizes[1])
    first = ", ".join(f"{row.sample}" for row in ranking.rows(min(ranking.outside, NAMED)))
    more = f" and {ranking.outside - NAMED} more" if ranking.outside > NAMED else ""
    many = f"{ranking.outside} suspect sample{'s' * (ranking.outside > 1)}"
    return (
        f"whether one of {many} beyond every clean sample carries a trigger: {first}{more}; of clean suspects so many lie there "
        f"with probability {chance:.2g}. Look at them, or scan with --clean, which proves the trigger of one that does",
    )


def without_clean_samples(ranking: Ranking) -> tuple[Check, ...]:
    """The check where the clean set is not at hand: it ran if there is nothing that would have to be proved on clean samples:
    no class is enriched, no more samples lie far out than by chance, and none `FAR` times as far as the farthest clean one. A
    scan with the clean set proves triggers that two samples carry.
    """
    concentrated = ranking.concentration[1] >= GATHERED
    known = ranking.null_scores[np.isfinite(ranking.null_scores)]
    far = len(known) > 0 and float(ranking.scores.max(initial=0)) > FAR * known.max()
    if ranking.p_value < FAR_P or far or concentrated or ranking.not_finite:
        reason = (
            "samples lie outside the clean set, and a trigger is proved on clean samples: give the clean set itself (--clean)"
        )
        return did_not_run(reason, "proof")
    return ran("proof")
