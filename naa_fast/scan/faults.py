"""Where an exception rose: in which layer of the model, or in this package."""

from __future__ import annotations

from types import TracebackType

from torch import nn


def raising_layer(model: nn.Module, trace: TracebackType | None) -> str:
    """The innermost module of `model` on the traceback: no bookkeeping while all goes well."""
    names = {id(module): name for name, module in model.named_modules()}
    layer = "(the model itself)"
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        layer = names.get(id(owner), layer) or layer
        trace = trace.tb_next
    return layer


def rose_in_this_package(trace: TracebackType | None) -> bool:
    """Whether the innermost frame is ours: in a hook or a kernel, not in the model."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("naa_fast.")
