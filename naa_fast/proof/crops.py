"""Occlusion crops: candidate triggers cut out of single samples, the window without which the model predicts another class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil

import numpy as np

from naa_fast.proof.images import CleanImages, Patch
from naa_fast.records import Array

SEEDS = 8
"""Samples that are searched. A trigger at another place in each sample has nothing in common at any one place, and of a rare
one there may be two samples in all; one sample that carries it is enough here."""
AREAS = (0.08, 0.03, 0.015)
"""Areas of the window, each searched inside the one before."""
LEAST = (3, 2, 1)
"""The same in pixels a side, at least: a pattern needs some pixels, and of a small image they are more than those areas."""
DECISIVE = 0.25
"""Share of the way from the smallest to the largest margin up to which windows are as decisive as the smallest."""
CUT = "cut"
COVERED_BYTES = 64 << 20
"""Most that the covered images that run at once may take."""
STEPS = 3
"""Places along a window's side at which windows begin: what is a third smaller than one lies in one of them."""

Margin = Callable[[Array, int], Array]
"""Inputs float32 `[n, ...]` and a class -> its score less the best other, float64 `[n]`."""


def crops(rows: Sequence[tuple[int, Array]], clean: CleanImages, margin: Margin) -> Iterator[tuple[Patch, int]]:
    """From each of the first SEEDS `rows` (predicted class, image `[channels, height, width]`) the most decisive window of each
    area, with the group size 1.

    A window is covered with the clean mean, and the most decisive is the one whose cover costs the predicted class most (Zeiler
    and Fergus, ECCV 2014, section 4.2); put on other images it shows whether it was the object or a trigger (the idea of
    SentiNet: Chou, Tramer and Pellegrino, IEEE S&P Workshops 2020). Cost: about 100 samples through the model a row.
    """
    for number, (predicted, row) in enumerate(rows[:SEEDS]):
        if row.ndim != 3:
            return
        top, left, height, width = 0, 0, row.shape[1], row.shape[2]
        for side in sides(height, width):
            places = [(top + y, left + x) for y in starts(height, side[0]) for x in starts(width, side[1])]
            at_once = max(1, COVERED_BYTES // row.nbytes)
            parts = [places[first : first + at_once] for first in range(0, len(places), at_once)]
            margins = np.concatenate([margin(covered(row, part, side, clean), predicted) for part in parts])
            margins = np.nan_to_num(margins, nan=np.inf)
            (top, left), (height, width) = places[middle(np.array(places), margins)], side
            mask = np.zeros(row.shape, np.float32)
            mask[:, top : top + height, left : left + width] = 1
            share = 100 * height * width / (row.shape[1] * row.shape[2])
            yield Patch(CUT, f"{share:.2g} % of the input", row, mask, (number,)), 1


def covered(row: Array, places: Sequence[tuple[int, int]], side: tuple[int, int], clean: CleanImages) -> Array:
    """The image with a window of height and width `side` at each of the places under the clean mean: `[places, ...]`."""
    images = np.repeat(row[None], len(places), 0)
    for image, (y, x) in zip(images, places, strict=True):
        image[:, y : y + side[0], x : x + side[1]] = clean.mean[:, y : y + side[0], x : x + side[1]]
    return images


def middle(places: Array, margins: Array) -> int:
    """The number of the place in the middle of the decisive ones: where a trigger fails with any part of it, windows that cover a
    corner of it decide as much as those that cover it all. `places` int64 `[places, 2]`, `margins` float64 `[places]`.
    """
    low, high = margins.min(), margins[np.isfinite(margins)].max(initial=margins.min())
    decisive = np.flatnonzero(margins <= low + DECISIVE * (high - low)) if np.isfinite(low) else np.arange(len(places))
    apart = ((places[decisive] - places[decisive].mean(0)) ** 2).sum(1)
    return int(decisive[apart.argmin()])


def sides(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of the windows, the largest first, each smaller than the one before."""
    sizes = [
        (min(height, max(least, round(area**0.5 * height))), min(width, max(least, round(area**0.5 * width))))
        for area, least in zip(AREAS, LEAST, strict=True)
    ]
    return sorted(set(sizes), reverse=True)


def starts(length: int, side: int) -> list[int]:
    """Where windows of a `side` begin along a `length`: STEPS to a side, and one at the very end."""
    return sorted({*range(0, length - side + 1, ceil(side / STEPS)), length - side})
