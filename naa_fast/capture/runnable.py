"""`require_runnable`: whether what a person hands over is a model that can be hooked and run, and if not, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from naa_fast.errors import UsageError

EXPORT = "torch.export.save(program, 'model.pt2'), and name that file: --model model.pt2 (naa_fast.inputs.models.load_model)"
EAGER = "hand in the eager model, with the same weights (model.load_state_dict(scripted.state_dict())), or a .pt2 of torch.export"
SHOWN = 3


def require_runnable(model: Any) -> None:
    """Raise UsageError unless `model` is a module that hooks can be put on and whose tensors hold values.

    Torch's own exceptions for these come late and name neither the cause nor a way.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"the model is {words(model)}", "expected a torch.nn.Module", advice(model))
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError("the model is a TorchScript program", "no hook sees its layers: they are compiled into one", EAGER)
    for name, module in model.named_modules():
        where = f"its part {name!r} is" if name else "the model is"
        if isinstance(module, torch.fx.GraphModule) and "train" in vars(module):  # torch.export puts in one that raises
            raise UsageError(
                f"{where} a program of torch.export as a module",
                "it has no layers to hook, and no eval mode",
                f"rebuild its layers with torch.export.unflatten(program), or {EXPORT}",
            )
    lazy = [name for name, x in tensors(model) if is_lazy(x)]
    if lazy:
        raise UsageError(
            f"the model is not built to the end: {len(lazy)} of its tensors take their shape from the first batch",
            f"lazy: {listed(lazy)}",
            "run one batch through it, or load its weights: model(batch)",
        )
    empty = [name for name, x in tensors(model) if x.is_meta]
    if empty:
        raise UsageError(
            f"the model is on the meta device: {len(empty)} of its tensors have a shape and no values",
            f"without values: {listed(empty)}",
            "load its weights (--weights), or build it on a device: model.to_empty(device='cpu'), then load_state_dict",
        )


def tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by name, but for those that accelerate keeps elsewhere between two forwards."""
    return [
        (f"{name}.{label}" if name else label, x)
        for name, module in model.named_modules()
        if not hasattr(module, "_hf_hook")
        for label, x in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    ]


def words(model: Any) -> str:
    """What something that is no model is."""
    if isinstance(model, type):
        return f"a class, {model.__name__}"
    if isinstance(model, str | Path):
        return f"the name {str(model)!r}"
    if is_state_dict(model):
        return "a state dict: weights without their model"
    return f"a {type(model).__name__}"


def advice(model: Any) -> str:
    """What to do about something that is no model."""
    if isinstance(model, type):
        return f"make one: {model.__name__}(...)"
    if isinstance(model, str | Path):
        return "load it: naa_fast.inputs.models.load_model(spec, {}), or --model on the command line"
    if is_state_dict(model):
        return "build the model and load them: model.load_state_dict(...), or --model FILE.py:FUNCTION --weights FILE"
    if isinstance(model, torch.export.ExportedProgram):
        return f"hand in torch.export.unflatten(program), or {EXPORT}"
    if type(model).__module__.partition(".")[0] in ("keras", "tf_keras"):
        return "naa_fast.capture.keras.as_module(model) makes one of a functional Keras 3 model"
    inner = next((name for name in ("model", "module", "module_") if isinstance(getattr(model, name, None), nn.Module)), None)
    if inner is not None:
        return f"its .{inner} is one: hand in that"
    if isinstance(model, tuple | list) and model and isinstance(model[0], nn.Module):
        return "its first item is one: hand in that"
    if callable(model):
        return "call it, if it builds the model; else wrap the function in a module whose parts can be hooked"
    return "hand in the model itself"


def is_state_dict(model: Any) -> bool:
    """Whether something is names with tensors."""
    return isinstance(model, Mapping) and bool(model) and all(isinstance(value, Tensor) for value in model.values())


def listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
