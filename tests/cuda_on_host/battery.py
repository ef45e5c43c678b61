"""What every runtime of the CUDA kernels must get right: the hard cases in every layout, against the definition.

`layouts` gives a case the forms that reach every kernel; `observed` runs reduce and fold on them; `expected` is the definition.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from kernels.hard_data import Case, hard_cases
from tolerances import assert_record
from torch import Tensor

from naa_fast.kernels import cuda, reference
from naa_fast.kernels.cuda.compile import Runtime
from naa_fast.kernels.cuda.fold import fold_on
from naa_fast.kernels.cuda.reduce import Partials
from naa_fast.records import LayerRecord

DTYPES = ("float32", "float64", "float16", "bfloat16")


def long_cases() -> Iterator[Case]:
    """Shapes that need several tiles a sample or a fold, and short samples in numbers."""
    rng = np.random.default_rng(11)
    yield "several tiles", rng.standard_normal((2, 8, 9001)).astype(np.float32), None, 5
    yield "many tiles of rows", rng.standard_normal((9001, 8, 1)).astype(np.float32), None, 37
    yield "lanes of many rows", rng.standard_normal((2, 40, 210)).astype(np.float32), None, 0
    yield "short samples", rng.standard_normal((300, 16, 5)).astype(np.float32), None, 3
    tiny = rng.standard_normal((80, 8, 1)).astype(np.float32) * np.float32(1e-12)  # fourth powers below float32
    tiny[:, 3] = np.float32(1e-41)  # subnormal: zero to a kernel compiled with -ftz
    yield "tiny", tiny, None, 0
    late = rng.standard_normal((3, 8, 700)).astype(np.float32)
    mask = np.zeros((3, 700), bool)
    mask[0, 650:] = mask[1, :9] = True
    yield "padded", late, mask, 2
    far = rng.standard_normal((6, 8, 40)).astype(np.float32) + 50  # zero is no value of it: what stands for none would show
    mask = np.ones((6, 40), bool)
    mask[2] = False
    yield "far, a sample masked", far, mask, 9


@cache
def cases() -> dict[str, Case]:
    return {case[0]: case for case in (*hard_cases(), *long_cases())}


def layouts(x: Tensor, mask: Tensor | None) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """`x` `[outer, channels, inner]` and its mask in the forms models give: the same values, or more of them."""
    outer, channels, inner = x.shape

    def channels_last(t: Tensor) -> Tensor:
        return t.permute(0, 2, 1).contiguous().permute(0, 2, 1)

    if inner != 1:
        yield "positions fastest", x.contiguous(), mask
    yield "channels fastest", channels_last(x), mask
    # Whole vectors of 16 bytes: eight copies of every neuron (of 40 at most: enough), or of every position.
    yield "whole vectors of channels", channels_last(x[:, :40].repeat(1, 8, 1)), mask
    yield "whole vectors of positions", x[:, :40].repeat(1, 1, 8), None if mask is None else mask.repeat(1, 8)
    held = torch.full((2 * outer + 1, 2 * channels + 1, 3 * inner + 1), torch.nan, dtype=x.dtype, device=x.device)
    strided = held[1::2, 1::2, 1::3][:outer, :channels, :inner]
    strided.copy_(x)
    yield "strided", strided, mask
    shifted = torch.full((x.numel() + 1,), torch.nan, dtype=x.dtype, device=x.device)[1:].view(x.shape)
    shifted.copy_(x)
    yield "unaligned", shifted, mask


def form(case: Case, dtype: str, device: str = "cpu") -> tuple[Tensor, Tensor | None, int]:
    """A case as torch tensors; float16 cannot hold what overflows it, and has Inf there."""
    _, x, mask, phase = case
    return (
        torch.from_numpy(x).to(getattr(torch, dtype)).to(device),
        None if mask is None else torch.from_numpy(mask).to(device),
        phase,
    )


def reduced(x: Tensor, mask: Tensor | None, phase: int, runtime: Runtime, fill: int = 0xFF) -> Partials:
    """`reduce` into a buffer filled with a byte (0xff: NaN everywhere), to see that every element is written."""
    partials = cuda.partials_for(x, mask, runtime)
    partials.buffer.fill_(fill)
    cuda.reduce_into(x, mask, phase, partials.buffer, runtime)
    return partials


def observed(partials: Partials, phase: int, runtime: Runtime) -> LayerRecord:
    """The record of a layer of which these partials are the only batch."""
    state = cuda.empty(partials.channels, partials.buffer)
    fold_on(runtime, [(state, partials)], phase)
    return LayerRecord.unpacked("", "", *cuda.read([state])[0])


def expected(x: Tensor, mask: Tensor | None, phase: int) -> LayerRecord:
    """The definition, on exactly the values the kernels read."""
    state = reference.empty(x.shape[1], np.empty(0))
    values, valid = x.cpu().double().numpy(), None if mask is None else mask.cpu().numpy()
    with np.errstate(all="ignore"):
        reference.fold([(state, reference.reduce(values, valid, phase))], phase)
    return state.record


def assert_right(record: LayerRecord, x: Tensor, mask: Tensor | None, phase: int, where: str) -> None:
    arithmetic = "float64" if x.dtype == torch.float64 else "float32"
    with np.errstate(all="ignore"):
        assert_record(record, expected(x, mask, phase), arithmetic, where)
