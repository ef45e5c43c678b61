"""Run a model with a repair that no weights can hold. This file is whole: it needs torch and safetensors, not naa-fast.

    from naa_repair import repaired
    model = repaired(model, "repair.safetensors")

Copied by `naa-fast repair`. The layers named in the file get a forward hook that changes their output, row by row, for as long
as the model lives; the weights stay as they are. torch.compile and torch.export take hooks that were there before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn


def repaired(model: nn.Module, path: str | Path) -> nn.Module:
    """The same model, in eval mode, its hooks on. Raises KeyError where a layer is missing: the repair is of another model."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["repair"])["changes"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    modules = dict(model.named_modules())
    changes = []
    for number, change in enumerate(about):
        arrays = {name.partition(".")[2]: array for name, array in tensors.items() if name.partition(".")[0] == str(number)}
        changes.append((modules[change["layer"]], Changed({**change, **arrays})))
    for module, change in changes:
        module.register_forward_hook(change)
    torch.backends.mha.set_fastpath_enabled(False)  # fused attention does not call hooks
    return model.eval()


class Changed:
    """A hook: zero neurons, clip them, or move rows beyond a limit back along directions."""

    def __init__(self, change: dict[str, Any]) -> None:
        self.change = change

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return self.rows(output) if changeable(output) else output
        if not isinstance(output, tuple | list):
            return output
        first = next((i for i, part in enumerate(output) if isinstance(part, Tensor) and changeable(part)), None)
        parts = [self.rows(part) if i == first else part for i, part in enumerate(output)]
        return output._make(parts) if hasattr(output, "_make") else type(output)(parts)

    def rows(self, output: Tensor) -> Tensor:
        """The layer's output `[...]`, changed."""
        moved = output.movedim(self.change["axis"], -1)
        changed = self.of(moved.reshape(-1, moved.shape[-1]))
        return changed.reshape(moved.shape).movedim(-1, self.change["axis"])

    def of(self, x: Tensor) -> Tensor:
        """Rows `[rows, neurons]`."""
        chosen = self.change["neurons"].to(x.device)
        if self.change["method"] == "zero":
            return x.index_fill(1, chosen, 0)
        if self.change["method"] == "clip":
            low, high = (self.change[name].to(x) for name in ("low", "high"))
            return x.index_copy(1, chosen, x[:, chosen].clamp(low, high))
        whole = x.to(torch.promote_types(x.dtype, torch.float32))  # sums over neurons lose the limit in half precision
        gate, along, centres, pushes = (self.change[name].to(whole) for name in ("gate", "along", "centres", "pushes"))
        beyond = (whole @ gate > self.change["limit"])[:, None]
        return (whole - torch.where(beyond, (whole @ along.T - centres) @ pushes, 0)).to(x.dtype)


def changeable(output: Tensor) -> bool:
    """Whether an output `[...]` has neurons."""
    return output.is_floating_point() and output.ndim > 1 and output.numel() > 0
