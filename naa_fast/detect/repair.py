"""`Repair`: changes of layers' outputs that silence what a scan found, and what it was seen to do. NumPy only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from naa_fast.detect.change import Ablate, Change, Clip, arrays_of, change_of, told
from naa_fast.detect.proof import wilson
from naa_fast.errors import InputError
from naa_fast.records import Array

TRIGGERED = "clean samples with the trigger on them"
RANKED = "the highest-ranked suspect samples"
REPAIR_FILE = "repair.safetensors"
NAMES = {*arrays_of(Clip), *arrays_of(Ablate)}
"""The arrays that changes have."""
LEAST_HELP = 0.2
"""What a repair must bring the trigger's rate down by, also beside its random control: less is not called one."""


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
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of `after` (Wilson 1927)."""
        return wilson(self.after, self.samples)

    @property
    def helps(self) -> bool:
        """Whether it silences much of the trigger, and more than chance does."""
        return min(self.before, self.control) - self.after >= LEAST_HELP

    def check(self) -> None:
        """Raises ValueError where what it was seen to do is no share or no count."""
        shares = self.before, self.after, self.control, self.kept, self.control_kept
        counts = self.samples, self.clean_samples, self.tried, self.forwards
        if not isinstance(self.on, str) or not all(isinstance(figure, int | float) and 0 <= figure <= 1 for figure in shares):
            raise ValueError("shares that are not between 0 and 1")
        if not all(isinstance(figure, int) and figure >= 0 for figure in counts):
            raise ValueError("counts that are no whole numbers")

    def to_bytes(self) -> bytes:
        """The content of repair.safetensors: tensors `0.neurons`, `0.gate`, ... of each change; what is no tensor in the
        metadata's one key, "repair", as JSON.
        """
        from safetensors.numpy import save

        tensors: dict[str, Array] = {}
        about = []
        for number, change in enumerate(self.changes):
            tensors |= {f"{number}.{name}": array for name, array in change.arrays().items()}
            about.append(told(change))
        rest = {name: value for name, value in vars(self).items() if name not in ("changes", "random")}
        return save(tensors, {"repair": json.dumps({**rest, "changes": about})})

    @classmethod
    def load(cls, path: str | Path) -> Repair:
        """Read a repair.safetensors. Raises InputError for a file that is none."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                arrays = json.loads((file.metadata() or {})["repair"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if "random" in arrays or not arrays["changes"]:
                raise ValueError("its changes are missing, or it has some that no file keeps")
            names = {f"{number}.{name}" for number in range(len(arrays["changes"])) for name in NAMES}
            if not set(tensors) <= names:
                raise ValueError(f"tensors of no change: {', '.join(sorted(set(tensors) - names)[:3])}")
            changes = tuple(
                change_of(
                    about,
                    {name.partition(".")[2]: array for name, array in tensors.items() if name.partition(".")[0] == str(number)},
                )
                for number, about in enumerate(arrays.pop("changes"))
            )
            repair = cls(changes, **arrays)
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
