"""`Times`: where the seconds of a scan went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Times:
    """Host seconds of a run, added up over its sets: `waiting` for data, in the `forward` of the model, in `ours` (hooks, fold
    and fingerprints), and in all (`total`: merging, checkpoints and waiting for other ranks come to these).

    On a GPU these are the times at which the host handed work over, not those of the device: the device works on while the host
    waits for data, and the host waits in `forward` when the device is behind. Of several ranks, this one's.
    """

    waiting: float = 0.0
    forward: float = 0.0
    ours: float = 0.0
    total: float = 0.0
    device: str = "cpu"

    def shares(self) -> dict[str, float]:
        """The parts of the total, which add up to 1."""
        total = max(self.total, self.waiting + self.forward + self.ours, 1e-9)
        shares = {"waiting": self.waiting / total, "forward": self.forward / total, "ours": self.ours / total}
        return {**shares, "rest": 1.0 - sum(shares.values())}

    def report(self) -> dict[str, object]:
        """For report.json."""
        shares = {name: round(share, 4) for name, share in self.shares().items()}
        return {"total_s": round(self.total, 3), "device": self.device, "clock": "host", "shares": shares}

    def words(self) -> str:
        """One line for a person."""
        shares = {name: f"{100 * share:.0f} %" for name, share in self.shares().items()}
        clock = "" if self.device == "cpu" else " (host time: the device works on meanwhile)"
        return (
            f"time: {self.total:.1f} s; waiting for data {shares['waiting']}, the model's forward {shares['forward']}, "
            f"hooks and statistics {shares['ours']}, the rest {shares['rest']}{clock}"
        )
