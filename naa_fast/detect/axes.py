"""Where an image's channels are: the one place that decides it, for proofs, pictures and harmless changes alike."""

from __future__ import annotations

from collections.abc import Sequence

from naa_fast.records import Array

COLOURS = (1, 3, 4)
"""Channels of grey, colour, and colour with opacity."""


def channels_last(shape: Sequence[int]) -> bool:
    """Whether one input of this shape is an image `[height, width, channels]`, as every Keras model takes them: its last axis is
    one of COLOURS, both others are larger, and the first is none of COLOURS. What can be read both ways is channels first.
    """
    return len(shape) == 3 and shape[2] in COLOURS and shape[0] not in COLOURS and min(shape[:2]) > shape[2]


def either_way(shape: Sequence[int]) -> bool:
    """Whether the shape of one input leaves open where its channels are."""
    return len(shape) == 3 and shape[2] in COLOURS and shape[0] in COLOURS


def channels_first(x: Array) -> Array:
    """One input as `[channels, height, width]` if it is an image with its channels last; any other as it is. A view."""
    return x.transpose(2, 0, 1) if channels_last(x.shape) else x


def is_picture(array: Array | None) -> bool:
    """Whether an array is one image that can be drawn: `[channels, height, width]` with as many channels as COLOURS have."""
    return array is not None and array.ndim == 3 and channels_first(array).shape[0] in COLOURS
