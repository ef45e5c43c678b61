"""`Frame`: one batch's samples, and how a layer's rows belong to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from naa_fast.errors import CaptureError
from naa_fast.records import ROWS, rows_layout

Shorten = Callable[[Tensor, int], Tensor | None]
"""A mask `[samples, positions]` and how many positions a layer has -> the mask of these, or None."""


@dataclass(frozen=True)
class Decoder:
    """The `mask` of a decoder's own positions, bool `[samples, positions]`, and the `calls` (layer, number in the forward) that
    it is of.
    """

    mask: Tensor
    calls: frozenset[tuple[str, int]]


class Frame:
    """A batch of `size` samples. `mask` (bool `[size]` or `[size, positions]`): False is not observed; `decoder`: where another
    mask counts; `shorten` turns a mask into one of so many positions, where the model says how.
    """

    def __init__(
        self, size: int, mask: Tensor | None = None, decoder: Decoder | None = None, shorten: Shorten | None = None
    ) -> None:
        self.size = size
        self.mask = mask
        self.decoder = decoder
        self.shorten = shorten
        self._called: dict[str, int] = {}
        self._masks: dict[tuple[torch.device, int, bool], Tensor] = {}

    def by_sample(self, x: Tensor, layout: str, as_rows: bool = False) -> tuple[Tensor, str]:
        """Rows of `x` `[outer, channels, inner]` that are equal parts of the samples (windows, tokens) become their positions.

        A view for channels-last rows. Rows that cannot be told apart by sample stay rows, which the layout says (it may say so
        already; `as_rows`: they could not at another time): they are no independent observations, so chance is not calibrated
        on them.
        """
        outer, channels, inner = x.shape
        if as_rows or layout.endswith(ROWS):
            return x, rows_layout(layout)
        if outer == self.size or not self.size:
            return x, layout
        if outer % self.size or not outer:
            return x, rows_layout(layout)
        each = outer // self.size
        parted = x.reshape(self.size, each, channels, inner)  # a view: one axis cut in two
        return parted.transpose(1, 2).reshape(self.size, channels, each * inner), layout

    def mask_for(self, layer: str, x: Tensor, layout: str = "") -> Tensor | None:
        """The batch's mask as bool `[outer, inner]` on the device of `x`, or None; to be asked once a call of a layer."""
        whole, decodes = self.mask, False
        if self.decoder is not None:
            call = self._called[layer] = self._called.get(layer, -1) + 1
            decodes = (layer, call) in self.decoder.calls
            whole = self.decoder.mask if decodes else whole
        if whole is None:
            return None
        outer, _, inner = x.shape
        if outer != self.size or layout.endswith(ROWS):
            raise CaptureError(
                f"layer {layer} gives {outer} rows for a batch of {self.size} samples",
                "a mask cannot be laid on rows that are not samples",
                "leave the layer out, or measure without a mask",
            )
        key = (x.device, inner, decodes)
        if key not in self._masks:
            mask = whole if whole.ndim == 2 else whole[:, None].expand(outer, inner)
            if mask.shape[1] != inner and inner == 1:
                mask = mask.any(1, keepdim=True)  # pooled: a sample counts if any of its positions does
            if mask.shape[1] != inner and self.shorten is not None:
                shorter = self.shorten(mask, inner)
                mask = mask if shorter is None else shorter
            if mask.shape[1] != inner:
                raise CaptureError(
                    f"layer {layer} has {inner} positions a sample, the mask {mask.shape[1]}",
                    "expected a mask of the layer's own positions",
                    "leave the layer out, or measure without a mask",
                )
            self._masks[key] = mask.to(x.device, non_blocking=True).contiguous()
        return self._masks[key]
