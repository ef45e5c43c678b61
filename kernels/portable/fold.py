"""`fold` in plain torch: the partials of all layers of a batch enter their states on the device, without waiting for it.

Layers are laid side by side as columns, so that a batch takes as many operations for a hundred layers as for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from naa_fast.kernels.portable.reduce import Partials, home, merged
from naa_fast.records import COUNT_FIELDS, FOLD_BLOCK, FOLDS, Array

VALUES = 1 << 21
"""Items times columns that are folded at a time: their moments take 300 MB."""


class State:
    """A layer's running record, on its device: `moments` [6, 3 views, channels] and `folds` [3, FOLDS, 2 views, channels] in
    float64, `counts` [3, 3 views, channels] in int64. What they hold is in the order of `LayerRecord.packed`.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self.moments = torch.zeros((6, 3, channels), dtype=torch.float64, device=device)
        self.moments[4].fill_(torch.inf)
        self.moments[5].fill_(-torch.inf)
        self.counts = torch.zeros((len(COUNT_FIELDS), 3, channels), dtype=torch.int64, device=device)
        self.folds = torch.zeros((3, FOLDS, 2, channels), dtype=torch.float64, device=device)

    @property
    def channels(self) -> int:
        return self.moments.shape[2]

    def sample_means(self) -> tuple[Tensor, Tensor, Tensor]:
        """Count, mean and m2 of the samples' means so far, views of the state."""
        return self.counts[0, 1], self.moments[0, 1], self.moments[1, 1]


Batch = Sequence[tuple[State, Partials]]


def empty(channels: int, like: Tensor) -> State:
    """State of a layer of which nothing was seen, on the device of `like` (on the host if that has no float64)."""
    return State(channels, home(like.device))


def groups(batch: Batch) -> Iterator[list[tuple[State, Partials]]]:
    """What is folded at once: no state twice, its n-th partials before its n+1-th; items alike in kind and number."""
    rounds: dict[tuple[int, torch.device, bool, int], list[tuple[State, Partials]]] = {}
    times: dict[int, int] = {}
    for state, partials in batch:
        items = partials.reals.shape[1]
        if items and state.channels:
            number = times[id(state)] = times.get(id(state), -1) + 1
            rounds.setdefault((number, state.moments.device, partials.per_sample, items), []).append((state, partials))
    for key in sorted(rounds, key=lambda key: key[0]):
        part: list[tuple[State, Partials]] = []
        values = 0
        for state, partials in rounds[key]:
            more = partials.reals.shape[1] * state.channels
            if part and values + more > VALUES:
                yield part
                part, values = [], 0
            part.append((state, partials))
            values += more
        yield part


def beside(parts: Sequence[Tensor]) -> Tensor:
    """Columns of all the `parts` `[..., columns]` next to each other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)


def fold(batch: Batch, phase: int) -> None:
    """Add a batch's partials to the states; a state named twice takes both, in order."""
    first = phase // FOLD_BLOCK % FOLDS
    for layers in groups(batch):
        states = [state for state, _ in layers]
        moments, counts, folds = (beside([getattr(state, name) for state in states]) for name in ("moments", "counts", "folds"))
        items = beside([partials.reals for _, partials in layers]), beside([partials.counts for _, partials in layers])
        if layers[0][1].per_sample:
            moments, counts = fold_samples(moments, counts, folds, *items, phase)
        else:
            moments, counts = fold_folds(moments, counts, folds, *items, first)
        if len(states) == 1:
            states[0].moments, states[0].counts, states[0].folds = moments, counts, folds
            continue
        sizes = [state.channels for state in states]
        split = (torch.split(tensor, sizes, -1) for tensor in (moments, counts, folds))
        for state, *own in zip(states, *split, strict=True):
            state.moments, state.counts, state.folds = own


def whole(moments: Tensor, counts: Tensor, reals: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of a state and of parts `reals` [6, parts, 3 views x columns] together, as the state has them."""
    reals = torch.cat([moments.flatten(1).unsqueeze(1), reals], 1)
    observed = torch.cat([counts.flatten(1).unsqueeze(1), observed], 1)
    reals, observed = merged(reals, observed, 1)
    return reals.view(moments.shape), observed.view(counts.shape)


def fold_folds(
    moments: Tensor, counts: Tensor, folds: Tensor, reals: Tensor, observed: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    """Add moments of folds, from the `first` on, to a state whose `folds` are changed in place: they are those of every view."""
    n, mean, m2 = observed[0].to(torch.float64).unsqueeze(1), reals[0].unsqueeze(1), reals[1].unsqueeze(1)
    for start, stop, at in ((first, FOLDS, 0), (0, first, FOLDS - first)):
        some = slice(at, min(at + stop - start, len(n)))
        if some.stop > at:
            join_folds(folds[:, start : start + some.stop - at], n[some], mean[some], m2[some])
    return whole(moments, counts, reals.repeat(1, 1, 3), observed.repeat(1, 1, 3))


def fold_samples(
    moments: Tensor, counts: Tensor, folds: Tensor, reals: Tensor, observed: Tensor, phase: int
) -> tuple[Tensor, Tensor]:
    """Add moments of samples to a state whose `folds` are changed in place.

    In the views a sample is one observation: its mean or its maximum, or a non-finite one if it has no finite value.
    """
    samples, columns = reals.shape[1:]
    positions = observed[0].gt(0)
    broken = observed[2].gt(0).gt(positions)  # some values, none of them finite
    values = torch.cat([reals[0], reals[5].masked_fill(~positions, 0.0)], 1)
    seen = torch.cat([positions, positions], 1)
    nil = torch.zeros_like(values)
    views = torch.stack([seen, values.gt(0), torch.cat([broken, broken], 1)])
    parts = torch.cat([reals, torch.stack([values, nil, nil, nil, values, values])], 2)
    moments, counts = whole(moments, counts, parts, torch.cat([observed, views], 2))
    pivot = moments[0, 1:].reshape(-1)  # of values that were alike so far it is that value
    weight = seen.to(torch.float64)
    d = (values - pivot).mul_(weight)
    of_fold = membership(samples, phase, values)
    n = (of_fold @ weight).clamp_(min=0)
    shift = (of_fold @ d) / n.clamp(min=1)
    m2 = (of_fold @ (d * d)).sub_(n * shift * shift).clamp_(min=0)
    shape = (FOLDS, 2, columns)
    join_folds(folds, n.view(shape), shift.add_(pivot).view(shape), m2.view(shape))
    return moments, counts


def membership(samples: int, phase: int, like: Tensor) -> Tensor:
    """Which samples are of each fold: float64 `[FOLDS, samples]` of 0 and 1, on the device of `like`."""
    fold_of = torch.arange(phase, phase + samples, device=like.device).div(FOLD_BLOCK, rounding_mode="floor").remainder_(FOLDS)
    return torch.arange(FOLDS, device=like.device).unsqueeze(1).eq(fold_of).to(like.dtype)


def join_folds(folds: Tensor, n: Tensor, mean: Tensor, m2: Tensor) -> None:
    """Merge counts, means and square sums of folds into `folds` [3, ...], as `records.Folds.merge`."""
    n_a, mean_a, m2_a = folds.unbind()
    total = n_a + n
    share = n / total.clamp(min=1)
    d = mean - mean_a
    mean = mean_a.addcmul(d, share)
    m2 = (m2_a + m2).addcmul_(d * d, n_a * share)
    folds.copy_(torch.stack([total, mean, m2]))


def read(states: Sequence[State]) -> list[tuple[Array, Array, Array]]:
    """The states' packed arrays (`LayerRecord.packed`) on the host: one copy for each device they are on."""
    places: dict[torch.device, list[int]] = {}
    for k, state in enumerate(states):
        places.setdefault(state.moments.device, []).append(k)
    packed: dict[int, tuple[Array, Array, Array]] = {}
    for members in places.values():
        parts = []
        for k in members:
            state = states[k]
            parts += [state.moments.transpose(0, 1), state.counts.transpose(0, 1), state.folds.permute(2, 0, 1, 3)]
        # A copy even on the CPU: what is returned must not change with the state.
        flat = torch.cat([part.reshape(-1).view(torch.int64) for part in parts]).cpu()
        held = torch.split(flat, [part.numel() for part in parts])
        arrays = [piece.view(part.dtype).view(part.shape).numpy() for piece, part in zip(held, parts, strict=True)]
        for k, place in zip(members, range(0, len(parts), 3), strict=True):
            packed[k] = arrays[place], arrays[place + 1], arrays[place + 2]
    return [packed[k] for k in range(len(states))]
