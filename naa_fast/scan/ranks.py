"""Several processes, one measurement: chunks are dealt out to the ranks and joined in their order on rank 0."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from naa_fast.measurement import Measurement


@dataclass(frozen=True)
class Ranks:
    """This process's place among those of a `torchrun`; one alone outside of it."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """The ranks of the initialised default group, or a rank on its own."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def gather(self, part: Measurement | None, stop: str) -> tuple[list[Measurement], bool, str]:
        """`(parts, more, stop)` after one round: on rank 0 the parts of all ranks in chunk order, elsewhere none; on every rank
        whether any of them had a part, and the first stop that any was asked for.

        Waits for the slowest rank. Two collectives of objects; `part` crosses as the bytes of its file.
        """
        if self.count == 1:
            return ([part] if part is not None else []), part is not None, stop
        told: list[Any] = [None] * self.count
        dist.all_gather_object(told, (part is not None, stop))
        parts: list[Any] | None = [None] * self.count if self.rank == 0 else None
        dist.gather_object(part.to_bytes() if part is not None else None, parts, dst=0)
        whole = [Measurement.from_bytes(content) for content in parts or [] if content is not None]
        return whole, any(seen for seen, _ in told), next((stop for _, stop in told if stop), "")

    def share(self, measurement: Measurement | None) -> Measurement:
        """Rank 0's measurement on every rank."""
        if self.count > 1:
            held: list[Any] = [measurement.to_bytes() if measurement is not None else None]
            dist.broadcast_object_list(held, src=0)
            return Measurement.from_bytes(held[0])
        assert measurement is not None
        return measurement

    def tell(self, value: Any) -> Any:
        """Rank 0's `value` on every rank."""
        if self.count > 1:
            held = [value]
            dist.broadcast_object_list(held, src=0)
            return held[0]
        return value


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the process group that `torchrun` set up, if it did and nobody has yet: NCCL where there are GPUs, else gloo.

    Each rank takes the GPU of its local rank. The group is left again at the end.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield Ranks.here()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks.here()
    finally:
        dist.destroy_process_group()
