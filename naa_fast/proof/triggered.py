"""`find_triggered`: which suspect samples hold a proven trigger in their input, whatever their neurons did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from naa_fast.detect.evidence import Ranking
from naa_fast.detect.proof import Proof
from naa_fast.proof.apply import closenesses
from naa_fast.rank.attempts import Found
from naa_fast.rank.retained import main_tensor
from naa_fast.rank.scorer import RankingResult
from naa_fast.rank.suspects import SuspectReader
from naa_fast.records import Array

CLEAN_MATCHES = 0.002
"""Share of clean samples that may come as close to a patch as a triggered one: the limit is set there."""


WHOSE = "which samples carry it, and what classes they came from"
"""What finding triggered samples and their cluster answers, in words of a report."""


def find_triggered(ranking: Ranking, ranked: RankingResult, reader: SuspectReader, proofs: Sequence[Proof]) -> Found[Ranking]:
    """The ranking with the samples that hold one of the `proofs` that stand, and those of which it cannot be told. Cost: one more
    reading of the suspect set for each of them.
    """
    standing = [proof for proof in proofs if proof.stands]
    if not standing:
        return Found(ranking)
    triggered, uncertain = np.zeros(len(ranked.scores), bool), np.zeros(len(ranked.scores), bool)
    clean = [main_tensor(batch) for batch, _ in ranked.reservoir]
    for proof in standing:
        of_this, unknown = triggered_samples(reader, clean, ranked.predicted, proof)
        triggered, uncertain = triggered | of_this, uncertain | unknown
    where = f"sought among the {len(reader.retained)} highest-ranked samples alone, since the set does not repeat its order"
    notes = () if reader.complete else (f"{WHOSE}: {where}",)
    return Found(replace(ranking, triggered=triggered, uncertain=uncertain & ~triggered), notes=notes)


def triggered_samples(suspects: SuspectReader, clean: Sequence[Tensor], predicted: Array, proof: Proof) -> tuple[Array, Array]:
    """Which suspect samples carry the trigger and are predicted as its target, and of which of these it cannot be told: two bool
    `[samples]`. Reads the set once more, or the retained samples alone where it does not repeat its order; no forward.

    `clean`: clean inputs, of which at most CLEAN_MATCHES come as close. It cannot be told of a trigger that leaves no trace; of
    a sample that no crop matches, as a crop is more than the trigger or less; where clean samples hold the pattern too, or inputs
    have another shape. Words and a patch at its place are there or not.
    """
    ways = closenesses(proof.trigger)
    chosen = predicted == proof.target if isinstance(proof.target, int) else np.ones(len(predicted), bool)
    usual = [np.concatenate([way(x) for x in clean]) if clean else np.zeros(0) for way in ways]
    limits = [0.5 if proof.tokens else limit_of(values) for values in usual]
    matched, compared = np.zeros(len(predicted), bool), np.zeros(len(predicted), bool)
    for batch, numbers in suspects.batches() if ways else ():
        inside = numbers < len(predicted)  # a set may be longer the second time
        known = np.ones(int(inside.sum()), bool)
        for way, limit in zip(ways, limits, strict=True):
            values = way(main_tensor(batch))[inside]
            matched[numbers[inside]] |= values > limit
            known &= np.isfinite(values)
        compared[numbers[inside]] = known
    exact = bool(proof.tokens) or (len(ways) == 1 and not proof.own and np.isfinite(limits[0]))
    return matched & chosen, chosen & ~matched & ~(compared & exact)


def limit_of(usual: Array) -> float:
    """The closeness that all but CLEAN_MATCHES of the clean samples stay below; infinite without any. `usual` float64
    `[samples]`.
    """
    usual = usual[np.isfinite(usual)]
    return float(np.quantile(usual, 1 - CLEAN_MATCHES)) if len(usual) else np.inf
