"""A pickle that would leave a folder behind if anybody unpickled it: harmless, and impossible to overlook."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


class Marker:
    """Unpickling creates `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_the_marker_works(tmp_path: Path) -> None:
    """Run by the tests of unsafe files, which prove nothing unless this holds."""
    pickle.loads(pickle.dumps(Marker(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()
