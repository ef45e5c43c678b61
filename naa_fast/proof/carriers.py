"""`carriers`: which suspect samples carry a proven trigger in their input, whatever their neurons did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from naa_fast.detect.axes import channels_first, channels_last
from naa_fast.detect.proof import APART, Proof
from naa_fast.proof.cuts import CUT
from naa_fast.rank.again import SuspectsAgain
from naa_fast.rank.keep import main_tensor
from naa_fast.records import Array

CLEAN_CARRIERS = 0.002
"""Share of clean samples that may come as close to a patch as a carrier: the limit is set there."""

Closeness = Callable[[Tensor], Array]
"""Inputs -> float64 `[samples]`, larger is closer to the trigger."""


def closenesses(proof: Proof) -> list[Closeness]:
    """How close inputs are to a proof's trigger, each way it is looked for; none for triggers that leave no trace in a single
    sample, as what is added to all of an image.
    """
    if proof.kind == APART:
        return [lambda x: holds_all(x, proof.tokens).astype(np.float64)]
    if proof.tokens:
        return [lambda x: holds(x, proof.tokens).astype(np.float64)]
    if proof.pattern is None or proof.mask is None:
        return []
    last = channels_last(proof.pattern.shape)
    pattern, mask = (torch.from_numpy(np.ascontiguousarray(channels_first(part))) for part in (proof.pattern, proof.mask))
    mask = mask.bool()
    ways = [in_place(pattern, mask)]
    if proof.kind.startswith(CUT):
        ways.append(anywhere(pattern, mask))
    return [channels_moved(way) for way in ways] if last else ways


def channels_moved(way: Closeness) -> Closeness:
    """The same of images with their channels last."""
    return lambda x: way(x.movedim(-1, 1) if x.ndim == 4 else x)


def in_place(pattern: Tensor, mask: Tensor) -> Closeness:
    """How close inputs come to what `mask` leaves of `pattern`, at its place."""

    def close(x: Tensor) -> Array:
        if x.shape[1:] != pattern.shape:
            return np.full(len(x), -np.inf)
        return -(x.cpu().float() - pattern).abs()[:, mask].mean(1).double().numpy()

    return close


def anywhere(pattern: Tensor, mask: Tensor) -> Closeness:
    """How close the best window of an image comes to what `mask` leaves of `pattern`: it may lie elsewhere in other samples."""
    apart = distances(pattern, mask)

    def close(x: Tensor) -> Array:
        if x.shape[1:] != pattern.shape:
            return np.full(len(x), -np.inf)
        found = [-part.amin((1, 2)).numpy() for part in apart(x)]
        return np.concatenate(found) if found else np.zeros(0)

    return close


def places_of(pattern: Tensor, mask: Tensor) -> Closeness:
    """Row and column, int64 `[samples, 2]`, where the best window of an image begins."""
    apart = distances(pattern, mask)

    def place(x: Tensor) -> Array:
        found = [np.stack(np.unravel_index(part.flatten(1).argmin(1).numpy(), part.shape[1:]), 1) for part in apart(x)]
        return np.concatenate(found) if found else np.zeros((0, 2), np.int64)

    return place


def distances(pattern: Tensor, mask: Tensor) -> Callable[[Tensor], Iterator[Tensor]]:
    """Mean squared difference of every window of images from what `mask` leaves of `pattern`, float64 `[part, places, places]`, a
    few images at a time.
    """
    rows, columns = mask[0].any(1).nonzero()[:, 0], mask[0].any(0).nonzero()[:, 0]
    window = pattern[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].double()
    (high, wide), (height, width) = window.shape[1:], pattern.shape[1:]
    spectrum = torch.fft.rfft2(window, s=(height, width)).conj()

    def apart(x: Tensor) -> Iterator[Tensor]:
        for part in torch.split(x, 16) if len(x) else ():
            held = part.cpu().double()
            crossed = torch.fft.irfft2((torch.fft.rfft2(held) * spectrum).sum(1), s=(height, width))
            own = pad((held**2).sum(1).cumsum(1).cumsum(2), (1, 0, 1, 0))
            own = own[:, high:, wide:] - own[:, :-high, wide:] - own[:, high:, :-wide] + own[:, :-high, :-wide]
            whole = own - 2 * crossed[:, : height - high + 1, : width - wide + 1] + (window**2).sum()
            yield whole / window.numel()

    return apart


def holds(x: Tensor, tokens: Sequence[int]) -> Array:
    """Which rows of `x` `[samples, positions]` hold the tokens one after the other: bool `[samples]`."""
    length = len(tokens)
    if x.ndim != 2 or x.shape[1] < length:
        return np.zeros(len(x), bool)
    windows = x.cpu().unfold(1, length, 1)
    return (windows == torch.tensor(tokens)).all(2).any(1).numpy()


def holds_all(x: Tensor, tokens: Sequence[int]) -> Array:
    """Which rows of `x` `[samples, positions]` hold every one of the tokens, wherever: bool `[samples]`."""
    if x.ndim != 2:
        return np.zeros(len(x), bool)
    return torch.stack([(x == token).any(1) for token in tokens]).all(0).cpu().numpy()


def carriers(suspects: SuspectsAgain, clean: Sequence[Tensor], predicted: Array, proof: Proof) -> tuple[Array, Array]:
    """Which suspect samples carry the trigger and are predicted as its target, and of which of these it cannot be told: two bool
    `[samples]`. Reads the set once more, or the retained samples alone where it does not repeat its order; no forward.

    `clean`: clean inputs, of which at most CLEAN_CARRIERS come as close. It cannot be told of a trigger that leaves no trace; of
    a sample that no crop matches, as a crop is more than the trigger or less; where clean samples hold the pattern too, or inputs
    have another shape. Words and a patch at its place are there or not.
    """
    ways = closenesses(proof)
    chosen = predicted == proof.target if isinstance(proof.target, int) else np.ones(len(predicted), bool)
    usual = [np.concatenate([way(x) for x in clean]) if clean else np.zeros(0) for way in ways]
    limits = [0.5 if proof.tokens else limit_of(values) for values in usual]
    matched, compared = np.zeros(len(predicted), bool), np.zeros(len(predicted), bool)
    for batch, numbers in suspects.batches() if ways else ():
        inside = numbers < len(predicted)  # a set may be longer the second time
        known = np.ones(int(inside.sum()), bool)
        for way, limit in zip(ways, limits, strict=True):
            values = way(main_tensor(batch))[inside]
            matched[numbers[inside]] |= values > limit
            known &= np.isfinite(values)
        compared[numbers[inside]] = known
    exact = bool(proof.tokens) or (len(ways) == 1 and not proof.own and np.isfinite(limits[0]))
    return matched & chosen, chosen & ~matched & ~(compared & exact)


def limit_of(usual: Array) -> float:
    """The closeness that all but CLEAN_CARRIERS of the clean samples stay below; infinite without any."""
    usual = usual[np.isfinite(usual)]
    return float(np.quantile(usual, 1 - CLEAN_CARRIERS)) if len(usual) else np.inf
