"""What a person should know of a model before its layers are read: parts that no hook sees into, and layers that mix samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

NAMED = 5


def unseen_parts(modules: dict[str, nn.Module], chosen: set[str]) -> list[str]:
    """A line for each kind of part of the model whose inside is not read though it holds layers: TorchScript and quantised ones.

    `chosen`: names of the modules that are read. Cost: a walk over the modules.
    """
    scripted = [
        name
        for name, module in modules.items()
        if isinstance(module, torch.jit.ScriptModule)
        and not isinstance(modules.get(name.rpartition(".")[0]), torch.jit.ScriptModule)
    ]
    lines = []
    if scripted:
        lines.append(
            f"{counted(scripted, 'TorchScript module')} with layers inside: hooks see nothing of these ({listed(scripted)})"
        )
    quantised: dict[str, list[str]] = {}
    for name, module in modules.items():
        kind = type(module)
        if ("quant" in kind.__module__.lower() or "Quant" in kind.__name__) and name not in chosen and holds_weights(module):
            quantised.setdefault(kind.__name__, []).append(name)
    lines += [f"{counted(names, f'quantised {kind}')} not read ({listed(names)})" for kind, names in quantised.items()]
    return lines


def mixing_parts(modules: dict[str, nn.Module]) -> list[str]:
    """A line where, in eval mode, layers normalise by the batch or stay in training mode: what is measured depends on which
    samples share a batch, and on chance.
    """
    batch = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.running_mean is None or module.training)
    ]
    chance = [name for name, module in modules.items() if isinstance(module, nn.modules.dropout._DropoutNd) and module.training]
    lines = []
    if batch:
        what = "BatchNorm layer normalises by the batch" if len(batch) == 1 else "BatchNorm layers normalise by the batch"
        lines.append(
            f"{len(batch)} {what} ({listed(batch)}): the samples of a batch mix, so that numbers depend on the batch size and on "
            "which samples share a batch"
        )
    if chance:
        lines.append(f"{counted(chance, 'dropout layer')} in training mode ({listed(chance)}): numbers depend on chance")
    return lines


def holds_weights(module: nn.Module) -> bool:
    """Whether it is a layer with weights of its own, packed ones among them, and no container."""
    if "PackedParams" in type(module).__name__:
        return False  # of the layer that it is in
    packed = any("PackedParams" in type(child).__name__ for child in module.children())
    plain = any(True for _ in module.children())
    return packed or hasattr(module, "_packed_params") or (not plain and any(True for _ in module.state_dict()))


def counted(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}{'s' * (len(names) != 1)}"


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(name or "the whole model" for name in names[:NAMED]) + more
