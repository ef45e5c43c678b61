"""Finding the tensor in what a module returns: tensors, tuples, lists, dicts, named tuples and dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from naa_fast.errors import CaptureError


def whole(output: Any) -> Any:
    """`output`, gathered from the ranks it is spread over if it is a DTensor: shards side by side, pending sums added up.

    A collective: every rank of the mesh has to come here in the same order, as they do in one model's forward.
    """
    return output.full_tensor() if isinstance(output, Tensor) and hasattr(output, "full_tensor") else output


def is_quantised(output: Any) -> bool:
    """Whether it is a tensor of integers that come with a scale."""
    return isinstance(output, Tensor) and output.is_quantized


def members(output: Any) -> dict[str, Any]:
    """The parts of a structured output by the name a request can use ("0", "1" for positions)."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, tuple | list):
        return {str(index): value for index, value in enumerate(output)}
    return {}


def pick(name: str, output: Any, item: str | None) -> tuple[Any, str]:
    """The part of `output` that is meant, and a note when the choice was this function's and not the user's.

    With `item`, that part (a position, key or field). Without, a tensor is itself; of a structure the first floating-point
    tensor, which is the hidden state in every common architecture, and the note says so.
    """
    if isinstance(output, Tensor):
        if item is not None:
            raise CaptureError(
                f"layer {name} gives one tensor, not a structure", f"'{name}:{item}' asks for a part of it", f"ask for '{name}'"
            )
        return output, ""
    parts = members(output)
    if item is not None:
        if item not in parts:
            raise CaptureError(f"layer {name} has no output '{item}'", f"found: {', '.join(parts) or type(output).__name__}")
        return parts[item], ""
    tensors = [key for key, value in parts.items() if isinstance(value, Tensor) and value.is_floating_point()]
    if not tensors:
        return output, ""
    others = [key for key in tensors if key != tensors[0]]
    note = f"layer {name} returns {type(output).__name__}; took '{tensors[0]}'"
    note += f", not {', '.join(others)} (choose with '{name}:{others[0]}')" if others else ""
    return parts[tensors[0]], note
