"""`applied`: a model whose layers' outputs go through the changes of a repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from naa_fast.capture.fast_path import fast_path_off
from naa_fast.capture.hooks import is_compiled
from naa_fast.capture.selection import unwrapped
from naa_fast.detect.change import Ablate, Change, Clip, Zero
from naa_fast.detect.repair import Repair
from naa_fast.errors import InputError, UsageError


@contextmanager
def applied(model: nn.Module, repair: Repair | Sequence[Change]) -> Iterator[nn.Module]:
    """Inside, the model is repaired: forward hooks, gone at the end also when something raises. Weights are not touched.

    >>> from naa_fast.detect.change import Zero
    >>> silent = Zero("1", 1, "mine", np.arange(8))
    >>> with naa_fast.repair.applied(model, [silent]):
    ...     torch.equal(model(clean), model[2].bias.expand(500, 3))
    True

    Cost: one pass over each changed layer's output; a compiled model is compiled again, inside and after. torch's fused attention
    is off inside, since hooks break it.

    Raises:
        UsageError: the model has no layer of that name. InputError: the layer's output is not what the repair was made for.
    """
    changes = repair.changes if isinstance(repair, Repair) else repair
    modules = dict(unwrapped(model).named_modules())
    for change in changes:
        if change.layer not in modules:
            raise UsageError(f"the model has no layer {change.layer}", "the repair is of another model")
    compiled = is_compiled(model)
    if compiled:
        torch._dynamo.reset()
    hooks = [(modules[change.layer], hook_of(change)) for change in changes]  # all, before one is on the model
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        with fast_path_off():
            yield model
    finally:
        for handle in handles:
            handle.remove()
        if compiled:
            torch._dynamo.reset()


def hook_of(change: Change) -> Callable[[nn.Module, Any, Any], Any]:
    rows = rows_of(change)

    def through(output: Tensor) -> Tensor:
        if not -output.ndim <= change.axis < output.ndim:
            raise InputError(f"layer {change.layer} has {output.ndim} axes", "the repair is of another model")
        moved = output.movedim(change.axis, -1)
        if moved.shape[-1] != channels_of(change, moved.shape[-1]):
            raise InputError(f"layer {change.layer} has {moved.shape[-1]} neurons", "the repair is of another model")
        if not output.numel():
            return output
        return rows(moved.reshape(-1, moved.shape[-1])).reshape(moved.shape).movedim(-1, change.axis)

    def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
        return replaced(output, through)

    return hook


def channels_of(change: Change, neurons: int) -> int:
    """How many neurons the change is for, as far as it tells: not the number found if they are too few."""
    if isinstance(change, Ablate):
        return len(change.gate)
    return neurons if not len(change.neurons) or int(change.neurons.max()) < neurons else -1


def tensor_of(output: Any) -> Tensor | None:
    """The tensor that is changed: the output itself, or the first floating-point one of a tuple or list. Any shape `[...]`."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() and output.ndim > 1 else None
    if isinstance(output, tuple | list):
        return next((part for part in output if isinstance(part, Tensor) and part.is_floating_point() and part.ndim > 1), None)
    return None


def replaced(output: Any, through: Callable[[Tensor], Tensor]) -> Any:
    """The output with its tensor put `through`; what holds none stays as it is. Of any shape `[...]`, which `through` keeps."""
    tensor = tensor_of(output)
    if tensor is None or isinstance(output, Tensor):
        return output if tensor is None else through(tensor)
    parts = [through(part) if part is tensor else part for part in output]
    if isinstance(output, tuple) and hasattr(output, "_make"):
        return output._make(parts)
    return type(output)(parts)


def rows_of(change: Change) -> Callable[[Tensor], Tensor]:
    """The change as a function of rows `[rows, neurons]`."""
    moved: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}

    def tensors(x: Tensor) -> dict[str, Tensor]:
        key = x.device, x.dtype
        if key not in moved:
            moved[key] = {
                name: torch.from_numpy(array).to(x.device, torch.int64 if name == "neurons" else x.dtype)
                for name, array in change.arrays().items()
            }
        return moved[key]

    def zero(x: Tensor) -> Tensor:
        return x.index_fill(1, tensors(x)["neurons"], 0)

    def clip(x: Tensor) -> Tensor:
        arrays = tensors(x)
        chosen = arrays["neurons"]
        return x.index_copy(1, chosen, x[:, chosen].clamp(arrays["low"], arrays["high"]))

    def ablate(x: Tensor, limit: float) -> Tensor:
        whole = x.to(torch.promote_types(x.dtype, torch.float32))  # sums over neurons lose the limit in half precision
        arrays = tensors(whole)
        beyond = (whole @ arrays["gate"] > limit)[:, None]
        return (whole - torch.where(beyond, (whole @ arrays["along"].T - arrays["centres"]) @ arrays["pushes"], 0)).to(x.dtype)

    try:
        change.check()
    except (ValueError, TypeError) as error:
        raise InputError(f"no repair of layer {change.layer}", str(error)) from None
    match change:
        case Zero():
            return zero
        case Clip():
            return clip
        case Ablate(limit=limit):
            return partial(ablate, limit=limit)
