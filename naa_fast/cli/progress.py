"""Progress for a machine: `JsonProgress`, an object a line. For people see `naa_fast.scan.progress`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from naa_fast.report.words import printable
from naa_fast.scan.live import LiveNeuron
from naa_fast.scan.progress import LABEL_CELLS, LOG_SECONDS, Progress

STATM = Path("/proc/self/statm")


class JsonProgress(Progress):
    """The same as objects, one a line: the first and the last of a set, and one every 30 seconds between.

    `set`, `samples`, `total` (null while unknown), `rate` in samples a second and `eta_s` (null before they can be told),
    `rss_mb` (null where the system does not say), `skipped`: items of all sets so far that could not be used; `signature`: the
    neurons that differ most so far, with layer, neuron and z.
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
            self.signature = ()
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
            "set": printable(label, LABEL_CELLS),
            "samples": done,
            "total": total,
            "rate": rate and round(rate, 3),
            "eta_s": round((total - done) / rate, 1) if rate and total is not None and total >= done else None,
            "rss_mb": resident_megabytes(),
            "skipped": self.skipped(),
            "signature": [asdict(neuron) for neuron in self.signature if isinstance(neuron, LiveNeuron)],
        }
        self.show(json.dumps(entry))


def resident_megabytes() -> float | None:
    """Resident memory of this process; None where the system does not say."""
    try:
        return round(int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
    except (OSError, ValueError, IndexError):
        return None
