"""Masks in batches that are tuples, as loaders of token ids give them: (ids, mask, labels)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OPPOSITE = "padding"
"""In the name of an argument: what it marks is left out (`src_key_padding_mask`), where other masks mark what counts."""


def parameters_of(model: nn.Module) -> tuple[str, ...]:
    """The names of what `model(...)` takes by place, in order; empty where it takes anything."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return ()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD)


def mask_beside(values: Sequence[Any], x: Tensor, names: Sequence[str]) -> tuple[int, str, Tensor] | None:
    """Of what comes behind the input `x` in a batch: the place of the mask, the model's name for it ("" if it takes none), and
    what counts as bool `[samples, positions]`. None if nothing there is a mask.

    A mask has the shape of the input, without its features, and nothing but 0 and 1. It is one if the model's argument at its
    place is called so; else if its zeros stand at one end of each row and hold one and the same token, the padding. Token types
    and labels of tokens are 0 and 1 too, but not where they end.
    """
    if x.ndim < 2:
        return None
    for place, value in enumerate(values):
        ones = zeros_and_ones(value, x)
        if ones is None:
            continue
        name = names[place + 1] if place + 1 < len(names) else ""
        if "mask" in name:
            return place, name, ~ones if OPPOSITE in name else ones
        if not named_otherwise(name) and pads_by_pattern(ones, x):
            return place, next((other for other in names[1:] if "mask" in other), ""), ones
    return None


def named_otherwise(name: str) -> bool:
    """Whether an argument's name says that it is something else."""
    return any(word in name for word in ("type", "label", "position", "target"))


def zeros_and_ones(value: Any, x: Tensor) -> Tensor | None:
    """A mask's values as bool; None for what has another shape, or other values. `x` and the mask `[samples, positions]`."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biu":
            return None
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex() or value.shape != x.shape[:2]:
        return None
    return value.bool() if value.dtype == torch.bool or bool(((value == 0) | (value == 1)).all()) else None


def pads_by_pattern(ones: Tensor, x: Tensor) -> bool:
    """Whether the zeros stand at one end of each row, never fill it, and hold one and the same token. `ones` bool and `x`
    `[samples, positions]`.
    """
    if x.is_floating_point() or x.ndim != 2 or not bool(ones.any(1).all()):
        return False
    steps = ones.int().diff(dim=1)
    right, left = bool((steps <= 0).all()), bool((steps >= 0).all())
    hidden = x[~ones]
    return (right or left) and bool((hidden == hidden[:1]).all())
