"""Where a command may write: never over something it reads, and nowhere that would only fail after hours of work."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from naa_fast.errors import InputError, UsageError
from naa_fast.report.files import ALWAYS, CONFIG, FOLDER, FORMAT_FILES, OPTIONAL, PAGE_FILE, PREVIOUS, REPORT

QUARANTINE = "quarantine.jsonl"
FILES = (REPORT, *FORMAT_FILES, *(name for name in ALWAYS if name != REPORT), *OPTIONAL, CONFIG)
"""What a command writes into a report folder, beside those of the page; what says a verdict comes first."""
PROBE = 1 << 16
"""Bytes that are written for a try, and taken away again, before any work: a report is larger than that."""


def check_folder(folder: Path, inputs: Sequence[Path | None] = ()) -> None:
    """Raise UsageError if a report cannot go to `folder`, or a file of it would take the place of an input. Makes nothing."""
    # A report removes an older one's optional files.
    for name in (*FILES, QUARANTINE, FOLDER, PREVIOUS):
        refuse_overwriting(folder / name, inputs)
        if name not in (FOLDER, PREVIOUS) and (folder / name).is_dir() and not (folder / name).is_symlink():
            raise UsageError(f"--out: {folder / name} is a folder", "a file of the report goes there", "choose another --out")
    for name, what in ((FOLDER, "the pictures of the report"), (PREVIOUS, "an older report")):
        for given in inputs:
            if given is not None and given.resolve().is_relative_to((folder / name).resolve()):
                raise UsageError(f"--out: {folder / name} is for {what}", f"input: {given}", "choose another --out")
    refuse_unwritable(folder)


def set_aside(folder: Path) -> None:
    """Move an older report in `folder` into its folder PREVIOUS. Called before anything large is imported or read: whoever looks
    into `folder` after the command was killed finds no verdict, and not an older one.
    """
    place = folder / PREVIOUS
    try:
        names = [name for name in FILES if os.path.lexists(folder / name)] + page_files(folder)
        if os.environ.get("RANK", "0") != "0" or not names:
            return
        drop_previous(folder)
        (place / FOLDER).mkdir(parents=True, exist_ok=True)
        for name in names:
            os.replace(folder / name, place / name)
    except OSError as error:
        raise InputError(
            f"cannot move the older report in {folder} aside", str(error.strerror or error), "choose another --out"
        ) from None


def drop_previous(folder: Path) -> None:
    """Take away the older report that `set_aside` moved, and nothing else that may lie there. Raises OSError."""
    place = folder / PREVIOUS
    if place.is_symlink():
        place.unlink()
    if not place.is_dir():
        return
    for name in (*FILES, *page_files(place)):
        (place / name).unlink(missing_ok=True)
    for made in (place / FOLDER, place):
        if made.is_dir() and not made.is_symlink() and not any(made.iterdir()):
            made.rmdir()


def page_files(folder: Path) -> list[str]:
    """The files of a page in a report folder, by path in it; what else lies among them is not ours."""
    place = folder / FOLDER
    if place.is_symlink() or not place.is_dir():
        return []
    return [f"{FOLDER}/{path.name}" for path in place.iterdir() if PAGE_FILE.fullmatch(path.name)]


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


def model_file(spec: str) -> Path | None:
    """The file of a `FILE.py:FUNCTION`, or None for a module's name."""
    place = spec.rpartition(":")[0]
    return Path(place) if place.endswith(".py") else None
