"""`as_module`: a functional Keras 3 model as a torch module whose layers can be hooked, on every backend Keras has.

    audit = naa_fast.scan(as_module(model), clean, suspect)

The model is rebuilt with the chosen layers' outputs beside its own, on the same weights. Each comes to torch through DLPack,
without a copy where the backend allows it, and passes a probe named after its layer, which is where the hook sits.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.errors import CaptureError, ModelError, UsageError

DEFAULT = ("Conv", "Dense", "Activation", "ReLU", "ELU", "Softplus", "Swish", "GELU")
NEVER = ("InputLayer", "Softmax")
SHOWN = 8


class KerasNet(nn.Module):
    """What `as_module` gives. Its modules are probes, its one buffer a digest of the weights, so that two models differ."""

    def __init__(self, model: Any, functional: Any, probes: dict[str, nn.Module], digest: bytes) -> None:
        super().__init__()
        self._models = (model, functional)  # in a tuple: on the torch backend they are modules, whose parts torch cannot name
        for name, probe in probes.items():
            self.add_module(name, probe)
        self._probes = list(probes)
        self.register_buffer("weights_digest", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    def forward(self, *inputs: Tensor) -> Any:
        keras = importlib.import_module("keras")
        given = [keras.ops.convert_to_tensor(x if keras.backend.backend() == "torch" else x.cpu().numpy()) for x in inputs]
        outputs = self._models[1](given[0] if len(given) == 1 else given, training=False)
        for name, value in zip(self._probes, outputs, strict=False):
            self.get_submodule(name)(as_tensor(value))
        answers = [as_tensor(value) for value in outputs[len(self._probes) :]]
        return answers[0] if len(answers) == 1 else answers


class Probe(nn.Module):
    """Lets a layer's output pass; `exported_type` says which axis holds its neurons."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.exported_type = kind

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[...]` as it is: a place for hooks."""
        return x


def as_module(model: Any, layers: Sequence[str] | None = None) -> KerasNet:
    """`model` (functional or sequential, built) with a probe for each of `layers`.

    `layers`: names or globs of its layers, or None for every convolution, dense layer and activation. Inputs keep the shape and
    order of axes that the model expects.

    Raises:
        ModelError: no Keras model, or one whose layers cannot be reached from outside.
        UsageError: a request that matches nothing. CaptureError: a layer that is called several times was asked for.
    """
    keras = importlib.import_module("keras")
    if not isinstance(model, keras.Model):
        raise ModelError(f"the model is a {type(model).__name__}", "expected a keras.Model of Keras 3")
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ModelError(
            f"the layers of {model.name} cannot be reached",
            "it is a subclassed model, or not built: nothing says how its layers are connected",
            "expected a functional or sequential model with a known input shape",
        )
    chosen = chosen_layers(model, layers)
    several = [layer.name for layer in chosen if len(layer._inbound_nodes) != 1]
    if several and layers is not None:
        raise CaptureError(f"layer {several[0]} is called several times", "it has no one output", "leave it out")
    chosen = [layer for layer in chosen if layer.name not in several and hasattr(layer.output, "shape")]
    if not chosen:
        raise UsageError(
            f"{model.name} has no convolution, dense layer or activation", "name layers: as_module(model, layers=[...])"
        )
    functional = keras.Model(model.inputs, [*(layer.output for layer in chosen), *model.outputs])
    probes: dict[str, nn.Module] = {layer.name.replace(".", "_"): Probe(kind_of(layer)) for layer in chosen}
    if len(probes) < len(chosen):
        raise CaptureError("two layers go by one name", "names that differ in a dot only are one here", "rename one")
    return KerasNet(model, functional, probes, digest_of(model))


def chosen_layers(model: Any, layers: Sequence[str] | None) -> list[Any]:
    if layers is None:
        kinds = [(layer, type(layer).__name__) for layer in model.layers]
        return [layer for layer, kind in kinds if kind not in NEVER and any(word in kind for word in DEFAULT)]
    for request in layers:
        if not any(fnmatchcase(layer.name, request) for layer in model.layers):
            raise UsageError(
                f"no layer matches '{request}'",
                f"layers of {model.name}: {', '.join(layer.name for layer in model.layers[:SHOWN])}",
            )
    return [layer for layer in model.layers if any(fnmatchcase(layer.name, request) for request in layers)]


def kind_of(layer: Any) -> type[nn.Module]:
    """A torch class with its neurons on the same axis: Keras keeps them last unless the layer says otherwise."""
    return nn.Conv2d if getattr(layer, "data_format", None) == "channels_first" else nn.Linear


def as_tensor(value: Any) -> Tensor:
    """An array of any backend as a tensor: of the same memory where it can be shared, else a copy."""
    if isinstance(value, Tensor):
        return value.detach()
    try:
        return torch.utils.dlpack.from_dlpack(value)
    except Exception:  # each backend has its own reasons
        return torch.from_numpy(np.array(importlib.import_module("keras").ops.convert_to_numpy(value)))


def digest_of(model: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for weight in model.weights:
        values = np.ascontiguousarray(importlib.import_module("keras").ops.convert_to_numpy(weight.value))
        digest.update(f"{weight.path}: {values.dtype} {list(values.shape)}".encode())
        digest.update(values.tobytes())
    return digest.digest()
