"""`gather`: what ranked samples tell, proofs among it, as the evidence that is judged."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from torch import nn

from naa_fast.capture import ClassScores
from naa_fast.detect.axes import either_way
from naa_fast.detect.checks import Check, did_not_run, ran
from naa_fast.detect.directions import FEWEST
from naa_fast.detect.directions import measure as measured_directions
from naa_fast.detect.enrichment import TAIL_P
from naa_fast.detect.evidence import Deviating, Evidence, Ranking, nameless
from naa_fast.detect.findings import GATHERED
from naa_fast.detect.trigger import Decoder
from naa_fast.inputs.batches import Source
from naa_fast.inputs.order import Order
from naa_fast.inputs.text import decoder
from naa_fast.proof.budget import Budget
from naa_fast.proof.clusters import cluster_of
from naa_fast.proof.examples import with_words
from naa_fast.proof.prove import CleanInputs, clean_images, harmless_of, prove
from naa_fast.proof.transplant import samples_of
from naa_fast.proof.triggered import triggered_samples
from naa_fast.rank.passes import in_words
from naa_fast.rank.retained import main_tensor
from naa_fast.rank.scorer import RankingResult
from naa_fast.rank.suspects import SuspectReader
from naa_fast.records import Array
from naa_fast.report.retained import SHOWN, shown
from naa_fast.scan.stopping import Watch

WHOSE = "which samples carry it, and what classes they came from"


def gather(
    model: nn.Module,
    ranked: RankingResult,
    suspect: Source,
    *,
    device: str | torch.device = "auto",
    proof: bool = True,
    whole: bool = False,
    scores: ClassScores | None = None,
    watch: Watch | None = None,
    budget: Budget | None = None,
) -> tuple[Evidence, CleanInputs | None]:
    """What the ranked samples tell: proofs, who carries them, where clusters of outliers come from, and along which
    directions the sets differ; with the clean inputs that were retained, for a repair. `whole`: reports list every sample.
    `watch` shows how far it is, and may end a step; `budget`: how many samples may run.

    Raises nothing: what was measured stands without it, and what went wrong becomes a gap, so that it is no pass. Cost: see
    `prove`, and one more reading of the suspect set where a trigger was proved.
    """
    ranking = Ranking(
        ranked.scores,
        ranked.predicted,
        ranked.null_scores,
        ranked.null_predicted,
        triggered=np.zeros(len(ranked.scores), bool),
        uncertain=np.ones(len(ranked.scores), bool),  # until a proof was tried
        items=ranked.items,
        deviating=deviating_in(ranked),
        file_of=getattr(suspect, "file_of", nameless),
        whole=whole,
        numbering=Order.of(suspect).words,
    )
    checks = (*ran("ranking"), *(() if proof else did_not_run("it was switched off", "proof")))
    if ranked.by_reference:
        checks, proof = (*ran("ranking"), *without_clean(ranking)), False
    evidence = Evidence(ranking, checks=checks)
    images = cache(lambda: clean_images(ranked))
    reader = SuspectReader(suspect, ranked, watch)
    steps: list[tuple[str, Callable[[Evidence], Evidence]]] = [
        (
            "proof",
            lambda found: with_proofs(found, model, ranked, images(), suspect, device, scores, watch, budget) if proof else found,
        ),
        (WHOSE, lambda found: with_triggered(found, ranked, reader)),
        (WHOSE, lambda found: with_images(found, ranked, images())),
        ("directions", lambda found: with_directions(found, ranked)),
    ]
    for what, step in steps:
        try:
            evidence = step(evidence)
        except Exception as error:  # what the steps before have found stays
            reason = f"the attempt ended with {in_words(error)}"
            if what == WHOSE:
                evidence = replace(evidence, gaps=(*evidence.gaps, f"{what}: {reason}"))
            else:
                evidence = replace(evidence, checks=(*evidence.checks, *did_not_run(reason, what)))
    evidence = with_samples(evidence, ranked, decoder(suspect))
    try:
        return evidence, images()
    except Exception:  # as the proof has said
        return evidence, None


def without_clean(ranking: Ranking) -> tuple[Check, ...]:
    """Whether there was anything to prove, where no clean sample is at hand to prove it on."""
    gathered = ranking.concentration[1] >= GATHERED
    if ranking.p_value < TAIL_P or gathered or ranking.not_finite:
        reason = (
            "samples lie outside the clean set, and a trigger is proved on clean samples: give the clean set itself (--clean)"
        )
        return did_not_run(reason, "proof")
    return ran("proof")


def with_proofs(
    found: Evidence,
    model: nn.Module,
    ranked: RankingResult,
    images: CleanInputs | None,
    suspect: Source,
    device: str | torch.device,
    scores: ClassScores | None = None,
    watch: Watch | None = None,
    budget: Budget | None = None,
) -> Evidence:
    """The evidence with what was tried."""
    reader = SuspectReader(suspect, ranked)
    fetch = partial(samples_of, reader, predicted=ranked.predicted)
    attempts = prove(model, ranked, images, device, fetch, scores, watch, budget)
    decode = decoder(suspect)
    proofs = [with_words(p, decode) for p in attempts.proofs]
    untried = "; ".join(attempts.notes)
    checks = (*found.checks, *(did_not_run(untried, "proof", in_part=attempts.forwards > 0) if untried else ran("proof")))
    found = replace(found, notes=(*found.notes, *attempts.limits))
    if not attempts.tried:
        return replace(found, forwards=attempts.forwards, checks=checks)
    assert found.ranking is not None
    told = found.ranking
    if not any(proof.stands for proof in proofs):  # nothing carries one; else it is unknown until they are sought
        told = replace(told, uncertain=np.zeros(len(told.scores), bool))
    return replace(found, ranking=told, proof=tuple(proofs), forwards=attempts.forwards, checks=checks)


def with_directions(found: Evidence, ranked: RankingResult) -> Evidence:
    """The evidence with the directions along which the sets differ, of layers with enough samples."""
    directions = measured_directions(ranked.directions.projected())
    reason = f"fewer than {FEWEST} samples of a set to fix one on, or to measure it on"
    checks = (*found.checks, *(ran("directions") if directions else did_not_run(reason, "directions")))
    return replace(found, directions=directions, checks=checks)


def with_triggered(found: Evidence, ranked: RankingResult, reader: SuspectReader) -> Evidence:
    """The evidence with the samples that carry what was proved."""
    standing = [proof for proof in found.proof if proof.stands]
    if not standing:
        return found
    carry, uncertain = np.zeros(len(ranked.scores), bool), np.zeros(len(ranked.scores), bool)
    rows = [main_tensor(batch) for batch, _ in ranked.reservoir]
    for proof in standing:
        carried, unknown = triggered_samples(reader, rows, ranked.predicted, proof)
        carry, uncertain = carry | carried, uncertain | unknown
    assert found.ranking is not None
    ranking = replace(found.ranking, triggered=carry, uncertain=uncertain & ~carry)
    if reader.complete:
        return replace(found, ranking=ranking)
    where = f"sought among the {len(reader.retained)} highest-ranked samples alone, since the set does not repeat its order"
    return replace(found, ranking=ranking, notes=(*found.notes, f"{WHOSE}: {where}"))


def with_images(found: Evidence, ranked: RankingResult, images: CleanInputs | None) -> Evidence:
    """The evidence with what the inputs say: what harmless changes explain, and which class has a cluster of outliers."""
    if images is None or found.ranking is None:
        return found
    shape = images[0].x.shape[1:]
    read = f"inputs of shape {' x '.join(map(str, shape))} can be read both ways: taken as [channels, height, width]"
    notes = (*found.notes, read) if either_way(shape) else found.notes
    cluster = cluster_of(found.ranking, ranked.top, ranked.null_top, *images)
    return replace(found, harmless=harmless_of(ranked, images), cluster=cluster, notes=notes)


def deviating_in(ranked: RankingResult) -> dict[int, Deviating]:
    """The neurons that deviate most in the retained samples, by sample number, with the layers' names."""
    layers = list(ranked.layers.items())
    return {
        sample.sample: tuple((layers[layer][0], feature % max(layers[layer][1], 1), z) for layer, feature, z in sample.deviating)
        for sample in ranked.top
    }


def with_samples(found: Evidence, ranked: RankingResult, decode: Decoder | None) -> Evidence:
    """The evidence with pictures or texts of the highest-ranked samples, as far as their inputs were retained, none after a
    gap."""
    assert found.ranking is not None
    sample = {sample.sample: sample for sample in ranked.top if sample.row is not None}
    first = [sample.get(int(place)) for place in found.ranking.order[:SHOWN]]
    samples = [sample for sample in itertools.takewhile(lambda sample: sample is not None, first) if sample is not None]
    rows = [as_array(sample.row) for sample in samples if sample.row is not None]
    masks = [None if sample.mask is None else sample.mask.numpy() for sample in samples]
    pictures, texts = shown(rows, masks, [proof.trigger for proof in found.proof if proof.stands], decode)
    return replace(found, pictures=pictures, texts=texts)


def as_array(row: torch.Tensor) -> Array:
    return (row.float() if row.is_floating_point() or row.ndim != 1 else row).numpy()
