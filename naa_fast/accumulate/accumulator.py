"""`Accumulator`: per-layer state on the layer's own device, added to one whole batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from naa_fast.accumulate.calls import Calls, Several, samples_in
from naa_fast.accumulate.frame import Decoder, Frame, Shorten
from naa_fast.accumulate.samples import HOST_BACKENDS, Samples, Views, host_array
from naa_fast.errors import CaptureError
from naa_fast.ops import Choice, Chosen, choose
from naa_fast.records import FOLD_BLOCK, FOLDS, ROWS, LayerRecord, rows_layout, tallied


@dataclass
class LayerState:
    """A layer's running state, kept by the backend `module`. `rows` observed so far decide the fold of a layer whose rows are not
    samples; `tails` are its histograms, None where none are kept. `several` holds the batches whose forward called the layer more
    than once, None while there was none.

    Of the batch in flight: how many `calls` there were, and `singles`, the values of those with one position a sample, from whose
    partials no sample can be read. They are kept in a layer's first batch (`fresh`) and once it was called `often`; `lost`: not.
    """

    choice: Choice
    module: Chosen
    state: Any
    tails: Any
    channels: int
    layout: str
    dtype: torch.dtype
    rows: int = 0
    several: Several | None = None
    fresh: bool = True
    often: bool = False
    mixed: bool = False
    calls: int = 0
    singles: Calls | None = None
    lost: bool = False

    @property
    def of_rows(self) -> bool:
        return self.layout.endswith(ROWS)

    def require(self, layer: str, x: Tensor, layout: str) -> None:
        """Raise CaptureError unless `x` is of the layer as it was in its first batch. Rows that are not samples make it one of
        rows for good: what was counted before are positions too (`LayerRecord.as_rows`). `x` `[outer, channels, inner]`.
        """
        if (x.shape[1], layout, x.dtype) == (self.channels, self.layout, self.dtype):
            return
        if layout == rows_layout(self.layout):
            self.layout, self.tails, self.singles, self.mixed = layout, None, None, True
        for what, before, now in (
            ("neurons", self.channels, x.shape[1]),
            ("layout", self.layout, layout),
            ("dtype", plain(self.dtype), plain(x.dtype)),
        ):
            if before != now:
                raise CaptureError(f"layer {layer} changed between batches", f"{what}: {before} / {now}", "leave the layer out")

    def begin(self) -> None:
        """The next batch begins."""
        self.calls, self.singles, self.lost = 0, None, False

    def called(self, x: Tensor, mask: Tensor | None) -> bool:
        """Count a call of samples. False if what an earlier one said of them was not kept: the batch has to be run again. `x`
        `[samples, channels, inner]`, `mask` bool `[samples, inner]`.
        """
        self.calls += 1
        if x.shape[2] == 1:
            if self.fresh or self.often or self.calls > 1:
                self.singles = self.singles or Calls()
                self.singles.keep(x[:, :, 0], None if mask is None else mask[:, 0])
            else:
                self.lost = True
        self.often = self.often or self.calls > 1
        return not (self.lost and self.calls > 1)


class Staged(NamedTuple):
    """Partials of one call of a layer, waiting for its forward to succeed; `counted`: what its histograms count."""

    layer: LayerState
    partials: Any
    counted: list[Any]
    phase: int
    rows: int

    @property
    def part(self) -> bool:
        """Whether it is one of several calls that are one observation of a sample."""
        return self.layer.calls > 1 and not self.layer.of_rows


class Accumulator:
    """Observes layers batch by batch; a batch counts wholly (`commit`) or not at all (`discard`).

    `again`: a layer that was called once a forward was called again, after its first call's samples were given up. The batch has
    to be discarded and run once more, which happens once a layer.

    Device memory: 600 bytes a neuron of state (2,400 for a layer called more than once a forward), 2,040 of histograms (1,020
    where samples have one position; none with `tails` False), and the staged partials of one batch. On a CUDA device nothing here
    waits for the device or copies from it; only `records` does.
    """

    def __init__(self, backend: str = "auto", tails: bool = True) -> None:
        self.backend = backend
        self.tails = tails
        self.layers: dict[str, LayerState] = {}
        self.samples: Samples | None = None  # who wants each sample's own view puts one here
        self.again = False
        self._staged: list[Staged] = []
        self._frame = Frame(0)
        self.shorten: Shorten | None = None
        self._start = 0
        self._unmasked = False

    def begin(self, size: int, start: int, mask: Tensor | None = None, decoder: Decoder | None = None) -> None:
        """Announce a batch of `size` samples, the first with global index `start`.

        `mask` (bool `[size]` or `[size, positions]`): False is not observed.
        """
        self.discard()
        self._frame, self._start = Frame(size, mask, decoder, self.shorten), start
        self._unmasked = mask is None and decoder is None

    def observe(self, layer: str, x: Tensor, layout: str) -> None:
        """Reduce one layer's output `x` `[outer, channels, inner]`; its one read. Nothing counts before `commit`."""
        state, outer, mask = self.layers.get(layer), x.shape[0], None
        as_before = state is not None and self._unmasked and outer == self._frame.size and not state.of_rows
        if state is None or not as_before or (x.shape[1], layout, x.dtype) != (state.channels, state.layout, state.dtype):
            x, layout = self._frame.by_sample(x, layout, as_rows=state is not None and state.of_rows)
            mask = self._frame.mask_for(layer, x, layout)
            if state is None:
                state = self.layers[layer] = self._begun(x, layout)
            state.require(layer, x, layout)
            outer = x.shape[0]
        of_samples = outer == self._frame.size and not state.of_rows
        first = self._start if of_samples else state.rows + self._staged_rows(state)
        phase = first % (FOLDS * FOLD_BLOCK)
        values: Any = x
        seen: Any = mask
        if state.choice.backend in HOST_BACKENDS:
            values, seen = host_array(x), None if mask is None else mask.numpy()
        kept = None
        if self.samples is not None and not state.of_rows:
            partials, kept = state.module.reduce_kept(values, seen, phase)
        else:
            partials = state.module.reduce(values, seen, phase)
        counted = [partials]
        if state.tails is not None and x.shape[2] == 1:  # partials of folds: the samples are gone
            parts = tallied(first, outer)
            counted = [state.module.bins(values[part, :, 0], None if seen is None else seen[part, 0]) for part in parts]
        self._staged.append(Staged(state, partials, counted, phase, outer))
        if of_samples and not state.called(x, mask):
            self.again = True
        if self.samples is not None:
            if kept is None:
                self.samples.forget(layer)
            else:
                self.samples.add(layer, state.module, x, kept)

    def views(self) -> Views:
        """The batch's own views of its samples, empty if nobody wants them; to be called before `commit`."""
        return Views() if self.samples is None else self.samples.views()

    def commit(self) -> None:
        """Add the batch to the state of every layer: one fold per backend and device."""
        if self.again:
            raise CaptureError(
                "a layer was called more often than in the batches before", "its samples were given up", "run the batch again"
            )
        groups: dict[tuple[Chosen, int], Batch] = {}
        tallies: dict[Chosen, Batch] = {}
        parts: dict[int, tuple[LayerState, list[Staged]]] = {}
        for staged in self._staged:
            layer = staged.layer
            if staged.part:
                parts.setdefault(id(layer), (layer, []))[1].append(staged)
                continue
            groups.setdefault((layer.module, staged.phase), []).append((layer.state, staged.partials))
            if layer.tails is not None:
                tallies.setdefault(layer.module, []).extend((layer.tails, counted) for counted in staged.counted)
        for layer, calls in parts.values():
            folded, counted = joined(layer, calls)
            groups.setdefault((layer.module, calls[0].phase), []).extend(folded)
            tallies.setdefault(layer.module, []).extend(counted)
        for module, counted in tallies.items():
            module.tally(counted)  # before the fold: it allocates once, and what fails must leave nothing half-counted
        for (module, phase), batch in groups.items():
            module.fold(batch, phase)
        for staged in self._staged:
            staged.layer.rows += staged.rows
            staged.layer.fresh = False
        self.discard()

    def discard(self) -> None:
        """Forget the batch in flight; the state stays as it was before it."""
        for name in [name for name, layer in self.layers.items() if layer.fresh]:
            del self.layers[name]
        for staged in self._staged:
            staged.layer.begin()
        self._staged.clear()
        self.again = False
        if self.samples is not None:
            self.samples.discard()

    def drop(self, layers: set[str]) -> None:
        """Forget these layers, in the batch in flight too."""
        states = [self.layers.pop(layer) for layer in layers if layer in self.layers]
        self._staged = [staged for staged in self._staged if not any(staged.layer is state for state in states)]
        if self.samples is not None:
            self.samples.drop(layers)

    def records(self) -> dict[str, LayerRecord]:
        """The finished records on the host: two copies back, O(neurons) bytes whatever was observed."""
        groups: dict[Chosen, list[tuple[str, int, Any, Any]]] = {}
        for name, layer in self.layers.items():
            views = groups.setdefault(layer.module, [])
            views.append((name, 0, layer.state, layer.tails))
            if layer.several is not None:
                more = layer.several
                tails = (None, None, None) if layer.of_rows or more.tails is None else (None, *more.tails)
                states = more.parts, more.mean, more.maximum
                views += [(name, 1 + which, *pair) for which, pair in enumerate(zip(states, tails, strict=True))]
        read: dict[tuple[str, int], LayerRecord] = {}
        for module, views in groups.items():
            packed = module.read([state for _, _, state, _ in views])
            kept = [tails for *_, tails in views if tails is not None]
            counted = iter(module.read_tails(kept))
            for (name, which, _, tails), arrays in zip(views, packed, strict=True):
                layer = self.layers[name]
                histograms = None if tails is None else next(counted)
                read[name, which] = LayerRecord.unpacked(layer.layout, plain(layer.dtype), *arrays, tails=histograms)
        return {name: self._record(name, layer, read) for name, layer in self.layers.items()}

    def _record(self, name: str, layer: LayerState, read: dict[tuple[str, int], LayerRecord]) -> LayerRecord:
        record = read[name, 0]
        if layer.several is not None:
            more = Several.record(*(read[name, which] for which in (1, 2, 3)))
            record, more = (record.as_rows(), more.as_rows()) if layer.mixed else (record, more)
            record = record.merge(more)
        return record.as_rows() if layer.mixed else record

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


Batch = list[tuple[Any, Any]]
"""States, and what enters them."""


def joined(layer: LayerState, staged: list[Staged]) -> tuple[Batch, Batch]:
    """What the calls of a layer in one forward add to its states and to its histograms: the layer's `several`."""
    calls = layer.singles or Calls()
    for call in staged:
        if call.partials.per_sample:
            calls.add(*samples_in(call.partials))
    mean, maximum, observed = calls.samples()
    module = layer.module
    several = layer.several = layer.several or Several.of(module, layer.channels, mean, layer.tails is not None)
    folded: Batch = [(several.parts, call.partials) for call in staged]
    counted: Batch = []
    for view, (values, state) in enumerate(((mean, several.mean), (maximum, several.maximum))):
        flat: Any = values[:, :, None]
        seen: Any = observed[:, None]
        if layer.choice.backend in HOST_BACKENDS:
            flat, seen = flat.numpy(), seen.numpy()
        folded.append((state, module.reduce(flat, seen, staged[0].phase)))
        if several.tails is not None:
            counted.append((several.tails[view], module.bins(flat[:, :, 0], seen[:, 0])))
    return folded, counted


def plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
