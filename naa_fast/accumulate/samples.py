"""`Samples`: each sample's own view of every layer, for one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from naa_fast.accumulate.frame import Decoder, Frame, Shorten
from naa_fast.ops import Chosen, choose
from naa_fast.records import ROWS, Array

HOST_BACKENDS = ("cpu", "reference")

Layout = tuple[tuple[str, int], ...]
"""The layers of a `Pack` in their order, each with its number of features."""


@dataclass(frozen=True)
class Pack:
    """Samples' views of all layers of one device, side by side: `values` `[samples, features + 1]`, the last column 0."""

    layout: Layout
    values: Tensor

    def rows(self, rows: Array) -> Pack:
        """Some of the samples, int64 `[rows]`."""
        return Pack(self.layout, rows_of(self.values, rows))


class Views(Mapping[str, Tensor]):
    """Layer -> `[samples, features]`: the mean over a sample's positions and, if it has several, beside it the maximum.

    A layer's view is one of `packs`, of which there is one for each device that layers lie on. `codes` `[samples, codes]` are of
    the samples' class scores (rank/codes.py).
    """

    codes: Tensor | None = None  # what a checkpoint without any is built to

    def __init__(self, packs: tuple[Pack, ...] = (), codes: Tensor | None = None) -> None:
        self.packs, self.codes = packs, codes

    @classmethod
    def of(cls, parts: Mapping[str, Tensor]) -> Views:
        """Of views of layers, packed by one operation for each device."""
        places: dict[torch.device, dict[str, Tensor]] = {}
        for layer, view in parts.items():
            places.setdefault(view.device, {})[layer] = view
        packs = []
        for layers in places.values():
            first = next(iter(layers.values()))
            values = torch.cat([*layers.values(), first.new_zeros(len(first), 1)], 1)
            packs.append(Pack(tuple((layer, view.shape[1]) for layer, view in layers.items()), values))
        return cls(tuple(packs))

    def rows(self, rows: Array) -> Views:
        """Of some of the samples, int64 `[rows]`."""
        codes = None if self.codes is None else rows_of(self.codes, rows)
        return Views(tuple(pack.rows(rows) for pack in self.packs), codes)

    @property
    def nbytes(self) -> int:
        return sum(pack.values.nbytes for pack in self.packs)

    @cached_property
    def _places(self) -> dict[str, tuple[Tensor, int, int]]:
        places = {}
        for pack in self.packs:
            start = 0
            for layer, features in pack.layout:
                places[layer] = pack.values, start, start + features
                start += features
        return places

    def __getitem__(self, layer: str) -> Tensor:
        values, start, stop = self._places[layer]
        return values[:, start:stop]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass
class Calls:
    """What one forward's calls of a layer gave (`Backend.reduce_kept`)."""

    module: Chosen
    device: torch.device
    channels: int
    given: list[Any]
    wide: bool


class Samples:
    """Takes what the hooks see of one batch at a time and gives its `views`.

    The maximum matters: a small patch vanishes in a spatial mean. A layer called several times gives the mean of the means and
    the largest maximum. Rows that cannot be told apart by sample are left out. Cost: beside an `Accumulator`, which tells it what
    its one read has found (`add`), a copy of the values of samples with one position and, once a batch, `[samples, features]`
    float32 of all layers (float64 if a layer is); alone one read of each output too.
    """

    again = False

    def __init__(self, backend: str = "auto") -> None:
        self.backend = backend
        self.neurons: dict[str, int] = {}
        self._frame = Frame(0)
        self.shorten: Shorten | None = None
        self._seen: dict[str, Calls] = {}
        self._rows: set[str] = set()
        self._several: set[str] = set()

    def begin(self, size: int, start: int, mask: Tensor | None = None, decoder: Decoder | None = None) -> None:
        """Await the forward of `size` samples; see `Frame`, `mask` bool `[size]` or `[size, positions]`."""
        self.discard()
        self._frame = Frame(size, mask, decoder, self.shorten)

    def observe(self, layer: str, x: Tensor, layout: str) -> None:
        """One call of a layer with output `x` `[outer, channels, inner]`; rows that are not samples are left out."""
        x, layout = self._frame.by_sample(x, layout, as_rows=layer in self._rows)
        if layout.endswith(ROWS):
            self.forget(layer)
            return
        mask, choice = self._frame.mask_for(layer, x), choose("samples", x, self.backend)
        values: Any = x
        seen: Any = mask
        if choice.backend in HOST_BACKENDS:
            values, seen = host_array(x), None if mask is None else mask.numpy()
        self.add(layer, choice.module, x, choice.module.reduce_kept(values, seen, 0)[1])

    def add(self, layer: str, module: Chosen, x: Tensor, given: Any) -> None:
        """One call of a layer with output `x` `[samples, neurons, positions]`: what `module.reduce_kept` gave of it."""
        self.neurons[layer] = x.shape[1]
        if layer not in self._seen:
            self._seen[layer] = Calls(module, x.device, x.shape[1], [], x.dtype == torch.float64)
        if x.shape[2] != 1:
            self._several.add(layer)
        self._seen[layer].given.append(given)

    def forget(self, layer: str) -> None:
        """The layer's rows are not samples."""
        self._rows.add(layer)
        self._seen.pop(layer, None)

    def views(self) -> Views:
        """Of the batch whose forward has succeeded; to be called before `commit`. By one launch for each device on CUDA."""
        places: dict[tuple[Any, torch.device], list[str]] = {}
        for layer, calls in self._seen.items():
            places.setdefault((calls.module, calls.device), []).append(layer)
        packs = []
        for (module, _), layers in places.items():
            seen = [self._seen[layer] for layer in layers]
            several = [layer in self._several for layer in layers]  # texts of one token among longer ones too
            values: Any = module.samples(
                [(calls.given, more) for calls, more in zip(seen, several, strict=True)], any(calls.wide for calls in seen)
            )
            layout = tuple((layer, calls.channels * (1 + more)) for layer, calls, more in zip(layers, seen, several, strict=True))
            packs.append(Pack(layout, values if isinstance(values, Tensor) else torch.from_numpy(values)))
        return Views(tuple(packs))

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
    """Some of the rows, int64 `[rows]` on the host, of `x` `[samples, ...]`, on its device."""
    return x.index_select(0, torch.tensor(rows, device=x.device))


def host_array(x: Tensor) -> Any:
    """A CPU tensor `[...]` as a NumPy array of the same memory; bfloat16 as its bits in uint16, which NumPy has no type for."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()
