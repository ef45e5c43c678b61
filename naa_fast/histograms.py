"""The form in which histograms lie in a measurement file: `sparse`, and back by `dense`."""

from __future__ import annotations

import numpy as np

from naa_fast.records import BINS, Array


def sparse(tails: Array) -> tuple[Array, Array]:
    """Histograms int32 `[2, BINS, channels]` as bits that say which bins hold any (uint8, eight bins each) and int32 counts.

    Of means and maxima that coincide, as they do where a sample has one position, only the first are kept. 32 bytes a neuron and
    view, and 4 bytes an occupied bin.
    """
    kept = tails[:1] if np.array_equal(tails[0], tails[1]) else tails
    return np.packbits(kept > 0), np.ascontiguousarray(kept[kept > 0])


def dense(name: str, occupied: Array, counts: Array, samples: Array) -> Array:
    """Inverse of `sparse`; raises ValueError unless the histograms are of `samples` `[2, channels]` or fewer."""
    channels = samples.shape[1]
    cells = {-(-views * BINS * channels // 8): views for views in (2, 1)}
    views = cells.get(len(occupied)) if occupied.ndim == 1 and occupied.dtype == np.uint8 else None
    if views is None or counts.ndim != 1 or counts.dtype != np.int32:
        raise ValueError(f"layer {name}: histograms that do not fit {channels} neurons")
    bits = np.unpackbits(occupied)
    flat = np.zeros(views * BINS * channels, np.int32)
    if bits.sum() != len(counts) or bits[len(flat) :].any() or (counts <= 0).any():
        raise ValueError(f"layer {name}: histograms whose counts do not fit their bins")
    flat[bits[: len(flat)] == 1] = counts
    tails = np.broadcast_to(flat.reshape(views, BINS, channels), (2, BINS, channels)).copy()
    if (tails.sum(1, dtype=np.int64) > samples).any():
        raise ValueError(f"layer {name}: histograms of more samples than were observed")
    return tails
