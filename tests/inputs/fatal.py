"""What ends the process that runs it; in a file of its own, which a new process loads quickly."""

from __future__ import annotations

import os
from pathlib import Path


class Fatal:
    """Ends the process for a file called `fatal`; of others it gives the name."""

    def __call__(self, path: Path) -> str:
        if path.name == "fatal":
            os._exit(3)
        return path.name
