"""`samples` in plain torch: each sample's mean and maximum in every layer, out of what `reduce` was given once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from naa_fast.kernels.portable.reduce import Partials, home, reduce

Given = Partials | Tensor


def reduce_kept(x: Tensor, mask: Tensor | None, phase: int) -> tuple[Partials, Given]:
    """`reduce`, and what `samples` reads of it; see kernels/reference/samples.py. One more operation, of one position."""
    partials = reduce(x, mask, phase)
    return (partials, partials) if partials.per_sample else (partials, values_of(x, mask))


def values_of(x: Tensor, mask: Tensor | None) -> Tensor:
    """A copy of `x` `[samples, channels, 1]` without its last axis, NaN where `mask` `[samples, 1]` is False."""
    values = x.detach()[:, :, 0].clone()
    return values if mask is None else values.masked_fill_(~mask, torch.nan)


def known(partials: Sequence[Partials]) -> list[Tensor]:
    """Samples' means and maxima `[2, samples, channels]` of each layer, NaN where a position was not finite or none was seen."""
    if not partials:
        return []
    found = torch.cat([part.reals[0::5] for part in partials], 2)
    finite, broken = torch.cat([part.counts[0::2] for part in partials], 2).unbind()
    found.masked_fill_(finite.eq(0).logical_or_(broken.ne(0)), torch.nan)
    return list(torch.split(found, [part.reals.shape[2] for part in partials], 2))


def samples(layers: Sequence[tuple[Sequence[Given], bool]], wide: bool) -> Tensor:
    """Views of a batch's samples, `[samples, features + 1]`; see kernels/reference/samples.py. On the device of the partials.

    Nine operations for any number of layers that were called once, no wait.
    """
    from_partials = iter(known([given for calls, _ in layers for given in calls if isinstance(given, Partials)]))
    columns = []
    for calls, several in layers:
        views = [next(from_partials) if isinstance(given, Partials) else single(given) for given in calls]
        means, maxima = (views[0][0], views[0][-1]) if len(views) == 1 else together(views)
        columns += [means, maxima] if several else [means]
    return torch.cat([*columns, columns[0].new_zeros(len(columns[0]), 1)], 1).to(torch.float64 if wide else torch.float32)


def single(values: Tensor) -> Tensor:
    """The values of samples with one position as `known` gives them, on the device of partials."""
    return values.to(home(values.device)).unsqueeze(0)


def together(views: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The mean of the means of several calls, and their largest maximum."""
    means = torch.stack([view[0].double() for view in views])
    return means.mean(0), torch.stack([view[-1].double() for view in views]).amax(0)
