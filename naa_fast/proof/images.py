"""Candidate triggers for continuous inputs: what a group of samples has in common that clean samples do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from naa_fast.detect.axes import channels_last
from naa_fast.records import Array

SIZES = (8, 32, 128)
"""Group sizes that are tried: in few samples the trigger weighs more, many average the images' own content away."""
AREAS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Budgets of a patch: the share of the input it may cover."""
LOUDNESS = (0.15, 0.3, 0.5)
"""Budgets of an offset: its root mean square over that of clean inputs about their mean."""
LOUDEST_GAIN = 2.0
"""Most that an offset is amplified to fill its budget: what is tried must stay what was seen."""
EDGE = 0.02
"""Share of the range of values that counts as its end, where noise is cut off."""
SIGNIFICANT = 3.0
"""Standard errors that a value of a mean offset must reach to be kept."""


@dataclass(frozen=True, eq=False)
class Patch:
    """Replaces the input by `pattern` where `mask` is 1: both float32 `[...]` of one input's shape. `read_off`: which rows of its
    group it was read off.
    """

    kind: str
    budget: str
    pattern: Array
    mask: Array
    read_off: tuple[int, ...] = ()

    def put_on(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Inputs `[samples, ...]`, channels first, with the pattern where the mask is."""
        mask, pattern = (torch.from_numpy(a).to(x.device, x.dtype) for a in (self.mask, self.pattern))
        return x * (1 - mask) + pattern * mask


@dataclass(frozen=True, eq=False)
class Offset:
    """Adds `pattern` to the input, kept within the values that clean inputs have."""

    kind: str
    budget: str
    pattern: Array
    low: float
    high: float
    read_off: tuple[int, ...] = ()

    def put_on(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Inputs `[samples, ...]`, channels first, with the pattern added, cut off at what clean inputs reach."""
        return (x + torch.from_numpy(self.pattern).to(x.device, x.dtype)).clamp(self.low, self.high)


@dataclass(frozen=True)
class CleanImages:
    """Clean inputs float32 `[samples, ...]` and their per-value statistics.

    `harmless` `[directions, values]`, orthonormal: where the mean input goes under harmless changes. Images are
    `[samples, channels, height, width]` here whatever the model takes; `last`: it takes them with the channels last.
    """

    x: Array
    mean: Array
    deviation: Array
    loudness: float
    harmless: Array
    low: float
    high: float
    last: bool = False

    @classmethod
    def of(cls, x: Array) -> CleanImages:
        """Of inputs as the model takes them, float32 `[samples, ...]`."""
        last = channels_last(x.shape[1:])
        x = np.ascontiguousarray(np.moveaxis(x, -1, 1)) if last else x
        centred = x - x.mean(0)
        loudness = float(np.sqrt((centred**2).mean()))
        low, high = float(x.min()), float(x.max())
        edge = EDGE * (high - low)
        at_edges = (x <= low + edge).mean(0) - (x >= high - edge).mean(0)
        harmless = harmless_directions(x.mean(0), at_edges)
        return cls(x, x.mean(0), np.abs(centred).mean(0), loudness, harmless, low, high, last)

    def as_taken(self, x: Array) -> Array:
        """One input, or a pattern or mask of its shape, as the model takes it. `[channels, height, width]` of an image,
        `[values]` of others.
        """
        return np.ascontiguousarray(x.transpose(1, 2, 0)) if self.last else x

    def without(self, difference: Array, usual: Array | None) -> Array:
        """A difference of means without its part along where the mean input of a class, `usual`, lies. Both float32 `[...]`, an
        input's shape.
        """
        if usual is None:
            return difference
        class_shift = usual - self.mean
        length = float((class_shift**2).sum())
        return difference - class_shift * (float((difference * class_shift).sum()) / length) if length > 0 else difference

    @cached_property
    def spectrum(self) -> Array:
        """Root mean square of the inputs' spatial frequencies about their mean: nobody asks before an offset is tried. Float64
        `[...]`, an input's shape.
        """
        return np.asarray(np.sqrt((np.abs(np.fft.fftn(self.x - self.mean, axes=axes_of(self.x))) ** 2).mean(0)))


def harmless_directions(mean: Array, at_edges: Array | None = None) -> Array:
    """Where the `mean` input `[...]` goes under brightness, contrast, noise and, of an image, blur and a shift by a pixel.

    `at_edges`: how much more often each value is the smallest there is than the largest; noise that is cut off there moves it in.

    Orthonormal rows. An offset along these is a change of the data and no trigger, however many samples it turns: a clean model
    was seen to call 97 % of brighter digits by one name.
    """
    changes = [np.ones(mean.shape), mean, *(() if at_edges is None else (at_edges,))]
    if mean.ndim == 3:
        padded = np.pad(mean, ((0, 0), (1, 1), (1, 1)), mode="edge")
        down, right = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1], padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
        around = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
        changes += [down, right, around / 4 - mean]
    stacked = np.stack([change.ravel() for change in changes]).astype(np.float64)
    _, sizes, directions = np.linalg.svd(stacked, full_matrices=False)
    return directions[sizes > 1e-9 * max(sizes.max(), 1e-300)]


def axes_of(x: Array) -> tuple[int, ...]:
    """The spatial axes of inputs `[samples, channels, ...]`; of `[samples, values]` the values."""
    return tuple(range(2, x.ndim)) if x.ndim > 2 else (1,)


def harmless_share(group: Array, clean: CleanImages, usual: Array | None = None) -> float:
    """Share of the squared difference between the group's mean and the clean one that harmless changes explain, 0 to 1.

    `usual`: the mean of clean inputs of the group's class, whose part is left out. `group` float32 `[samples, ...]`, `usual`
    `[...]`.
    """
    return harmless_part(clean.without(group.mean(0) - clean.mean, usual), clean, usual)


def harmless_part(difference: Array, clean: CleanImages, usual: Array | None) -> float:
    """Share of a squared `difference` `[...]` of an input's shape that harmless changes explain, 0 to 1; `usual` `[...]`: see
    `harmless_share`.
    """
    difference = difference.astype(np.float64).ravel()
    whole = float(difference @ difference)
    changes = np.stack([clean.without(change.reshape(clean.mean.shape), usual).ravel() for change in clean.harmless])
    explained = changes.T @ np.linalg.lstsq(changes.T, difference, rcond=None)[0]
    return float(explained @ explained) / whole if whole > 0 else 0.0


def candidates(group: Array, clean: CleanImages, usual: Array | None = None, most: float = np.inf) -> Iterator[Patch | Offset]:
    """What the inputs `group` float32 `[samples, ...]` share, as patches of several areas and as offsets.

    `usual`, `most`: see `offsets`.
    """
    yield from patches(group, clean)
    yield from offsets(group, clean, usual, most)


def patches(group: Array, clean: CleanImages) -> Iterator[Patch]:
    """The places where a group, float32 `[samples, ...]`, agrees with itself and not with clean data: the most striking first."""
    median = np.median(group, 0)
    disagreement = np.abs(group - median).mean(0)
    span = max(clean.high - clean.low, 1e-12)
    striking = (np.abs(median - clean.mean) + np.maximum(clean.deviation - disagreement, 0)) / (clean.deviation + 0.05 * span)
    if striking.ndim > 1:
        striking = smoothed(striking.max(0))
    order = np.argsort(-striking, axis=None, kind="stable")
    for area in AREAS:
        size = max(1, round(area * striking.size))
        chosen = np.zeros(striking.size, bool)
        chosen[order[:size]] = True
        mask = np.broadcast_to(chosen.reshape(striking.shape), median.shape)
        yield Patch("patch", f"{100 * area:g} % of the input", median.astype(np.float32), np.ascontiguousarray(mask, np.float32))


def offsets(group: Array, clean: CleanImages, usual: Array | None = None, most: float = np.inf) -> Iterator[Offset]:
    """The difference of means, with only what stands out of noise in pixels or in frequencies, or each frequency by how far it
    does (Wiener's filter; spectral subtraction: Boll, IEEE Transactions on Acoustics, Speech, and Signal Processing 27, 1979).
    `group` float32 `[samples, ...]`, `usual` `[...]`.

    Without what the group owes to its class: `usual` is the mean of clean inputs of the class it is predicted as. What is left
    of a group of clean samples of it is noise. None of which harmless changes explain `most` or more: asked of what stands out,
    since the mean of a few photographs is brighter or darker than that of all by chance.
    """
    difference = clean.without(group.mean(0) - clean.mean, usual)
    noise = np.sqrt(1 / len(group) + 1 / len(clean.x))
    kept = np.where(np.abs(difference) > SIGNIFICANT * 1.25 * clean.deviation * noise, difference, 0.0)
    axes = tuple(axis - 1 for axis in axes_of(group))
    spectrum = np.fft.fftn(difference, axes=axes)
    loud = np.where(np.abs(spectrum) > SIGNIFICANT * clean.spectrum * noise, spectrum, 0.0)
    waves = np.fft.ifftn(loud, axes=axes).real
    power = np.abs(spectrum) ** 2
    signal = np.maximum(power - (clean.spectrum * noise) ** 2, 0.0) / np.maximum(power, 1e-30)  # noise is faint in every one
    weighed = np.fft.ifftn(signal * spectrum, axes=axes).real
    for kind, pattern in (("offset, pixels", kept), ("offset, frequencies", waves), ("offset, weighed", weighed)):
        if harmless_part(pattern, clean, usual) >= most:
            continue
        loudness = float(np.sqrt((pattern**2).mean())) / max(clean.loudness, 1e-12)
        for budget in LOUDNESS:
            gain = min(budget / max(loudness, 1e-12), LOUDEST_GAIN)
            yield Offset(kind, f"loudness {budget:g}", (gain * pattern).astype(np.float32), clean.low, clean.high)


def smoothed(image: Array) -> Array:
    """Half the image, half the mean over each place's neighbours: patches are connected, noise is not. `[..., height, width]`, or
    `[values]`.
    """
    padded = np.pad(image, 1, mode="edge")
    around = sum(
        padded[tuple(slice(1 + s, padded.shape[d] - 1 + s) for d, s in enumerate(shift))]
        for shift in np.ndindex(*(3,) * image.ndim)
        for shift in [tuple(s - 1 for s in shift)]
    )
    return 0.5 * image + 0.5 * around / 3**image.ndim
