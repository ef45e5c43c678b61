"""How far a run is: `Progress`, one line that renews itself on a terminal or in a notebook, a line every 30 seconds elsewhere.

`shown` lets a function's `progress=True` mean this one, and lets no model end the program.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from math import inf
from types import TracebackType
from typing import Any, ParamSpec, TextIO, TypeVar

from naa_fast.errors import ModelError
from naa_fast.report.words import printable

TERMINAL_SECONDS = 0.1
LOG_SECONDS = 30.0
LABEL_CELLS = 32
P = ParamSpec("P")
R = TypeVar("R")


def shown(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose keyword `progress` may also be True, for a line on stderr, or False, for none.

    A model or loader that calls sys.exit(0) would end a script, and the step of a pipeline, as a pass does: it is a ModelError.
    """

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            if kwargs.get("progress") is True:
                with Progress() as progress:
                    given: dict[str, Any] = {**kwargs, "progress": progress}
                    return function(*args, **given)
            if kwargs.get("progress") is False:
                kwargs["progress"] = None
            return function(*args, **kwargs)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise ended_by(error) from error

    return called


def ended_by(error: BaseException) -> ModelError:
    """What is said of an exception that would have ended the program, and where it rose: this package raises none of these."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return ModelError(
        f"the model, or what gives its data, asked Python to end ({type(error).__name__}: {error})",
        f"raised at {last.filename}, line {last.lineno}, in {last.name}",
        "nothing is known of the model: a verdict it can end by itself is none",
    )


class Progress:
    """A `progress(label, done, total)` callable for `scan` and `measure`; a context manager that leaves the cursor on a new line.

    Each change of `label` starts a new count. The rate leaves out the first batch of a label, which pays for warming up.
    `signature`: the neurons that differ most so far, which a scan puts there while suspects run (scan/live.py).
    """

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.now = now
        self.terminal = renews(self.stream)
        self._label: str | None = None
        self._first = (0.0, 0)
        self._last_done = 0
        self._begun = self._shown_at = now()
        self._open_width = 0
        self.gone = False
        self.signature: Sequence[object] = ()

    def __call__(self, label: str, done: int, total: int | None) -> None:
        now = self.now()
        if label != self._label or done < self._last_done:
            self.end_line()
            self._label, self._first = label, (now, done)
            self.signature = ()
            if self.terminal:
                self._shown_at = -inf
        self._last_done = done
        finished = total is not None and done >= total
        due = now - self._shown_at >= (TERMINAL_SECONDS if self.terminal else LOG_SECONDS)
        if due or (finished and self.terminal):
            self._shown_at = now
            most = f"  most apart: {printable(str(self.signature[0]), LABEL_CELLS)}" if self.signature else ""
            self.show(line(label, done, total, self.rate(now, done)) + most)

    def rate(self, now: float, done: int) -> float | None:
        """Samples a second, None before it can be told."""
        since, already = self._first
        return (done - already) / (now - since) if done > already and now > since else None

    def show(self, text: str) -> None:
        if self.terminal:
            # Blanks over the rest of a longer line before it: every terminal understands those.
            self.write("\r" + text.ljust(self._open_width))
            self._open_width = len(text)
        else:
            self.write(text + "\n")

    def write(self, text: str) -> None:
        """Where nobody reads the progress any more, or it cannot be written, the work goes on without."""
        if self.gone:
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            self.gone = True

    def end_line(self) -> None:
        if self._open_width:
            self.write("\n")
        self._open_width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end_line()


def renews(stream: TextIO) -> bool:
    """Whether a line can be written over: on a terminal, and in the output of a notebook, which says that it is none."""
    return stream.isatty() or type(stream).__module__.startswith("ipykernel")


def line(label: str, done: int, total: int | None, rate: float | None) -> str:
    """`clean.npz  12,800 of 50,000 samples (25 %)  4,213 samples/s  ETA 0:09`"""
    parts = [
        printable(label, LABEL_CELLS),
        f"{done:,} sample{'s' * (done != 1)}"
        if total is None
        else f"{done:,} of {total:,} samples ({100 * done // max(total, 1)} %)",
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
