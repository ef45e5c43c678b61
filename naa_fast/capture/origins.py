"""`Origins`: which layer the tensors of a model's output come from, read off one forward."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from enum import IntEnum
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import elu, gelu, leaky_relu, relu, silu
from torch.utils.hooks import RemovableHandle

from naa_fast.capture.hooks import is_compiled
from naa_fast.capture.selection import unwrapped
from naa_fast.capture.views import type_of

KEPT = 6
KEPT_BYTES = 64 << 20
"""Outputs of linear and of other layers whose values are kept until the forward is over: the last so many, each no larger."""
COMPARED, COMPARED_VALUES = 64, 1 << 22
"""Samples whose values are compared, and values of them at most."""
LINEAR = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
LINEAR_NAMES = re.compile(r".*Linear(\d.*)?|Dense|Conv1D")
"""Quantised and adapted ones, and those of Keras and GPT-2."""
PASSING = (
    *(nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten),
    *(nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Sigmoid, nn.LogSigmoid),
)
"""Layers whose output is their input, or says what the layer before them does."""
POOL = "Pool"
NOTHING = "no layer is seen to give it"
FEATURE_NAMES = (POOL, "Norm", "ReLU", "GELU", "SiLU")
ACTIVATIONS = (relu, torch.tanh, gelu, silu, elu, leaky_relu)


class Kind(IntEnum):
    """What a tensor may be, class scores with growing confidence."""

    FEATURES = 0
    DOUBTFUL = 1
    UNKNOWN = 2
    PROBABILITIES = 3
    LINEAR = 4


@dataclass(frozen=True)
class Origin:
    """Where a tensor comes from: `words` for a person, the `layer` if it is of a linear one, and how many neurons that one reads
    (0 where unknown). `sigmoid`: between its output and the tensor lies a sigmoid.
    """

    kind: Kind
    words: str
    layer: str = ""
    reads: int = 0
    sigmoid: bool = False


UNKNOWN = Origin(Kind.UNKNOWN, NOTHING)


@dataclass(frozen=True)
class Place:
    """Where a tensor's values lie. Two of one place hold the same values: what was overwritten has another `version`."""

    storage: StorageWeakRef
    offset: int
    version: int

    @classmethod
    def of(cls, x: Tensor) -> Place:
        """Where the values of `x` `[...]` lie."""
        return cls(StorageWeakRef(x.untyped_storage()), int(x.storage_offset()), x._version)

    def same(self, other: Place) -> bool:
        return self.storage == other.storage and self.version == other.version


@dataclass(frozen=True)
class Call:
    """One call of a layer: what it gave (`output` None where it is too large to keep) and, of a linear one, what it was given.

    `head`: whether class scores can be read off its output, pooled or not.
    """

    layer: str
    kind: str
    linear: bool
    head: bool
    gave: Place
    shape: torch.Size
    channels: int
    given: Place | None = None
    reads: int = 0
    output: Tensor | None = None

    @property
    def unchanged(self) -> Tensor | None:
        """The output `[samples, ...]`, unless it was not kept or has been overwritten."""
        return self.output if self.output is not None and self.output._version == self.gave.version else None


class Origins:
    """Context manager: inside it one forward of `model` is followed; then `of` tells where a tensor of its output comes from.

    Hooks on every layer note where their outputs lie and keep none of them alive but the last KEPT, where they are small.
    A compiled model runs uncompiled meanwhile. The values are compared on the host, some rows of them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrapped(model)
        self.regression = getattr(getattr(self.model, "config", None), "problem_type", None) == "regression"
        self._eager: AbstractContextManager[Any] = (
            torch.compiler.set_stance("force_eager") if is_compiled(model) else nullcontext()
        )
        self._calls: list[Call] = []
        self._values: dict[bool, deque[Call]] = {head: deque(maxlen=KEPT) for head in (True, False)}
        self._embedded: list[tuple[Tensor, int]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Origins:
        self._eager.__enter__()
        for name, module in self.model.named_modules():
            leaf = not any(True for _ in module.children())
            if (leaf or is_linear(module)) and not isinstance(module, torch.jit.ScriptModule):  # these take no hooks
                self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._eager.__exit__(kind, error, trace)

    def vocabulary(self, ids: Tensor | None) -> int:
        """How many tokens the embedding knows that was given the `ids`, int64 `[samples, positions]`; 0 where none was."""
        if ids is None:
            return 0
        return max((known for given, known in self._embedded if torch.equal(given.cpu(), ids.cpu())), default=0)

    def of(self, x: Tensor, rows: Tensor) -> Origin:
        """Where the tensor `x` comes from; `rows` are its values by sample, `[samples, (positions,) columns]`."""
        first = None
        if type(x) is Tensor and not x.is_inference():
            here = Place.of(x)
            if any(call.given == here for call in self._calls):
                return Origin(Kind.FEATURES, "a linear layer reads it")
            first = next((call for call in self._calls if call.gave.same(here)), None)
            if first is not None and (first.linear or POOL not in first.kind):
                return given_by(first, rows)
        few = rows[:COMPARED].float()
        if few.numel() > COMPARED_VALUES:
            few = few[:1, -1:] if few.ndim == 3 else few[:1]
        origin = self._by_values(few) if len(few) == min(len(rows), COMPARED) else UNKNOWN
        if origin is UNKNOWN and first is not None:
            return given_by(first, rows)
        return by_itself(few) if origin is UNKNOWN else origin

    def _by_values(self, rows: Tensor) -> Origin:
        """Of values that follow from what one of the last layers gave: a linear one, or one that gives features."""
        kept = [(call, x) for head in (True, False) for call in reversed(self._values[head]) if (x := call.unchanged) is not None]
        for call, x in kept:
            how = relation(rows, x[:COMPARED].float())
            if how is not None:
                words = f"{how} what layer {call.layer!r} gives".lstrip()
                features = not call.head or how == ACTIVATED
                kind = Kind.FEATURES if features else Kind.LINEAR
                return Origin(kind, words, call.layer, call.reads, how == SIGMOID)
        alike = [x[: len(rows)].float() for call, x in kept if call.head and x.shape[1:] == rows.shape[1:]]
        total = torch.stack(alike).sum(0) if len(alike) > 1 and all(x.shape == rows.shape for x in alike) else None
        if total is not None and (close(rows, total) or close(rows, total / len(alike))):
            return Origin(Kind.LINEAR, f"the sum or mean of what {len(alike)} linear layers give")
        return UNKNOWN

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            given = next((value for value in arguments if type(value) is Tensor), None)
            if isinstance(module, nn.Embedding) and given is not None:
                self._embedded.append((given, module.num_embeddings))
            for x in output if type(output) is tuple else (output,):
                if type(x) is Tensor and not x.is_inference() and x.is_floating_point() and x.layout == torch.strided and x.ndim:
                    self._note(name, module, given, x)

        return hook

    def _note(self, name: str, module: nn.Module, given: Tensor | None, x: Tensor) -> None:
        kind = type_of(module)
        linear = is_linear(module) or (bool(name) and given is not None and maps(module, given, x))
        if not linear and not gives_features(kind):
            return
        channels = x.shape[1] if issubclass(kind, nn.modules.conv._ConvNd) and x.ndim > 1 else x.shape[-1]
        before = Place.of(given) if linear and given is not None and not given.is_inference() else None
        reads = 0 if given is None or not given.ndim else given.shape[-1]
        head = linear and (x.shape[2:].numel() == 1 or not is_wide(module))
        call = Call(name, kind.__name__, linear, head, Place.of(x), x.shape, channels, before, reads)
        self._calls.append(call)
        if x.nbytes <= KEPT_BYTES:
            self._values[head].append(replace(call, output=x.detach()))  # no copy: if it is overwritten, its version tells


def is_linear(module: nn.Module) -> bool:
    kind = type_of(module)
    return issubclass(kind, LINEAR) or LINEAR_NAMES.fullmatch(kind.__name__) is not None


def is_wide(module: nn.Module) -> bool:
    """Whether a convolution's kernel covers more than one position: what it gives, pooled, are features and no scores."""
    return any(p.ndim > 2 and p.shape[2:].numel() > 1 for p in module.parameters(recurse=False))


def maps(module: nn.Module, given: Tensor, x: Tensor) -> bool:
    """Whether a layer of somebody's own takes its input to its output by its one matrix: cosine classifiers and the like. `given`
    and `x` `[..., features]`.
    """
    if issubclass(type_of(module), nn.Embedding | nn.EmbeddingBag | nn.RNNBase | nn.MultiheadAttention) or not given.ndim:
        return False
    matrices = [p.shape for p in module.parameters(recurse=False) if p.ndim == 2]
    return len(matrices) == 1 and sorted(matrices[0]) == sorted((given.shape[-1], x.shape[-1]))


def gives_features(kind: type[nn.Module]) -> bool:
    """Whether a layer is known to give no class scores: norms, pools, activations, recurrences."""
    if issubclass(kind, PASSING):
        return False
    return kind.__module__.startswith("torch.nn.modules.") or any(word in kind.__name__ for word in FEATURE_NAMES)


def given_by(call: Call, rows: Tensor) -> Origin:
    """Of the very tensor a layer gave, or a part of it. `rows` `[..., classes]`."""
    if not call.linear:
        return Origin(Kind.FEATURES, f"layer {call.layer!r} ({call.kind}) gives it")
    if rows.shape[-1] > call.channels:
        return Origin(Kind.FEATURES, f"it is the feature map that layer {call.layer!r} gives")
    if len(call.shape) > 2 and rows.ndim == 2 and rows.shape[1] != call.channels and rows.shape[1] in call.shape[1:]:
        return Origin(Kind.FEATURES, f"layer {call.layer!r} gives a number for each position")
    return Origin(Kind.LINEAR, f"what layer {call.layer!r} gives", call.layer, call.reads)


SIGMOID, ACTIVATED = "the sigmoid of", "an activation function of"


def relation(x: Tensor, output: Tensor) -> str | None:
    """How rows follow from what a linear layer gave for the same samples: "" where they are equal, None if they do not. `x`
    `[samples, classes]` or `[samples]`, `output` `[samples, ...]`.
    """
    if output.ndim < 2 or output.shape[0] != x.shape[0]:
        return None
    candidates: dict[str, Tensor] = {}
    if output.numel() == x.numel():
        candidates[""] = output.reshape(x.shape)
    elif x.ndim == 2 and output.ndim > 2 and output.shape[1] == x.shape[1]:  # a convolution, pooled
        flat = output.flatten(2)
        candidates |= {"the mean of": flat.mean(2), "the rectified mean of": flat.relu().mean(2), "the maximum of": flat.amax(2)}
    elif x.ndim == 2 and output.ndim == 3 and output.shape[2] == x.shape[1]:
        candidates |= {"the first position of": output[:, 0], "the last position of": output[:, -1]}
        candidates |= {"the mean of": output.mean(1), "the maximum of": output.amax(1)}
    for how, values in candidates.items():
        if close(x, values):
            return how
        if close(x, values.sigmoid()):
            return SIGMOID
        if x.shape[-1] > 1 and close(x, values.softmax(-1)):
            return "the softmax of"
        if x.shape[-1] > 1 and close(x, values.log_softmax(-1)):
            return "the log-softmax of"
        if x.shape[-1] > 1 and scaled(x, values):
            return "a multiple of"
        if how == "" and any(close(x, function(values)) for function in ACTIVATIONS):
            return ACTIVATED
    return None


def close(x: Tensor, y: Tensor) -> bool:
    """`[...]` equal but for rounding, of half precision too; broken values are equal to nothing."""
    size = float(y.abs().max()) if y.numel() else 0.0
    return bool(((x - y).abs() <= 1e-3 * y.abs() + 1e-4 * size).all())


def scaled(x: Tensor, y: Tensor) -> bool:
    """Whether `x` `[...]` is a positive multiple of `y` and a constant: a temperature, a scale."""
    apart_x, apart_y = x - x.mean(), y - y.mean()
    spread = (apart_y * apart_y).sum()
    factor = (apart_x * apart_y).sum() / spread
    return x.numel() > 3 and bool(spread > 0) and bool(factor > 0) and close(apart_x, factor * apart_y)


def by_itself(rows: Tensor) -> Origin:
    """What the values alone say of rows that no layer is seen to give. `rows` `[..., classes]`."""
    if rows.shape[-1] < 2:
        return UNKNOWN
    whole = torch.ones(())
    if bool((rows >= 0).all()) and close(rows.sum(-1), whole):
        return Origin(Kind.PROBABILITIES, "its rows are probabilities")
    if bool((rows <= 1e-6).all()) and close(rows.exp().sum(-1), whole):
        return Origin(Kind.PROBABILITIES, "its rows are logarithms of probabilities")
    if close((rows * rows).sum(-1), whole):
        return Origin(Kind.FEATURES, "its rows are of length 1: an embedding")
    if bool((rows >= 0).all()):
        return Origin(Kind.DOUBTFUL, f"{NOTHING}, and it is never negative")
    return UNKNOWN
