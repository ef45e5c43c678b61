"""`Repair`: a change of a layer's output that silences what a scan found, and what it was seen to do. NumPy only."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from naa_fast.errors import InputError
from naa_fast.records import Array

METHODS = ("zero", "clip", "turn back")
TRIGGERED = "clean samples with the trigger on them"
RANKED = "the highest-ranked suspect samples"
REPAIR_FILE = "repair.safetensors"
LEAST_HELP = 0.2
"""What a repair must bring the trigger's rate down by, also beside its random control: less is not called one."""


@dataclass(frozen=True, eq=False)
class Change:
    """What the output of a layer goes through, row by row: `axis` is where its neurons are.

    "zero" and "clip" (to `low`, `high`) are about `neurons`. "turn back": a row that lies farther than `limit` along `gate` loses
    what it has along each of `pushes`: `x -= (x @ along[i] - centres[i]) * pushes[i]`. Then `neurons` are those it moves most.
    `choice` says how it was chosen. int64 `[k]`; float32 `[neurons]`, `[directions, neurons]`, `[directions]`.
    """

    layer: str
    axis: int
    method: str
    choice: str
    neurons: Array
    low: Array | None = None
    high: Array | None = None
    gate: Array | None = None
    limit: float = 0.0
    along: Array | None = None
    centres: Array | None = None
    pushes: Array | None = None

    @property
    def words(self) -> str:
        """What is done, and to how many."""
        if self.pushes is not None:
            many = len(self.pushes)
            return f"turn back along {many} direction{'s' * (many != 1)}"
        return f"{self.method} {len(self.neurons)} neuron{'s' * (len(self.neurons) != 1)}"

    def check(self) -> None:
        """Raises ValueError where the parts do not belong together, or are no numbers: a repair file may be anybody's."""
        held = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        needed = {"neurons"} | NEEDED.get(self.method, set())
        if self.method not in METHODS:
            raise ValueError(f"a repair by '{self.method}': this version knows {', '.join(METHODS)}")
        if not isinstance(self.layer, str) or not isinstance(self.choice, str):
            raise ValueError("names of layer and choice that are no text")
        if not isinstance(self.axis, int) or not isinstance(self.limit, int | float) or not math.isfinite(self.limit):
            raise ValueError(f"axis {self.axis!r} or limit {self.limit!r} is no number")
        for name in ("low", "high", "gate", "along", "centres", "pushes"):
            if getattr(self, name) is not None and name not in held:
                raise ValueError(f"{name} that is no array")
        if set(held) != needed:
            raise ValueError(
                f"'{self.method}' with {', '.join(sorted(held)) or 'no arrays'}: expected {', '.join(sorted(needed))}"
            )
        if self.neurons.ndim != 1 or self.neurons.dtype.kind != "i" or (self.neurons < 0).any():
            raise ValueError("neurons that are no list of numbers from 0")
        for name, value in held.items():
            if name != "neurons" and (value.dtype.kind != "f" or not np.isfinite(value).all()):
                raise ValueError(f"{name} that is not finite")
        shapes = {name: value.shape for name, value in held.items() if name != "neurons"}
        expected = dict.fromkeys(needed - {"neurons"}, self.neurons.shape)
        if self.gate is not None and self.along is not None:
            many = self.along.shape[:1]
            wide = (*many, *self.gate.shape)
            expected = {"gate": self.gate.shape[:1], "along": wide, "pushes": wide, "centres": many}
            if not self.gate.size or not self.along.size or (self.neurons >= self.gate.size).any():
                raise ValueError("neurons or directions that the gate does not have")
        if shapes != expected:
            raise ValueError(f"shapes {shapes}: expected {expected}")


NEEDED = {"clip": {"low", "high"}, "turn back": {"gate", "along", "centres", "pushes"}}


@dataclass(frozen=True, eq=False)
class Repair:
    """`changes` of one layer or a few, and their effect on samples that chose nothing.

    `on`: TRIGGERED, if a proof stands, or RANKED. `before` and `after`: share of those `samples` that the trigger turns; of
    RANKED ones that keep their prediction. `kept`: share of `clean_samples` clean samples whose prediction stays. `control` and
    `control_kept`: `after` and `kept` with as many random neurons, or along random directions (`random`, which no file keeps).
    `tried` repairs, for which `forwards` samples ran through the model; one that was gone back through, for a gradient, counts
    again.
    """

    changes: tuple[Change, ...]
    on: str
    before: float
    after: float
    control: float
    samples: int
    kept: float
    control_kept: float
    clean_samples: int
    tried: int
    forwards: int
    random: tuple[Change, ...] = ()

    @property
    def helps(self) -> bool:
        """Whether it silences much of the trigger, and more than chance does."""
        return min(self.before, self.control) - self.after >= LEAST_HELP

    def check(self) -> None:
        """Raises ValueError where what it was seen to do is no share or no count."""
        shares = self.before, self.after, self.control, self.kept, self.control_kept
        counts = self.samples, self.clean_samples, self.tried, self.forwards
        if not isinstance(self.on, str) or not all(isinstance(one, int | float) and 0 <= one <= 1 for one in shares):
            raise ValueError("shares that are not between 0 and 1")
        if not all(isinstance(one, int) and one >= 0 for one in counts):
            raise ValueError("counts that are no whole numbers")

    def to_bytes(self) -> bytes:
        """The content of repair.safetensors: tensors `0.neurons`, `0.gate`, ... of each change; what is no tensor in the
        metadata's one key, "repair", as JSON.
        """
        from safetensors.numpy import save

        tensors: dict[str, Array] = {}
        about = []
        for number, change in enumerate(self.changes):
            fields = vars(change)
            tensors |= {f"{number}.{name}": held for name, held in fields.items() if isinstance(held, np.ndarray)}
            about.append({name: held for name, held in fields.items() if isinstance(held, str | int | float)})
        rest = {name: held for name, held in vars(self).items() if name not in ("changes", "random")}
        return save(tensors, {"repair": json.dumps({**rest, "changes": about})})

    @classmethod
    def load(cls, path: str | Path) -> Repair:
        """Read a repair.safetensors. Raises InputError for a file that is none."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                held = json.loads((file.metadata() or {})["repair"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if "random" in held or not held["changes"]:
                raise ValueError("its changes are missing, or it has some that no file keeps")
            names = {f"{number}.{name}" for number in range(len(held["changes"])) for name in Change.__dataclass_fields__}
            if not set(tensors) <= names:
                raise ValueError(f"tensors of no change: {', '.join(sorted(set(tensors) - names)[:3])}")
            changes = tuple(
                Change(
                    **about,
                    **{name.partition(".")[2]: held for name, held in tensors.items() if name.partition(".")[0] == str(number)},
                )
                for number, about in enumerate(held.pop("changes"))
            )
            for change in changes:
                change.check()
            repair = cls(changes, **held)
            repair.check()
            return repair
        except (
            OSError,
            SafetensorError,
            LookupError,
            TypeError,
            ValueError,
            ArithmeticError,
            AttributeError,
            RecursionError,
        ) as error:
            raise InputError(
                f"{Path(path).name} is no repair",
                f"{type(error).__name__}: {error}",
                f"expected the {REPAIR_FILE} of a report folder",
            ) from None
