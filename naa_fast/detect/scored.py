"""`scored_evidence`: the ranking of suspects that were scored by the clean set while they were measured, without the model."""

from __future__ import annotations

import numpy as np

from naa_fast.detect.checks import NO_SAMPLES, did_not_run, ran, unranked
from naa_fast.detect.evidence import Evidence, Ranking, in_layers
from naa_fast.measurement import Measurement

OTHER = "the suspects were scored by another clean measurement than the one given"


def scored_evidence(clean: Measurement, suspect: Measurement) -> Evidence:
    """What the scores in a suspect measurement (`Measurement.anomalies`) tell, if they are by this clean one.

    Directions and proofs take the model. Cost: a digest of the clean measurement, and some microseconds a sample.
    """
    known = suspect.anomalies
    if known is None:
        return Evidence(checks=unranked(NO_SAMPLES))
    if known.by != clean.digest():
        return Evidence(checks=unranked(OTHER))
    layers = [*known.layers.items()]
    numbers = np.searchsorted(known.items, known.top_items).tolist()
    ranking = Ranking.unproved(
        known.scores.astype(np.float64),
        known.predicted.astype(np.int64),
        known.null_scores,
        known.null_predicted,
        items=known.items,
        deviating={n: in_layers(strongest, layers) for n, strongest in zip(numbers, known.top_deviating, strict=True)},
    )
    return Evidence(ranking, checks=(*ran("ranking"), *did_not_run(NO_SAMPLES, "directions", "proof")))
