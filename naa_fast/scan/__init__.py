"""The loop over a set: batches through the model, statistics kept on the device, one measurement at the end.

`measure` in loop.py is the entry. The function `naa_fast.scan`, the whole audit, is in audit.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from naa_fast.scan.quarantine import Quarantine as Quarantine
    from naa_fast.scan.ray_data import ray_measure as ray_measure

_HOMES = {"Quarantine": "quarantine", "ray_measure": "ray_data"}


def __getattr__(name: str) -> Any:  # lazily: `import naa_fast` loads no torch
    if name not in _HOMES:
        raise AttributeError(f"module 'naa_fast.scan' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"naa_fast.scan.{_HOMES[name]}"), name)
