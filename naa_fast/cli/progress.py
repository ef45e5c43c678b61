"""How far a run is: one line that renews itself on a terminal, a line every 30 seconds elsewhere; or JSON for a machine."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from types import TracebackType
from typing import TextIO

from naa_fast.cli.shared import clean, counted

TERMINAL_SECONDS = 0.1
LOG_SECONDS = 30.0
LABEL_CELLS = 32
STATM = Path("/proc/self/statm")


class Progress:
    """A `progress(label, done, total)` callable for `scan` and `measure`; a context manager that leaves the cursor on a new line.

    Each change of `label` starts a new count. The rate leaves out the first batch of a label, which pays for warming up.
    """

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.now = now
        self.terminal = self.stream.isatty()
        self._label: str | None = None
        self._first = (0.0, 0)
        self._last_done = 0
        self._begun = self._shown_at = now()
        self._open_width = 0

    def __call__(self, label: str, done: int, total: int | None) -> None:
        now = self.now()
        if label != self._label or done < self._last_done:
            self.end_line()
            self._label, self._first = label, (now, done)
            if self.terminal:
                self._shown_at = -inf
        self._last_done = done
        finished = total is not None and done >= total
        due = now - self._shown_at >= (TERMINAL_SECONDS if self.terminal else LOG_SECONDS)
        if due or (finished and self.terminal):
            self._shown_at = now
            self.show(line(label, done, total, self.rate(now, done)))

    def rate(self, now: float, done: int) -> float | None:
        """Samples a second, None before it can be told."""
        since, already = self._first
        return (done - already) / (now - since) if done > already and now > since else None

    def show(self, text: str) -> None:
        if self.terminal:
            # Blanks over the rest of a longer line before it: every terminal understands those.
            self.stream.write("\r" + text.ljust(self._open_width))
            self._open_width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def end_line(self) -> None:
        if self._open_width:
            self.stream.write("\n")
            self.stream.flush()
        self._open_width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end_line()


class JsonProgress(Progress):
    """The same as objects, one a line: the first and the last of a set, and one every 30 seconds between.

    `set`, `samples`, `total` (null while unknown), `rate` in samples a second and `eta_s` (null before they can be told),
    `rss_mb` (null where the system does not say), `skipped`: items of all sets so far that could not be used.
    """

    def __init__(
        self, skipped: Callable[[], int], stream: TextIO | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream, now)
        self.terminal = False
        self.skipped = skipped
        self._told: tuple[str, int, int | None] | None = None

    def __call__(self, label: str, done: int, total: int | None) -> None:
        now = self.now()
        new = label != self._label or done < self._last_done
        if new:
            self.end_line()
            self._label, self._first = label, (now, done)
        self._last_done = done
        self._told = label, done, total
        if new or now - self._shown_at >= LOG_SECONDS:
            self.tell(now)

    def end_line(self) -> None:
        """The last of a set, if it was not told yet."""
        if self._told is not None:
            self.tell(self.now())

    def tell(self, now: float) -> None:
        assert self._told is not None
        label, done, total = self._told
        rate = self.rate(now, done)
        self._shown_at, self._told = now, None
        entry = {
            "event": "progress",
            "set": clean(label, LABEL_CELLS),
            "samples": done,
            "total": total,
            "rate": rate and round(rate, 3),
            "eta_s": round((total - done) / rate, 1) if rate and total is not None and total >= done else None,
            "rss_mb": resident_megabytes(),
            "skipped": self.skipped(),
        }
        self.show(json.dumps(entry))


def resident_megabytes() -> float | None:
    """Resident memory of this process; None where the system does not say."""
    try:
        return round(int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
    except (OSError, ValueError, IndexError):
        return None


def line(label: str, done: int, total: int | None, rate: float | None) -> str:
    """`clean.npz  12,800 of 50,000 samples (25 %)  4,213 samples/s  ETA 0:09`"""
    parts = [
        clean(label, LABEL_CELLS),
        counted(done, "sample") if total is None else f"{done:,} of {total:,} samples ({100 * done // max(total, 1)} %)",
    ]
    if rate is not None:
        parts.append(f"{rate:,.0f} samples/s" if rate >= 10 else f"{rate:.2g} samples/s")
        if total is not None and total > done:
            parts.append(f"ETA {clock((total - done) / rate)}")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
