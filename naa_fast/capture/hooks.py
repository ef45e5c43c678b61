"""Forward hooks that hand every chosen layer's output to an observer, and are always taken off again."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol, assert_never

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from naa_fast.capture.compiled import AXES, WITNESS, captures, slots
from naa_fast.capture.experts import routing
from naa_fast.capture.known import Known
from naa_fast.capture.outputs import is_quantised, pick, whole
from naa_fast.capture.points import Given, Input, Output, Routing
from naa_fast.capture.row_order import RowOrder, with_samples_first
from naa_fast.capture.selection import Layer, Selection, unwrapped
from naa_fast.capture.tokens import LastToken
from naa_fast.capture.unseen import mixing_parts, unseen_parts
from naa_fast.capture.views import Layout, known_axis, layout_of, readable
from naa_fast.errors import CaptureError
from naa_fast.records import ROWS, rows_layout


class Enough(BaseException):
    """Ends a forward after the last chosen layer. Not an Exception: a model that catches those must not go on."""


class OtherOrder(CaptureError):
    """A forward that is to end early took another path than the first."""


class LayerObserver(Protocol):
    """Takes what the hooks see: `x` `[outer, channels, inner]`, a view of the output that is only valid during the call."""

    def observe(self, layer: str, x: Tensor, layout: str) -> None: ...


class Capture:
    """Context manager: inside it, each forward of `model` reports its chosen layers to `observer`.

    A module called several times in a forward reports every call; calls with another number of neurons or axes than its first
    go by the name `layer[neurons, n-d]`. Hooks see the output before anything that follows can overwrite it; no copy is made.
    Under `torch.compile` the hook becomes one opaque operator, so the graph stays whole; compiled code is reset on entry and on
    exit, because the compiler otherwise ignores hooks that come or go after its first call.

    With `stop_early` the first forward runs whole and shows which call is the last; later ones end there by raising Enough. A
    forward that reaches its layers in another order than the first is an error, since what it would still reach is not known.

    A default layer that gives nothing that can be read, in whatever batch, is `left_out` from then on, with the reason; what was
    observed of it until then goes by the names in `gone`. A layer that was asked for is an error.

    `notes` collects what a person should know of how the outputs were read; `seconds` the time that reading them took the host.
    """

    def __init__(self, model: nn.Module, selection: Selection, observer: LayerObserver) -> None:
        self.model = model
        self.selection = selection
        self.observer = observer
        self.notes: list[str] = []
        self.row_orders: dict[str, RowOrder] = {}
        self.probing = False  # whole outputs are wanted, of last tokens too
        self.undecided: set[str] = set()
        self.doubts: list[str] = []  # of the notes, those that say what a verdict does not cover
        self.stop_early = False
        self._order: list[int] = []
        self._plan: list[int] | None = None
        self.seconds = 0.0
        self.fired: set[str] = set()
        self.empty: set[str] = set()
        self.left_out: dict[str, str] = {}
        self.gone: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self._witnesses: dict[torch.Size, int] = {}
        self._told: dict[tuple[int, torch.Size], int] = {}
        self._size = 0
        self._last = LastToken(0, None)
        self._calls: dict[str, int] = {}
        self._layouts: dict[tuple[str, int, int], tuple[Layout, str]] = {}
        self._first: dict[str, tuple[int, int]] = {}
        self._known: dict[int, Known] = {}
        self._aliases: dict[str, set[str]] = {}
        self._names = [layer.label for layer in selection.layers]
        self._labels = set(self._names)
        self._axes = [known_axis(layer.module) for layer in selection.layers]
        self._slot = next(slots)
        self._tickets: dict[torch.device, Tensor] = {}

    def __enter__(self) -> Capture:
        root = unwrapped(self.model)
        if (other := _scanned.get(id(root))) is not None and other() is root:  # else an old model had its number
            raise CaptureError(
                "this model is being scanned already", "two scans at once would mix their data", "scan one after the other"
            )
        _scanned[id(root)] = weakref.ref(root)
        try:
            compiled = is_compiled(self.model)
            if compiled and self.stop_early:
                raise CaptureError("a compiled model cannot stop early", "its graph runs whole", "leave --stop-early out")
            if compiled:
                torch._dynamo.reset()
                self.notes.append("the compiled model was reset so that it sees the hooks: its next call compiles again")
                devices = {p.device for p in itertools.chain(self.model.parameters(), self.model.buffers())}
                self._tickets = {d: torch.zeros(1, dtype=torch.int64, device=d) for d in devices | {torch.device("cpu")}}
                captures[self._slot] = self
            modules = dict(unwrapped(self.model).named_modules())
            unread = [] if self.selection.requested else unseen_parts(modules, {layer.name for layer in self.selection.layers})
            self.doubts = [*unread, *mixing_parts(modules)]
            self.notes += [doubt for doubt in self.doubts if doubt not in self.notes]  # a capture may begin again
            hooked = {id(layer.module) for layer in self.selection.layers}
            undecided = None in self._axes
            for module in unwrapped(self.model).modules():
                axis = known_axis(module)
                if undecided and axis is not None and id(module) not in hooked:
                    self._handles.append(module.register_forward_hook(self._witness_hook(WITNESS[axis])))
            for index, layer in enumerate(self.selection.layers):
                match layer.point:
                    case Output():
                        self._handles.append(layer.module.register_forward_hook(self._hook(index, layer)))
                    case Input() | Routing() as point:
                        hook = self._input_hook(index, layer, point)
                        self._handles.append(layer.module.register_forward_pre_hook(hook, with_kwargs=True))
                    case _:
                        assert_never(layer.point)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        _scanned.pop(id(unwrapped(self.model)), None)
        captures.pop(self._slot, None)
        if is_compiled(self.model):
            torch._dynamo.reset()

    def begin(self, size: int, mask: Tensor | None = None) -> None:
        """Say that a forward of `size` samples starts: call numbers count from zero again.

        `mask` (bool `[size]` or `[size, positions]`) says where the last token of a sample is.
        """
        self._size = size
        self._last = LastToken(size, mask)
        self._order.clear()

    def completed(self) -> None:
        """Say that the forward came to its end by itself."""
        if self._plan is None:
            self._plan = list(self._order)
        elif self.stop_early and self._order != self._plan:  # equal where the last layer of the plan was left out just now
            raise self._other_order()
        self._calls.clear()
        self._witnesses.clear()
        self._told.clear()

    def silent(self) -> list[str]:
        """The chosen layers of which no forward gave a value, without those left out."""
        return [name for name in self._names if name not in self.fired and name not in self.left_out]

    def remarks(self) -> list[str]:
        """The notes, and which default layers are not in the result, and why."""
        left_out = [f"layer {name} is left out: {why}" for name, why in self.left_out.items()]
        if self.selection.requested:
            return self.notes + left_out
        silent, empty = ([name for name in self.silent() if (name in self.empty) is bare] for bare in (False, True))
        for names, what in ((silent, "never fired"), (empty, "gave nothing but empty tensors")):
            if names:
                left_out.append(f"{len(names)} default layers {what} and are not in the result: {', '.join(names[:10])}")
        return self.notes + left_out

    def require_all_fired(self) -> None:
        """Raise CaptureError naming every layer the user asked for that no forward reached, or that none was reached at all."""
        silent = self.silent()
        if self.left_out and not self.fired:
            raise CaptureError(
                f"none of the {len(self._names)} chosen layers can be read",
                *(f"{name}: {why}" for name, why in [*self.left_out.items()][:5]),
                "name modules that give floating-point tensors with --layers, or '' for the whole model",
            )
        if silent and (self.selection.requested or not self.fired):
            empty = [name for name in silent if name in self.empty]
            raise CaptureError(
                f"{len(silent)} of {len(self._names)} layers never fired: {', '.join(silent[:10])}",
                f"of these gave empty tensors alone: {', '.join(empty[:10])}"
                if empty
                else "the model's forward does not call them (fused, functional or unused modules cannot be hooked)",
                "name a layer that runs, for example the block around it, or leave these out with --exclude",
            )

    def _input_hook(self, index: int, layer: Layer, point: Given) -> Callable[[nn.Module, Any, Any], None]:
        """Reads what a module is given before the module can overwrite it."""
        observe = self._hook(index, layer)

        def hook(module: nn.Module, arguments: Any, keywords: Any) -> None:
            given = (*arguments, *keywords.values())
            if isinstance(point, Routing):
                observe(module, arguments, routing(layer.name, module, given))
                return
            tensors = (value for value in given if isinstance(value, Tensor) and value.is_floating_point())
            observe(module, arguments, next(tensors, given[0] if given else None))

        return hook

    def _witness_hook(self, code: int) -> Callable[[nn.Module, Any, Any], None]:
        """Tells which axis an unhooked layer's output of this shape has its neurons on."""
        tickets, slot = self._tickets, self._slot

        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if torch.compiler.is_compiling():
                if isinstance(output, Tensor):
                    torch.ops.naa_fast.observe(output, tickets[output.device], slot, code)
            else:
                self._witness(module, AXES[code], output)

        return hook

    def _hook(self, index: int, layer: Layer) -> Callable[[nn.Module, Any, Any], None]:
        tickets, slot = self._tickets, self._slot

        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if torch.compiler.is_compiling():
                tensor = picked_of(layer, output)[0]
                if not isinstance(tensor, Tensor):
                    return  # nothing that could be handed on: it never fires
                torch.ops.naa_fast.observe(tensor, tickets[tensor.device], slot, index)
            elif not self._read_as_before(index, layer, output):
                self._receive(index, output)

        return hook

    def _witness(self, module: nn.Module, axis: int | None, output: Any) -> None:
        if axis is not None and isinstance(output, Tensor) and output.ndim > 2:  # of matrices there is nothing to ask
            self._witnesses.pop(output.shape, None)  # the latest comes last
            self._witnesses[output.shape] = axis
            self._told.setdefault((id(module), output.shape), axis)

    def _witnesses_for(self, module: nn.Module, shape: torch.Size) -> dict[torch.Size, int]:
        """The witnesses, but for a block the first inside of it counts: where images are as high and wide as there are neurons,
        a block of ConvNeXt has outputs of one shape in both orders, and it ends in the order it begins with.
        """
        inside = {id(part) for part in module.modules()}
        first = next((axis for (part, seen), axis in self._told.items() if seen == shape and part in inside), None)
        return self._witnesses if first is None else {shape: first}

    def _receive(self, index: int, output: Any, picked: bool = False) -> None:
        if self._names[index] in self.left_out:
            return
        try:
            self._read(index, output, picked)
        except OtherOrder:
            raise
        except CaptureError as error:
            if self.selection.requested:
                raise
            self._leave_out(index, error)

    def _read_as_before(self, index: int, layer: Layer, output: Any) -> bool:
        """Read the first call of a layer whose output has the form it had; whether that was done."""
        known = self._known.get(index)
        if known is None or known.name in self._calls or self.probing or self._size != known.size[0]:
            return False
        began = perf_counter()
        x = known.view(output)
        if x is None:
            return False
        axis = self._axes[index]
        if axis is not None and len(known.shape) > 2:
            self._witness(layer.module, axis, output)
        self._calls[known.name] = 0
        try:
            self.observer.observe(known.name, x, known.words)
        except CaptureError as error:
            if self.selection.requested:
                raise
            self._leave_out(index, error)
            return True
        self.seconds += perf_counter() - began
        self._reached(index)
        return True

    def _leave_out(self, index: int, error: CaptureError) -> None:
        """A default layer cannot be read, or not as before: what was observed of it does not count."""
        self._known.pop(index, None)
        label = self._names[index]
        headline = error.headline
        what = headline.replace(f"layer {label}", "it", 1) if headline.startswith(f"layer {label} ") else headline
        self.left_out[label] = ": ".join([what, *error.details[:1]])
        self.fired.discard(label)
        self.gone |= {label, *self._aliases.get(label, ())}
        self._order = [i for i in self._order if i != index]
        self._plan = None if self._plan is None else [i for i in self._plan if i != index]

    def _read(self, index: int, output: Any, picked: bool) -> None:
        began = perf_counter()
        layer = self.selection.layers[index]
        label, axis = self._names[index], self._axes[index]
        part, note = (output, "") if picked else picked_of(layer, output)
        tensor = readable(label, part if type(part) is Tensor else whole(part)).detach()
        if not tensor.numel():
            self.empty.add(label)
            return self._reached(index)
        if self._size == 1:
            tensor = self._with_batch_axis(label, tensor)
        self._witness(layer.module, axis, tensor)
        call = self._calls[label] = self._calls.get(label, -1) + 1
        key = (label, call, tensor.ndim)
        if key not in self._layouts:  # the first batch decides; lengths and batch sizes may change after it
            witnesses = self._witnesses_for(layer.module, tensor.shape)
            seen_as = layout_of(layer.module, tensor, witnesses, self._size)
            self._layouts[key] = seen_as, f"{seen_as}, {ROWS}" if layer.rows else str(seen_as)
            note = f"layer {label} gives quantised values, read as the numbers they stand for" if is_quantised(part) else note
            if note and call == 0:
                self.notes.append(note)
        layout, words = self._layouts[key]
        shape = (1 if tensor.ndim == 1 else tensor.shape[layout.axis], tensor.ndim)
        first = self._first.setdefault(label, shape)
        self.fired.add(label)
        name = label if shape == first else f"{label}[{shape[0]}, {shape[1]}-d]"
        if name != label and name in self._labels:
            raise CaptureError(
                f"two layers go by the name {name}", f"a layer, and the calls of {label} with that shape", "leave one out"
            )
        if name != label:
            self._aliases.setdefault(label, set()).add(name)
        x = layout.view(tensor)
        if x.shape[0] != self._size:
            x, words = self._by_order(name, x, words)
        elif call == 0 and name == label and not layer.last and (known := Known.of(output, x, name, words)):
            self._known[index] = known
        self.observer.observe(name, self._last.of(name, x, words) if layer.last and not self.probing else x, words)
        self.seconds += perf_counter() - began
        self._reached(index)

    def _with_batch_axis(self, label: str, tensor: Tensor) -> Tensor:
        """A batch of one that lost its batch axis (`squeeze()`) is that one sample."""
        neurons, axes = self._first.get(label, (0, 0))
        lost = tensor.ndim == axes - 1 and neurons in tensor.shape
        return tensor.unsqueeze(0) if lost or (tensor.ndim == 1 and len(tensor) > 1) else tensor

    def _by_order(self, name: str, x: Tensor, words: str) -> tuple[Tensor, str]:
        """Several rows a sample, by the order that was found; until it was, `undecided` holds the layer."""
        order = self.row_orders.get(name)
        if order is None:
            if self._size > 1 and x.shape[0] and x.shape[0] % self._size == 0 and not words.endswith(ROWS):
                self.undecided.add(name)
        elif order is RowOrder.UNKNOWN:
            words = rows_layout(words)
        elif order is RowOrder.SAMPLE_LAST and self._size and x.shape[0] % self._size == 0:
            x = with_samples_first(x, self._size)
        return x, words

    def settle(self, orders: dict[str, RowOrder]) -> None:
        """Fix in what order the undecided layers' rows are."""
        self.row_orders |= orders
        self.undecided.clear()
        for name, order in orders.items():
            if order is RowOrder.SAMPLE_LAST:
                self.notes.append(f"layer {name} gives several rows a sample, the first of every sample first: read as that")
            elif order is RowOrder.UNKNOWN:
                self.notes.append(f"layer {name} gives several rows a sample in an order that cannot be shown: rows, not samples")

    def _reached(self, index: int) -> None:
        """Keep the order of the layers; end the forward after the last of a plan."""
        self._order.append(index)
        if not self.stop_early or self._plan is None:
            return
        if self._plan[len(self._order) - 1 : len(self._order)] != [index]:
            raise self._other_order()
        if len(self._order) == len(self._plan):
            raise Enough

    def _other_order(self) -> OtherOrder:
        return OtherOrder(
            "the layers were reached in another order than in the first batch",
            "what a forward that ends early would still reach is not known",
            "leave --stop-early out",
        )


def picked_of(layer: Layer, output: Any) -> tuple[Any, str]:
    """The tensor of what a module returned that is read, and a note; of what it was given the hook has picked it already."""
    point = layer.point  # isinstance, not match: compilers trace this
    if isinstance(point, Output):
        return pick(layer.name, output, point.key)
    if isinstance(point, Input | Routing):
        return output, ""
    assert_never(point)


def is_compiled(model: nn.Module) -> bool:
    """Whether `model` or a part of it is wrapped or compiled in place by torch.compile."""
    return unwrapped(model) is not model or any(m._compiled_call_impl is not None for m in model.modules())


_scanned: dict[int, weakref.ref[nn.Module]] = {}
"""Models that are being scanned, by `id`: not a WeakSet, since a module may define `==` and so have no hash."""
