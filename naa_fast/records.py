"""What is known of a layer's neurons: `Moments`, `Folds`, histograms, and the `LayerRecord` that joins them.

Frozen records of per-neuron arrays with `zero` and `merge`. This is the one definition of merging; every backend's fold
is tested against it. Start with `Moments.of` (the definition of every statistic) and `Moments.merge`.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from naa_fast.errors import StateMismatch

Array = npt.NDArray[Any]

VIEWS = ("positions", "sample_mean", "sample_max")
"""What counts as one observation: every token or pixel; a sample's mean over them; a sample's maximum over them.

Of a module that is called several times in a forward: every position of every call; the mean of a sample's means in the calls;
the largest of its maxima. Calls are parts of the same sample, never further samples.
"""

FOLDS = 8
FOLD_BLOCK = 8
"""Sample `i` of a set belongs to fold `(i // FOLD_BLOCK) % FOLDS`: independent of batch size, even over any 64 in a row."""

SAMPLES_SECOND = ", samples on axis 1"
ROWS = "rows, not samples"
"""In the layout of a layer whose rows belong to no sample in particular."""


def rows_layout(layout: str) -> str:
    """The words for the same neurons where rows are not samples."""
    return layout if layout.endswith(ROWS) else f"{layout.partition(',')[0]}, {ROWS}"


@dataclass(frozen=True)
class Axes:
    """Which `axis` of an `ndim`-dimensional output holds the neurons, and which the `samples` (1: the sequence comes first).
    `str` is what a record's `layout` says, and `read` takes it back.
    """

    axis: int
    ndim: int
    samples: int = 0

    def __str__(self) -> str:
        return f"axis {self.axis} of {self.ndim}" + (SAMPLES_SECOND if self.samples else "")

    @classmethod
    def read(cls, layout: str) -> Axes:
        """Raises ValueError where it is no such layout."""
        words = re.fullmatch(rf"axis (-?\d+) of (\d+)({SAMPLES_SECOND})?(, {ROWS})?", layout)
        if words is None:
            raise ValueError(f"'{layout}' is no layout")
        return cls(int(words[1]), int(words[2]), 1 if words[3] else 0)


MOMENT_FIELDS = ("mean", "m2", "m3", "m4", "minimum", "maximum")
COUNT_FIELDS = ("count", "positives", "nonfinite")
FOLD_FIELDS = ("count", "mean", "m2")

BINS = 255
"""Bins of a histogram of samples: 127 of negative values, one around zero, 127 of positive ones, by increasing value."""
OCTAVE = 4
LOWEST = -17
"""Bins are a quarter of an octave wide from 2^LOWEST (7.6e-6) on: the middle of one lies within 12.5 % of all its values. What is
smaller is in the bin around zero; what is beyond 1.5 * 2^(LOWEST + 31) (24,576) is in the outermost ones, whatever its size."""
LEFT_OUT = 255
"""In place of a bin: a value that is not finite or was not observed."""
BIN_RULE = "float32: sign, exponent, 2 bits; 127 bins a side from 2^-17"
"""In the measurement file; histograms of another rule cannot be read as these."""
MOST_TALLIED = 2**31
"""Histograms are int32: so many samples are too many for one record."""


TALLIED_WHOLE, TALLIED_STEP = 4096, 8
"""Of layers with one position a sample, where every value read would be counted, histograms take the first TALLIED_WHOLE samples
of the set and every TALLIED_STEP-th after them (`tallied`)."""


def tallied(first: int, samples: int) -> list[slice]:
    """Which of a batch's `samples`, the first with global index `first`, histograms of layers with one position a sample count:
    one slice of the batch, or two, the same samples whatever the batches' size. A share of the n counted has a standard error of
    sqrt(share (1 - share) / n), and n is at least an eighth of the samples.
    """
    whole = min(max(TALLIED_WHOLE - first, 0), samples)
    step = slice(whole + -(first + whole) % TALLIED_STEP, samples, TALLIED_STEP)
    return [part for part in (slice(0, whole), step) if part.start < part.stop]


def fold_of(index: Array) -> Array:
    """Fold of each global sample index `[...]`: int64, of the same shape."""
    return (index // FOLD_BLOCK) % FOLDS


def bin_of(x: Array, observed: Array | None = None) -> Array:
    """The bin of each value of `x` `[...]`, uint8 of its shape; LEFT_OUT where it is not finite or not `observed` (bool,
    broadcast). Made of the topmost bits of the value rounded to float32, hence the same on every backend: the magnitude's
    exponent and two bits are a number that grows with the value, and what the clamp leaves of it is the distance from the middle
    bin.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        bits = np.asarray(x, np.float32).view(np.uint32)
    steps = ((bits & 0x7FFFFFFF) >> 21).astype(np.int32) - ((127 + LOWEST) * OCTAVE - 1)
    middle = BINS // 2
    steps = np.clip(steps, 0, middle)
    kept = np.isfinite(x) if observed is None else np.isfinite(x) & observed
    return np.where(kept, np.where(bits >> 31 == 1, middle - steps, middle + steps), LEFT_OUT).astype(np.uint8)


def bin_edges() -> Array:
    """float64 `[BINS + 1]`, increasing: bin b holds what lies between edges b and b + 1, -inf and +inf at the ends.

    A value on an edge belongs to the bin that is farther from zero.
    """
    steps = np.arange(BINS // 2)
    above = 2.0 ** (LOWEST + steps // OCTAVE) * (1 + steps % OCTAVE / OCTAVE)
    return np.concatenate([[-np.inf], -above[::-1], above, [np.inf]])


def bin_values() -> Array:
    """The value a bin stands for, float64 `[BINS]`: its middle, within 12.5 % of all it holds; zero for the bin around zero, and
    the inner edge for the outermost ones."""
    edges = bin_edges()
    middles = (edges[1:] + edges[:-1]) / 2
    middles[0], middles[-1] = edges[1], edges[-2]
    return middles


def histogram(x: Array, observed: Array | None = None) -> Array:
    """How many of `x` `[samples, channels]` lie in each bin: int32 `[BINS, channels]`."""
    return counted(bin_of(x, observed))


def counted(chosen: Array) -> Array:
    """How often each bin was `chosen` (uint8 `[samples, channels]`) by each neuron: int32 `[BINS, channels]`."""
    channels = chosen.shape[1]
    cells = chosen + (BINS + 1) * np.arange(channels)  # a neuron's bins together, what is left out after them
    counts = np.bincount(cells.ravel(), minlength=(BINS + 1) * channels)
    return np.ascontiguousarray(counts.reshape(channels, BINS + 1).T[:BINS].astype(np.int32))


@dataclass(frozen=True)
class Moments:
    """Moments of finite observations, elementwise over arrays of one shape (usually `[channels]`).

    `count` (int64) finite observations; `mean`, and centred power sums `m2`, `m3`, `m4` (float64: sums, not averages);
    `minimum`, `maximum` (+inf and -inf while nothing was seen); `positives` (int64) observations > 0; `nonfinite` (int64)
    NaN and infinite observations, which enter nothing else.
    """

    count: Array
    mean: Array
    m2: Array
    m3: Array
    m4: Array
    minimum: Array
    maximum: Array
    positives: Array
    nonfinite: Array

    @classmethod
    def zero(cls, *shape: int) -> Moments:
        """Nothing observed: the identity of `merge`."""
        reals = {name: np.zeros(shape) for name in MOMENT_FIELDS}
        reals["minimum"] += np.inf
        reals["maximum"] -= np.inf
        return cls(**reals, **{name: np.zeros(shape, np.int64) for name in COUNT_FIELDS})

    @classmethod
    def of(cls, x: Array, valid: Array | None = None, axis: int = 0) -> Moments:
        """Moments of `x` `[...]` over `axis`: the definition, in float64, by two passes. `valid` (bool, broadcastable to `x`)
        says what was observed at all; what it leaves out is not counted anywhere.
        """
        x = np.asarray(x, np.float64)
        observed = np.ones(x.shape, bool) if valid is None else np.broadcast_to(valid, x.shape)
        finite = np.isfinite(x) & observed
        count = finite.sum(axis)
        values = np.where(finite, x, 0.0)
        mean = values.sum(axis) / np.maximum(count, 1)
        centred = np.where(finite, values - np.expand_dims(mean, axis), 0.0)
        mean = mean + centred.sum(axis) / np.maximum(count, 1)  # gives back the digits the plain sum lost
        centred = np.where(finite, values - np.expand_dims(mean, axis), 0.0)
        square = centred * centred
        return cls(
            count=count.astype(np.int64),
            mean=mean,
            m2=square.sum(axis),
            m3=(square * centred).sum(axis),
            m4=(square * square).sum(axis),
            minimum=np.where(finite, x, np.inf).min(axis, initial=np.inf),
            maximum=np.where(finite, x, -np.inf).max(axis, initial=-np.inf),
            positives=(finite & (values > 0)).sum(axis).astype(np.int64),
            nonfinite=(observed & ~np.isfinite(x)).sum(axis).astype(np.int64),
        )

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together, as if observed in one pass.

        Counts, `minimum` and `maximum` are exact; the rest stays within the float64 row of tests/tolerances.py. Swapping the
        two gives the same bits: every term below is symmetric in them. A constant stays exactly constant. Pairwise update: Chan,
        Golub and LeVeque, The American Statistician 37(3), 1983; third and fourth order: Pébay, SAND2008-6212, 2008, equations
        1.5 and 1.6.
        """
        n_a, n_b = self.count.astype(np.float64), other.count.astype(np.float64)
        n = np.maximum(n_a + n_b, 1.0)
        delta = other.mean - self.mean
        delta = np.where((n_a > 0) & (n_b > 0), delta, 0.0)
        share_a, share_b = n_a / n, n_b / n
        both = n_a * n_b / n
        delta2 = delta * delta
        return Moments(
            count=self.count + other.count,
            mean=np.where(other.mean == self.mean, self.mean, share_a * self.mean + share_b * other.mean),
            m2=(self.m2 + other.m2) + delta2 * both,
            m3=(self.m3 + other.m3)
            + delta2 * delta * both * (share_a - share_b)
            + 3.0 * delta * (share_a * other.m2 - share_b * self.m2),
            m4=(self.m4 + other.m4)
            + delta2 * delta2 * both * ((share_a - share_b) ** 2 + share_a * share_b)
            + 6.0 * delta2 * (share_a * share_a * other.m2 + share_b * share_b * self.m2)
            + 4.0 * delta * (share_a * other.m3 - share_b * self.m3),
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            positives=self.positives + other.positives,
            nonfinite=self.nonfinite + other.nonfinite,
        )

    @property
    def variance(self) -> Array:
        """Unbiased variance, float64 `[channels]`; NaN below two observations."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.count > 1, self.m2 / (self.count - 1), np.nan)

    @property
    def kurtosis(self) -> Array:
        """Excess kurtosis (biased), float64 `[channels]`; NaN where the variance is zero."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.count * self.m4 / self.m2**2 - 3.0

    def fields(self) -> dict[str, Array]:
        """Its arrays by name, `[channels]` each."""
        return {kept.name: getattr(self, kept.name) for kept in dataclasses.fields(self)}


@dataclass(frozen=True)
class Folds:
    """Count, mean and centred square sum of each of the `FOLDS` parts of a set: float64 arrays `[FOLDS, channels]`."""

    count: Array
    mean: Array
    m2: Array

    @classmethod
    def zero(cls, channels: int) -> Folds:
        return cls(*(np.zeros((FOLDS, channels)) for _ in FOLD_FIELDS))

    def merge(self, other: Folds) -> Folds:
        """Both sets together, fold by fold; the same formulas and accuracy as `Moments.merge`."""
        n = np.maximum(self.count + other.count, 1.0)
        share_a, share_b = self.count / n, other.count / n
        delta = np.where((self.count > 0) & (other.count > 0), other.mean - self.mean, 0.0)
        return Folds(
            count=self.count + other.count,
            mean=np.where(other.mean == self.mean, self.mean, share_a * self.mean + share_b * other.mean),
            m2=(self.m2 + other.m2) + delta * delta * (self.count * other.count / n),
        )


@dataclass(frozen=True)
class LayerRecord:
    """All that is kept of one layer.

    `layout` says which axis of the layer's output holds the neurons (see `naa_fast.capture.views`) and `dtype` what its values
    were, e.g. "bfloat16"; two records merge only if both are the same. `tails`: how many samples' means and how many samples'
    maxima lie in each bin (`bin_edges`), int32 `[2, BINS, channels]`, 2,040 bytes a neuron; `[2, 0, channels]` where they were
    not kept: layers whose rows are not samples, and measurements made without.

    Where rows are not samples (ROWS ends the `layout`) an observation of the last two views is a row, or a position (`as_rows`).
    """

    layout: str
    dtype: str
    positions: Moments
    sample_mean: Moments
    sample_max: Moments
    mean_folds: Folds
    max_folds: Folds
    tails: Array = field(default_factory=lambda: np.zeros((2, 0, 0), np.int32))

    def __post_init__(self) -> None:
        if self.tails.shape[1] == 0:
            object.__setattr__(self, "tails", np.zeros((2, 0, self.channels), np.int32))

    @property
    def bins(self) -> int:
        """Bins of the histograms: BINS, or 0 where none were kept."""
        return int(self.tails.shape[1])

    @property
    def channels(self) -> int:
        return int(self.positions.count.shape[0])

    @property
    def of_rows(self) -> bool:
        """Whether its rows are not samples."""
        return self.layout.endswith(ROWS)

    def as_rows(self) -> LayerRecord:
        """The same without samples: every position is an observation in all three views, in no fold and in no histogram."""
        none = Folds.zero(self.channels)
        return LayerRecord(rows_layout(self.layout), self.dtype, self.positions, self.positions, self.positions, none, none)

    def alike(self, other: LayerRecord) -> tuple[LayerRecord, LayerRecord]:
        """Both with the same kind of observations: `as_rows` if the rows of one alone are samples, or if one alone is that."""
        sides = self, other
        samples = {side.of_rows for side in sides} == {False, True} and rows_layout(self.layout) == rows_layout(other.layout)
        seen = [side for side in sides if side.of_rows and side.positions.count.any()]
        rows = len({bool(side.mean_folds.count.any()) for side in seen}) > 1
        return (self.as_rows(), other.as_rows()) if samples or rows else sides

    @classmethod
    def zero(cls, channels: int, layout: str, dtype: str, bins: int = 0) -> LayerRecord:
        """Nothing observed: the identity of `merge` among records with histograms of so many bins."""
        nothing, no_folds = Moments.zero(channels), Folds.zero(channels)
        return cls(layout, dtype, nothing, nothing, nothing, no_folds, no_folds, np.zeros((2, bins, channels), np.int32))

    def merge(self, other: LayerRecord) -> LayerRecord:
        """Both records together, as rows if the rows of one are not samples (`alike`).

        Raises StateMismatch when channels, layout, dtype or bins differ, or at 2^31 samples.
        """
        if self.of_rows or other.of_rows:
            mine, theirs = self.alike(other)
            if mine is not self:
                return mine.merge(theirs)
        for what in ("channels", "layout", "dtype", "bins"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise StateMismatch(f"cannot merge two records: {what} {mine} / {theirs}")
        samples = int((self.sample_mean.count + other.sample_mean.count).max(initial=0))
        if self.bins and samples >= MOST_TALLIED:
            raise StateMismatch(f"cannot merge two records: {samples} samples, their histograms hold fewer than {MOST_TALLIED}")
        return LayerRecord(
            self.layout,
            self.dtype,
            self.positions.merge(other.positions),
            self.sample_mean.merge(other.sample_mean),
            self.sample_max.merge(other.sample_max),
            self.mean_folds.merge(other.mean_folds),
            self.max_folds.merge(other.max_folds),
            self.tails + other.tails,
        )

    def freeze(self) -> None:
        """Make every array read-only."""
        for part in (*(getattr(self, view) for view in VIEWS), self.mean_folds, self.max_folds):
            for kept in dataclasses.fields(part):
                getattr(part, kept.name).setflags(write=False)
        self.tails.setflags(write=False)

    def packed(self) -> tuple[Array, Array, Array]:
        """`(moments [3, 6, channels] float64, counts [3, 3, channels] int64, folds [2, 3, FOLDS, channels] float64)`.

        The layout of every backend's state and of the file: axes are VIEWS x MOMENT_FIELDS, VIEWS x COUNT_FIELDS and
        (mean, max) x FOLD_FIELDS.
        """
        views = [getattr(self, view) for view in VIEWS]
        return (
            np.stack([np.stack([getattr(view, name) for name in MOMENT_FIELDS]) for view in views]),
            np.stack([np.stack([getattr(view, name) for name in COUNT_FIELDS]) for view in views]),
            np.stack([np.stack([f.count, f.mean, f.m2]) for f in (self.mean_folds, self.max_folds)]),
        )

    @classmethod
    def unpacked(
        cls, layout: str, dtype: str, moments: Array, counts: Array, folds: Array, *, tails: Array | None = None
    ) -> LayerRecord:
        """Inverse of `packed`; `tails` int32 `[2, BINS, channels]` beside it, if they were kept."""
        positions, sample_mean, sample_max = (
            Moments(**dict(zip(MOMENT_FIELDS, reals, strict=True)), **dict(zip(COUNT_FIELDS, integers, strict=True)))
            for reals, integers in zip(moments, counts, strict=True)
        )
        mean_folds, max_folds = (Folds(*parts) for parts in folds)
        kept = np.zeros((2, 0, 0), np.int32) if tails is None else tails
        return cls(layout, dtype, positions, sample_mean, sample_max, mean_folds, max_folds, kept)


def check_packed(name: str, packed: list[Any]) -> None:
    """Raise ValueError unless the three arrays have the shapes and dtypes of `LayerRecord.packed`."""
    channels = packed[0].shape[-1] if packed[0].ndim else 0
    expected = [
        ((len(VIEWS), len(MOMENT_FIELDS), channels), np.float64),
        ((len(VIEWS), len(COUNT_FIELDS), channels), np.int64),
        ((2, len(FOLD_FIELDS), FOLDS, channels), np.float64),
    ]
    for array, (shape, dtype) in zip(packed, expected, strict=True):
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"layer {name}: {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {list(shape)}")
    if (packed[1] < 0).any() or (packed[2][:, 0] < 0).any():
        raise ValueError(f"layer {name}: counts below 0")
    if not np.array_equal(packed[2][:, 0].sum(1), packed[1][1:, 0]):
        raise ValueError(f"layer {name}: the folds do not add up to the samples")
