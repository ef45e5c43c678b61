"""`folded`: the weights of a model with a repair in them, where the repair is affine in a layer's output: it needs no hook then.

A change of a layer's output is `y' = y A + t` over its neurons if it zeroes them, clips them to one value, or takes directions
out of every row. It goes into the layer itself (linear, convolution, normalisation), into the one linear layer or convolution
that reads it, or, of neurons that are zeroed behind layers that keep 0, into the one that makes them. All else stays a hook
(`standalone`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from naa_fast.detect.change import Ablate, Change, Clip
from naa_fast.errors import InputError, UsageError
from naa_fast.repair.change import channels_of

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SAME = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)
"""What does nothing in eval mode."""
KEEP_ZERO: tuple[type[nn.Module], ...] = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.ELU, nn.ReLU6, nn.Hardswish)
KEEP_ZERO += (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)
KEEP_ZERO += (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
"""What makes 0 of a channel that is 0 throughout, and of each channel what that channel alone decides."""
FUNCTIONS = {torch.relu, nn.functional.relu, nn.functional.gelu, nn.functional.silu, torch.tanh}

EVERY = -float(torch.finfo(torch.float32).max)
"""A limit that every row lies beyond."""


class NotExact(Exception):
    """The change cannot be told by weights; the message says why."""


@dataclass(frozen=True)
class Affine:
    """`y' = y @ matrix + shift`, float64 `[neurons, neurons]` and `[neurons]`."""

    matrix: Tensor
    shift: Tensor

    @property
    def zeroes(self) -> bool:
        """Whether it sets neurons to 0 and no more."""
        return self.diagonal and not self.shift.any() and bool(((self.scale == 0) | (self.scale == 1)).all())

    @property
    def scale(self) -> Tensor:
        """What each neuron is multiplied with, `[neurons]`."""
        return self.matrix.diagonal()

    @property
    def diagonal(self) -> bool:
        return bool(torch.equal(self.matrix, torch.diag(self.scale)))


def without_limit(change: Change) -> Change:
    """The same directions taken out of every row, not of those beyond the limit alone: affine, and another change: measure it."""
    return replace(change, limit=EVERY) if isinstance(change, Ablate) else change


def affine_of(change: Change, neurons: int) -> Affine:
    """Raises NotExact for a change that is none."""
    if channels_of(change, neurons) != neurons:
        raise InputError(f"layer {change.layer} has {neurons} neurons", "the repair is of another model")
    matrix, shift = torch.eye(neurons, dtype=torch.float64), torch.zeros(neurons, dtype=torch.float64)
    if isinstance(change, Ablate):
        if change.limit > EVERY:
            raise NotExact("it moves only rows beyond a limit, which no weights can tell")
        along, centres, pushes = (torch.from_numpy(values).double() for values in (change.along, change.centres, change.pushes))
        return Affine(matrix - along.T @ pushes, centres @ pushes)
    chosen = torch.from_numpy(change.neurons)
    matrix[chosen, chosen] = 0
    if isinstance(change, Clip):
        if (change.low != change.high).any():
            raise NotExact("it clips neurons to a range, which no weights can tell")
        shift[chosen] = torch.from_numpy(change.low).double()
    return Affine(matrix, shift)


def folded(model: nn.Module, changes: Sequence[Change], compared: bool = False) -> dict[str, Tensor]:
    """The model's state dict with `changes` in it, on the CPU, no two tensors sharing memory; the model stays as it is.

    Exact but for rounding: computed in float64, kept in the weights' own precision. `compared`: whoever asks holds the outputs
    against those of the hooks (`deploy.same_outputs`); without it changes stay in the layer they are of. Cost: a model's copy.

    Raises:
        NotExact: one of the changes cannot be told by weights. UsageError, InputError: the repair is of another model.
    """
    changed = copy.deepcopy(model).cpu().eval()
    modules = dict(changed.named_modules())
    for change in changes:
        if change.layer not in modules:
            raise UsageError(f"the model has no layer {change.layer}", "the repair is of another model")
        fold(changed, modules, change, compared)
    return {name: value.detach().clone().contiguous() for name, value in changed.state_dict().items()}


def fold(model: nn.Module, modules: dict[str, nn.Module], change: Change, compared: bool) -> None:
    layer = modules[change.layer]
    neurons = width_of(layer)
    if neurons is not None:
        into_itself(model, change.layer, layer, affine_of(change, neurons))
        return
    if not compared:
        raise NotExact(
            f"{change.layer} has no weights of its own, and only clean samples tell whether its neighbours' can hold it"
        )
    node = traced(model, change.layer)
    try:
        into_reader(model, modules, node, change)
    except NotExact as error:
        try:
            into_maker(model, modules, node, change)
        except NotExact as other:
            raise NotExact(f"{error}; {other}") from None


def width_of(layer: nn.Module) -> int | None:
    """Neurons of a layer whose own weights can hold a change of its output; None for any other."""
    if type(layer) is nn.Linear:
        return layer.out_features
    if type(layer) in CONVOLUTIONS:
        return int(layer.out_channels)  # type: ignore[arg-type]
    if type(layer) in NORMS and isinstance(layer.weight, Tensor):
        return math.prod(layer.weight.shape)
    if type(layer).__name__ == "Conv1D" and isinstance(getattr(layer, "nf", None), int):  # GPT-2's linear layer
        return int(layer.nf)  # type: ignore[arg-type]
    return None


def own_parameters(model: nn.Module, name: str, layer: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weight and bias of a layer, if they are nobody else's and plain parameters."""
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if weight is None:
        raise NotExact(f"the weight of {name} is no parameter of its own")
    for parameter in (weight, bias):
        holders = (
            [m for m in model.modules() if any(other is parameter for other in m._parameters.values())]
            if parameter is not None
            else []
        )
        if len(holders) > 1:
            raise NotExact(f"the weight of {name} belongs to another layer too")
    return weight, bias


def put(parameter: nn.Parameter, value: Tensor) -> None:
    """Write `value` into a parameter of as many values, `[...]`."""
    with torch.no_grad():
        parameter.copy_(value.reshape(parameter.shape))


def into_itself(model: nn.Module, name: str, layer: nn.Module, change: Affine) -> None:
    weight, bias = own_parameters(model, name, layer)
    if bias is None and change.shift.any():
        raise NotExact(f"{name} has no bias to hold what is added")
    offset = torch.zeros_like(change.shift) if bias is None else bias.detach().double().reshape(-1)
    if type(layer) in NORMS:
        if not change.diagonal:
            raise NotExact(f"{name} scales neurons one by one, and a direction mixes them")
        put(weight, weight.detach().double().reshape(-1) * change.scale)
    else:
        rows = weight.detach().double()
        if type(layer).__name__ == "Conv1D":  # [inputs, neurons]
            put(weight, rows @ change.matrix)
        elif getattr(layer, "groups", 1) == 1 or change.diagonal:
            put(weight, mixed(rows, change) if not change.diagonal else rows * change.scale.reshape(-1, *[1] * (rows.ndim - 1)))
        else:
            raise NotExact(f"{name} is in groups, and a direction mixes them")
    if bias is not None:
        put(bias, offset @ change.matrix + change.shift)


def mixed(rows: Tensor, change: Affine) -> Tensor:
    """`[neurons, ...]` with the neurons mixed as their outputs are."""
    return (change.matrix.T @ rows.flatten(1)).reshape(rows.shape)


def traced(model: nn.Module, layer: str) -> fx.Node:
    """Where the one call of a layer stands in the model's graph. The forward is run with symbols for values."""
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:  # code of the model's own, which may do anything with a symbol
        raise NotExact(f"the model's graph cannot be told ({type(error).__name__})") from None
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    if len(calls) != 1:
        raise NotExact(f"{layer} is called {len(calls)} times, or inside of a layer that is not looked into")
    return calls[0]


def kind(modules: dict[str, nn.Module], node: fx.Node) -> Any:
    return type(modules[str(node.target)]) if node.op == "call_module" else node.target if node.op == "call_function" else None


def into_reader(model: nn.Module, modules: dict[str, nn.Module], node: fx.Node, change: Change) -> None:
    """Into the one linear layer or convolution that reads the layer's output, through what does nothing to it."""
    reached, linear, flat, name = node, True, False, change.layer
    while True:
        if len(reached.users) != 1:
            raise NotExact(f"{name} is read by {len(reached.users)} others")
        reached = next(iter(reached.users))
        which = kind(modules, reached)
        if which is nn.Linear or which in CONVOLUTIONS:
            break
        if which is nn.Flatten or which is torch.flatten:
            flat = True
        elif which in KEEP_ZERO or which in FUNCTIONS:
            linear = False  # only neurons that are 0 pass through unchanged
        elif which not in SAME:
            raise NotExact(f"what reads {name} is no linear layer")
    name = str(reached.target)
    layer = modules[name]
    weight, bias = own_parameters(model, name, layer)
    columns = weight.detach().double()
    if getattr(layer, "groups", 1) != 1:
        raise NotExact(f"{name} is in groups")
    inputs = columns.shape[1]
    neurons = neurons_of(change, inputs)
    if flat and not isinstance(change, Ablate):
        raise NotExact(f"{name} reads {change.layer} flattened")
    affine = affine_of(change, neurons)
    if not affine.zeroes and not linear:
        raise NotExact(f"{name} reads {change.layer} through other layers, and only zeroed neurons pass these as they are")
    if affine.shift.any() and (bias is None or any(map(bool, padding_of(layer)))):
        raise NotExact(f"{name} has no bias, or a border that does not see what is added")
    spread = columns.reshape(columns.shape[0], neurons, -1)  # behind a flatten a neuron has several columns
    if bias is not None:
        put(bias, bias.detach().double() + torch.einsum("onk,n->o", spread, affine.shift))
    put(weight, torch.einsum("nm,omk->onk", affine.matrix, spread))


def neurons_of(change: Change, inputs: int) -> int:
    """How many neurons the changed layer has, from what its reader takes: as the change says, or one an input."""
    if not isinstance(change, Ablate):
        if int(change.neurons.max()) >= inputs:
            raise NotExact("what reads it takes fewer inputs")
        return inputs
    if inputs % len(change.gate):
        raise NotExact("what reads it takes another number of inputs")
    return len(change.gate)


def padding_of(layer: nn.Module) -> tuple[int, ...]:
    padding = getattr(layer, "padding", ())
    return (1,) if isinstance(padding, str) else tuple(padding)


def into_maker(model: nn.Module, modules: dict[str, nn.Module], node: fx.Node, change: Change) -> None:
    """Neurons that are zeroed, into the layer that makes them, through what keeps 0."""
    reached = node
    while True:
        before = reached.args[0] if reached.args else None
        if not isinstance(before, fx.Node) or len(before.users) != 1:
            raise NotExact(f"what {change.layer} is made from is read by others too")
        if kind(modules, reached) not in (*KEEP_ZERO, *SAME, *FUNCTIONS):
            raise NotExact(f"{change.layer} is made by layers that do not keep 0")
        reached = before
        neurons = width_of(modules[str(reached.target)]) if reached.op == "call_module" else None
        if neurons is not None:
            break
    affine = affine_of(change, neurons)
    if not affine.zeroes:
        raise NotExact("only zeroed neurons can go into the layer that makes them")
    into_itself(model, str(reached.target), modules[str(reached.target)], affine)
