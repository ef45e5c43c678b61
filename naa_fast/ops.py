"""The op table: which backend runs an op on a given array, and why the others were refused.

Every backend is a package under `kernels/` with the functions of `Backend`, in the signatures of `kernels/reference`.
`choose` returns a value that can be printed; import order and globals never change its answer.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from naa_fast.errors import BackendUnavailable, UsageError

if TYPE_CHECKING:
    from naa_fast.records import Array

OPS = ("reduce", "fold", "samples", "tally", "compare", "classes")
BACKENDS = ("cuda", "cpu", "portable", "reference")
"""Fastest first: `choose` takes the first that does not refuse."""


X = TypeVar("X")
StateT = TypeVar("StateT")
PartialsT = TypeVar("PartialsT")
KeptT = TypeVar("KeptT")
TailsT = TypeVar("TailsT")
BinsT = TypeVar("BinsT")


class Backend(Protocol[X, StateT, PartialsT, KeptT, TailsT, BinsT]):
    """What a backend package offers; kernels/reference defines each function.

    `X` is what it reads, NumPy arrays or torch tensors; the other five are its own: a layer's moments, what `reduce` makes of a
    batch, what of it is kept for `samples`, a layer's histograms, and bins. tests/kernels/test_protocol.py holds every package to
    it, types included.
    """

    def empty(self, channels: int, like: X) -> StateT: ...
    def reduce(self, x: X, mask: X | None, phase: int) -> PartialsT: ...
    def reduce_kept(self, x: X, mask: X | None, phase: int) -> tuple[PartialsT, KeptT]: ...
    def fold(self, batch: Sequence[tuple[StateT, PartialsT]], phase: int) -> None: ...
    def samples(self, layers: Sequence[tuple[Sequence[KeptT], bool]], wide: bool) -> X: ...
    def read(self, states: Sequence[StateT]) -> list[tuple[Array, Array, Array]]: ...
    def tails(self, channels: int, like: X) -> TailsT: ...
    def bins(self, x: X, mask: X | None) -> BinsT: ...
    def tally(self, batch: Sequence[tuple[TailsT, PartialsT | BinsT]]) -> None: ...
    def read_tails(self, states: Sequence[TailsT]) -> list[Array]: ...
    def compare(
        self, clean_mean: X, clean_variance: X, suspect_mean: X, suspect_variance: X, resolution: float, k: int
    ) -> Compared: ...
    def classes(self, scores: X, none: int) -> X: ...


class Compared(Protocol):
    """One layer's means compared, each `[channels]`: NumPy's or on the device; `top` int64, the largest differences first."""

    @property
    def difference(self) -> Any: ...
    @property
    def z(self) -> Any: ...
    @property
    def top(self) -> Any: ...


Chosen: TypeAlias = Backend[Any, Any, Any, Any, Any, Any]
"""A backend that was chosen by name: what it makes of a layer is handed back to it and to nobody else."""


@dataclass(frozen=True)
class Choice:
    """The backend that runs `op`, and for each faster one why it does not."""

    op: str
    backend: str
    refused: dict[str, str]

    @property
    def module(self) -> Chosen:
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
