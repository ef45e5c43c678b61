"""`fold` in plain torch: partials enter the state on its device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from naa_fast.kernels.portable.reduce import Partials, by_fold, home, merged, nothing
from naa_fast.records import Array


class State:
    """A layer's running record as the three arrays of `LayerRecord.packed`, float64 and int64 torch tensors."""

    def __init__(self, channels: int, device: torch.device) -> None:
        reals, counts = nothing(3, channels, device)
        self.moments = reals.transpose(0, 1).contiguous()  # [3 views, 6, channels]
        self.counts = counts.transpose(0, 1).contiguous()  # [3 views, 3, channels]
        self.folds = torch.zeros((2, 3, 8, channels), dtype=torch.float64, device=device)


def empty(channels: int, like: Tensor) -> State:
    """State of a layer of which nothing was seen, on the device of `like` (on the host if that has no float64)."""
    return State(channels, home(like.device))


def views(partials: Partials, phase: int) -> list[tuple[Tensor, Tensor]]:
    """Partial moments `(reals [6, items, channels], counts [3, items, channels])` of each view; views 1 and 2 by fold."""
    reals, counts = partials.reals, partials.counts
    if not partials.per_sample:
        return [(reals, counts)] * 3
    seen = counts[0] > 0
    # A mask speaks of positions, so a sample is observed in all its channels or in none.
    observed = (counts[0] + counts[2])[:, :1].sum(1) > 0
    samples = [torch.where(seen, reals[index], torch.nan) for index in (0, 5)]
    return [(reals, counts), *(by_fold(values, observed, phase) for values in samples)]


def fold(batch: Sequence[tuple[State, Partials]], phase: int) -> None:
    """Add a batch's partials to the states; a state named twice takes both, in order."""
    for state, partials in batch:
        for view, (reals, counts) in enumerate(views(partials, phase)):
            if view > 0:
                fold_state = state.folds[view - 1]
                both = torch.stack([pad(fold_state), reals], 1)
                both_counts = torch.stack([fold_state[:1].to(torch.int64).expand(3, -1, -1), counts], 1)
                new, new_counts = merged(both, both_counts, 1)
                state.folds[view - 1] = torch.stack([new_counts[0].to(torch.float64), new[0], new[1]])
            if reals.shape[1] == 0:
                continue
            reals, counts = merged(reals, counts, 1)
            now = torch.stack([state.moments[view], reals], 1), torch.stack([state.counts[view], counts], 1)
            state.moments[view], state.counts[view] = merged(*now, 1)


def pad(folds: Tensor) -> Tensor:
    """Fold state `[3, FOLDS, channels]` (count, mean, m2) as moments [6, ...]; the orders it lacks are zero."""
    return torch.cat([folds[1:], torch.zeros_like(folds), torch.zeros_like(folds[:1])])


def read(states: Sequence[State]) -> list[tuple[Array, Array, Array]]:
    """The states' packed arrays (`LayerRecord.packed`) on the host: one copy for each device they are on."""
    places: dict[torch.device, list[int]] = {}
    for k, state in enumerate(states):
        places.setdefault(state.moments.device, []).append(k)
    packed: dict[int, tuple[Array, Array, Array]] = {}
    for members in places.values():
        parts = [(states[k].moments, states[k].counts, states[k].folds) for k in members]
        # A copy even on the CPU: what is returned must not change with the state.
        flat = torch.cat([part.view(torch.int64).flatten() for trio in parts for part in trio]).cpu()
        sizes = [part.numel() for trio in parts for part in trio]
        pieces = iter(torch.split(flat, sizes))
        for k, trio in zip(members, parts, strict=True):
            moments, counts, folds = (next(pieces).view(part.dtype).view(part.shape).numpy() for part in trio)
            packed[k] = moments, counts, folds
    return [packed[k] for k in range(len(states))]
