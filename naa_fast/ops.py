"""The op table: which backend runs an op on a given array, and why the others were refused.

Every backend is a package under `kernels/` with the functions of `Backend`, in the signatures of `kernels/reference`.
`choose` returns a value that can be printed; import order and globals never change its answer.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from naa_fast.errors import BackendUnavailable, UsageError

OPS = ("reduce", "fold", "samples", "tally", "compare", "classes")
BACKENDS = ("cuda", "cpu", "portable", "reference")
"""Fastest first: `choose` takes the first that does not refuse."""


class Backend(Protocol):
    """What a backend package offers; kernels/reference defines each function."""

    def empty(self, channels: int, like: Any) -> Any: ...
    def reduce(self, x: Any, mask: Any, phase: int) -> Any: ...
    def reduce_kept(self, x: Any, mask: Any, phase: int) -> tuple[Any, Any]: ...
    def fold(self, batch: Any, phase: int) -> None: ...
    def samples(self, layers: Any, wide: bool) -> Any: ...
    def read(self, states: Any) -> list[Any]: ...
    def tails(self, channels: int, like: Any) -> Any: ...
    def bins(self, x: Any, mask: Any) -> Any: ...
    def tally(self, batch: Any) -> None: ...
    def read_tails(self, states: Any) -> list[Any]: ...
    def compare(self, *statistics: Any, resolution: float, k: int) -> Any: ...
    def classes(self, scores: Any, none: int) -> Any: ...


@dataclass(frozen=True)
class Choice:
    """The backend that runs `op`, and for each faster one why it does not."""

    op: str
    backend: str
    refused: dict[str, str]

    @property
    def module(self) -> Backend:
        name = f"naa_fast.kernels.{self.backend}"
        return sys.modules.get(name) or importlib.import_module(name)  # asked for at every layer

    def __str__(self) -> str:
        why = "; ".join(f"not {name}: {reason}" for name, reason in self.refused.items())
        return f"{self.op}: {self.backend}" + (f" ({why})" if why else "")


def is_torch(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == "torch" or hasattr(x, "data_ptr")


def device_of(x: Any) -> str:
    """Device type of an array: "cpu" for NumPy, else torch's word for it."""
    return str(x.device.type) if is_torch(x) else "cpu"


@cache
def missing(module: str) -> str | None:
    """Why `module` cannot be imported, or None if it can. Cached: a failed import is slow and its reason does not change."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return f"{module} is not installed"
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{module} does not import: {error}"
    return None


@cache
def cuda_missing() -> str | None:
    """Why the CUDA kernels cannot run on this machine, or None."""
    reason = missing("cupy")
    if reason is not None:
        return reason + " (pip install 'naa-fast[cuda13]' or [cuda12])"
    import cupy

    if not cupy.cuda.is_available():
        return "cupy finds no CUDA driver or device"
    return None


def refusal(backend: str, op: str, x: Any) -> str | None:
    """Why `backend` cannot run `op` on `x`, or None."""
    device = device_of(x)
    if backend == "cuda":
        return f"the array is on {device}" if device != "cuda" else cuda_missing()
    if backend == "cpu":
        return f"the array is on {device}" if device != "cpu" else missing("numba")
    if backend == "portable":
        return None if is_torch(x) else "the array is NumPy's"
    return None if device == "cpu" else f"NumPy cannot read an array on {device}"


def choose(op: str, x: Any, backend: str = "auto") -> Choice:
    """The backend for `op` on `x` (NumPy array or torch tensor).

    Raises:
        UsageError: no such op or backend.
        BackendUnavailable: `backend` was named and cannot run; the message gives every backend's reason.
    """
    if op not in OPS:
        raise UsageError(f"unknown op '{op}'", f"ops: {', '.join(OPS)}")
    if backend not in ("auto", *BACKENDS):
        raise UsageError(f"unknown backend '{backend}'", f"backends: auto, {', '.join(BACKENDS)}")
    refused: dict[str, str] = {}
    for name in BACKENDS if backend == "auto" else (backend,):
        reason = refusal(name, op, x)
        if reason is None:
            return Choice(op, name, refused)
        refused[name] = reason
    offered = [name for name in BACKENDS if refusal(name, op, x) is None]
    raise BackendUnavailable(
        f"backend '{backend}' cannot run {op}",
        *(f"{name}: {reason}" for name, reason in refused.items()),
        f"this array can be handled by: {', '.join(offered)}",
    )
