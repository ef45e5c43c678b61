"""`Check`: something a verdict rests on, and whether it ran. A pass needs all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABOUT = {
    "shift": "whether the sets differ by more than chance",
    "predictions": "whether predictions gather on one class",
    "tails": "whether single samples lie beyond the clean ones of a neuron",
    "ranking": "which samples set it off",
    "directions": "along which directions the sets differ",
    "proof": "whether a trigger can be proved",
    "triage": "whether weights or margins stand out",
    "stimulation": "which neurons own the output",
    "reconstruction": "whether one class is turned to far more easily than the others",
}
"""What each check answers. `tails` does for single samples what it can where they were not ranked, and is no check elsewhere; the
last three, and `proof`, are those of a search without suspects (INVERTED)."""
OF_SAMPLES = ("ranking", "directions", "proof")
"""The checks that take the model and the samples."""
NO_SAMPLES = "that takes the model and the samples"
INVERTED = ("triage", "stimulation", "reconstruction", "proof")
ACCEPTABLE = tuple(name for name in ABOUT if name != "shift" and name not in INVERTED[:3])
"""What `accept_unranked` may do without: what is left is a comparison of means."""


@dataclass(frozen=True)
class Check:
    """One of ABOUT: that it `ran`, or the `reason` why it did not; `in_part`: it had begun, and what it found counts."""

    name: str
    ran: bool
    reason: str = ""
    in_part: bool = False

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Check:
        """As report.json has it. Raises LookupError where something is missing."""
        return cls(str(entry["name"]), bool(entry["ran"]), str(entry["reason"]), bool(entry.get("in_part")))

    @property
    def fate(self) -> str:
        """What became of it, in words."""
        return "ran" if self.ran else "ran in part" if self.in_part else "did not run"


def ran(*names: str) -> tuple[Check, ...]:
    return tuple(Check(name, True) for name in names)


def did_not_run(reason: str, *names: str, in_part: bool = False) -> tuple[Check, ...]:
    return tuple(Check(name, False, reason, in_part) for name in names)


def unranked(reason: str) -> tuple[Check, ...]:
    """The checks of OF_SAMPLES, none of which ran."""
    return did_not_run(reason, *OF_SAMPLES)


def missing_lines(checks: Sequence[Check]) -> list[str]:
    """A line for each reason why some of the checks did not run: `ranking (which samples set it off) did not run: ...`."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        if not check.ran:
            reasons.setdefault((check.fate, check.reason), []).append(f"{check.name} ({ABOUT[check.name]})")
    return [f"{listed(names)} {fate}: {reason}" for (fate, reason), names in reasons.items()]


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
