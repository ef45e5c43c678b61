"""`Quarantine`: the items a scan had to leave out, by name and reason, and how many of them are too many."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import floor
from pathlib import Path

from naa_fast.errors import InputError, UsageError
from naa_fast.files import write_whole
from naa_fast.inputs.batches import Rejected


@dataclass(frozen=True)
class Limit:
    """How many items of a set may be left out: `count` of them, or a `share` of all."""

    count: int | None = None
    share: float = 0.0

    @classmethod
    def of(cls, value: str | int) -> Limit:
        """`0.1%` or a number of items. Raises UsageError on anything else."""
        text = str(value).strip()
        if re.fullmatch(r"[0-9]{1,18}", text):
            return cls(int(text))
        if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,12})?\s*%", text) and float(text.rstrip("% ")) <= 100:
            return cls(None, float(text.rstrip("% ")) / 100)
        raise UsageError(
            f"'{text}' is no limit on bad samples", "expected a share of the set, as in 0.1%, or a whole number of samples"
        )

    def most(self, items: int) -> int:
        """Items that may be left out of a set of `items`."""
        # A share is a decimal fraction: 0.1 % of 1000 is 1, which binary rounding must not turn into 0.
        return floor(self.share * items + 1e-9) if self.count is None else self.count

    def __str__(self) -> str:
        return f"{100 * self.share:g} %" if self.count is None else f"{self.count}"


class Quarantine:
    """What was left out of the sets of a scan, each set under its label.

    `path`: where the list goes, one JSON object a line with `index` (from 0, in the whole set), `file` (or null) and `reason`,
    and before them `set` where the scan has more than one; None keeps it in memory. `max_bad`: "0.1%" or a number of items of a
    set; what exceeds it ends the scan. Memory grows with the items left out and not with the set.
    """

    def __init__(self, path: Path | str | None = None, max_bad: str | int | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.limit = None if max_bad is None else Limit.of(max_bad)
        self.sets: dict[str, list[Rejected]] = {}
        self.label = ""
        self.pending: list[Rejected] = []  # of the chunk in flight, which is not yet counted

    def begin(self, label: str) -> None:
        """What comes next is of the set `label`."""
        self.label = label
        self.sets[label] = []

    @property
    def found(self) -> list[Rejected]:
        """What was left out of the present set."""
        return self.sets.setdefault(self.label, [])

    @property
    def count(self) -> int:
        """Items left out so far, of all sets."""
        return sum(map(len, self.sets.values())) + len(self.pending)

    def exceeded(self, bad: int, items: int | None, seen: int | None = None) -> bool:
        """Whether `bad` items are too many of a set of `items`.

        Where its length is unknown, a share is one of the items `seen` so far, and not exceeded while those are unknown too.
        """
        if self.limit is None or bad == 0:
            return False
        whole = items if items is not None or self.limit.count is not None else seen
        return (whole is not None or self.limit.count is not None) and bad > self.limit.most(whole or 0)

    def too_many(self, name: str, bad: int) -> InputError:
        """The error that ends the scan at `bad` items left out."""
        first = next(iter(self.found), None)
        shown = [] if first is None else [f"the first: item {first.index}, {first.file or 'no file of its own'}: {first.reason}"]
        return InputError(
            f"{bad} items of {name} cannot be used, more than the {self.limit} allowed",
            *shown,
            *([f"all of them: {self.path}"] if self.path else []),
            "mend or remove them, or allow more with --max-bad; with a checkpoint, --resume goes on from here",
        )

    def write(self) -> None:
        """The list as a file, whole or not at all; no file where nothing was left out. Raises InputError if it cannot be."""
        if self.path is None:
            return
        lines = [line(label, bad) for label, rejected in self.sets.items() for bad in rejected]
        try:
            if lines:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self.path, "".join(lines).encode("ascii"))
            else:
                self.path.unlink(missing_ok=True)  # of an earlier scan
        except OSError as error:
            raise InputError(
                f"cannot write {self.path}", str(error.strerror), "name a folder that can be written, with room on its disk"
            ) from None


def line(label: str, bad: Rejected) -> str:
    """One line of the list, in ASCII: what a name hides from a reader is shown by its code. A byte that is no text is U+FFFD."""
    entry = {"set": label} if label else {}
    texts = {"file": bad.file and strict(bad.file), "reason": strict(bad.reason)}
    return json.dumps({**entry, "index": bad.index, **texts}, ensure_ascii=True) + "\n"


def strict(text: str) -> str:
    """`text` with U+FFFD for every lone surrogate: Python would write one that strict parsers refuse to read."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
