"""`crowd_of`: whether the samples outside the clean set are one class's crowd that came from the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naa_fast.detect.evidence import Crowd, Ranking
from naa_fast.proof.images import CleanImages
from naa_fast.proof.prove import rows_like
from naa_fast.rank.keep import Kept
from naa_fast.records import Array

SIDE = 16
"""Images are compared in this many squares each way at most."""


def crowd_of(ranking: Ranking, kept: Sequence[Kept], clean: CleanImages, predicted: Array) -> Crowd | None:
    """The class whose suspect samples lie beyond the clean limit most, and the classes that the clean images nearest to them
    have. `clean` inputs with the class `predicted` for each; `kept`: the highest-ranked suspects. None where none lies beyond.

    Cost: distances between at most 1,000 kept and 4,096 clean images of SIDE x SIDE values a channel.
    """
    gathered = ranking.gathered
    if gathered is None:
        return None
    target, extra, purity, rise = gathered
    rows = [row for cls, row in rows_like(clean, [one for one in kept if one.score > ranking.limit]) if cls == target]
    if not rows:
        return None
    reference = coarse(clean.x)
    own = np.flatnonzero(predicted == target)
    near = predicted[nearest(coarse(np.stack(rows)), reference)]
    usual = predicted[nearest(reference[own], reference, own)] if len(own) else np.zeros(0, np.int64)
    others = near[near != target]
    spread = 1.0 - float(np.bincount(others).max() / len(others)) if len(others) else 0.0
    elsewhere = float((near != target).mean())
    return Crowd(target, extra, purity, rise, elsewhere, float((usual != target).mean()) if len(usual) else 1.0, spread)


def coarse(x: Array) -> Array:
    """Images `[n, channels, height, width]` as means over squares, float32 `[n, values]`; other inputs as they are."""
    if x.ndim == 4:
        x = squares(x.shape[2]) @ x @ squares(x.shape[3]).T
    return x.reshape(len(x), -1)


def squares(length: int) -> Array:
    """Means over SIDE pieces of an axis, at most, as a matrix: float32 `[pieces, length]`."""
    cuts = np.linspace(0, length, min(SIDE, length) + 1).astype(int)
    place = np.arange(length)
    inside = (place >= cuts[:-1, None]) & (place < cuts[1:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def nearest(x: Array, reference: Array, own: Array | None = None) -> Array:
    """The number of the nearest reference row of each row of `x` by Euclidean distance; `own`: rows that are not their own."""
    distance = (reference**2).sum(1) - 2 * x @ reference.T
    if own is not None:
        distance[np.arange(len(x)), own] = np.inf
    return distance.argmin(1)
