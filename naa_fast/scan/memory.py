"""Running out of memory: the batch is halved and tried again, and nothing is counted twice."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from naa_fast.inputs.batches import Batch

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
    """The batch in parts of at most `most` samples, in order; tensors with one row a sample are cut, all else is shared."""
    if batch.size <= most:
        return [batch]
    step = int(most)
    cuts = [slice(start, min(start + step, batch.size)) for start in range(0, batch.size, step)]

    def part(value: Any, cut: slice) -> Any:
        if isinstance(value, Tensor):
            return value[cut] if value.ndim and value.shape[0] == batch.size else value
        if isinstance(value, dict):
            return {key: part(item, cut) for key, item in value.items()}
        return type(value)(part(item, cut) for item in value) if type(value) in (list, tuple) else value

    parts = [
        Batch(part(batch.arguments, cut), part(batch.keywords, cut), cut.stop - cut.start, part(batch.mask, cut)) for cut in cuts
    ]
    return [replace(parts[0], skipped=batch.skipped), *parts[1:]]
