"""Running out of memory: the batch is halved and tried again, and nothing is counted twice."""

from __future__ import annotations

import gc

import torch

from naa_fast.inputs.batches import Batch, cut

HOST_MESSAGES = ("can't allocate memory", "not enough memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host refused an allocation; torch's host allocator says so only in words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in HOST_MESSAGES)


def release() -> None:
    """Give cached memory back before the next try."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def pieces(batch: Batch, most: float) -> list[Batch]:
    """The batch in parts of at most `most` samples, in order."""
    parts = []
    while batch.size > most:
        first, batch = cut(batch, int(most))
        parts.append(first)
    return [*parts, batch]
