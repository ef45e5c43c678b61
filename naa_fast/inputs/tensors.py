"""What counts as data: numeric dtypes, masks, columns of equal length. Shared by every kind of source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from naa_fast.errors import InputError

MASK_RULE = "expected a mask of bool or of integers 0 and 1 (False or 0: not observed), [samples] or [samples, positions]"


class Column(Protocol):
    """A named array that can be read by rows. `dtype` in the words of its file: "float32", or safetensors' "F32"."""

    shape: tuple[int, ...]
    dtype: str

    def read(self, rows: int, start: int, stop: int) -> Iterator[Tensor]:
        """Rows `start:stop` of the array, `rows` at a time."""
        ...


class MemoryColumn:
    """An array that is already in memory. Slices of a tensor are views; slices of a NumPy array are copies."""

    def __init__(self, values: Tensor | np.ndarray) -> None:
        """`values` `[rows, ...]`. Raises InputError for other than numbers."""
        if isinstance(values, np.ndarray):
            require_numeric(values.dtype, "the array")
        self.values = values
        self.shape = tuple(values.shape)
        self.dtype = str(values.dtype).removeprefix("torch.")

    def read(self, rows: int, start: int, stop: int) -> Iterator[Tensor]:
        for first in range(start, stop, rows):
            yield as_tensor(self.values[first : min(first + rows, stop)], "the array")


def check_columns(name: str, x: Column, mask: Column | None, y: Column | None) -> None:
    """Raise InputError unless `x` has samples, and `mask` and `y` as many. Headers only; mask values are checked when read."""
    if not x.shape:
        raise InputError(f"x of {name} is a single number", "expected samples along the first axis")
    if 0 in x.shape:
        what = "has no samples" if x.shape[0] == 0 else "has no values"
        raise InputError(f"x of {name} {what}", f"its shape is {list(x.shape)}", "expected at least two samples")
    for label, column in (("mask", mask), ("y", y)):
        if column is not None and (not column.shape or column.shape[0] != x.shape[0]):
            raise InputError(
                f"{label} of {name} does not fit x",
                f"x has {x.shape[0]} samples, {label} has shape {list(column.shape)}",
                f"expected one row of {label} for every sample, or no {label} at all",
            )
    if mask is not None and not (is_mask_dtype(mask.dtype) and len(mask.shape) <= 2):
        raise InputError(f"mask of {name} is {mask.dtype} {list(mask.shape)}", MASK_RULE)


def is_mask_dtype(dtype: str) -> bool:
    return dtype.lower().startswith(("b", "i", "u")) and not dtype.startswith("BF")


def is_number_dtype(dtype: str) -> bool:
    """Whether values of a type, in the words of NumPy or safetensors, are real numbers."""
    kind = dtype[1:] if dtype.startswith(("<", ">", "|", "=")) else dtype.lower()
    return kind.startswith(("b", "i", "u", "f"))


def require_numeric(dtype: np.dtype[Any], what: str) -> None:
    """Raise InputError unless torch has a tensor type for `dtype`."""
    if dtype.kind == "V" and dtype.names is None:
        raise InputError(
            f"{what} holds raw bytes ({dtype})",
            "expected numbers; NumPy forgets types such as bfloat16 when it saves them",
            "save it as .safetensors, or as float32",
        )
    if dtype.kind not in "biufc":
        kind = {"O": "Python objects", "U": "text", "S": "text", "V": "records", "M": "dates", "m": "durations"}
        raise InputError(f"{what} holds {kind.get(dtype.kind, 'no numbers')} ({dtype})", "expected numbers")
    if dtype.itemsize > (16 if dtype.kind == "c" else 8):
        raise InputError(f"{what} is {dtype}", "expected at most double precision", "convert it to float64")


def as_tensor(values: Tensor | np.ndarray, what: str) -> Tensor:
    """`values` `[...]` as a tensor of the same dtype; a NumPy array is copied, so that the model cannot write into it."""
    if isinstance(values, Tensor):
        return values
    require_numeric(values.dtype, what)
    return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="), order="C"))


def as_mask(values: Tensor, what: str) -> Tensor:
    """`values` `[samples]` or `[samples, positions]` as a bool mask. On the CPU the values are checked; elsewhere that would make
    the device wait.

    Raises:
        InputError: another dtype or number of axes, or integers other than 0 and 1.
    """
    if values.is_floating_point() or values.is_complex() or values.ndim not in (1, 2):
        raise InputError(f"{what} is {str(values.dtype).removeprefix('torch.')} {list(values.shape)}", MASK_RULE)
    if values.dtype == torch.bool:
        return values
    if values.device.type == "cpu":
        least, most = (int(value) for value in values.long().aminmax()) if values.numel() else (0, 0)
        if least < 0 or most > 1:
            raise InputError(f"{what} holds values from {least} to {most}", MASK_RULE)
    return values != 0


def describe(value: Any) -> str:
    """What `value` is, in two words."""
    return "nothing (None)" if value is None else f"of type {type(value).__name__}"
