"""Files that are written whole or not at all."""

from __future__ import annotations

import difflib
import os
import secrets
from pathlib import Path

from naa_fast.errors import InputError


def nearest_files(path: Path) -> list[str]:
    """A line that names what lies where `path` was sought and is called much like it; none where nothing is."""
    try:
        names = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return []
    close = difflib.get_close_matches(path.name, names, n=1) or [name for name in names if Path(name).stem == path.stem][:1]
    return [f"did you mean {path.parent / close[0]}?"] if close else []


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old file or the new one and never a part.

    Temporary file in the same folder, fsync, rename.
    """
    name = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        # Not tempfile: its files are private to the user, and reports are made to be shared.
        with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole (`write_whole`), its folder made if absent. Raises InputError where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise InputError(
            f"cannot write {path}", str(error.strerror or error), "name a folder that can be written, with room on its disk"
        ) from None
