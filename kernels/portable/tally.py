"""`tally` in plain torch: histograms of samples' means and maxima, on the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from naa_fast.kernels.portable.reduce import Partials, home
from naa_fast.records import BINS, LEFT_OUT, LOWEST, OCTAVE, Array


class Tails:
    """A layer's running histograms, int32 `[1 or 2, BINS + 1, channels]`; the last bin takes what is left out.

    `single` of layers with one position a sample, `pair` (mean and maximum) of the others; made when first needed.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self.channels, self.device = channels, device
        self.single: Tensor | None = None
        self.pair: Tensor | None = None


def tails(channels: int, like: Tensor) -> Tails:
    """Histograms of a layer of which nothing was seen, on the device of `like` (on the host if that has no float64)."""
    return Tails(channels, home(like.device))


def bin_of(x: Tensor, kept: Tensor) -> Tensor:
    """`records.bin_of`, int32: LEFT_OUT where not `kept`."""
    bits = x.to(torch.float32).contiguous().view(torch.int32)
    steps = ((bits & 0x7FFFFFFF) >> 21) - ((127 + LOWEST) * OCTAVE - 1)
    steps = steps.clamp_(0, BINS // 2)
    chosen = torch.where(bits < 0, BINS // 2 - steps, BINS // 2 + steps)
    return chosen.masked_fill_(~(kept & torch.isfinite(x)), LEFT_OUT)


def bins(x: Tensor, mask: Tensor | None) -> Tensor:
    """The bin of every value of `x` `[samples, channels]`, uint8; see kernels/reference/tally.py. No host sync."""
    x = x.detach()
    kept = torch.ones((), dtype=torch.bool, device=x.device) if mask is None else mask[:, None]
    return bin_of(x, kept).to(torch.uint8)


def count(chosen: Tensor, counts: Tensor) -> None:
    """Add `chosen` [samples, channels] to `counts` [BINS + 1, channels]. Integers: their order cannot be seen in the sum."""
    ones = torch.ones((), dtype=counts.dtype, device=counts.device).expand(chosen.shape)
    counts.scatter_add_(0, chosen.to(counts.device, torch.int64), ones)


def tally(batch: Sequence[tuple[Tails, Partials | Tensor]]) -> None:
    """Count a batch's samples: of each layer its partials, or its `bins`. See kernels/reference/tally.py."""
    for state, given in batch:
        if isinstance(given, Partials):
            if state.pair is None:
                state.pair = torch.zeros((2, BINS + 1, state.channels), dtype=torch.int32, device=state.device)
            seen = given.counts[0] > 0
            for view, index in enumerate((0, 5)):
                count(bin_of(given.reals[index], seen), state.pair[view])
        else:
            if state.single is None:
                state.single = torch.zeros((1, BINS + 1, state.channels), dtype=torch.int32, device=state.device)
            count(given, state.single[0])


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
