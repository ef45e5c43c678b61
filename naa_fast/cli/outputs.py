"""Where a command may write: never over something it reads, and nowhere that would only fail after hours of work."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from naa_fast.errors import InputError, UsageError
from naa_fast.files import write_whole

QUARANTINE = "quarantine.jsonl"
PROBE = 1 << 16
"""Bytes that are written for a try, and taken away again, before any work: a report is larger than that."""
REPORT_FILES = (
    "report.json",
    "report.html",
    "signature.png",
    "signature.svg",
    "summary.txt",
    "clean.naa.safetensors",
    "suspect.naa.safetensors",
    "evidence.safetensors",
)


def check_folder(folder: Path, inputs: Sequence[Path | None] = ()) -> None:
    """Raise UsageError if a report cannot go to `folder`, or a file of it would take the place of an input. Makes nothing."""
    from naa_fast.report.evidence_view import FOLDER
    from naa_fast.report.folder import CONFIG
    from naa_fast.report.formats import FORMAT_FILES
    from naa_fast.report.pictures import OPTIONAL

    # A report removes an older one's optional files.
    for name in (*REPORT_FILES, *OPTIONAL, *FORMAT_FILES, CONFIG, QUARANTINE, FOLDER):
        refuse_overwriting(folder / name, inputs)
        if name != FOLDER and (folder / name).is_dir() and not (folder / name).is_symlink():
            raise UsageError(f"--out: {folder / name} is a folder", "a file of the report goes there", "choose another --out")
    for given in inputs:
        if given is not None and given.resolve().is_relative_to((folder / FOLDER).resolve()):
            raise UsageError(
                f"--out: {folder / FOLDER} is for the pictures of the report", f"input: {given}", "choose another --out"
            )
    refuse_unwritable(folder)


def check_file(path: Path, inputs: Sequence[Path | None]) -> None:
    """Raise UsageError if the file `path` could not be written, or is one of the inputs. Makes nothing."""
    refuse_overwriting(path, inputs)
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder", "expected the name of a file")
    refuse_unwritable(path.parent)


def quarantine_of(measurement: Path) -> Path:
    """Where the list of what a measurement left out goes: beside it, under its name, since parts share a folder."""
    return measurement.with_name(f"{measurement.name.removesuffix('.safetensors').removesuffix('.naa')}.{QUARANTINE}")


def refuse_overwriting(output: Path, inputs: Sequence[Path | None]) -> None:
    for given in inputs:
        if given is None:
            continue
        inside = given.is_dir() and output.resolve().is_relative_to(given.resolve())
        if inside or same(output, given):
            what = "would be written into the input folder" if inside else "would overwrite the input"
            raise UsageError(f"--out: {output} {what}", f"input: {given}", "choose another --out")


def same(a: Path, b: Path) -> bool:
    """The same file, also through links and hard links."""
    try:
        return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))
    except OSError:
        return False


def refuse_unwritable(folder: Path) -> None:
    """A folder that is yet to be made is as good as the nearest one above it that exists."""
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UsageError(f"--out: {folder} cannot be a folder", f"{nearest} is in the way and is none", "choose another --out")
    if not os.access(nearest, os.W_OK):
        raise UsageError(f"--out: {folder} cannot be written to", f"this user may not write in {nearest}", "choose another --out")
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:  # gone again when it is closed
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(
            f"--out: {folder} cannot be written to",
            f"writing {PROBE:,} bytes in {nearest}: {error.strerror or error}",
            "make room on its disk, or choose another --out",
        ) from None


def write(path: Path, content: bytes) -> None:
    """Write a file whole, its folder made if absent. Raises InputError where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise InputError(
            f"cannot write {path}", str(error.strerror or error), "name a folder that can be written, with room on its disk"
        ) from None


def model_file(spec: str) -> Path | None:
    """The file of a `FILE.py:FUNCTION`, or None for a module's name."""
    place = spec.rpartition(":")[0]
    return Path(place) if place.endswith(".py") else None
