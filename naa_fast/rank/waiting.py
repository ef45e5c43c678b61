"""`Waiting`: batches whose numbers are still on the device. They come home many at a time, and nobody waits for them; what is not
wanted of every sample stays there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from naa_fast.inputs.batches import Batch
from naa_fast.rank.retained import main_tensor
from naa_fast.records import Array

SAMPLES = 4096
INPUT_BYTES = 256 << 20
"""At most so many samples, and so many bytes of their inputs, before they come home; twice that while they are on their way."""


@dataclass(frozen=True)
class Entry:
    """Samples of a batch: their places in the set, `numbers` on the device (each `[samples, ...]`), and `absent` layers."""

    verb: str
    part: Batch
    items: Array
    numbers: tuple[Tensor, ...]
    absent: tuple[int, ...] = ()


Arrived = tuple[list[Entry], list[Array], list[Tensor]]
Reduce = Callable[[list[Entry], list[Tensor]], tuple[list[Tensor], list[Tensor]]]
"""Makes of the numbers of entries, each `[samples of all, ...]`, those that come home, and those that stay on the device."""


def all_of_it(entries: list[Entry], numbers: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Nothing stays."""
    return numbers, []


@dataclass
class Waiting:
    """In the order in which they were added, `add` and `rest` give entries with their numbers on the host, and what stays on the
    device.
    """

    reduce: Reduce = all_of_it
    _entries: list[Entry] = field(default_factory=list)
    _coming: list[tuple[list[Entry], list[Tensor], list[Tensor], list[torch.cuda.Event]]] = field(default_factory=list)
    _samples: int = 0
    _bytes: int = 0

    def add(self, entry: Entry) -> Iterator[Arrived]:
        """Let `entry` wait. What comes home for it began to come when the entries before these had all been there."""
        if self._entries and self._entries[0].verb != entry.verb:
            self._send()
        self._entries.append(entry)
        self._samples += len(entry.items)
        self._bytes += main_tensor(entry.part).nbytes
        if self._samples >= SAMPLES or self._bytes >= INPUT_BYTES:
            self._send()
        while len(self._coming) > 1 or (self._coming and not self._coming[0][3]):
            yield self._arrived()

    def rest(self) -> Iterator[Arrived]:
        """All that still waits."""
        self._send()
        while self._coming:
            yield self._arrived()

    def forget(self) -> None:
        self._entries, self._coming, self._samples, self._bytes = [], [], 0, 0

    def _send(self) -> None:
        """Begin to copy the entries' numbers: into pinned memory, behind what the device has to do."""
        if not self._entries:
            return
        entries, self._entries, self._samples, self._bytes = self._entries, [], 0, 0
        columns, staying = self.reduce(
            entries, [torch.cat(parts) for parts in zip(*(entry.numbers for entry in entries), strict=True)]
        )
        home = [column.to("cpu", non_blocking=True) for column in columns]
        events = []
        for device in {column.device for column in columns}:  # a model that is spread has its classes on another than its layers
            if device.type == "cuda":
                events.append(torch.cuda.Event())
                events[-1].record(torch.cuda.current_stream(device))
            elif device.type != "cpu":  # copies of other devices cannot be waited for
                home = [column.cpu() for column in columns]
        self._coming.append((entries, home, staying, events))

    def _arrived(self) -> Arrived:
        entries, home, staying, events = self._coming.pop(0)
        for event in events:
            event.synchronize()
        return entries, [np.asarray(column) for column in home], staying
