"""`Interim`: a scan that is judged while it runs, at doubling numbers of suspects, and how strictly each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi
from typing import Any

STOPS = ("proved", "fail")
"""What may end a scan before all suspects were read: a proof, or any verdict of *fail*."""


@dataclass(frozen=True)
class Interim:
    """After how many suspects a scan was judged: `at`, this time the last, of `total` (None: unknown). `stopped`: what was
    asked for held, and the rest was not scanned.

    Judged once at a chance of a false alarm of alpha, K times at alpha a clean set would raise one up to K times as often. So the
    k-th time has the part 6 / (pi k)^2 of alpha: over any number of times these add up to 1 (Basel problem), whether or not it
    was known how many there would be. Spending alpha over analyses as they come: Lan and DeMets, Biometrika 70(3), 1983; with
    parts that are added up (Bonferroni) nothing is assumed of how analyses depend on each other.
    """

    at: tuple[int, ...]
    total: int | None = None
    stopped: bool = False

    @property
    def share(self) -> float:
        """The part of each chance of a false alarm that may be spent this time."""
        return share_of(len(self.at))

    @property
    def gaps(self) -> tuple[str, ...]:
        """What was not scanned, in words."""
        if not self.stopped:
            return ()
        known = "an unknown number" if self.total is None else f"{self.total:,}"
        return (
            f"the rest of the suspect set: the scan was stopped as asked (stop when the evidence holds) once {self.at[-1]:,} of "
            f"{known} were read; the others were not scanned, and any of them may carry another trigger",
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """When it was judged, and how strictly, in words."""
        times = "once" if len(self.at) == 1 else f"{len(self.at)} times"
        when = ", ".join(f"{suspects:,}" for suspects in self.at)
        return (
            f"judged {times} while it ran, after {when} suspects: the chance of a false alarm is shared out, and this time had "
            f"{self.share:.3g} of the usual one, so that limits are stricter than of a scan that is judged at its end alone",
        )

    def report(self) -> dict[str, Any]:
        """For the options in report.json, and for evidence.safetensors."""
        return {"at": list(self.at), "total": self.total, "stopped": self.stopped, "share": self.share}

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Interim:
        """Inverse of `report`. Raises LookupError, TypeError or ValueError."""
        total = entry["total"]
        if not entry["at"]:
            raise ValueError("a scan that was judged at no time while it ran")
        return cls(tuple(map(int, entry["at"])), None if total is None else int(total), bool(entry["stopped"]))


def share_of(number: int) -> float:
    """The part of the `number`-th time, from 1 on.

    >>> round(share_of(1), 3), round(sum(map(share_of, range(1, 100_000))), 3)
    (0.608, 1.0)
    """
    return 6 / (pi * number) ** 2


def is_time(chunks: int) -> bool:
    """Whether a scan is judged after so many chunks: 1, 2, 4, 8, ..."""
    return chunks > 0 and chunks & (chunks - 1) == 0


def times_before(chunks: int) -> int:
    """How often it was judged before it had read so many.

    >>> [times_before(chunks) for chunks in (1, 2, 3, 4, 5)]
    [0, 1, 2, 2, 3]
    """
    return max(chunks - 1, 0).bit_length()
