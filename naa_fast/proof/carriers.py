"""`carriers`: which suspect samples carry a proven trigger in their input, whatever their neurons did."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from naa_fast.detect.proof import APART, Proof
from naa_fast.inputs.batches import Source
from naa_fast.proof.cuts import CUT
from naa_fast.rank.keep import main_tensor
from naa_fast.rank.passes import observed_in
from naa_fast.records import Array

CLEAN_CARRIERS = 0.002
"""Share of clean samples that may come as close to a patch as a carrier: the limit is set there."""

Closeness = Callable[[Tensor], Array]
"""Inputs -> float64 `[samples]`, larger is closer to the trigger."""


def closeness(proof: Proof) -> Closeness | None:
    """How close inputs are to a proof's trigger; None for triggers that leave no trace in a single sample."""
    if proof.kind == APART:
        return lambda x: holds_all(x, proof.tokens).astype(np.float64)
    if proof.tokens:
        return lambda x: holds(x, proof.tokens).astype(np.float64)
    if proof.pattern is None or proof.mask is None:
        return None
    mask, pattern = torch.from_numpy(proof.mask).bool(), torch.from_numpy(proof.pattern)
    if proof.kind.startswith(CUT):
        return anywhere(pattern, mask)

    def close(x: Tensor) -> Array:
        if x.shape[1:] != pattern.shape:
            return np.full(len(x), -np.inf)
        return -(x.cpu().float() - pattern).abs()[:, mask].mean(1).double().numpy()

    return close


def anywhere(pattern: Tensor, mask: Tensor) -> Closeness:
    """How close the best window of an image comes to what `mask` leaves of `pattern`: it may lie elsewhere in other samples."""
    rows, columns = mask[0].any(1).nonzero()[:, 0], mask[0].any(0).nonzero()[:, 0]
    window = pattern[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].double()
    (high, wide), (height, width) = window.shape[1:], pattern.shape[1:]
    spectrum = torch.fft.rfft2(window, s=(height, width)).conj()

    def close(x: Tensor) -> Array:
        if x.shape[1:] != pattern.shape:
            return np.full(len(x), -np.inf)
        found = []
        for part in torch.split(x, 16):  # the spectra of a few images at a time
            held = part.cpu().double()
            crossed = torch.fft.irfft2((torch.fft.rfft2(held) * spectrum).sum(1), s=(height, width))
            own = pad((held**2).sum(1).cumsum(1).cumsum(2), (1, 0, 1, 0))
            own = own[:, high:, wide:] - own[:, :-high, wide:] - own[:, high:, :-wide] + own[:, :-high, :-wide]
            apart = own - 2 * crossed[:, : height - high + 1, : width - wide + 1] + (window**2).sum()
            found.append(-apart.amin((1, 2)).numpy() / window.numel())
        return np.concatenate(found) if found else np.zeros(0)

    return close


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


def carriers(source: Source, clean: Sequence[Tensor], predicted: Array, proof: Proof) -> Array:
    """Suspect samples that carry the trigger and are predicted as its target: bool `[samples]`. Reads the set once more, no
    forward.

    `clean`: clean inputs, of which at most CLEAN_CARRIERS come as close. All false where the trigger leaves no trace.
    """
    close = closeness(proof)
    found = np.zeros(len(predicted), bool)
    if close is None:
        return found
    usual = np.concatenate([close(x) for x in clean]) if clean else np.zeros(0)
    usual = usual[np.isfinite(usual)]
    limit = 0.5 if proof.tokens else float(np.quantile(usual, 1 - CLEAN_CARRIERS)) if len(usual) else np.inf
    at = 0
    for batch in source.batches():
        seen = close(main_tensor(batch))[observed_in(batch)] > limit if batch.size else np.zeros(0, bool)
        found[at : at + len(seen)] = seen[: len(found) - at]
        at += len(seen)
    return found & (predicted == proof.target) if isinstance(proof.target, int) else found
