"""`Samples`: each sample's own view of every layer, for one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from naa_fast.accumulate.frame import Decoder, Frame, Shorten
from naa_fast.kernels.portable.reduce import home
from naa_fast.records import ROWS, Array

Layout = tuple[tuple[str, int], ...]
"""The layers of a `Pack` in their order, each with its number of features."""


@dataclass(frozen=True)
class Pack:
    """Samples' views of all layers of one device, side by side: `values` `[samples, features + 1]`, the last column 0."""

    layout: Layout
    values: Tensor

    def rows(self, rows: Array) -> Pack:
        """Some of the samples (int64)."""
        return Pack(self.layout, rows_of(self.values, rows))


class Views(Mapping[str, Tensor]):
    """Layer -> `[samples, features]`: the mean over a sample's positions and, if it has several, beside it the maximum.

    A layer's view is one of `packs`, of which there is one for each device that layers lie on.
    """

    def __init__(self, packs: tuple[Pack, ...] = ()) -> None:
        self.packs = packs

    @classmethod
    def of(cls, parts: Mapping[str, Tensor | list[Tensor]]) -> Views:
        """Packed, by one operation for each device. Of each layer the view, or what lies side by side in it."""
        places: dict[torch.device, list[tuple[str, list[Tensor]]]] = {}
        for layer, part in parts.items():
            held = part if isinstance(part, list) else [part]
            places.setdefault(held[0].device, []).append((layer, held))
        packs = []
        for device, layers in places.items():
            columns = [column for _, held in layers for column in held]
            values = torch.cat([*columns, columns[0].new_zeros(len(columns[0]), 1)], 1).to(home(device))
            packs.append(Pack(tuple((layer, sum(column.shape[1] for column in held)) for layer, held in layers), values))
        return cls(tuple(packs))

    def rows(self, rows: Array) -> Views:
        """Of some of the samples (int64)."""
        return Views(tuple(pack.rows(rows) for pack in self.packs))

    @property
    def nbytes(self) -> int:
        return sum(pack.values.nbytes for pack in self.packs)

    @cached_property
    def _places(self) -> dict[str, tuple[Tensor, int, int]]:
        found = {}
        for pack in self.packs:
            start = 0
            for layer, features in pack.layout:
                found[layer] = pack.values, start, start + features
                start += features
        return found

    def __getitem__(self, layer: str) -> Tensor:
        values, start, stop = self._places[layer]
        return values[:, start:stop]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Samples:
    """Takes what the hooks see of one batch at a time and gives its `views`.

    The maximum matters: a small patch vanishes in a spatial mean. A layer called several times gives the mean of the means and
    the largest maximum. Rows that cannot be told apart by sample are left out. Cost: two reads of each output, none where `add`
    is told of what `reduce` has found, and `[samples, 2 x neurons]` values a layer until the batch is done.
    """

    again = False

    def __init__(self) -> None:
        self.neurons: dict[str, int] = {}
        self._frame = Frame(0)
        self.shorten: Shorten | None = None
        self._seen: dict[str, list[tuple[Tensor, Tensor | None]]] = {}
        self._rows: set[str] = set()
        self._several: set[str] = set()

    def begin(self, size: int, start: int, mask: Tensor | None = None, decoder: Decoder | None = None) -> None:
        self.discard()
        self._frame = Frame(size, mask, decoder, self.shorten)

    def observe(self, layer: str, x: Tensor, layout: str) -> None:
        x, layout = self._frame.by_sample(x, layout, as_rows=layer in self._rows)
        if layout.endswith(ROWS):
            self.forget(layer)
        else:
            self.add(layer, *mean_and_maximum(x, self._frame.mask_for(layer, x)))

    def add(self, layer: str, mean: Tensor, maximum: Tensor | None) -> None:
        """One call of a layer: both `[samples, neurons]`; no `maximum` where samples have one position."""
        self.neurons[layer] = mean.shape[1]
        self._seen.setdefault(layer, []).append((mean, maximum))

    def forget(self, layer: str) -> None:
        """The layer's rows are not samples."""
        self._rows.add(layer)
        self._seen.pop(layer, None)

    def views(self) -> Views:
        """Of the batch whose forward has succeeded; to be called before `commit`."""
        views: dict[str, Tensor | list[Tensor]] = {}
        for layer, calls in self._seen.items():
            mean = torch.stack([call[0] for call in calls]).mean(0) if len(calls) > 1 else calls[0][0]
            maxima = [call[1] for call in calls if call[1] is not None]
            if maxima:
                self._several.add(layer)
            elif layer in self._several:  # texts of one token among longer ones
                maxima = [mean]
            largest = torch.stack(maxima).amax(0) if len(maxima) > 1 else maxima[0] if maxima else None
            views[layer] = mean if largest is None else [mean, largest]
        return Views.of(views)

    def drop(self, layers: set[str]) -> None:
        """Forget these layers, in the batch in flight too."""
        for layer in layers:
            self._seen.pop(layer, None)
            self.neurons.pop(layer, None)

    def commit(self) -> None:
        self._seen.clear()

    def discard(self) -> None:
        self._seen.clear()


def rows_of(x: Tensor, rows: Array) -> Tensor:
    """Some of the rows of `x` (int64, on the host), on its device."""
    return x.index_select(0, torch.tensor(rows, device=x.device))


def reduced(partials: Any, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Each sample's mean and maximum per neuron, as `mean_and_maximum` gives them to rounding, out of the partials that `reduce`
    has made on the host: no second read of `x`.

    Those means leave non-finite values out, which must be seen here: where there are any, or no partials, `x` is read.
    """
    mean = getattr(partials, "sample_mean", None)  # kernels/cpu alone keeps them
    if mean is None or not partials.per_sample or partials.counts[:, 2].any():
        return mean_and_maximum(x, mask)
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.from_numpy(mean).to(kind), torch.from_numpy(partials.sample_max).to(kind)


def mean_and_maximum(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Over the last axis of `x` `[samples, channels, positions]`, in float32 at least; None for a single position.

    NaN where the mask leaves nothing. Never a view of `x`, which the model may overwrite.
    """
    held = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if x.shape[2] == 1:
        single = held[:, :, 0].clone()
        return (single if mask is None else single.masked_fill_(~mask, torch.nan)), None
    if mask is None:
        return held.mean(2), held.amax(2)
    seen = mask[:, None, :]
    count = mask.sum(1)[:, None]
    mean = held.masked_fill(~seen, 0.0).sum(2) / count  # 0 / 0 is the NaN that is wanted
    maximum = held.masked_fill(~seen, -torch.inf).amax(2)
    return mean, maximum.masked_fill_(count == 0, torch.nan)
