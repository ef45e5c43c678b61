"""Small PNGs for a page: samples, triggers and where they lie. One picture a file, pixel by pixel; the page enlarges.

`picture_of` says what is a picture at all. NumPy, and matplotlib to write the file.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from naa_fast.detect.axes import channels_first, is_picture
from naa_fast.detect.proof import Proof
from naa_fast.records import Array

THUMBNAIL, LARGEST = 96, 256
"""Pixels a side of a sample in a sheet, and of any other picture, at most."""
COVERED = np.array([208, 0, 0], np.uint8)
Range = tuple[float, float]


def picture_of(array: Array | None) -> Array | None:
    """An input as `[height, width, 1 or 3]`; of four channels the first three, as opacity would hide what is there. None for what
    is no picture.
    """
    if array is None or not array.size or not is_picture(array):
        return None
    return np.moveaxis(channels_first(array)[:3], 0, -1)


def range_of(pictures: list[Array]) -> Range:
    """The smallest and the largest finite value: pictures beside one another share one scale, or a trigger would change it.
    `[...]` each.
    """
    finite = [values[np.isfinite(values)] for values in pictures]
    known = [values for values in finite if values.size]
    return (min(float(v.min()) for v in known), max(float(v.max()) for v in known)) if known else (0.0, 1.0)


def pixels_of(picture: Array, scale: Range, side: int | None = None) -> Array:
    """uint8 `[height, width, 3]`; averaged down to `side` pixels where it is larger, NaN as black."""
    low, high = scale
    if side is not None:
        picture = shrunk(picture, side)
    shown = np.clip((np.nan_to_num(picture.astype(np.float64), nan=low) - low) / max(high - low, 1e-12), 0, 1)
    return np.broadcast_to(np.round(255 * shown).astype(np.uint8), (*picture.shape[:2], 3))


def shrunk(picture: Array, side: int) -> Array:
    """The picture with at most `side` pixels a side, each the mean of those it stands for. `[height, width, channels]`, as what
    comes.
    """
    step = -(-max(picture.shape[:2]) // side)
    if step <= 1:
        return picture
    high, wide = (max(length // step, 1) for length in picture.shape[:2])
    cut = picture[: high * step, : wide * step]
    if cut.shape[0] < step or cut.shape[1] < step:  # a strip that is thinner than one step
        return picture[::step, ::step]
    return np.asarray(cut.reshape(high, step, wide, step, -1).mean((1, 3)))


def png(pixels: Array) -> bytes:
    """uint8 `[height, width, 3 or 4]` as a file; the same bytes for the same pixels."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None}
    imsave(buffer, np.ascontiguousarray(pixels), format="png", metadata=metadata)
    return buffer.getvalue()


def bounds_of(mask: Array) -> tuple[int, int, int, int] | None:
    """First and last row and column of what a mask `[height, width]` covers; None if that is nothing."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return None if not len(rows) else (int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1]))


def covered_of(proof: Proof) -> Array | None:
    """The pixels a trigger covers, bool `[height, width]`; None for one that is added everywhere, or no picture."""
    mask = picture_of(proof.mask)
    return None if mask is None else mask.max(-1) > 0


def trigger_png(proof: Proof, scale: Range, side: int = LARGEST) -> bytes | None:
    """The trigger alone: of a patch what it puts in the input, cut to where it lies, clear where it leaves the input as it is; of
    an offset what it adds, blue less and red more. None where it is no picture.
    """
    pattern = picture_of(proof.pattern)
    if pattern is None:
        return None
    covered = covered_of(proof)
    if covered is None:
        return png(added(shrunk(pattern.mean(-1, keepdims=True), side)[..., 0]))
    place = bounds_of(covered)
    if place is None:
        return None
    top, bottom, left, right = place
    inside = slice(top, bottom + 1), slice(left, right + 1)
    seen = pixels_of(pattern[inside], scale, side)
    clear = np.where(fitted(covered[inside], *seen.shape[:2]), 255, 0).astype(np.uint8)
    return png(np.dstack([seen, clear]))


def added(values: Array) -> Array:
    """Signed values `[height, width]` in colour, zero pale: uint8 `[height, width, 3]`."""
    from matplotlib import colormaps

    furthest = max(float(np.nanmax(np.abs(values), initial=0.0)), 1e-12)
    return np.asarray(np.round(255 * colormaps["coolwarm"](0.5 + np.nan_to_num(values) / (2 * furthest))[..., :3]), np.uint8)


def place_png(proof: Proof, scale: Range, side: int = LARGEST) -> bytes | None:
    """Where the trigger lies, in red, over a clean sample in grey; None for what is added everywhere, or is no picture."""
    covered = covered_of(proof)
    if covered is None:
        return None
    ground = picture_of(proof.examples[0].before) if proof.examples else None
    if ground is None:
        ground = np.zeros((*covered.shape, 1), np.float32)
        scale = (0.0, 1.0)
    grey = pixels_of(ground.mean(-1, keepdims=True), scale, side) // 2 + 96
    return png(np.where(fitted(covered, *grey.shape[:2])[:, :, None], COVERED, grey).astype(np.uint8))


def fitted(mask: Array, high: int, wide: int) -> Array:
    """A mask on a coarser grid: a cell is covered if any pixel of it is, so that a small patch does not vanish. `mask`
    `[height, width]`; bool `[high, wide]`.
    """
    if mask.shape == (high, wide):
        return mask
    rows, columns = (np.minimum(np.arange(n) * m // n, m - 1) for n, m in zip(mask.shape, (high, wide), strict=True))
    coarse = np.zeros((high, wide), bool)
    np.logical_or.at(coarse, (rows[:, None], columns[None]), mask)
    return coarse


def place_in_words(proof: Proof) -> str:
    """Where a patch lies and how large it is, e.g. `2 × 2 pixels, rows 6 to 7, columns 6 to 7 of 8 × 8: bottom right`."""
    covered = covered_of(proof)
    place = None if covered is None else bounds_of(covered)
    if covered is None or place is None:
        return ""
    top, bottom, left, right = place
    high, wide = covered.shape
    vertical = third(top + bottom + 1, 2 * high, ("top", "middle", "bottom"))
    across = third(left + right + 1, 2 * wide, ("left", "centre", "right"))
    where = "the middle" if (vertical, across) == ("middle", "centre") else f"{vertical} {across}"
    whole = bottom - top + 1 == high and right - left + 1 == wide
    size = f"{int(covered.sum())} pixels" if whole or not covered[top : bottom + 1, left : right + 1].all() else ""
    size = size or f"{bottom - top + 1} × {right - left + 1} pixels"
    spot = "all over" if whole else f"rows {top} to {bottom}, columns {left} to {right}"
    return f"{size}, {spot} of {high} × {wide}" + ("" if whole else f": {where}")


def third(at: int, of: int, names: tuple[str, str, str]) -> str:
    return names[min(3 * at // of, 2)]
