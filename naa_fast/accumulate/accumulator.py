"""`Accumulator`: per-layer state on the layer's own device, added to one whole batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from naa_fast.accumulate.frame import Frame
from naa_fast.accumulate.samples import Samples, Views, reduced
from naa_fast.errors import CaptureError
from naa_fast.ops import Backend, Choice, choose
from naa_fast.records import FOLD_BLOCK, FOLDS, ROWS, LayerRecord

HOST_BACKENDS = ("cpu", "reference")


@dataclass
class LayerState:
    """A layer's running state, kept by the backend `module`. `rows` observed so far decide the fold of a layer whose rows are not
    samples; `tails` are its histograms, None where none are kept.
    """

    choice: Choice
    module: Backend
    state: Any
    tails: Any
    channels: int
    layout: str
    dtype: torch.dtype
    rows: int = 0

    def require(self, layer: str, x: Tensor, layout: str) -> None:
        """Raise CaptureError unless `x` is of the layer as it was in its first batch."""
        if (x.shape[1], layout, x.dtype) == (self.channels, self.layout, self.dtype):
            return
        for what, before, now in (
            ("neurons", self.channels, x.shape[1]),
            ("layout", self.layout, layout),
            ("dtype", plain(self.dtype), plain(x.dtype)),
        ):
            if before != now:
                raise CaptureError(f"layer {layer} changed between batches", f"{what}: {before} / {now}", "leave the layer out")


@dataclass(frozen=True)
class Staged:
    """Partials of one call of a layer, waiting for its forward to succeed; `tallied`: what its histograms count."""

    layer: LayerState
    partials: Any
    tallied: Any
    phase: int
    rows: int


class Accumulator:
    """Observes layers batch by batch; a batch counts wholly (`commit`) or not at all (`discard`).

    Device memory: 600 bytes a neuron of state, 2,040 of histograms (1,020 where samples have one position; none with `tails`
    False), and the staged partials of one batch. On a CUDA device nothing here waits for the device or copies from it; only
    `records` does.
    """

    def __init__(self, backend: str = "auto", tails: bool = True) -> None:
        self.backend = backend
        self.tails = tails
        self.layers: dict[str, LayerState] = {}
        self.samples: Samples | None = None  # who wants each sample's own view puts one here
        self._staged: list[Staged] = []
        self._frame = Frame(0)
        self._start = 0

    def begin(self, size: int, start: int, mask: Tensor | None = None) -> None:
        """Announce a batch of `size` samples, the first with global index `start`.

        `mask` (bool `[size]` or `[size, positions]`): False is not observed.
        """
        self.discard()
        self._frame, self._start = Frame(size, mask), start

    def observe(self, layer: str, x: Tensor, layout: str) -> None:
        """Reduce one layer's output `x` `[outer, channels, inner]`; its one read. Nothing counts before `commit`."""
        state = self.layers.get(layer)
        x, layout = self._frame.by_sample(x, layout, as_rows=state is not None and state.layout.endswith(ROWS))
        if state is None:
            state = self.layers[layer] = self._begun(x, layout)
        state.require(layer, x, layout)
        outer = x.shape[0]
        of_samples = outer == self._frame.size and not layout.endswith(ROWS)
        first = self._start if of_samples else state.rows + self._staged_rows(state)
        phase = first % (FOLDS * FOLD_BLOCK)
        mask = self._frame.mask_for(layer, x, layout)
        held: Any = x
        seen: Any = mask
        if state.choice.backend in HOST_BACKENDS:
            held, seen = host_array(x), None if mask is None else mask.numpy()
        tallied = partials = state.module.reduce(held, seen, phase)
        if state.tails is not None and x.shape[2] == 1:  # partials of folds: the samples are gone
            tallied = state.module.bins(held[:, :, 0], None if seen is None else seen[:, 0])
        self._staged.append(Staged(state, partials, tallied, phase, outer))
        if self.samples is not None and not layout.endswith(ROWS):
            self.samples.add(layer, *reduced(partials, x, mask))

    def views(self) -> Views:
        """The batch's own views of its samples, empty if nobody wants them; to be called before `commit`."""
        return {} if self.samples is None else self.samples.views()

    def commit(self) -> None:
        """Add the batch to the state of every layer: one fold per backend and device."""
        groups: dict[tuple[Any, int], list[tuple[Any, Any]]] = {}
        for staged in self._staged:
            groups.setdefault((staged.layer.module, staged.phase), []).append((staged.layer.state, staged.partials))
        tallies: dict[Any, list[tuple[Any, Any]]] = {}
        for staged in self._staged:
            if staged.layer.tails is not None:
                tallies.setdefault(staged.layer.module, []).append((staged.layer.tails, staged.tallied))
        for module, counted in tallies.items():
            module.tally(counted)  # before the fold: it allocates once, and what fails must leave nothing half-counted
        for (module, phase), batch in groups.items():
            module.fold(batch, phase)
        for staged in self._staged:
            staged.layer.rows += staged.rows
        self.discard()

    def discard(self) -> None:
        """Forget the batch in flight; the state stays as it was before it."""
        self._staged.clear()
        if self.samples is not None:
            self.samples.discard()

    def records(self) -> dict[str, LayerRecord]:
        """The finished records on the host: two copies back, O(neurons) bytes whatever was observed."""
        groups: dict[Any, list[str]] = {}
        for name, layer in self.layers.items():
            groups.setdefault(layer.module, []).append(name)
        packed: dict[str, Any] = {}
        tails: dict[str, Any] = {}
        for module, names in groups.items():
            packed.update(zip(names, module.read([self.layers[name].state for name in names]), strict=True))
            kept = [name for name in names if self.layers[name].tails is not None]
            tails.update(zip(kept, module.read_tails([self.layers[name].tails for name in kept]), strict=True))
        return {
            name: LayerRecord.unpacked(layer.layout, plain(layer.dtype), *packed[name], tails=tails.get(name))
            for name, layer in self.layers.items()
        }

    def backends(self) -> list[str]:
        """The distinct choices made and why, in words."""
        return sorted({str(layer.choice) for layer in self.layers.values()})

    def _begun(self, x: Tensor, layout: str) -> LayerState:
        choice = choose("reduce", x, self.backend)
        module, channels = choice.module, x.shape[1]
        tails = module.tails(channels, like=x) if self.tails and not layout.endswith(ROWS) else None
        return LayerState(choice, module, module.empty(channels, like=x), tails, channels, layout, x.dtype)

    def _staged_rows(self, state: LayerState) -> int:
        return sum(staged.rows for staged in self._staged if staged.layer is state)


def plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def host_array(x: Tensor) -> Any:
    """A CPU tensor as a NumPy array of the same memory; bfloat16 as its bits in uint16, which NumPy has no type for."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()
