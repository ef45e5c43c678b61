"""`find_cluster`: whether samples outside the clean set are a cluster of one class that came from the others; what explains
it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naa_fast.detect.axes import either_way
from naa_fast.detect.enrichment import OutlierCluster
from naa_fast.detect.evidence import Ranking
from naa_fast.proof.images import CleanImages, harmless_share
from naa_fast.proof.prove import CleanInputs, harmless_of, rows_like
from naa_fast.rank.attempts import Found
from naa_fast.rank.retained import Retained
from naa_fast.rank.scorer import RankingResult
from naa_fast.records import Array

SIDE = 16
"""Images are compared in this many squares each way at most."""
SAME = 1e-5
"""Squared distance of an image from itself, over its squares, up to which rounding takes it."""


@dataclass(frozen=True)
class Origins:
    """Where the outlying samples come from: their `cluster`, None where there is none, and the share of the inputs' shift that
    `harmless` changes explain, 0 to 1.
    """

    cluster: OutlierCluster | None = None
    harmless: float = 0.0


def find_cluster(ranking: Ranking, ranked: RankingResult, inputs: CleanInputs | None) -> Found[Origins]:
    """The cluster of the outlying samples, as far as their inputs can be compared: see `cluster_of`. `inputs` None: not at
    all."""
    if inputs is None:
        return Found(Origins())
    shape = inputs[0].x.shape[1:]
    read = f"inputs of shape {' x '.join(map(str, shape))} can be read both ways: taken as [channels, height, width]"
    cluster = cluster_of(ranking, ranked.top, ranked.null_top, *inputs)
    return Found(Origins(cluster, harmless_of(ranked, inputs)), notes=(read,) if either_way(shape) else ())


def cluster_of(
    ranking: Ranking, retained: Sequence[Retained], null_retained: Sequence[Retained], clean: CleanImages, predicted: Array
) -> OutlierCluster | None:
    """The class whose suspects lie beyond its clean samples most, and the classes that the clean images nearest to them have.

    `clean` inputs with the class `predicted` for each; `retained`: the highest-ranked suspects, `null_retained` clean samples
    that fixed nothing, numbered as in `ranking.null_scores`: what those beyond the limit resemble is what as many of the suspects
    would. None where no class has more beyond than expected. Cost: distances between at most 2,000 retained and 4,096 clean
    images of SIDE x SIDE values a channel. `predicted` int64 `[clean inputs]`.
    """
    enriched = ranking.enriched
    known = predicted >= 0
    if enriched is None or enriched.extra <= 0 or not known.any():
        return None
    target, limit, reference, predicted = enriched.target, enriched.limit, coarse(clean.x[known]), predicted[known]
    classes = max(int(predicted.max(initial=0)), target) + 1

    def of_target(samples: Sequence[Retained], scores: Array) -> list[Array]:
        return [
            row for cls, row in rows_like(clean, [sample for sample in samples if scores[sample.sample] > limit]) if cls == target
        ]

    rows, chance = of_target(retained, ranking.scores), of_target(null_retained, ranking.null_scores)
    if not rows:
        return None
    of_class = resembled(reference[predicted == target], reference, predicted, classes)
    usual = resembled(coarse(np.stack(chance)), reference, predicted, classes) if chance else of_class
    by_chance = len(rows) * (1 - enriched.extra / enriched.beyond)
    more = resembled(coarse(np.stack(rows)), reference, predicted, classes) - usual * (by_chance / max(usual.sum(), 1))
    more, of_class = np.delete(more, target), np.delete(of_class / max(of_class.sum(), 1), target)
    positive = np.maximum(more, 0)
    return OutlierCluster(
        target,
        enriched.extra,
        enriched.purity,
        enriched.p_value,
        elsewhere=float(np.clip(more.sum() / max(len(rows) - by_chance, 1), 0, 1)),
        usual=float(of_class.sum()) if (predicted == target).any() else 1.0,
        spread=1.0 - float(positive.max() / positive.sum()) if positive.any() else 0.0,
        harmless=harmless_share(np.stack(rows), clean),
    )


def resembled(x: Array, reference: Array, predicted: Array, classes: int) -> Array:
    """How many rows of `x` are nearest by Euclidean distance to reference rows of each predicted class: float64 `[classes]`. A
    row is not its own like.
    """
    length = (x**2).sum(1)[:, None]
    distance = length + (reference**2).sum(1) - 2 * x @ reference.T
    distance[distance <= SAME * length] = np.inf
    return np.bincount(predicted[distance.argmin(1)], minlength=classes).astype(float)


def coarse(x: Array) -> Array:
    """Images `[n, channels, height, width]` as means over squares, float32 `[n, values]`; other inputs as they are."""
    if x.ndim == 4:
        x = squares(x.shape[2]) @ x @ squares(x.shape[3]).T
    return x.reshape(len(x), -1)


def squares(length: int) -> Array:
    """Means over SIDE pieces of an axis, at most, as a matrix: float32 `[pieces, length]`."""
    edges = np.linspace(0, length, min(SIDE, length) + 1).astype(int)
    place = np.arange(length)
    inside = (place >= edges[:-1, None]) & (place < edges[1:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)
