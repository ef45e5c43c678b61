"""`Feed`: the batches of a set, read ahead by a thread of their own while the model runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from naa_fast.errors import Stopped
from naa_fast.inputs.batches import Batch, Source
from naa_fast.inputs.fingerprint import Fingerprint
from naa_fast.scan.stopping import StopRequest

AHEAD = 2
"""Batches that wait: one to go on with, one against a slow file. More would only hold memory."""
POLL_S = 0.2
"""How long a request to stop may go unseen while nothing comes."""

Range = tuple[int, int | None]


@dataclass(frozen=True)
class End:
    """What comes after the last batch of a range; `empty` if there was none, as beyond the end of the set."""

    fingerprint: Fingerprint
    empty: bool


@dataclass(frozen=True)
class Failure:
    """What reading raised, on its way to the thread that can report it."""

    error: BaseException


class Feed:
    """Batches of the `ranges` of `source`, one range after the other; a context manager that leaves no thread behind.

    `ahead`: how many batches a thread may read beforehand; with 0 they are read when they are asked for. The order is that of
    the source and the batches are the same either way. `pinned`, a GPU: host tensors are moved to page-locked memory, from
    which it copies while the host goes on. What the source raises is raised where the batch would have come.
    """

    def __init__(
        self, source: Source, ranges: Iterable[Range], ahead: int, pinned: torch.device | None, stop: StopRequest
    ) -> None:
        self.source = source
        self.ranges = iter(ranges)
        self.pinned = pinned
        self.stop = stop
        self.fingerprint = Fingerprint()
        self._waiting: queue.Queue[Batch | End | Failure] = queue.Queue(max(ahead, 1))
        self._closed = threading.Event()
        self._over = False
        self._hashing = 0.0
        self._thread = threading.Thread(target=self._run, name="naa-fast reader", daemon=True) if ahead else None

    def batches(self) -> Iterator[Batch]:
        """The batches of the next range. After the last one `fingerprint` is that of the range."""
        if self._over:
            self.fingerprint = Fingerprint()
            return
        for item in self._read(next(self.ranges)) if self._thread is None else self._taken():
            if isinstance(item, End):
                self.fingerprint, self._over = item.fingerprint, item.empty  # ranges ascend: beyond the end there is nothing
                return
            yield item

    @property
    def threaded(self) -> bool:
        """Whether a thread of its own reads the source."""
        return self._thread is not None

    def own_seconds(self) -> float:
        """Time since the last call that went into fingerprints and not into reading; none where a thread takes them."""
        spent, self._hashing = self._hashing, 0.0
        return spent if self._thread is None else 0.0

    def _read(self, span: Range) -> Iterator[Batch | End]:
        """One range of the source. In the reading thread: it touches nothing the other thread does."""
        fingerprint = Fingerprint()
        empty = True
        for batch in self.source.batches(*span):
            empty = False
            if batch.size:
                began = perf_counter()
                fingerprint.add(batch)
                self._hashing += perf_counter() - began
            yield batch if self.pinned is None else pinned(batch)
        yield End(fingerprint, empty)

    def _taken(self) -> Iterator[Batch | End]:
        while True:
            item = self._next()
            if isinstance(item, Failure):
                self._over = True
                raise item.error
            yield item

    def _next(self) -> Batch | End | Failure:
        while True:
            try:
                return self._waiting.get(timeout=POLL_S)
            except queue.Empty:
                if self.stop:
                    raise Stopped(f"stopped by {self.stop.name}") from None

    def _run(self) -> None:
        try:
            # Both are each thread's own; on the first GPU every rank would take memory for a context it has no use for.
            with torch.no_grad(), nullcontext() if self.pinned is None else torch.cuda.device(self.pinned):
                for span in self.ranges:
                    for item in self._read(span):
                        if not self._put(item) or (isinstance(item, End) and item.empty):
                            return
        except BaseException as error:
            self._put(Failure(error))

    def _put(self, item: Batch | End | Failure) -> bool:
        """Whether it was taken: not once the feed is closed."""
        while not self._closed.is_set():
            try:
                self._waiting.put(item, timeout=POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def __enter__(self) -> Feed:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread is not None:
            while not self._waiting.empty():
                self._waiting.get_nowait()  # wakes the thread at once
            self._thread.join()


def batches_ahead(source: Source, device: torch.device, asked: int | None) -> int:
    """How many batches to read ahead: what was asked for, else AHEAD of files and, since they have to be copied, of what lies in
    memory for a GPU; on the host that is at hand sooner than a thread can say so. Loaders and other iterables may belong to
    their thread.
    """
    if asked is not None:
        return asked
    if getattr(source, "read_ahead", False):
        return AHEAD
    return AHEAD if device.type == "cuda" and getattr(source, "in_memory", False) else 0


def pinned(batch: Batch) -> Batch:
    """The batch with its host tensors in page-locked memory."""

    def page_locked(value: Any) -> Any:
        if isinstance(value, Tensor):
            plain = value.device.type == "cpu" and value.layout == torch.strided and value.numel() > 0
            return value.pin_memory() if plain else value
        if isinstance(value, dict):
            return {key: page_locked(item) for key, item in value.items()}
        return type(value)(page_locked(item) for item in value) if type(value) in (list, tuple) else value

    return replace(
        batch, arguments=page_locked(batch.arguments), keywords=page_locked(batch.keywords), mask=page_locked(batch.mask)
    )
