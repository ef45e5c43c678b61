"""Whether a model's values are still those that it was made with: a scan of these says nothing of the model in question."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

FEWEST = 256
"""Weights that have to be seen: of that many, training that moves each by a tenth leaves all inside their bound with a chance of
2e-6."""
READ = 1 << 16
"""Values of a tensor that are read at most."""
NEAR = 0.9
"""Of torch's bound: the largest of FEWEST uniform values lies above that share of it, but with a chance of 2e-12."""
ROUNDING = 1.01
"""bfloat16 rounds by .4 %."""
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def untrained(model: nn.Module) -> str:
    """Why the model looks as if no weights had been loaded into it; empty where it does not, or nothing tells.

    Torch draws weights and biases of linear layers and convolutions uniformly between bounds that their shape sets, and makes
    norms of ones and zeros; training leaves neither. A model of other layers, or with other initial values, tells nothing.

    >>> untrained(nn.Sequential(nn.Linear(32, 32), nn.ReLU()))
    'the weights of all 1 linear and convolutional layers lie within the bounds that torch draws first values from'
    >>> model = nn.Linear(32, 32)
    >>> _ = model.weight.data.mul_(1.5)
    >>> untrained(model)
    ''
    """
    try:
        linear = [module for module in model.modules() if isinstance(module, LINEAR) and plain(module)]
        norms = [module for module in model.modules() if isinstance(module, NORMS) and plain(module)]
        if any(not as_made(norm) for norm in norms):
            return ""
        within = [inside(module) for module in linear]
        seen = sum(min(module.weight.numel(), READ) for module in linear)
        if linear and all(within) and seen >= FEWEST:
            return (
                f"the weights of all {len(linear)} linear and convolutional layers lie within the bounds that torch draws first "
                "values from"
            )
        # Other first values (timm, torchvision): their biases are zero.
        others = [module for module, fits in zip(linear, within, strict=True) if not fits]
        values = sum(x.numel() for norm in norms for x in norm.parameters())
        if values >= FEWEST and all(module.bias is None or not module.bias.any() for module in others):
            return f"all {len(norms)} norms are ones and zeros, and no bias was moved"
    except (RuntimeError, TypeError, NotImplementedError):  # values that cannot be read: meta, quantised, sharded
        return ""
    return ""


def plain(module: nn.Module) -> bool:
    """Whether it has values of its own."""
    return any(True for _ in module.parameters(recurse=False))


def sample(x: Tensor) -> Tensor:
    """Values of `x` `[...]`, READ at most: float32 `[values]`."""
    return x.detach().flatten()[:READ].float()


def inside(module: nn.Module) -> bool:
    """Whether weight and bias are where torch's own first values are, and reach as far."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    bound = 1 / max(prod(weight.shape[1:]), 1) ** 0.5
    values = [sample(weight), *([sample(bias)] if isinstance(bias, Tensor) else [])]
    if any(float(x.abs().max()) > ROUNDING * bound for x in values if len(x)):
        return False
    return weight.numel() < FEWEST or float(values[0].abs().max()) >= NEAR * bound


def as_made(norm: nn.Module) -> bool:
    """Whether a norm scales by 1 (or by 0, as last norms of residual blocks do at first), adds 0 and has seen no sample."""
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    scale = weight is None or bool(torch.all(weight == weight.flatten()[0]) and weight.flatten()[0] in (0, 1))
    seen = (mean is not None and bool(mean.any())) or (variance is not None and bool((variance != 1).any()))
    return scale and (bias is None or not bool(bias.any())) and not seen
