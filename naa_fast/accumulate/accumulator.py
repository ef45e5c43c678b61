"""`Accumulator`: per-layer state on the layer's own device, added to one whole batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from naa_fast.errors import CaptureError
from naa_fast.ops import Choice, choose
from naa_fast.records import FOLD_BLOCK, FOLDS, ROWS, LayerRecord

HOST_BACKENDS = ("cpu", "reference")


@dataclass
class LayerState:
    """A layer's running state. `rows` observed so far decide the fold of a layer whose rows are not samples."""

    choice: Choice
    state: Any
    channels: int
    layout: str
    dtype: str
    rows: int = 0


@dataclass(frozen=True)
class Staged:
    """Partials of one call of a layer, waiting for its forward to succeed."""

    layer: LayerState
    partials: Any
    phase: int
    rows: int


class Accumulator:
    """Observes layers batch by batch; a batch counts wholly (`commit`) or not at all (`discard`).

    Device memory: 624 bytes a neuron of state, and the staged partials of one batch. On a CUDA device nothing here waits for the
    device or copies from it; only `records` does, once.
    """

    def __init__(self, backend: str = "auto") -> None:
        self.backend = backend
        self.layers: dict[str, LayerState] = {}
        self._staged: list[Staged] = []
        self._size = 0
        self._start = 0
        self._mask: Tensor | None = None
        self._masks: dict[tuple[torch.device, int], Tensor] = {}

    def begin(self, size: int, start: int, mask: Tensor | None = None) -> None:
        """Announce a batch of `size` samples, the first with global index `start`.

        `mask` (bool `[size]` or `[size, positions]`): False is not observed.
        """
        self.discard()
        self._size, self._start, self._mask = size, start, mask
        self._masks.clear()

    def observe(self, layer: str, x: Tensor, layout: str) -> None:
        """Reduce one layer's output `x` `[outer, channels, inner]`; its one read. Nothing counts before `commit`."""
        x, layout = self._by_sample(layer, x, layout)
        state = self.layers.get(layer)
        dtype = str(x.dtype).removeprefix("torch.")
        if state is None:
            choice = choose("reduce", x, self.backend)
            state = LayerState(choice, choice.module.empty(x.shape[1], like=x), x.shape[1], layout, dtype)
            self.layers[layer] = state
        for what, before, now in (
            ("neurons", state.channels, x.shape[1]),
            ("layout", state.layout, layout),
            ("dtype", state.dtype, dtype),
        ):
            if before != now:
                raise CaptureError(f"layer {layer} changed between batches", f"{what}: {before} / {now}", "leave the layer out")
        outer = x.shape[0]
        first = self._start if outer == self._size else state.rows + self._staged_rows(state)
        phase = first % (FOLDS * FOLD_BLOCK)
        mask = self._mask_for(layer, x)
        if state.choice.backend in HOST_BACKENDS:
            partials = state.choice.module.reduce(host_array(x), None if mask is None else mask.numpy(), phase)
        else:
            partials = state.choice.module.reduce(x, mask, phase)
        self._staged.append(Staged(state, partials, phase, outer))

    def _by_sample(self, layer: str, x: Tensor, layout: str) -> tuple[Tensor, str]:
        """Rows that are equal parts of the samples (windows, flattened tokens) become positions of their sample.

        A view for channels-last rows. Rows that cannot be told apart by sample stay rows, which the layout says: they are no
        independent observations, so chance is not calibrated on them.
        """
        outer, channels, inner = x.shape
        if outer == self._size or not self._size:
            return x, layout
        known = self.layers.get(layer)
        if outer % self._size or (known is not None and known.layout.endswith(ROWS)):
            return x, f"{layout}, {ROWS}"
        each = outer // self._size
        parted = x.reshape(self._size, each, channels, inner)  # a view: one axis cut in two
        return parted.transpose(1, 2).reshape(self._size, channels, each * inner), layout

    def commit(self) -> None:
        """Add the batch to the state of every layer: one fold per backend and device."""
        groups: dict[tuple[Any, int], list[tuple[Any, Any]]] = {}
        for staged in self._staged:
            groups.setdefault((staged.layer.choice.module, staged.phase), []).append((staged.layer.state, staged.partials))
        for (module, phase), batch in groups.items():
            module.fold(batch, phase)
        for staged in self._staged:
            staged.layer.rows += staged.rows
        self._staged.clear()

    def discard(self) -> None:
        """Forget the batch in flight; the state stays as it was before it."""
        self._staged.clear()

    def records(self) -> dict[str, LayerRecord]:
        """The finished records on the host: the one copy back, O(neurons) bytes whatever was observed."""
        groups: dict[Any, list[str]] = {}
        for name, layer in self.layers.items():
            groups.setdefault(layer.choice.module, []).append(name)
        packed: dict[str, Any] = {}
        for module, names in groups.items():
            packed.update(zip(names, module.read([self.layers[name].state for name in names]), strict=True))
        return {name: LayerRecord.unpacked(layer.layout, layer.dtype, *packed[name]) for name, layer in self.layers.items()}

    def backends(self) -> list[str]:
        """The distinct choices made and why, in words."""
        return sorted({str(layer.choice) for layer in self.layers.values()})

    def _staged_rows(self, state: LayerState) -> int:
        return sum(staged.rows for staged in self._staged if staged.layer is state)

    def _mask_for(self, layer: str, x: Tensor) -> Tensor | None:
        """The batch's mask as bool `[outer, inner]` on the device of `x`, or None."""
        if self._mask is None:
            return None
        outer, _, inner = x.shape
        if outer != self._size:
            raise CaptureError(
                f"layer {layer} gives {outer} rows for a batch of {self._size} samples",
                "a mask cannot be laid on rows that are not samples",
                "leave the layer out, or measure without a mask",
            )
        key = (x.device, inner)
        if key not in self._masks:
            mask = self._mask if self._mask.ndim == 2 else self._mask[:, None].expand(outer, inner)
            if mask.shape[1] != inner and inner == 1:
                mask = mask.any(1, keepdim=True)  # pooled: a sample counts if any of its positions does
            if mask.shape[1] != inner:
                raise CaptureError(
                    f"layer {layer} has {inner} positions a sample, the mask {mask.shape[1]}",
                    "expected a mask of the layer's own positions",
                    "leave the layer out, or measure without a mask",
                )
            self._masks[key] = mask.to(x.device, non_blocking=True).contiguous()
        return self._masks[key]


def host_array(x: Tensor) -> Any:
    """A CPU tensor as a NumPy array of the same memory; bfloat16 as its bits in uint16, which NumPy has no type for."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()
