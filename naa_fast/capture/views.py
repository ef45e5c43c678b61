"""A layer's output, seen as `[outer, channels, inner]` without copying it.

`outer` counts samples (or rows), `channels` neurons, `inner` the positions of one sample: pixels, tokens, frames.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from naa_fast.capture.outputs import members
from naa_fast.errors import CaptureError
from naa_fast.records import Axes

CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
CHANNELS_LAST = (
    nn.Linear,
    nn.Bilinear,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.MultiheadAttention,
)


class Layout(Axes):
    """The axes of an output, and how to see it by them."""

    def view(self, output: Tensor) -> Tensor:
        """`output` as `[outer, channels, inner]`: a view wherever the strides allow one, and they do for every dense output,
        contiguous or channels_last. Only positions that lie in memory with gaps between them are gathered.
        """
        if output.ndim == 1:
            return output[:, None, None]
        if output.ndim == 2 and self.samples == 0 and self.axis in (1, -1):  # the most common: 8 us less than the general way
            return output.unsqueeze(2)
        moved = output.movedim((self.samples, self.axis), (0, 1))
        if moved.ndim == 2:
            return moved[:, :, None]
        if mergeable(moved.shape[2:], moved.stride()[2:]):
            inner = moved.shape[2:].numel()
            step = next((s for n, s in zip(reversed(moved.shape), reversed(moved.stride()), strict=True) if n != 1), 1)
            return moved.as_strided((*moved.shape[:2], inner), (*moved.stride()[:2], step if inner > 1 else 1))
        return moved.flatten(2)


def mergeable(shape: torch.Size, stride: tuple[int, ...]) -> bool:
    """Whether axes of this shape and stride can be walked with one step."""
    axes = [(n, s) for n, s in zip(shape, stride, strict=True) if n != 1]
    return all(n != 0 for n, _ in axes) and all(outer == n * inner for (_, outer), (n, inner) in pairwise(axes))


def layout_of(module: nn.Module, output: Tensor, witnesses: dict[torch.Size, int], size: int) -> Layout:
    """How to read the output `[...]` of `module`.

    Convolutions, batch norms and pools keep neurons on axis 1, linear layers, layer norms and recurrences on the last axis. An
    activation or block tells nothing of itself: it takes the axis of the layer before it whose output had the same shape
    (`witnesses`), of sequences else of the latest that had as many neurons, else axis 1 for images (4 axes or more) and the last
    axis for sequences. Samples are on axis 0, except where a module says `batch_first=False`, or only axis 1 has the batch's
    `size` and holds no neurons.
    """
    ndim = output.ndim
    if ndim <= 2:
        return Layout(ndim - 1, ndim)
    axis = known_axis(module)
    if axis is None:
        axis = witnesses.get(output.shape)
    if axis is None and ndim == 3:
        axis = axis_like(output, witnesses)
    if axis is None:
        axis = 1 if ndim >= 4 else -1
    axis %= ndim
    first = batch_first(module)
    moved = first is False or (first is None and output.shape[0] != size and output.shape[1] == size)
    return Layout(axis, ndim, 1 if moved and axis != 1 else 0)


def axis_like(output: Tensor, witnesses: dict[torch.Size, int]) -> int | None:
    """The axis on which the latest layer whose axis is known has as many neurons as `output`: what pools, cuts or stretches a
    sequence in between changes its length and no neuron. None where no layer has. `[...]` of any number of axes.
    """
    for shape, axis in reversed(witnesses.items()):
        if len(shape) == output.ndim and shape[0] == output.shape[0] and shape[axis] == output.shape[axis]:
            return axis
    return None


def batch_first(module: nn.Module) -> bool | None:
    """What a recurrence, attention or transformer layer of torch says of its own order; None if it says nothing."""
    owner = getattr(module, "self_attn", module)
    flag = getattr(owner, "batch_first", None)
    return flag if isinstance(flag, bool) else None


def type_of(module: nn.Module) -> type[nn.Module]:
    """Its class; for a part of an exported program that of the module it was exported from (see inputs/exported.py)."""
    told = getattr(module, "exported_type", None)
    return told if isinstance(told, type) else type(module)


def known_axis(module: nn.Module) -> int | None:
    """The channel axis a module's type fixes, or None."""
    kind = type_of(module)
    if issubclass(kind, CHANNELS_FIRST) or is_image_norm(module):
        return 1
    if (issubclass(kind, nn.GLU) and getattr(module, "dim", -1) == 1) or (
        issubclass(kind, nn.PReLU) and getattr(module, "num_parameters", 1) > 1
    ):
        return 1  # its channels are on axis 1, as torch defines them
    return -1 if issubclass(kind, CHANNELS_LAST) else None


def is_image_norm(module: nn.Module) -> bool:
    """Whether a layer norm turns its images round to normalise axis 1: timm's and torchvision's say so in the name of the class,
    those of transformers by `data_format`.
    """
    kind = type_of(module)
    turned = "2d" in kind.__name__ or getattr(module, "data_format", None) == "channels_first"
    return issubclass(kind, nn.LayerNorm | nn.RMSNorm) and turned


def readable(name: str, output: object) -> Tensor:
    """`output` if neurons can be read from it, quantised values as the numbers they stand for; raises CaptureError naming the
    layer otherwise.
    """
    if not isinstance(output, Tensor):
        raise CaptureError(
            f"layer {name} does not give a tensor",
            f"found {type(output).__name__}",
            f"pick an item with '{name}:0' or '{name}:key'" if members(output) else f"leave it out with --exclude {name}",
        )
    if output.is_quantized:
        return output.dequantize()
    kind = "nested " if output.is_nested else "" if output.layout == torch.strided else "sparse "
    if kind or output.is_meta or not output.is_floating_point() or output.ndim == 0:
        shape = "" if output.is_nested else f" {list(output.shape)}"
        raise CaptureError(
            f"layer {name} gives no activations",
            f"found a {kind}tensor of {str(output.dtype).removeprefix('torch.')}{shape}" + " on meta" * output.is_meta,
            f"expected a dense floating-point tensor with at least one axis; leave it out with --exclude {name}",
        )
    return output
