"""`Attempts`: steps that a verdict can stand without. What goes wrong in one is named, and no other step is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from naa_fast.detect.checks import Check, did_not_run, unranked
from naa_fast.errors import InputError
from naa_fast.measurement import Measurement
from naa_fast.rank.groups import coverage
from naa_fast.rank.passes import RankingPass, in_words
from naa_fast.rank.scorer import RankingResult
from naa_fast.scan.observer import Observer
from naa_fast.scan.times import Times

Made = TypeVar("Made")
LOGGER = logging.getLogger("naa_fast")
"""Has the traceback of every step that failed, as `debug`; `--debug` shows it."""


@dataclass(frozen=True)
class Found(Generic[Made]):
    """What a step found, the checks it ran or could not run, and notes on what it left out."""

    value: Made
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()


class Shared(Generic[Made]):
    """What several attempted steps take: made once, here. Where that raises, `taken` raises the same in each step that takes it,
    and `value` is None.
    """

    def __init__(self, step: Callable[[], Made]) -> None:
        self.value: Made | None = None
        self._error: Exception | None = None
        try:
            self.value = step()
        except Exception as error:  # told by the steps that take it
            self._error = error

    def taken(self) -> Made | None:
        """The value, or what making it raised."""
        if self._error is not None:
            raise self._error
        return self.value


class Attempts:
    """What the attempted steps say together, in their order: `checks`, `gaps` and `notes` of the evidence."""

    def __init__(self) -> None:
        self.checks: tuple[Check, ...] = ()
        self.gaps: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()

    def copy(self) -> Attempts:
        """The same, to be gone on with apart."""
        copied = Attempts()
        copied.checks, copied.gaps, copied.notes = self.checks, self.gaps, self.notes
        return copied

    def check(self, name: str, step: Callable[[], Found[Made]], otherwise: Made) -> Made:
        """What `step` found; `otherwise` where it raised, and the check of this name did not run."""
        try:
            return self._taken(step())
        except Exception as error:  # whatever the model or the data did
            self.checks += did_not_run(why_it_failed(error), name)
            return otherwise

    def question(self, about: str, step: Callable[[], Found[Made]], otherwise: Made) -> Made:
        """What `step` found; `otherwise` where it raised, and what it is `about` is a gap."""
        try:
            return self._taken(step())
        except Exception as error:  # as above
            self.gaps += (f"{about}: {why_it_failed(error)}",)
            return otherwise

    def shown(self, about: str, step: Callable[[], Made], otherwise: Made) -> Made:
        """What `step` made for a report to show, on which no verdict rests; `otherwise` where it raised, with a note."""
        try:
            return step()
        except Exception as error:  # as above
            self.notes += (f"{about}: {why_it_failed(error)}",)
            return otherwise

    def ranking(self, step: Callable[[], Made]) -> Made | None:
        """What a step of the ranking makes; None where it raised, and no check that takes ranked samples ran."""
        try:
            return step()
        except Exception as error:  # as above
            reason = why_it_failed(error)
            self.unranked(in_words(error) if isinstance(error, InputError) else reason)
            return None

    def unranked(self, reason: str) -> None:
        """Say why samples are not ranked."""
        self.checks = unranked(reason)

    def _taken(self, result: Found[Made]) -> Made:
        self.checks += result.checks
        self.notes += result.notes
        return result.value


class RankingAttempt:
    """A `RankingPass` beside the two measurements, as an attempt: once it has failed both sets are measured without it.

    `clean` and `suspect` observe the measurements; `calibrate` comes between them, and `result` at the end.
    """

    def __init__(self, attempts: Attempts, times: Times, make: Callable[[], RankingPass] | None) -> None:
        """`make` None: samples are not ranked, and `attempts` knows why."""
        self.attempts, self.times = attempts, times
        self.passes = None if make is None else attempts.ranking(make)

    @property
    def clean(self) -> Observer | None:
        return None if self.passes is None else self.passes.clean

    @property
    def suspect(self) -> Observer | None:
        return None if self.passes is None else self.passes.suspect

    def calibrate(self, clean: Measurement) -> None:
        """See `RankingPass.calibrate`."""
        passes = self.passes
        if passes is not None:
            with self.times.measuring("ranking"):
                self.passes = self.attempts.ranking(lambda: passes.calibrate(clean))

    def take_up(self, suspect: Measurement) -> None:
        """Take the scores of a suspect set that was measured and ranked before."""
        passes = self.passes
        if passes is not None:
            self.passes = self.attempts.ranking(lambda: passes.take_up(suspect))

    def so_far(self, attempts: Attempts, clean: Measurement, suspect: Measurement) -> RankingResult | None:
        """The ranked samples of the part of the suspects that was measured; None where this run did not see all of it. What goes
        wrong is told to these `attempts`, and ranking goes on.
        """
        saw_all = self.passes is not None and self.passes.saw(suspect)
        return self._result(attempts, clean, suspect) if saw_all else None

    def result(self, clean: Measurement, suspect: Measurement) -> RankingResult | None:
        """The ranked samples; None where they could not be ranked, and on all ranks but the first."""
        return self._result(self.attempts, clean, suspect)

    def _result(self, attempts: Attempts, clean: Measurement, suspect: Measurement) -> RankingResult | None:
        passes = self.passes
        if passes is None:
            return None
        with self.times.measuring("ranking"):
            result = attempts.ranking(lambda: passes.result(clean, suspect))
        coded = passes.scorer is None or passes.scorer.coded
        attempts.notes += (*passes.notes, *filter(None, [coverage(clean.predictions, suspect.predictions, coded)]))
        return result


def why_it_failed(error: Exception) -> str:
    """Why a step gave nothing, for the report; its traceback goes to LOGGER."""
    LOGGER.debug("a step failed, and the others went on", exc_info=error)
    return f"the attempt ended with {in_words(error)}"
