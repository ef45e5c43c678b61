"""The last token of every sample, wherever the padding is."""

from __future__ import annotations

import torch
from torch import Tensor

from naa_fast.accumulate.frame import Frame
from naa_fast.errors import CaptureError
from naa_fast.records import ROWS


class LastToken:
    """Of a batch of `size` samples: where each one's last observed position is.

    `mask` (bool `[size]` or `[size, positions]`): False is not observed. Without positions in it, the last one is meant.
    """

    def __init__(self, size: int, mask: Tensor | None) -> None:
        self.size = size
        self.positions = mask.shape[1] if mask is not None and mask.ndim == 2 else None
        self._index: dict[torch.device, Tensor] = {}
        if mask is not None and mask.ndim == 2:
            order = torch.arange(mask.shape[1], device=mask.device)
            self._index[mask.device] = torch.where(mask, order, 0).amax(1)

    def of(self, label: str, x: Tensor, layout: str) -> Tensor:
        """`x` `[outer, channels, inner]` at those positions: `[size, channels, 1]`, a copy. No host sync.

        Raises CaptureError where rows belong to no sample in particular, or the positions of `x` are not those of the mask.
        """
        parted, words = Frame(self.size).by_sample(x, layout)
        if words.endswith(ROWS):
            raise CaptureError(
                f"layer {label} gives {x.shape[0]} rows for a batch of {self.size} samples",
                "a last token cannot be found among rows that are not samples",
                "name a layer whose rows are samples or tokens, for example the block around it",
            )
        inner = parted.shape[2]
        if inner == 1:
            return parted
        if self.positions is None:
            return parted[:, :, -1:].contiguous()
        if inner != self.positions:
            raise CaptureError(
                f"layer {label} has {inner} positions a sample, the mask {self.positions}",
                "the last observed token cannot be told",
                "name a layer that keeps the tokens of its input",
            )
        if parted.device not in self._index:
            self._index[parted.device] = next(iter(self._index.values())).to(parted.device, non_blocking=True)
        index = self._index[parted.device][:, None, None].expand(self.size, parted.shape[1], 1)
        return parted.gather(2, index)
