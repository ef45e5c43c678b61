"""The one family of errors. Each carries the exit code the command line ends with.

A message says what was found, then what was expected, then what to do: the first line names the failure, the indented
lines under it the particulars. Low levels say *what*; the public doors add *where* with `NaaError.at`.
"""

from __future__ import annotations

from typing import Any

EXIT_PASS = 0
EXIT_FINDING = 1
EXIT_ERROR = 2
EXIT_INCONCLUSIVE = 3
EXIT_USAGE = 4
EXIT_UNSAFE = 5
EXIT_WARN = 6
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130  # as a shell reports SIGINT


class NaaError(Exception):
    """Base of every error this package raises on purpose.

    >>> try:
    ...     naa_fast.scan(model, clean, suspect, layers="no.such.layer")
    ... except naa_fast.NaaError as error:
    ...     print(error.exit_code, error.headline)
    4 no layer matches 'no.such.layer'
    """

    exit_code = EXIT_ERROR

    def __init__(self, headline: str, *details: str) -> None:
        super().__init__(headline, *details)
        self.headline = headline
        self.details = details

    def __str__(self) -> str:
        return "\n".join([self.headline, *(f"  {line}" for line in self.details)])

    def at(self, where: str) -> NaaError:
        """The same error with the place it happened put in front of its particulars."""
        return type(self)(self.headline, where, *self.details)


class UsageError(NaaError):
    """The words of the call are off: an unknown name, a value of the wrong form, a pattern that matches nothing."""

    exit_code = EXIT_USAGE


class InputError(NaaError):
    """The data cannot be used as it is: missing, empty, ragged, truncated, of the wrong shape or dtype."""


class ModelError(NaaError):
    """The model cannot be loaded, or failed in its forward."""


class CaptureError(NaaError):
    """A layer did not fire, or gave an output no neuron can be read from."""


class StateMismatch(NaaError):
    """Two measurements that do not describe the same neurons."""


class BackendUnavailable(NaaError):
    """A backend that was asked for by name cannot run here."""


class UnsafeInput(NaaError):
    """Reading the file could run code from it, so it was not read."""

    exit_code = EXIT_UNSAFE


class RankLost(NaaError):
    """Another process of the same job failed, or cannot be reached any more."""


class Stopped(NaaError):
    """The work was stopped and can be resumed, or (exit code 130) cannot. `audit`: the verdict so far, where there is one."""

    exit_code = EXIT_STOPPED

    def __init__(self, headline: str, *details: str, audit: Any = None, resumable: bool = True) -> None:
        super().__init__(headline, *details)
        self.audit = audit
        if not resumable:
            self.exit_code = EXIT_INTERRUPTED
