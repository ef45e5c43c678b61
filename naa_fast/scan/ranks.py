"""Several processes, one measurement: chunks are dealt out to the ranks and joined in their order on rank 0."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from naa_fast.errors import CaptureError, NaaError, RankLost
from naa_fast.inputs.batches import Rejected
from naa_fast.measurement import Measurement
from naa_fast.records import LayerRecord

TIMEOUT_S = 1800.0
"""How long a rank waits for the others: longer than the slowest takes for a chunk more than the fastest, or it gives up on it."""


@dataclass(frozen=True)
class Turn:
    """One rank's turn: the part it measured (None: its items are beyond the end) and what it left out, or why it broke off: it
    was asked to `stop`, or a `fault`. `due`: it is time for a checkpoint.
    """

    part: Measurement | None = None
    rejected: tuple[Rejected, ...] = ()
    stop: str = ""
    fault: str = ""
    due: bool = False

    @property
    def items(self) -> int:
        return len(self.rejected) + (self.part.samples if self.part is not None else 0)


@dataclass(frozen=True)
class Round:
    """The turns of all ranks. `parts` and `rejected` are in chunk order, and elsewhere than on rank 0 empty.

    On every rank: how many items were read (`items`) and how many of them left out (`bad`), whether any rank had a part (`more`),
    the first reason to stop, and the first fault, with its rank; whether rank 0 says that a checkpoint is `due`.
    """

    parts: list[Measurement]
    rejected: list[Rejected]
    items: int
    bad: int
    more: bool
    stop: str = ""
    fault: str = ""
    due: bool = False


@dataclass(frozen=True)
class Ranks:
    """This process's place among those of a `torchrun`; one alone outside of it.

    `together`: the model itself is spread over the ranks (DTensor parameters: tensor parallel, FSDP2). Then all of them run every
    chunk, since a forward of one rank needs all the others, and rank 0's measurement counts.
    """

    rank: int = 0
    count: int = 1
    together: bool = False

    @classmethod
    def here(cls, model: nn.Module | None = None) -> Ranks:
        """The ranks of the initialised default group, or a rank on its own."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        together = model is not None and any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
        return cls(dist.get_rank(), dist.get_world_size(), together)

    @property
    def first(self) -> int:
        """Which chunk of a round is this rank's."""
        return 0 if self.together else self.rank

    @property
    def step(self) -> int:
        """Chunks a round."""
        return 1 if self.together else self.count

    def gather(self, turn: Turn) -> Round:
        """Hand in this rank's turn and learn of the others'. Waits for the slowest rank.

        Two collectives of objects; a part crosses as the bytes of its file. Raises RankLost if a rank does not answer.
        """
        if self.count == 1:
            parts = [] if turn.part is None else [turn.part]
            return Round(parts, [*turn.rejected], turn.items, len(turn.rejected), bool(parts), turn.stop, turn.fault, turn.due)
        with self.asking():
            told: list[Any] = [None] * self.count
            dist.all_gather_object(told, (turn.part is not None, turn.items, len(turn.rejected), turn.stop, turn.fault, turn.due))
            mores, items, bads, stops, faults, dues = zip(*told, strict=True)
            stop = next(filter(None, stops), "")
            fault = next((f"rank {rank} failed: {words}" for rank, words in enumerate(faults) if words), "")
            sent: list[Any] | None = [None] * self.count if self.rank == 0 else None
            content = turn.part.to_bytes() if turn.part is not None and not (stop or fault) else None
            dist.gather_object((content, turn.rejected), sent, dst=0)
        contents = sent or []
        if self.together:
            require_same([Measurement.from_bytes(content) for content, _ in contents if content is not None])
            contents, items, bads = contents[:1], items[:1], bads[:1]
        whole = [Measurement.from_bytes(content) for content, _ in contents if content is not None]
        rejected = [bad for _, some in contents for bad in some]
        return Round(whole, rejected, sum(items), sum(bads), any(mores), stop, fault, dues[0])

    def share(self, measurement: Measurement) -> Measurement:
        """Rank 0's measurement on every rank."""
        if self.count == 1:
            return measurement
        return Measurement.from_bytes(self.tell(measurement.to_bytes() if self.rank == 0 else None))

    def everyone(self, value: Any) -> list[Any]:
        """Every rank's `value`, in the order of the ranks, its tensors on the host; outside of torchrun `value` itself."""
        if self.count == 1:
            return [value]
        told: list[Any] = [None] * self.count
        with self.asking():
            dist.all_gather_object(told, packed(value))
        return [unpacked(content) for content in told]

    def gathered(self, value: Any) -> list[Any]:
        """As `everyone`, on rank 0; empty elsewhere."""
        if self.count == 1:
            return [value]
        told: list[Any] | None = [None] * self.count if self.rank == 0 else None
        with self.asking():
            dist.gather_object(packed(value), told, dst=0)
        return [unpacked(content) for content in told or []]

    def dealt(self, values: Sequence[Any]) -> list[Any]:
        """Of rank 0's `values`, dealt out one after the other, those of this rank."""
        if self.count == 1:
            return [*values]
        hands = [packed([*values[rank :: self.count]]) for rank in range(self.count)] if self.rank == 0 else None
        hand: list[Any] = [None]
        with self.asking():
            dist.scatter_object_list(hand, hands, src=0)
        mine: list[Any] = unpacked(hand[0])
        return mine

    def tell(self, value: Any, fault: NaaError | None = None) -> Any:
        """Rank 0's `value` on every rank; or its `fault`, raised on all of them."""
        if self.count > 1:
            with self.asking():
                message = [(value, str(fault or ""))]
                dist.broadcast_object_list(message, src=0)
            value, words = message[0]
            if words and self.rank:
                raise RankLost("rank 0 failed", *words.splitlines())
        if fault is not None:
            raise fault
        return value

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Work that every rank does for itself: what one of them raises ends it on all."""
        fault: Exception | None = None
        try:
            yield
        except Exception as error:
            fault = error
        told = self.everyone("" if fault is None else f"{type(fault).__name__}: {fault}") if self.count > 1 else []
        if fault is not None:
            raise fault
        for rank, words in enumerate(told):
            if words:
                raise RankLost(f"rank {rank} failed", *words.splitlines())

    @contextmanager
    def waiting(self) -> Iterator[Patience]:
        """Inside, the other ranks wait for what rank 0 does alone, however long it takes (`Patience.tell`)."""
        if self.count == 1:
            yield Patience(self, None)
            return
        with self.asking():
            group = dist.new_group(backend="gloo", timeout=timedelta(days=7))
        try:
            yield Patience(self, group)
        finally:
            dist.destroy_process_group(group)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Talk to the other ranks: one that has died, or hangs for longer than the group's timeout, becomes a RankLost."""
        try:
            yield
        except RuntimeError as error:  # what every backend raises, each in words of its own
            words = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RankLost(
                f"rank {self.rank} lost touch with another rank",
                words,
                "a process died, hangs, or ran out of memory: see what it said; --resume goes on, also with fewer ranks",
            ) from error


@dataclass(frozen=True)
class Patience:
    """A way for rank 0 to tell the others something much later."""

    ranks: Ranks
    group: Any

    def tell(self, value: Any) -> Any:
        """Rank 0's `value` on every rank."""
        if self.group is None:
            return value
        with self.ranks.asking():
            told = [packed(value)]
            dist.broadcast_object_list(told, src=0, group=self.group)
        return unpacked(told[0])


def packed(value: Any) -> bytes:
    """A value of this package's own types as bytes; between the processes of one job alone, which trust each other."""
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def unpacked(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)


def require_same(parts: list[Measurement]) -> None:
    """Raise CaptureError if the ranks of one model saw other values in a layer: then each saw its own share of the neurons."""
    for part in parts[1:]:
        for name, record in parts[0].layers.items():
            other = part.layers.get(name)
            if other is None or not same_values(record, other):
                raise CaptureError(
                    f"layer {name or 'of the whole model'} gives other values on each rank",
                    "its output is this rank's share of the neurons or tokens, and nothing in it says which",
                    "let it return a DTensor (use_local_output=False), which is gathered, or leave the layer out",
                )


def same_values(a: LayerRecord, b: LayerRecord) -> bool:
    """Whether two ranks saw the same, but for the rounding of a reduction."""
    if a.channels != b.channels or not np.array_equal(a.positions.count, b.positions.count):
        return False
    spread = np.sqrt(np.nan_to_num(a.positions.variance)) + np.abs(a.positions.mean)
    return bool((np.abs(a.positions.mean - b.positions.mean) <= 1e-2 * spread + 1e-6).all())


@contextmanager
def joined(timeout_s: float = TIMEOUT_S) -> Iterator[Ranks]:
    """Join the process group that `torchrun` set up, if it did and nobody has yet: NCCL where there are GPUs, else gloo.

    Each rank takes the GPU of its local rank. The group is left again at the end.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield Ranks.here()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    try:
        yield Ranks.here()
    finally:
        dist.destroy_process_group()
