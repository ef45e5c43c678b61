"""Checkpoints: the measurement of all finished chunks, on disk whole or not at all, the last two kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from naa_fast.errors import InputError, NaaError, StateMismatch, UsageError
from naa_fast.files import write_whole
from naa_fast.inputs.batches import Rejected
from naa_fast.measurement import Measurement

FORMAT = "naa-fast/checkpoint/4"
UNKNOWN = "unknown"
"""What a subject says of something that cannot be told: no reason to refuse."""
KEPT = 2
PATTERN = f"checkpoint-{'[0-9]' * 9}.naa"


@dataclass(frozen=True)
class Progressed:
    """How far a scan came: chunks before `next_chunk` are in `measurement`, and what they left out in `rejected`; `finished` when
    that was all of them. `observers`: what the snapshot of each rank's gave, empty where they were not kept.
    """

    next_chunk: int
    measurement: Measurement
    rejected: tuple[Rejected, ...] = ()
    finished: bool = False
    note: str = ""
    observers: tuple[bytes, ...] = ()


class Checkpoints:
    """The checkpoints of one set in one folder.

    `subject` says what is being measured, with which options, in words; a checkpoint of another subject is refused. A file is
    one line of JSON (with a checksum of all), a measurement, and what each rank's observer had learned: a ranking's state holds
    samples that were retained.
    """

    def __init__(self, folder: Path, subject: Mapping[str, str], interval_s: float) -> None:
        self.folder = folder
        self.subject = dict(subject)
        self.interval_s = interval_s
        self._written = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot keep checkpoints in {folder}", str(error.strerror), "name a folder that can be written"
            ) from None

    @property
    def due(self) -> bool:
        return time.monotonic() - self._written >= self.interval_s

    def save(self, progressed: Progressed) -> None:
        """Write a checkpoint, then drop all but the last KEPT. A full disk leaves the one before."""
        measured = progressed.measurement.to_bytes()
        content = b"".join((measured, *progressed.observers))
        header: dict[str, Any] = {
            "format": FORMAT,
            "subject": self.subject,
            "next_chunk": progressed.next_chunk,
            "rejected": [[bad.index, bad.file, bad.reason] for bad in progressed.rejected],
            "finished": progressed.finished,
            "bytes": [len(measured), *map(len, progressed.observers)],
        }
        header["sha256"] = checksum(header, content)
        path = self.folder / f"checkpoint-{progressed.next_chunk:09d}.naa"
        try:
            write_whole(path, json.dumps(header).encode() + b"\n" + content)
        except OSError as error:
            raise InputError(
                f"cannot write a checkpoint to {self.folder}",
                str(error.strerror),
                "the checkpoint before it is whole: make room and run again with --resume",
            ) from error
        for old in sorted(self.folder.glob(PATTERN))[:-KEPT]:
            old.unlink(missing_ok=True)
        self._written = time.monotonic()

    def clear(self) -> None:
        """Forget what an earlier scan left: this one starts anew."""
        for path in self.folder.glob(PATTERN):
            path.unlink(missing_ok=True)

    def load(self) -> Progressed | None:
        """The newest checkpoint that is whole, None if there is none.

        A damaged one is passed over for the one before, which `Progressed.note` says. Raises StateMismatch, naming the first
        field that differs, if the checkpoint is of another model, set or options.
        """
        damaged = []
        for path in sorted(self.folder.glob(PATTERN), reverse=True):
            try:
                header, measurement, observers = read(path)
                rejected = tuple(Rejected(*bad) for bad in header["rejected"])
            except (OSError, ValueError, KeyError, TypeError, NaaError) as error:
                damaged.append(f"{path.name} is damaged ({str(error).splitlines()[0]})")
                continue
            self.require_same_subject(path, header["subject"])
            note = f"{'; '.join(damaged)}: went back to {path.name}" if damaged else ""
            return Progressed(int(header["next_chunk"]), measurement, rejected, bool(header["finished"]), note, observers)
        if damaged:
            raise InputError(f"no checkpoint in {self.folder} is whole", *damaged, "start again without --resume")
        return None

    def require_same_subject(self, path: Path, subject: Mapping[str, str]) -> None:
        for what in sorted(self.subject.keys() | subject.keys()):
            if subject.get(what) != self.subject.get(what) and UNKNOWN not in (subject.get(what), self.subject.get(what)):
                raise StateMismatch(
                    f"cannot resume from {path}: {what} differs",
                    f"{what}: {subject.get(what, '(none)')} / {self.subject.get(what, '(none)')}",
                    "resume with the same model, data and options, or start again without --resume",
                )


def checksum(header: Mapping[str, Any], content: bytes) -> str:
    """Of the whole checkpoint: the header counts as much as what it describes."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + content).hexdigest()


def read(path: Path) -> tuple[dict[str, Any], Measurement, tuple[bytes, ...]]:
    """Header, measurement and the observers' bytes of a checkpoint. Raises ValueError, KeyError or NaaError on one that is not
    whole.
    """
    line, newline, content = path.read_bytes().partition(b"\n")
    header = json.loads(line)
    if not newline or header["format"] != FORMAT:
        raise ValueError("not a checkpoint of this version")
    if checksum({key: value for key, value in header.items() if key != "sha256"}, content) != header["sha256"]:
        raise ValueError("its checksum does not match")
    ends = [*accumulate(map(int, header["bytes"]))]
    measured, *observers = (content[start:end] for start, end in pairwise([0, *ends]))
    return header, Measurement.from_bytes(measured), tuple(observers)
