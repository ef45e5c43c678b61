"""Running out of memory: the batch is halved and tried again, and nothing is counted twice."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from naa_fast.inputs.batches import Batch, cut

MEMORY, CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
HOST_MESSAGES = ("can't allocate memory", "not enough memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host refused an allocation; torch's host allocator says so only in words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in HOST_MESSAGES)


def free_on_host() -> int | None:
    """Bytes that this process may still take on the host, of the machine and of the container it is in; None where unknown."""
    limits = []
    try:
        fields = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
        limits.append(int(fields["MemAvailable"].split()[0]) << 10)
    except (OSError, KeyError, ValueError):
        pass
    try:
        limit, used = ((CONTAINER / name).read_text().strip() for name in ("memory.max", "memory.current"))
        limits += [] if limit == "max" else [int(limit) - int(used)]
    except (OSError, ValueError):
        pass
    return min(limits, default=None)


def free_on(device: torch.device) -> int | None:
    """Bytes that are free on a GPU; None for other devices."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


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
