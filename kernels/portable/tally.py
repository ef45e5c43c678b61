"""`tally` in plain torch: histograms of samples' means and maxima, on the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from naa_fast.kernels.portable.reduce import Partials, home
from naa_fast.records import BINS, LEFT_OUT, LOWEST, OCTAVE, Array

VALUES = 1 << 24
"""Samples times columns whose bins are made at a time."""

LARGEST = torch.finfo(torch.float32).max


VALUES = 1 << 24
"""Samples times columns whose bins are made at a time."""

LARGEST = torch.finfo(torch.float32).max


class Values:
    """Values of a layer with one position a sample, NaN where they were not observed: `bins` for `tally`, which makes them of all
    layers at once."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Their bins, uint8 `[samples, channels]`."""
        made: Array = bin_of(self.values).to(torch.uint8).cpu().numpy()
        return made if dtype is None else made.astype(dtype)


Given = Partials | Values


class Tails:
    """A layer's running histograms, int32 `[1 or 2, BINS + 1, channels]`; the last bin takes what is left out.

    `single` of layers with one position a sample, `pair` (mean and maximum) of the others; made when first needed.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self.channels, self.device = channels, device
        self.single: Tensor | None = None
        self.pair: Tensor | None = None

    def of(self, given: Given) -> Tensor:
        """The histograms that what was given enters."""
        if isinstance(given, Partials):
            if self.pair is None:
                self.pair = torch.zeros((2, BINS + 1, self.channels), dtype=torch.int32, device=self.device)
            return self.pair
        if self.single is None:
            self.single = torch.zeros((1, BINS + 1, self.channels), dtype=torch.int32, device=self.device)
        return self.single


def tails(channels: int, like: Tensor) -> Tails:
    """Histograms of a layer of which nothing was seen, on the device of `like` (on the host if that has no float64)."""
    return Tails(channels, home(like.device))


def bin_of(x: Tensor) -> Tensor:
    """`records.bin_of`, int32 of the shape of `x`: LEFT_OUT of what is not finite."""
    bits = (x.clamp(-LARGEST, LARGEST) if x.dtype == torch.float64 else x).to(torch.float32).view(torch.int32)
    steps = bits.bitwise_right_shift(21).bitwise_and_(1023)  # of the magnitude: eight bits of exponent, two more
    sign = bits.bitwise_right_shift(31)  # -1, or 0
    chosen = steps.sub_((127 + LOWEST) * OCTAVE - 1).clamp_(0, BINS // 2).bitwise_xor_(sign).sub_(sign).add_(BINS // 2)
    return chosen.masked_fill_((x - x).ne(0), LEFT_OUT)


def bins(x: Tensor, mask: Tensor | None) -> Values:
    """What the bins of `x` `[samples, channels]` are made of; see kernels/reference/tally.py. A copy, no host sync."""
    held = (x.detach() if x.requires_grad else x).clone()
    return Values(held if mask is None else held.masked_fill_(~mask[:, None], torch.nan))


def chosen_bins(given: Sequence[Given]) -> Tensor:
    """Bins of samples of several layers of one kind, int32 `[1 or 2 views, samples, layers' channels]`."""
    partials = [part for part in given if isinstance(part, Partials)]
    if not partials:
        return bin_of(torch.cat([part.values for part in given if isinstance(part, Values)], 1).unsqueeze(0))
    reals, counts = (torch.cat(parts, 2) for parts in ([part.reals for part in partials], [part.counts for part in partials]))
    return bin_of(reals[0::5]).masked_fill_(counts[0].eq(0), LEFT_OUT)


def tally(batch: Sequence[tuple[Tails, Given]]) -> None:
    """Count a batch's samples: of each layer its partials, or its `bins`. See kernels/reference/tally.py.

    Integers: their order cannot be seen in the sum.
    """
    alike: dict[tuple[Any, ...], list[tuple[Tails, Given]]] = {}
    for state, given in batch:
        values = given.values if isinstance(given, Values) else given.reals
        if values.numel():
            alike.setdefault((state.device, type(given), values.shape[-2], values.dtype), []).append((state, given))
            state.of(given)  # all memory before the first is counted: a batch counts wholly or not at all
    for (device, _, samples, _), layers in alike.items():
        for part in cut(layers, max(1, VALUES // samples)):
            place = chosen_bins([given for _, given in part]).to(device, torch.int64)
            for (state, given), index in zip(part, torch.split(place, [state.channels for state, _ in part], 2), strict=True):
                state.of(given).scatter_(1, index, 1, reduce="add")


def cut(layers: list[tuple[Tails, Given]], most: int) -> Iterator[list[tuple[Tails, Given]]]:
    """`layers` in runs of at most so many channels, but one layer at least."""
    part: list[tuple[Tails, Given]] = []
    for state, given in layers:
        if part and sum(held.channels for held, _ in part) + state.channels > most:
            yield part
            part = []
        part.append((state, given))
    yield part


def read_tails(states: Sequence[Tails]) -> list[Array]:
    """The histograms on the host, int32 `[2, BINS, channels]` each: one copy for each device they are on."""
    read: dict[int, Array] = {}
    places: dict[torch.device, list[int]] = {}
    for k, state in enumerate(states):
        places.setdefault(state.device, []).append(k)
    for device, members in places.items():
        totals = []
        for k in members:
            total = torch.zeros((2, BINS, states[k].channels), dtype=torch.int32, device=device)
            for counts in (states[k].single, states[k].pair):
                if counts is not None:
                    total += counts[:, :BINS]
            totals.append(total)
        pieces = torch.split(torch.cat([total.flatten() for total in totals]).cpu(), [total.numel() for total in totals])
        for k, total, piece in zip(members, totals, pieces, strict=True):
            read[k] = piece.view(total.shape).numpy().copy()
    return [read[k] for k in range(len(states))]
