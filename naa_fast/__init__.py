"""naa-fast: does a neural network that somebody else trained carry a backdoor, where, and which samples set it off?

    audit = naa_fast.scan(model, clean, suspect)      # or, without a suspect sample: naa_fast.invert(model, clean)
    print(audit.verdict.outcome)          # "pass", "warn", "fail" or "inconclusive"
    audit.save("report")

Start with `help(naa_fast.scan)`: it does it all. `measure` and `compare` are its halves, for a cluster and a laptop; `detect` is
the classic rule on plain arrays; `invert` does without suspects; `repair.applied` runs a repaired model. Importing this package
loads nothing: each name is opened when it is asked for.

`naa_fast.scan`, `detect` and `invert` are these functions. The folders of the same names are reached by `from naa_fast.scan
import ...` and the like.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path:
    # `python -m naa_fast` is about to run, and -m puts the current directory first: a stray numpy.py in a downloaded model folder
    # would be imported as NumPy.
    sys.path.append(sys.path.pop(0))

if TYPE_CHECKING:
    import naa_fast.repair as repair
    from naa_fast.audit import compare, measure, scan
    from naa_fast.detect.arrays import detect
    from naa_fast.errors import NaaError
    from naa_fast.invert import invert
    from naa_fast.measurement import Measurement
    from naa_fast.result import Audit
    from naa_fast.scan.quarantine import Quarantine
    from naa_fast.scan.ray_data import ray_measure

__all__ = [
    "Audit",
    "Measurement",
    "NaaError",
    "Quarantine",
    "compare",
    "detect",
    "invert",
    "measure",
    "ray_measure",
    "repair",
    "scan",
]

_HOMES = {
    "Audit": "result",
    "Measurement": "measurement",
    "NaaError": "errors",
    "Quarantine": "scan.quarantine",
    "compare": "audit",
    "detect": "detect.arrays",
    "invert": "invert",
    "measure": "audit",
    "ray_measure": "scan.ray_data",
    "scan": "audit",
}


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # a type checker would take any name for one that exists

    class _FrontDoor(ModuleType):
        """Importing the folder naa_fast/scan would put the folder in the place of the function of that name."""

        def __setattr__(self, name: str, value: object) -> None:
            if name not in _HOMES or not isinstance(value, ModuleType):
                super().__setattr__(name, value)

    sys.modules[__name__].__class__ = _FrontDoor

    def __getattr__(name: str) -> Any:
        """What this package offers, opened when it is asked for."""
        if name == "repair":
            return importlib.import_module("naa_fast.repair")
        if name not in _HOMES:
            raise AttributeError(f"module 'naa_fast' has no attribute '{name}'; it offers: {', '.join(__all__)}")
        return globals().setdefault(name, getattr(importlib.import_module(f"naa_fast.{_HOMES[name]}"), name))
