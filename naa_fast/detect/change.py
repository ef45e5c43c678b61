"""`Change`: what a repair does to the output of one layer: `Zero`, `Clip` or `Ablate`. NumPy only.

`naa_fast.repair.applied` does it to a model; `change_of` reads one from a file, which may be anybody's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from naa_fast.records import Array


@dataclass(frozen=True, eq=False)
class OfLayer:
    """A change of the output of `layer`, whose neurons are on `axis`, row by row. `choice` says how it was chosen; `neurons`
    int64 `[k]` are those it is about.
    """

    layer: str
    axis: int
    choice: str
    neurons: Array
    method: ClassVar[str]

    @property
    def words(self) -> str:
        """What is done, and to how many."""
        return f"{self.method} {len(self.neurons)} neuron{'s' * (len(self.neurons) != 1)}"

    @property
    def directions(self) -> int:
        """Along how many directions rows are changed; 0 where single neurons are."""
        return 0

    def arrays(self) -> dict[str, Array]:
        """Its arrays by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def check(self) -> None:
        """Raises ValueError where the parts do not belong together, or are no numbers."""
        if not isinstance(self.layer, str) or not isinstance(self.choice, str):
            raise ValueError("names of layer and choice that are no text")
        if not isinstance(self.axis, int):
            raise ValueError(f"axis {self.axis!r} is no number")
        arrays = self.arrays()
        for name in arrays_of(type(self)):
            if name not in arrays:
                raise ValueError(f"{name} that is no array")
        if self.neurons.ndim != 1 or self.neurons.dtype.kind != "i" or (self.neurons < 0).any():
            raise ValueError("neurons that are no list of numbers from 0")
        for name, value in arrays.items():
            if name != "neurons" and (value.dtype.kind != "f" or not np.isfinite(value).all()):
                raise ValueError(f"{name} that is not finite")
        shapes = {name: value.shape for name, value in arrays.items() if name != "neurons"}
        expected = self.shapes()
        if shapes != expected:
            raise ValueError(f"shapes {shapes}: expected {expected}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What the arrays beside `neurons` must have for a shape."""
        return {name: self.neurons.shape for name in arrays_of(type(self)) if name != "neurons"}


@dataclass(frozen=True, eq=False)
class Zero(OfLayer):
    """Sets the neurons to 0."""

    method: ClassVar[str] = "zero"


@dataclass(frozen=True, eq=False)
class Clip(OfLayer):
    """Keeps the neurons between `low` and `high`, float32 `[k]`."""

    low: Array
    high: Array
    method: ClassVar[str] = "clip"


@dataclass(frozen=True, eq=False)
class Ablate(OfLayer):
    """Directional ablation: a row that lies farther than `limit` along `gate`, float32 `[neurons of the layer]`, loses what it
    has along each direction: `x -= (x @ along[i] - centres[i]) * pushes[i]`, float32 `[directions, neurons of the layer]` and
    `[directions]`. `neurons` are those it moves most.
    """

    gate: Array
    limit: float
    along: Array
    centres: Array
    pushes: Array
    method: ClassVar[str] = "turn back"

    @property
    def words(self) -> str:
        return f"turn back along {self.directions} direction{'s' * (self.directions != 1)}"

    @property
    def directions(self) -> int:
        return len(self.pushes)

    def check(self) -> None:
        if not isinstance(self.limit, int | float) or not math.isfinite(self.limit):
            raise ValueError(f"limit {self.limit!r} is no number")
        super().check()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        many = self.along.shape[:1]
        wide = (*many, *self.gate.shape)
        if not self.gate.size or not self.along.size or (self.neurons >= self.gate.size).any():
            raise ValueError("neurons or directions that the gate does not have")
        return {"gate": self.gate.shape[:1], "along": wide, "pushes": wide, "centres": many}


Change = Zero | Clip | Ablate
FORMS: dict[str, type[Change]] = {form.method: form for form in (Zero, Clip, Ablate)}


def arrays_of(form: type[OfLayer]) -> tuple[str, ...]:
    """The names of the arrays that a form of change has."""
    return tuple(field.name for field in fields(form) if field.type == "Array")


def change_of(about: Mapping[str, Any], arrays: Mapping[str, Array]) -> Change:
    """The change that a file describes: `about` what is no array, as `told` gave it. Raises ValueError, TypeError or LookupError
    where it describes none.
    """
    rest: dict[str, Any] = dict(about)
    method, limit = rest.pop("method"), rest.pop("limit", 0.0)
    if not isinstance(method, str) or method not in FORMS:
        raise ValueError(f"a repair by '{method}': this version knows {', '.join(FORMS)}")
    form = FORMS[method]
    for name in arrays_of(Clip) + arrays_of(Ablate):
        if name in rest:
            raise ValueError(f"{name} that is no array")
    needed = arrays_of(form)
    if set(arrays) != set(needed):
        raise ValueError(f"'{method}' with {', '.join(sorted(arrays)) or 'no arrays'}: expected {', '.join(sorted(needed))}")
    if not isinstance(limit, int | float) or not math.isfinite(limit):
        raise ValueError(f"limit {limit!r} is no number")
    if form is Ablate:
        rest["limit"] = limit
    rest.update(arrays)
    change = form(**rest)
    change.check()
    return change


def told(change: Change) -> dict[str, Any]:
    """What is no array, for a file."""
    limit = change.limit if isinstance(change, Ablate) else 0.0
    return {"layer": change.layer, "axis": change.axis, "method": change.method, "choice": change.choice, "limit": limit}
