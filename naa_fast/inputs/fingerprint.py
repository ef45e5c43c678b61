"""What was read, in 32 hexadecimal digits: cheap enough to compute along the way, and no proof against forgery."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.inputs.batches import Batch
from naa_fast.inputs.identity import add_text
from naa_fast.records import Array

EDGE_BYTES = 1 << 13  # hashing is 1 GB/s: 64 KiB a side cost more than reading a small batch for its statistics
SPREAD = 1024
DIGEST_BYTES = 16
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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


def model_fingerprint(model: nn.Module) -> str:
    """Name, dtype, shape and 1,024 evenly spaced values of every parameter and buffer; not of the code.

    Of tensors without readable values (meta, sparse, quantised) the name and shape alone. One small copy to the host per tensor.
    """
    digest = blake2b(digest_size=DIGEST_BYTES)
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, Tensor):
            add_text(digest, f"{name}: {type(value).__name__}")
            continue
        if hasattr(value, "full_tensor"):  # spread over ranks, the model is the same
            value = value.full_tensor()
        describe(digest, name, value)
        try:
            digest.update(spread(as_integers(value)).cpu().contiguous().numpy().tobytes())
        except (RuntimeError, TypeError, NotImplementedError):
            add_text(digest, "unread")
    return digest.hexdigest()


def as_integers(x: Tensor) -> Tensor:
    """The same memory as integers of the same width: NumPy has no bfloat16 and no 8-bit floats."""
    x = x.detach()
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    if x.layout != torch.strided or x.is_quantized or x.device.type == "meta" or x.element_size() not in INTEGERS:
        raise TypeError("no plain values in memory")
    return x.view(INTEGERS[x.element_size()])


@lru_cache(maxsize=64)
def spread_index(length: int) -> Array:
    """Up to 1,024 places, evenly spaced."""
    return np.arange(length) if length <= SPREAD else np.arange(SPREAD) * (length - 1) // (SPREAD - 1)


def spread(x: Tensor) -> Tensor:
    """Up to 1,024 values, evenly spaced in row-major order whatever the strides."""
    if x.numel() <= SPREAD:
        return x.reshape(-1)
    index = torch.arange(SPREAD, device=x.device) * (x.numel() - 1) // (SPREAD - 1)
    return x[torch.unravel_index(index, x.shape)]


def describe(digest: blake2b, name: str, x: Tensor) -> None:
    add_text(digest, f"{name}: {x.dtype} {list(x.shape)}")
