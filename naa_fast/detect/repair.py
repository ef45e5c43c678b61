"""`Repair`: a change of a layer's output that silences what a scan found, and what it was seen to do. NumPy only."""

from __future__ import annotations

import json
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


@dataclass(frozen=True, eq=False)
class Repair:
    """`changes` of one layer or a few, and their effect on samples that chose nothing.

    `on`: TRIGGERED, if a proof stands, or RANKED. `before` and `after`: share of those `samples` that the trigger turns; of
    RANKED ones that keep their prediction. `kept`: share of `clean_samples` clean samples whose prediction stays. `control` and
    `control_kept`: `after` and `kept` with as many random neurons, or along random directions (`random`, which no file keeps).
    `tried` repairs, for which `forwards` samples ran through the model.
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
            changes = tuple(
                Change(
                    **about,
                    **{name.partition(".")[2]: held for name, held in tensors.items() if name.partition(".")[0] == str(number)},
                )
                for number, about in enumerate(held.pop("changes"))
            )
            return cls(changes, **held)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{Path(path).name} is no repair",
                f"{type(error).__name__}: {error}",
                f"expected the {REPAIR_FILE} of a report folder",
            ) from None
