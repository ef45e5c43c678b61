"""Devices that there are not: tensors that lie on the host, say that they lie elsewhere, and go nowhere by themselves.

As on real devices an operation takes tensors of one device (numbers without axes apart), and `numpy` takes none of them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as tree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "pretended"


class Placed(Tensor):
    """`held` on the host, as a tensor of `device`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Placed:
        like: dict[str, Any] = {
            "dtype": held.dtype,
            "strides": held.stride(),
            "storage_offset": held.storage_offset(),
            "device": device,
        }
        made: Placed = Tensor._make_wrapper_subclass(cls, held.shape, **like)
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"cannot take a tensor of {self.device} to the host by itself")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __repr__(self, *_: Any, **__: Any) -> str:  # type: ignore[override]
        return f"Placed({self.held}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:  # type: ignore[override]
        return placed(operation, arguments, keywords or {}, Counter())


class Made(TorchFunctionMode):
    """`torch.tensor` makes its tensor on the host, from where it is moved: it asks no dispatcher."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = dict(keywords or {})
        if function is torch.tensor and (device := keywords.pop("device", None)) is not None:
            return function(*arguments, **keywords).to(device)
        return function(*arguments, **keywords)


class Devices(TorchDispatchMode):
    """Inside, tensors can be made on NAME:0, NAME:1, ...; `home` counts the bytes that came to the host from each."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.home: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        return placed(operation, arguments, keywords or {}, self.home)


def placed(operation: Any, arguments: Any, keywords: dict[str, Any], home: Counter[str]) -> Any:
    """The operation on what is held; its result lies where its tensors do, or where it was asked to."""
    given = [one for one in tree.tree_leaves((arguments, keywords)) if isinstance(one, Tensor)]
    name = operation.overloadpacket.__name__
    asked = keywords.get("device")
    where = {one.device for one in given if one.ndim or isinstance(one, Placed)}
    moves = name in ("_to_copy", "copy_")
    if len(where) > 1 and not moves and len({one.device for one in given if one.ndim}) > 1:
        raise RuntimeError(f"{name} of tensors on {' and '.join(sorted(map(str, where)))}")
    held_arguments, held_keywords = tree.tree_map(lambda one: one.held if isinstance(one, Placed) else one, (arguments, keywords))
    if asked is not None and "device" in held_keywords:
        held_keywords["device"] = torch.device("cpu")
    if held_keywords.get("pin_memory"):
        held_keywords["pin_memory"] = False
    out = operation(*held_arguments, **held_keywords)
    target = next(iter(sorted(where, key=lambda one: one.type == "cpu")), torch.device("cpu"))
    if asked is not None:
        target = torch.device(asked)
    if name == "copy_":
        return arguments[0]
    if moves and target.type == "cpu" and given[0].device.type != "cpu":
        home[str(given[0].device)] += out.nbytes
        return out.clone() if any(out is one for one in tree.tree_leaves(held_arguments)) else out
    if name == "_local_scalar_dense" and given[0].device.type != "cpu":
        home[str(given[0].device)] += given[0].element_size()
    if name.endswith("_") and not name.endswith("__") and given:  # in place: the same tensor
        return arguments[0]
    if target.type == "cpu":
        return out
    index = 0 if target.index is None else target.index
    there = torch.device(target.type, index)
    return tree.tree_map(lambda one: Placed(one, there) if isinstance(one, Tensor) else one, out)


def on(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device that there is not."""
    return Placed(x.detach(), device)


def registered() -> tuple[torch.device, torch.device]:
    """Two devices, which this process knows from now on."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    return torch.device(NAME, 0), torch.device(NAME, 1)
