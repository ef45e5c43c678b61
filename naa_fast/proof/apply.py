"""What a trigger does to inputs: `candidate_of` puts it on them, `closenesses` finds it in them. The one module that needs both
torch and the triggers' types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from naa_fast.detect.axes import channels_first, channels_last
from naa_fast.detect.trigger import AT_END, IN_FRONT, Crop, Inserted, Offset, Patch, TokenPair, Tokens, Trigger
from naa_fast.proof import images, inserted, token_pairs, tokens
from naa_fast.proof.crops import CUT
from naa_fast.proof.transplant import Candidate
from naa_fast.records import Array

Closeness = Callable[[Tensor], Array]
"""Inputs -> float64 `[samples]`, larger is closer to the trigger."""


def trigger_of(candidate: Candidate) -> Trigger:
    """The trigger that a candidate, which was one of many, puts on inputs."""
    match candidate:
        case images.Patch(pattern=pattern, mask=mask):
            if candidate.kind == CUT:
                return Crop(pattern, mask, f"{100 * mask[0].mean():.2g} % of the input")
            return Patch(pattern, mask, covering(mask) or candidate.budget)
        case images.Offset(pattern=pattern):
            return Offset(pattern, f"{candidate.kind.removeprefix('offset, ')}, {candidate.budget}")
        case inserted.Inserted(ids=ids):
            return Inserted(ids, front=candidate.kind == IN_FRONT, end=candidate.kind == AT_END)
        case tokens.Tokens(ids=ids):
            return Tokens(ids)
        case token_pairs.WrittenPair(ids=pair):
            return TokenPair(pair)
    raise TypeError(f"{type(candidate).__name__} is no candidate that a proof is made of")


def covering(mask: Array) -> str:
    """How much of the input a patch with this mask `[...]` covers, which may be less than the size that was searched; empty of
    one with soft edges.
    """
    if not np.isin(mask, (0, 1)).all():
        return ""
    pixels = mask.max(0) if mask.ndim > 2 else mask
    return f"{100 * float(pixels.mean()):.2g} % of the input"


def candidate_of(trigger: Trigger, low: float = -np.inf, high: float = np.inf) -> Candidate:
    """What puts a trigger on inputs, whose values stay within `low` and `high` where it is added to them."""
    match trigger:
        case TokenPair(ids):
            return token_pairs.WrittenPair(ids)
        case Inserted(ids):
            return inserted.Inserted(trigger.kind, ids)
        case Tokens(ids):
            return tokens.Tokens(trigger.kind, ids)
        case Offset(pattern):
            return images.Offset(trigger.kind, "", pattern, low, high)
        case Patch(pattern, mask) | Crop(pattern, mask):
            return images.Patch(trigger.kind, "", pattern, mask)


def closenesses(trigger: Trigger) -> list[Closeness]:
    """How close inputs are to a trigger, each way it is looked for; none for an offset: it leaves no trace in a single sample."""
    match trigger:
        case TokenPair(ids):
            return [lambda x: holds_all(x, ids).astype(np.float64)]
        case Tokens(ids):
            return [lambda x: holds(x, ids).astype(np.float64)]
        case Offset():
            return []
        case Patch(pattern, mask) | Crop(pattern, mask):
            last = channels_last(pattern.shape)
            values, inside = (torch.from_numpy(np.ascontiguousarray(channels_first(part))) for part in (pattern, mask))
            ways = [in_place(values, inside.bool())]
            if isinstance(trigger, Crop):
                ways.append(anywhere(values, inside.bool()))
            return [channels_moved(way) for way in ways] if last else ways


def channels_moved(way: Closeness) -> Closeness:
    """The same of images with their channels last."""
    return lambda x: way(x.movedim(-1, 1) if x.ndim == 4 else x)


def in_place(pattern: Tensor, mask: Tensor) -> Closeness:
    """How close inputs come to what `mask` leaves of `pattern`, at its place. `pattern` float32 and `mask` bool `[...]`, an
    input's shape; inputs `[samples, ...]`.
    """

    def close(x: Tensor) -> Array:
        if x.shape[1:] != pattern.shape:
            return np.full(len(x), -np.inf)
        return -(x.cpu().float() - pattern).abs()[:, mask].mean(1).double().numpy()

    return close


def anywhere(pattern: Tensor, mask: Tensor) -> Closeness:
    """How close the best window of an image comes to what `mask` leaves of `pattern`: it may lie elsewhere in other samples.
    `pattern` float32 and `mask` bool `[channels, height, width]`; inputs `[samples, channels, height, width]`.
    """
    distance_of = distances(pattern, mask)

    def close(x: Tensor) -> Array:
        if x.shape[1:] != pattern.shape:
            return np.full(len(x), -np.inf)
        closest = [-part.amin((1, 2)).numpy() for part in distance_of(x)]
        return np.concatenate(closest) if closest else np.zeros(0)

    return close


def places_of(pattern: Tensor, mask: Tensor) -> Closeness:
    """Row and column, int64 `[samples, 2]`, where the best window of an image begins."""
    distance_of = distances(pattern, mask)

    def place(x: Tensor) -> Array:
        places = [np.stack(np.unravel_index(part.flatten(1).argmin(1).numpy(), part.shape[1:]), 1) for part in distance_of(x)]
        return np.concatenate(places) if places else np.zeros((0, 2), np.int64)

    return place


def distances(pattern: Tensor, mask: Tensor) -> Callable[[Tensor], Iterator[Tensor]]:
    """Mean squared difference of every window of images from what `mask` leaves of `pattern`, float64 `[part, places, places]`, a
    few images at a time.
    """
    rows, columns = mask[0].any(1).nonzero()[:, 0], mask[0].any(0).nonzero()[:, 0]
    window = pattern[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].double()
    (high, wide), (height, width) = window.shape[1:], pattern.shape[1:]
    spectrum = torch.fft.rfft2(window, s=(height, width)).conj()

    def of(x: Tensor) -> Iterator[Tensor]:
        for part in torch.split(x, 16) if len(x) else ():
            images = part.cpu().double()
            crossed = torch.fft.irfft2((torch.fft.rfft2(images) * spectrum).sum(1), s=(height, width))
            squares = pad((images**2).sum(1).cumsum(1).cumsum(2), (1, 0, 1, 0))
            squares = (
                squares[:, high:, wide:] - squares[:, :-high, wide:] - squares[:, high:, :-wide] + squares[:, :-high, :-wide]
            )
            whole = squares - 2 * crossed[:, : height - high + 1, : width - wide + 1] + (window**2).sum()
            yield whole / window.numel()

    return of


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
