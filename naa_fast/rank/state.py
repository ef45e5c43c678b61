"""What a ranking has learned so far, as plain values that a checkpoint can hold and `torch.load` reads without running code.

`plain` takes it out, `built` puts it back, `to_bytes` and `from_bytes` are the way through a file. Only the classes of KEPT are
built, whatever the bytes say.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.accumulate.samples import Pack, Views
from naa_fast.inputs.batches import Batch, Rejected
from naa_fast.rank import directions, numbers, reference, retained, scorer, tokens

KEPT: dict[str, type] = {
    f"{cls.__module__}.{cls.__name__}": cls
    for cls in (
        *(Batch, Rejected, Pack, Views),
        *(directions.Directions, directions.Rows, directions.Sketch),
        *(retained.Reservoir, retained.Offered, retained.Top),
        *(numbers.Numbers, reference.Reference, scorer.Rows, tokens.TokenTally),
    )
}
MADE_AGAIN = {"_columns": dict, "_places": None}
"""Attributes that are made when they are needed, and what stands for them until then (None: nothing)."""
CHANGED_IN_PLACE = (directions.Sketch,)


class NotKept(TypeError):
    """A value that is no plain one: an input of a type of the user's own."""


def plain(value: Any, copied: bool = False) -> Any:
    """A value as dicts, lists, tensors and words; `copied`: its tensors may change later. Raises NotKept."""
    if value is None or isinstance(value, bool | int | float | str):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, Tensor):
        return {"kind": "tensor", "on": str(value.device), "of": value.detach().clone() if copied else value.detach()}
    if isinstance(value, np.ndarray):
        return {"kind": "array", "of": torch.from_numpy(value.copy())}
    if isinstance(value, np.random.Generator):
        return {"kind": "random", "of": plain(value.bit_generator.state)}
    if type(value) in (list, tuple, set):
        return {"kind": type(value).__name__, "of": [plain(item, copied) for item in value]}
    if isinstance(value, dict) or type(value).__name__ == "BatchEncoding":
        return {"kind": "dict", "of": [[plain(key), plain(item, copied)] for key, item in value.items()]}
    name = f"{type(value).__module__}.{type(value).__name__}"
    if name not in KEPT:
        raise NotKept(name)
    copied = copied or isinstance(value, CHANGED_IN_PLACE)
    attributes = {key: plain(item, copied) for key, item in vars(value).items() if key not in MADE_AGAIN}
    return {"kind": name, "of": attributes}


def built(value: Any) -> Any:
    """Inverse of `plain`. Raises KeyError, TypeError or ValueError for what it never gave."""
    if not isinstance(value, dict):
        return value
    kind, content = value["kind"], value["of"]
    if kind == "tensor":
        return content.to(torch.device(value["on"]))
    if kind == "array":
        return content.numpy()
    if kind == "random":
        generator = np.random.default_rng(0)
        generator.bit_generator.state = built(content)
        return generator
    if kind in ("list", "tuple", "set"):
        return {"list": list, "tuple": tuple, "set": set}[kind](built(item) for item in content)
    if kind == "dict":
        return {built(key): built(item) for key, item in content}
    made: Any = object.__new__(KEPT[kind])
    for name, item in content.items():
        object.__setattr__(made, name, built(item))
    for name, make in MADE_AGAIN.items():
        if make is not None and kind.endswith(".Directions"):
            object.__setattr__(made, name, make())
    return made


def to_bytes(state: Any) -> bytes:
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def from_bytes(content: bytes) -> Any:
    """Raises what torch.load raises on anything but plain values."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
