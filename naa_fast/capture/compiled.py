"""The operator by which compiled models hand layers on, since their graphs run no hook: `torch.ops.naa_fast.observe`."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import torch
from torch import Tensor

from naa_fast.errors import CaptureError

WITNESS = {1: -1, -1: -2}
"""What a compiled witness passes for a layer's number: the code of its channel axis."""
AXES = {code: axis for axis, code in WITNESS.items()}

slots = itertools.count()
captures: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""`Capture`s of compiled models, by the number their graphs hold."""

# define/impl costs about 4 us a call where custom_op costs 20. The ticket is an input of the graph that the operator claims to
# write: without it the compiler would see a call with no effect and drop it.
_library = torch.library.Library("naa_fast", "DEF")
_library.define("observe(Tensor x, Tensor(a!) ticket, int slot, int layer) -> ()")


def _observe(x: Tensor, ticket: Tensor, slot: int, layer: int) -> None:
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        raise CaptureError(
            "the model runs as a CUDA graph", "a replay does not run hooks", "compile without mode='reduce-overhead' for the scan"
        )
    capture = captures.get(slot)
    if capture is None:
        return
    if layer < 0:
        capture._witnesses[x.shape] = AXES[layer]
    else:
        capture._receive(layer, x, picked=True)


_library.impl("observe", _observe, "CompositeExplicitAutograd")
_library._register_fake("observe", lambda x, ticket, slot, layer: None)
