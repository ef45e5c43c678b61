"""`evidence_of`: the steps from ranked samples to the evidence that is judged, in their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from naa_fast.detect.checks import did_not_run, ran
from naa_fast.detect.directions import Direction
from naa_fast.detect.evidence import Evidence
from naa_fast.inputs.batches import Source
from naa_fast.inputs.text import decoder
from naa_fast.proof.budget import Budget
from naa_fast.proof.clusters import Origins, find_cluster
from naa_fast.proof.prove import CleanInputs, Proved, clean_images
from naa_fast.proof.reconstruct import beyond_every_clean_one, reconstruct_and_prove, without_clean_samples
from naa_fast.proof.triggered import WHOSE, find_triggered
from naa_fast.rank.attempts import Attempts, Shared
from naa_fast.rank.evidence import find_directions, inputs_of, ranking_of
from naa_fast.rank.scorer import RankingResult
from naa_fast.rank.suspects import SuspectReader
from naa_fast.report.retained import SHOWN, shown
from naa_fast.scan.work import Work


def evidence_of(
    ranked: RankingResult,
    suspect: Source,
    work: Work,
    attempts: Attempts,
    budget: Budget | None,
    listed: str,
    share: float = 1.0,
) -> tuple[Evidence, CleanInputs | None]:
    """What the ranked samples show, step by step, and the clean inputs that a repair is tried on. `budget` None: nothing is
    proved. `share`: the part of each chance of a false proof that may be spent.

    A step that raises is a check that did not run, or a gap, in `attempts`, and the others go on. Cost: see `prove`, and one more
    reading of the suspect set where a trigger was proved.
    """
    ranking = ranking_of(ranked, suspect, whole=listed == "all")
    attempts.checks += ran("ranking")
    inputs = Shared(lambda: clean_images(ranked))
    proved = Proved(tried=False)
    if ranked.by_reference:
        attempts.checks += without_clean_samples(ranking)
        attempts.notes += beyond_every_clean_one(ranking)
    elif budget is None:
        attempts.checks += did_not_run("it was switched off", "proof")
    else:
        proved = attempts.check("proof", lambda: reconstruct_and_prove(ranked, suspect, inputs.taken(), work, budget), proved)
    proofs = tuple(replace(proof, share=share) for proof in proved.proofs)
    standing = [proof for proof in proofs if proof.stands]
    if proved.tried and not standing:  # no sample has a trigger; else it is unknown until they are sought
        ranking = replace(ranking, uncertain=np.zeros(len(ranked.scores), bool))
    reader = SuspectReader(suspect, ranked, work.watch)
    ranking = attempts.question(WHOSE, lambda: find_triggered(ranking, ranked, reader, standing), ranking)
    origins = attempts.question(WHOSE, lambda: find_cluster(ranking, ranked, inputs.taken()), Origins())
    no_directions: tuple[Direction, ...] = ()
    directions = attempts.check("directions", lambda: find_directions(ranked), no_directions)
    rows, masks = inputs_of(ranked, ranking.order[:SHOWN].tolist())
    pictures, texts = shown(rows, masks, [proof.trigger for proof in standing], decoder(suspect))
    evidence = Evidence(
        ranking,
        proofs,
        proved.forwards,
        pictures=pictures,
        texts=texts,
        harmless=origins.harmless,
        cluster=origins.cluster,
        directions=directions,
    )
    return evidence, inputs.value
