"""`Times`: where the seconds of a scan went."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

PARTS = {
    "loading": "loading",
    "waiting": "waiting for data",
    "forward": "the model's forward",
    "ours": "hooks and statistics",
    "ranking": "ranking",
    "proof": "proof",
    "repair": "repair",
    "report": "the report",
}
"""The parts of the total and their names for a person."""
LEAST_SHARE = 0.005
STARVED = 0.2
"""Share of the time of a measurement spent waiting for data beyond which that is told."""


@dataclass
class Times:
    """Host seconds of a run, added up over its sets: `loading` the model and opening the sets (of a command), `waiting` for data,
    in the `forward` of the model while sets are measured, in `ours` (hooks, fold and fingerprints), in `ranking` beside the
    measurement, in `proof` and `repair` with their own forwards, drawing and writing the `report` (all but report.json), and in
    all (`total`: merging, checkpoints, judging and waiting for other ranks come to these).

    On a GPU these are the times at which the host handed work over, not those of the device: the device works on while the host
    waits for data, and the host waits in `forward` when the device is behind. Of several ranks, this one's. `feeding`: who reads
    the data, for a person.
    """

    loading: float = 0.0
    waiting: float = 0.0
    forward: float = 0.0
    ours: float = 0.0
    ranking: float = 0.0
    proof: float = 0.0
    repair: float = 0.0
    report: float = 0.0
    total: float = 0.0
    device: str = "cpu"
    feeding: str = ""

    def add(self, part: str, seconds: float) -> None:
        """Count seconds as a part, and in all."""
        setattr(self, part, getattr(self, part) + seconds)
        self.total += seconds

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        """What runs inside is counted as this part, also where it raises."""
        began = perf_counter()
        try:
            yield
        finally:
            self.add(part, perf_counter() - began)

    def shares(self) -> dict[str, float]:
        """The parts of the total, which add up to 1."""
        seconds = {part: getattr(self, part) for part in PARTS}
        total = max(self.total, sum(seconds.values()), 1e-9)
        shares = {part: value / total for part, value in seconds.items()}
        return {**shares, "rest": 1.0 - sum(shares.values())}

    def summary(self) -> dict[str, object]:
        """For report.json."""
        shares = {name: round(share, 4) for name, share in self.shares().items()}
        told = {"limit": limit} if (limit := self.limit) else {}
        return {"total_s": round(self.total, 3), "device": self.device, "clock": "host", "shares": shares, **told}

    @property
    def limit(self) -> str:
        """What reading the data costs, where the model waits for it more than STARVED of the time; else empty."""
        seen = self.waiting + self.forward + self.ours
        starved = self.feeding and self.waiting > STARVED * seen
        return f"the model waits {100 * self.waiting / seen:.0f} % of the time: {self.feeding}" if starved else ""

    def words(self) -> str:
        """One line for a person, without the parts that took nothing."""
        shares = {PARTS.get(name, "the rest"): share for name, share in self.shares().items()}
        shown = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items() if share >= LEAST_SHARE)
        clock = "" if self.device == "cpu" else " (host time: the device works on meanwhile)"
        limit = f"; {self.limit}" if self.limit else ""
        return f"time: {self.total:.1f} s; {shown}{clock}{limit}"
