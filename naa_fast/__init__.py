"""naa-fast: does a neural network that somebody else trained carry a backdoor, where, and which samples set it off?

    audit = naa_fast.scan(model, clean, suspect)
    print(audit.verdict.outcome)          # "pass", "warn", "fail" or "inconclusive"
    audit.save("report")

`scan` does it all; `measure` and `compare` are its halves, for a cluster and a laptop; `detect` is the classic rule on plain
arrays. Importing this package loads neither torch nor numba.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

import naa_fast.detect as _detect
import naa_fast.scan as _scan

__all__ = ["Audit", "Measurement", "NaaError", "compare", "detect", "measure", "scan"]

_HOMES = {"Audit": "result", "compare": "audit", "measure": "audit", "Measurement": "measurement", "NaaError": "errors"}

if TYPE_CHECKING:
    from naa_fast.audit import compare as compare
    from naa_fast.audit import measure as measure
    from naa_fast.errors import NaaError as NaaError
    from naa_fast.measurement import Measurement as Measurement
    from naa_fast.result import Audit as Audit


class _Verb(ModuleType):
    """A subpackage that can be called: `naa_fast.scan` and `naa_fast.detect` name both a function and the folder behind it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        home, function = {"naa_fast.scan": ("audit", "scan"), "naa_fast.detect": ("detect.arrays", "detect")}[self.__name__]
        return getattr(importlib.import_module(f"naa_fast.{home}"), function)(*args, **kwargs)


_scan.__class__ = _detect.__class__ = _Verb


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name == "repair":  # a folder, opened when it is asked for: it loads torch
        return importlib.import_module("naa_fast.repair")
    if name not in _HOMES:
        raise AttributeError(f"module 'naa_fast' has no attribute '{name}'; it offers: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"naa_fast.{_HOMES[name]}"), name)
