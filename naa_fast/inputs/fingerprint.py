"""`Fingerprint`: which set was read, in 32 hexadecimal digits; cheap enough to make along the way, no proof against forgery."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np
from torch import Tensor

from naa_fast.capture.fingerprint import DIGEST_BYTES, SPREAD, as_integers, describe
from naa_fast.inputs.batches import Batch
from naa_fast.records import Array

EDGE_BYTES = 1 << 13  # hashing is 1 GB/s: 64 KiB a side cost more than reading a small batch for its statistics


class Fingerprint:
    """Of a set: dtype and shape of every batch's input proper, its first and last 8 KiB, and 1,024 values spread over it.

    The same samples cut into other batches have another fingerprint. Tensors on a device are not read, since that would make the
    host wait: with one of those the digest is "", which is how a measurement says unknown.
    """

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=DIGEST_BYTES)
        self._unread = False

    def add(self, batch: Batch) -> None:
        """Take in one batch. Reads at most 24 KiB, except from a tensor that is not contiguous, which is copied once."""
        tensors = (value for value in (*batch.arguments, *batch.keywords.values()) if isinstance(value, Tensor))
        x = next(tensors, None)
        if x is None or x.device.type != "cpu":
            self._unread = True
            return
        describe(self._hash, "", x)
        try:
            flat = as_integers(x).reshape(-1).numpy()
            edge = EDGE_BYTES // flat.itemsize
            for part in (flat[:edge], flat[-edge:], flat[spread_index(len(flat))]):
                self._hash.update(np.ascontiguousarray(part).data)  # a column of a wider tensor is a view with gaps
        except (RuntimeError, TypeError, NotImplementedError):
            self._unread = True

    def hexdigest(self) -> str:
        """32 hexadecimal digits, or "" if some batch was not read."""
        return "" if self._unread else self._hash.hexdigest()


@lru_cache(maxsize=64)
def spread_index(length: int) -> Array:
    """Up to 1,024 places, evenly spaced: int64 `[places]`."""
    return np.arange(length) if length <= SPREAD else np.arange(SPREAD) * (length - 1) // (SPREAD - 1)
