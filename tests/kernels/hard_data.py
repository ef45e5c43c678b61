"""The inputs every backend must survive, as `(name, x [outer, channels, inner] float32, mask or None, phase)`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Case = tuple[str, np.ndarray, np.ndarray | None, int]


def hard_cases() -> Iterator[Case]:
    """Large offsets, constant columns, one row, zero rows, ragged sizes, NaN and Inf, odd sizes, masks, odd phases."""
    rng = np.random.default_rng(7)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    for name, shape in {
        "rows": (300, 17, 1),
        "one row": (1, 5, 1),
        "zero rows": (0, 5, 1),
        "no positions": (4, 5, 0),
        "wide": (70, 1027, 1),
        "deep": (2051, 3, 1),
        "one neuron": (130, 1, 1),
        "tokens": (9, 33, 14),
        "long": (3, 5, 1500),
        "image": (20, 6, 49),
        "one sample image": (1, 7, 25),
    }.items():
        yield name, normal(*shape), None, 0
    yield "phase 61", normal(200, 9, 1), None, 61
    yield "phase 61 image", normal(30, 9, 4), None, 61
    yield "offset 1e4", normal(700, 11, 1) + np.float32(1e4), None, 3
    yield "offset 1e4 image", normal(40, 11, 36) + np.float32(1e4), None, 3
    yield "relu", np.maximum(normal(100, 8, 20), 0), None, 0
    constant = normal(150, 6, 1)
    constant[:, 1], constant[:, 2], constant[:, 3] = 0.0, 1e4 + 1 / 3, -7.0
    yield "constant columns", constant, None, 0
    yield "constant columns image", np.repeat(constant, 5, axis=2), None, 5
    broken = normal(260, 7, 1)
    broken[3, 0], broken[0, 1], broken[5:9, 2], broken[:, 3], broken[250, 4] = np.nan, np.inf, -np.inf, np.nan, -np.inf
    yield "nan and inf", broken, None, 9
    broken = normal(20, 7, 30)
    broken[3, 0, 4], broken[0, 1, 0], broken[5:9, 2], broken[:, 3], broken[7, 5] = (
        np.nan,
        np.inf,
        -np.inf,
        np.nan,
        np.inf,
    )
    yield "nan and inf image", broken, None, 9
    huge = normal(100, 4, 1) * np.float32(1e30)  # finite, but its squares are not in float32
    yield "squares overflow", huge, None, 0
    outliers = normal(500, 4, 1)
    outliers[0] = 1e4
    outliers[256] = -1e4
    yield "outliers first", outliers, None, 0
    yield "mask", normal(50, 6, 12), rng.random((50, 12)) < 0.6, 0
    mask = rng.random((90, 1)) < 0.5
    yield "mask of samples", normal(90, 6, 1), mask, 40
    mask = np.zeros((12, 8), bool)
    mask[3, 2:5] = mask[7, :] = True
    yield "mask leaves two samples", normal(12, 5, 8), mask, 0
    yield "mask leaves nothing", normal(6, 5, 8), np.zeros((6, 8), bool), 0
