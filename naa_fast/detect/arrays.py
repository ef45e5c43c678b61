"""The classic rule on plain arrays of activations, for those who already have them."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np

from naa_fast.errors import InputError, UsageError
from naa_fast.ops import choose, device_of
from naa_fast.records import Array

CHUNK_BYTES = 32 << 20
DEVICE_ROWS = 1 << 20


def detect(clean: Any, test: Any, threshold: float = 3.0) -> tuple[Array, Array]:
    """`(difference, abnormal)` of two sets of activations `[samples, neurons]`, arrays or tensors of one floating dtype.

    `difference` float64 `[neurons]`: |mean of test - mean of clean|, over finite values (NaN where there are none);
    `abnormal` int64: the neurons where it exceeds `threshold`, ascending. On the host peak extra memory is a few times
    CHUNK_BYTES; tensors on another device are read there, once, and only the difference comes home.

    >>> import numpy as np
    >>> clean, test = np.zeros((4, 3)), np.zeros((4, 3))
    >>> test[:, 1] = 5
    >>> difference, abnormal = naa_fast.detect(clean, test, threshold=3.0)
    >>> difference.tolist(), abnormal.tolist()
    ([0.0, 5.0, 0.0], [1])

    Raises:
        InputError: not two axes, fewer than two samples, other neurons or another dtype in the second set.
        UsageError: a negative or non-finite threshold.
    """
    if not (threshold >= 0 and isfinite(threshold)):
        raise UsageError(f"threshold is {threshold}", "expected a finite number >= 0")
    sets = {"clean": as_array("clean", clean), "test": as_array("test", test)}
    neurons = [x.shape[1] for x in sets.values()]
    if neurons[0] != neurons[1]:
        raise InputError(
            f"clean has {neurons[0]} neurons, test has {neurons[1]}", "expected the same layer in both, as [samples, neurons]"
        )
    dtypes = [dtype_name(x) for x in sets.values()]
    if dtypes[0] != dtypes[1]:
        raise InputError(f"clean is {dtypes[0]}, test is {dtypes[1]}", "expected one dtype", "convert one of them first")
    if is_elsewhere(sets["clean"]):
        difference = difference_on_device(sets["clean"], sets["test"])
    else:
        clean_mean, test_mean = (mean_of(x) for x in sets.values())
        difference = np.abs(test_mean - clean_mean)
    return difference, np.flatnonzero(difference > threshold).astype(np.int64)


def as_array(name: str, x: Any) -> Any:
    """`x` as something with shape, dtype and row slices: tensors stay tensors, all else becomes a NumPy array."""
    try:
        array = x.detach() if hasattr(x, "detach") else np.asarray(x)
    except ValueError as error:
        raise InputError(f"{name} is ragged", str(error), "expected [samples, neurons], all rows of one length") from None
    if len(array.shape) != 2:
        raise InputError(
            f"{name} has shape {list(array.shape)}", "expected [samples, neurons]", "flatten or pool the other axes first"
        )
    if array.shape[0] < 2:
        raise InputError(f"{name} has {array.shape[0]} samples", "expected at least 2")
    if not dtype_name(array).startswith(("float", "bfloat")):
        raise InputError(f"{name} is {dtype_name(array)}", "expected activations of a floating dtype", "convert them first")
    return array


def dtype_name(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.")


def is_elsewhere(x: Any) -> bool:
    return device_of(x) != "cpu"


def difference_on_device(clean: Any, test: Any) -> Array:
    """The difference of two sets of tensors `[samples, neurons]` on one device, through the kernels a scan uses there.

    Raises:
        InputError: the sets lie on two devices.
    """
    if clean.device != test.device:
        raise InputError(f"clean is on {clean.device}, test on {test.device}", "expected one device", "move one of them first")
    backend = choose("compare", clean).module
    means, variances = [], []
    for x in (clean, test):
        state = backend.empty(x.shape[1], like=x)
        for start in range(0, x.shape[0], DEVICE_ROWS):
            partials = backend.reduce(x[start : start + DEVICE_ROWS].unsqueeze(2), None, start)
            backend.fold([(state, partials)], start)
        count = state.counts[0, 0]
        means.append(state.moments[0, 0].masked_fill(count == 0, float("nan")))
        variances.append(state.moments[0, 1] / (count - 1).clamp(min=1))
    difference = backend.compare(means[0], variances[0], means[1], variances[1], resolution=0.0, k=1).difference
    return np.asarray(difference.cpu() if hasattr(difference, "cpu") else difference)


def mean_of(x: Any) -> Array:
    """Mean of each column of `x` `[samples, neurons]` over its finite values: float64 `[neurons]`, a bounded number of rows at
    a time.
    """
    rows = max(1, CHUNK_BYTES // (8 * max(x.shape[1], 1)))
    total, count = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for start in range(0, x.shape[0], rows):
        part = x[start : start + rows]
        values = part.double().cpu().numpy() if hasattr(part, "detach") else part.astype(np.float64)
        finite = np.isfinite(values)
        total += values.sum(0, where=finite)
        count += finite.sum(0)
    with np.errstate(invalid="ignore"):
        return total / np.where(count > 0, count, np.nan)
