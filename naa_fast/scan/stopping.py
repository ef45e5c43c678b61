"""Being asked to stop: the batch in flight is finished, and the second Ctrl-C leaves at once. `StoppableProgress` ends steps that
way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from naa_fast.errors import Stopped

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class StopRequest:
    """Set once a signal asked the scan to stop; `name` says which."""

    def __init__(self) -> None:
        self.name = ""

    def __bool__(self) -> bool:
        return bool(self.name)


class StoppableProgress:
    """A `progress(label, done, total)` for steps that a verdict can do without: shows how far they are, and ends the step in
    hand with Stopped once `stop` is set (`cut`).
    """

    def __init__(self, progress: Callable[[str, int, int | None], None] | None = None, stop: StopRequest | None = None) -> None:
        self.progress = progress
        self.stop = StopRequest() if stop is None else stop
        self.cut = False

    def __call__(self, label: str, done: int, total: int | None = None) -> None:
        if self.progress is not None:
            self.progress(label, done, total)
        if self.stop:
            self.cut = True
            raise Stopped(f"stopped by {self.stop.name}")


@contextmanager
def stop_on_signals(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Inside, the first of SIGNALS only sets the request; a second SIGINT is a KeyboardInterrupt as usual.

    Handlers that were there before come back at the end. Outside the main thread signals are left alone.
    """
    request = StopRequest() if request is None else request
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.name = signal.Signals(number).name

    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, handle)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible(watch: StoppableProgress, checkpoint: str | Path | None) -> Iterator[None]:
    """Inside, between measurements, a signal ends the step in hand, and then the scan: nothing can be said yet. Without a
    checkpoint it ends all at once.
    """
    with stop_on_signals(watch.stop) if checkpoint is not None else nullcontext():
        yield
    if watch.stop:
        raise stopped(watch.stop.name, checkpoint)


def stopped(signal: str, checkpoint: str | Path | None, audit: Any = None) -> Stopped:
    """The error that says what was stopped and how to go on."""
    left = ["the verdict so far stands without what was cut short"] if audit is not None else []
    if checkpoint is None:
        advice = "run it again for the rest; with --checkpoint the measurements are kept"
        return Stopped(f"stopped by {signal}", *left, advice, audit=audit, resumable=False)
    safe = f"the finished measurements are safe in {checkpoint}"
    return Stopped(f"stopped by {signal}", *left, safe, "go on with the same command and --resume", audit=audit)
