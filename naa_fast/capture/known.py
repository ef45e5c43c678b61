"""`Known`: how a layer's output was read, so that one of the same form is read the same way without asking again."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Known(NamedTuple):
    """The form of an output, and of its view `[outer, channels, inner]`, which lies in the same memory."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    name: str
    words: str
    size: torch.Size
    steps: tuple[int, ...]

    @classmethod
    def of(cls, output: Any, x: Tensor, name: str, words: str) -> Known | None:
        """None where the view is no mere other look at the output's own memory. `x` `[outer, channels, inner]`: the view."""
        if type(output) is not Tensor or output.layout is not torch.strided or output.dtype != x.dtype:
            return None
        try:
            if output.data_ptr() != x.data_ptr():
                return None
        except RuntimeError:  # a tensor of a transform (vmap) has no memory of its own
            return None
        return cls(output.shape, output.stride(), output.dtype, name, words, x.shape, x.stride())

    def view(self, output: Any) -> Tensor | None:
        """The view `[outer, channels, inner]` of an output of the same form; None of any other."""
        if (
            type(output) is not Tensor
            or output.shape != self.shape
            or output.dtype != self.dtype
            or output.stride() != self.stride
        ):
            return None
        return (output.detach() if output.requires_grad else output).as_strided(self.size, self.steps)
