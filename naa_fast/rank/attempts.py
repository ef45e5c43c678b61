"""`Attempts`: ranking is tried, and what goes wrong with it becomes checks that did not run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from naa_fast.detect.checks import Check, unranked
from naa_fast.detect.evidence import Evidence
from naa_fast.errors import InputError
from naa_fast.rank.passes import in_words

Made = TypeVar("Made")


class Attempts:
    """Ranking, which a verdict can stand without, is attempted: what goes wrong is a check that did not run, and nothing that was
    measured is lost.
    """

    def __init__(self) -> None:
        self.checks: tuple[Check, ...] = ()
        self.notes: list[str] = []

    def unranked(self, reason: str) -> None:
        """Say why samples are not ranked."""
        self.checks = unranked(reason)

    def ranking(self, step: Callable[[], Made]) -> Made | None:
        """What `step` makes; None where it fails."""
        try:
            return step()
        except Exception as error:  # whatever the model or the data did
            words = in_words(error)
            self.unranked(words if isinstance(error, InputError) else f"the attempt ended with {words}")
            return None

    def told(self, evidence: Evidence) -> Evidence:
        """The evidence with what did not run, and why."""
        return replace(evidence, notes=(*self.notes, *evidence.notes), checks=(*self.checks, *evidence.checks))
