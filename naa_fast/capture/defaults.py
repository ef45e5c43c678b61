"""The layers that are read where none were asked for: `default_places`, and what kind each is of."""

from __future__ import annotations

import re

import torch
from torch import nn

from naa_fast.capture import friendly
from naa_fast.capture.experts import ROUTING, holder_of
from naa_fast.capture.points import INPUT_WORD
from naa_fast.capture.views import type_of

# Endings used outside torch.nn too.
ACTIVATION_NAMES = ("Activation", "GELU", "ReLU", "SiLU", "Swish", "Mish", "ELU", "Sigmoid", "Tanh")
LIKE_LINEAR = re.compile(r"\w*Linear(\d+bit\w*)?")
LIKE_CONVOLUTIONS = re.compile(r"(Quantized)?Conv(ReLU)?[123]d")
"""Names of layers that do what torch's do without being of their type: quantised ones, those of other packages."""
NO_ACTIVATION = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)

Place = tuple[str, str | None]
"""A module's name, and which of its tensors is read: None its output, "in" what it is given."""


def default_places(modules: dict[str, nn.Module]) -> tuple[dict[Place, str], str]:
    """The places, each with its kind, in model order, and what was left out, in words.

    Of a transformer: the output of every block, what attention adds to it, and the activations inside of its MLP (of fused
    experts their routing), and outside of blocks what the default of any model has but a language model's output embeddings,
    whose outputs are the vocabulary. A Llama-2-7B has 96 places so, and had 289 with its projections. (Of a tuned MiniLM with a
    planted sentence these ranked as all 51 places did, AUC .86 and .85; without attention .67.) Of any other model: convolutions,
    linear layers, activations and repeated blocks, none of them inside of experts, where rows belong to no sample.
    """
    blocks = {name: inner_places(modules, name) for name in modules if friendly.is_block(modules, name)}
    inside = tuple(f"{name}." for name, places in blocks.items() if places)
    inner = {place: words for places in blocks.values() for place, words in places.items()}
    heads = {name for name, module in modules.items() if predicts_tokens(modules, name, module)}
    chosen: dict[Place, str] = {}
    of_experts = 0
    for name in modules:
        kind = kind_of(modules, name)
        if kind and holder_of(modules, name) is not None:
            of_experts += 1
        elif kind and name not in heads and not name.startswith(inside):
            chosen[name, None] = kind
        for item in (None, INPUT_WORD, ROUTING):
            if (name, item) in inner:
                chosen[name, item] = inner[name, item]
    left = [f"{of_experts} inside of experts left out, where rows belong to no sample"] if of_experts else []
    left += [f"{', '.join(sorted(heads))} left out, whose outputs are the vocabulary"] if heads else []
    return chosen, "; ".join(left)


def inner_places(modules: dict[str, nn.Module], block: str) -> dict[Place, str]:
    """What is read inside of a block: what attention adds, and its MLP's activations or which experts it goes to; nothing where
    the latter cannot be told.
    """
    act, attention = friendly.place_in(modules, block, "mlp.act"), friendly.place_in(modules, block, "attn")
    experts = friendly.place_in(modules, block, "experts")
    inner = {act: "MLP activations"} if act is not None else {experts: "experts"} if experts is not None else {}
    return {attention: "attention", **inner} if inner and attention is not None else inner


def predicts_tokens(modules: dict[str, nn.Module], name: str, module: nn.Module) -> bool:
    """Whether a linear layer gives a score for each row of one of the model's token embeddings, as wide as those."""
    if not issubclass(type_of(module), nn.Linear):
        return False
    shape = weight_shape(module)
    return bool(shape) and any(
        issubclass(type_of(other), nn.Embedding) and weight_shape(other) == shape for other in modules.values()
    )


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """Of its weight, empty without one: layers of exported programs have no `out_features`."""
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()


def kind_of(modules: dict[str, nn.Module], name: str) -> str:
    """What a module is to the default selection: its kind, or "" for one it leaves out."""
    module = modules[name]
    kind = type_of(module)
    if isinstance(module, torch.jit.ScriptModule):
        return ""  # takes no hooks: see unseen.py
    if issubclass(kind, nn.modules.conv._ConvNd) or (LIKE_CONVOLUTIONS.fullmatch(kind.__name__) and is_leaf(module)):
        return "convolutions"
    # Conv1D is GPT-2's linear layer.
    if issubclass(kind, nn.Linear) or kind.__name__ == "Conv1D" or (LIKE_LINEAR.fullmatch(kind.__name__) and is_leaf(module)):
        return "linear layers"
    if is_activation(module):
        return "activations"
    parent = modules.get(name.rpartition(".")[0])
    lists = (nn.ModuleList, nn.Sequential)
    repeated = parent is not None and issubclass(type_of(parent), lists) and bool(name)
    if repeated and not issubclass(kind, lists) and any(True for _ in module.children()):
        return "blocks"
    return ""


def is_leaf(module: nn.Module) -> bool:
    """Whether nothing is inside of it but packed weights, as in torch's quantised layers."""
    return all("PackedParams" in type(child).__name__ for child in module.children())


def is_activation(module: nn.Module) -> bool:
    kind = type_of(module)
    if issubclass(kind, NO_ACTIVATION) or any(True for _ in module.children()):
        return False
    return kind.__module__ == "torch.nn.modules.activation" or kind.__name__.endswith(ACTIVATION_NAMES)
