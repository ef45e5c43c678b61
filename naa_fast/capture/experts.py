"""Mixtures of experts: which modules hold the experts, and what they are given to do.

Libraries fuse all experts of a layer into one module with three-dimensional weights. Rows inside it are sorted by expert, so
nothing there belongs to a sample; what the module exposes is its routing: which experts each token goes to, with which weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from naa_fast.errors import CaptureError

ROUTING = "routing"


def is_fused(module: nn.Module) -> bool:
    """Whether a module holds the weights of several experts itself."""
    stacked = any(parameter.ndim == 3 for parameter in module.parameters(recurse=False))
    return stacked and type(module).__name__.endswith("Experts")


def holder_of(modules: dict[str, nn.Module], name: str) -> str | None:
    """The experts a module is inside of: the name of the fused module, or of a list called `experts`; None outside of any."""
    place = name
    while place:
        place = place.rpartition(".")[0]
        module = modules.get(place)
        listed = isinstance(module, nn.ModuleList | nn.ModuleDict) and place.rpartition(".")[2] == "experts"
        if place and module is not None and (listed or is_fused(module)):
            return place
    return None


def routing(name: str, module: nn.Module, given: tuple[Any, ...]) -> Tensor:
    """`[tokens, experts]`: the weight of each expert for each token, 0 where the token is not routed to it.

    Of `given`, what the fused module `name` is called with, the first whole-number matrix says the experts and the
    floating-point one of its shape the weights. A number beyond the last expert (expert parallelism: it lives elsewhere) is
    dropped.

    Raises CaptureError if the module is not told its routing.
    """
    tensors = [value for value in given if isinstance(value, Tensor) and value.ndim == 2]
    index = next((x for x in tensors if not x.is_floating_point() and x.dtype != torch.bool), None)
    weights = None if index is None else next((x for x in tensors[1:] if x.is_floating_point() and x.shape == index.shape), None)
    if index is None or weights is None:
        raise CaptureError(
            f"the experts in {name} are not told their routing",
            "found " + (", ".join(f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in tensors) or "no matrix"),
            "expected the experts of each token and their weights; hook 'router' or 'mlp.out' instead",
        )
    stacked = next(parameter for parameter in module.parameters(recurse=False) if parameter.ndim == 3)
    experts = int(getattr(module, "num_experts", stacked.shape[0]))
    dense = weights.new_zeros(len(weights), experts + 1)
    return dense.scatter_(1, index.long().clamp(max=experts), weights)[:, :experts].contiguous()
