"""Which layers to hook: by name, by glob, by module type, or a sensible default; and what was chosen, in words."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn

from naa_fast.capture import friendly
from naa_fast.capture.defaults import default_places
from naa_fast.capture.experts import holder_of, is_fused
from naa_fast.capture.points import WHOLE, HookPoint, point_of
from naa_fast.errors import UsageError

LAST = "@last"

LayerSpec = str | type[nn.Module]
Layers = LayerSpec | Sequence[LayerSpec] | None


@dataclass(frozen=True)
class Layer:
    """A module to hook, and where: `point` says which tensor of it is read (`name:item` in a request). `last`: only the last
    observed position of each sample (`name@last`). `rows`: its rows are the tokens some expert was given, of no sample in
    particular.
    """

    name: str
    module: nn.Module
    point: HookPoint = WHOLE
    last: bool = False
    rows: bool = False

    @property
    def item(self) -> str | None:
        """The word behind the colon, None for none."""
        return self.point.word

    @property
    def label(self) -> str:
        return self.name + ("" if self.item is None else f":{self.item}") + (LAST if self.last else "")


@dataclass(frozen=True)
class Request:
    """What `select` is asked for: `layers` without those that `exclude` matches.

    `left_out`: labels of default layers that an earlier pass could not read, so that this one does not try.
    """

    layers: Layers = None
    exclude: Layers = None
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for asked in (self.layers, self.exclude):
            words = [asked] if asked is None or isinstance(asked, str | type) else asked
            if not isinstance(words, Iterable) or not all(isinstance(one, str | type | None) for one in words):
                raise UsageError(
                    f"layers or exclude is {asked!r}", "expected names, globs or types of modules", "name them as strings"
                )

    @classmethod
    def of(cls, layers: Layers | Request) -> Request:
        return layers if isinstance(layers, Request) else cls(layers)

    def without(self, labels: Iterable[str]) -> Request:
        return replace(self, left_out=tuple(sorted({*self.left_out, *labels})))


@dataclass(frozen=True)
class Selection:
    """The chosen layers in model order; `requested` says whether the user named them, `words` how they came to be chosen.

    `excluded`: labels of layers that the user had left out; `left_out`: see `Request`.
    """

    layers: tuple[Layer, ...]
    requested: bool
    words: str
    excluded: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def select(model: nn.Module, layers: Layers | Request = None) -> Selection:
    """The layers of `model` that were asked for, without those excluded.

    Raises UsageError as `chosen` does, for an exclusion that matches none of them, and for one that leaves none.
    """
    request = Request.of(layers)
    selection = chosen(model, request.layers)
    if request.exclude is not None:
        selection = without_excluded(selection, dict(unwrapped(model).named_modules()), request.exclude)
    kept = tuple(layer for layer in selection.layers if layer.label not in request.left_out)
    return replace(selection, layers=kept, left_out=request.left_out)


def without_excluded(selection: Selection, modules: dict[str, nn.Module], exclude: LayerSpec | Sequence[LayerSpec]) -> Selection:
    """The selection without the layers that `exclude` names, as `layers` would name them."""
    excluded: list[str] = []
    for pattern in [exclude] if isinstance(exclude, str | type) else list(exclude):
        named = matcher(modules, pattern)
        hits = [layer.label for layer in selection.layers if named(layer)]
        if not hits:
            asked = pattern if isinstance(pattern, str) else pattern.__name__
            labels = [layer.label for layer in selection.layers]
            inside = [label for label in labels if isinstance(pattern, str) and label.startswith(f"{pattern}.")]
            near = inside[:5] or difflib.get_close_matches(asked, labels, n=5, cutoff=0.3) or labels[:5]
            raise UsageError(
                f"no layer matches '{asked}', which is to be excluded",
                f"expected a name, glob or module type of one of the {len(labels)} chosen layers; nearest: {', '.join(near)}",
                f"for what is inside of a module write '{asked}.*'" if inside else "leave it out: nothing of that name is read",
            )
        excluded += hits
    kept = tuple(layer for layer in selection.layers if layer.label not in excluded)
    if not kept:
        raise UsageError("every layer is excluded", f"{len(selection.layers)} were chosen", "exclude fewer, or name others")
    names = tuple(dict.fromkeys(excluded))
    return replace(selection, layers=kept, words=f"{selection.words}; {len(names)} excluded", excluded=names)


def matcher(modules: dict[str, nn.Module], pattern: LayerSpec) -> Callable[[Layer], bool]:
    """Tells whether `pattern` means a layer: its module, or, where the pattern has an item or `@last`, that reading of it."""
    if isinstance(pattern, type):
        return lambda layer: isinstance(layer.module, pattern)
    last = pattern.endswith(LAST) and pattern not in modules
    place = pattern.removesuffix(LAST) if last else pattern
    glob, colon, item = place.partition(":")
    if place in friendly.NAMES and place not in modules:
        meant = set(friendly.places(modules, place))
        return lambda layer: (layer.last or not last) and not meant.isdisjoint({(layer.name, None), (layer.name, layer.item)})
    return lambda layer: (
        layer.label == pattern
        or (
            (layer.name == glob or fnmatchcase(layer.name, glob))
            and (not colon or layer.item == item)
            and (layer.last or not last)
        )
    )


def chosen(model: nn.Module, layers: Layers = None) -> Selection:
    """Choose layers of `model`.

    `layers`: names or globs of `model.named_modules()` ("layer1.*.conv?", "head:logits" for an item of the output, "head:in" for
    the input; "" is the whole model), a place in every transformer block ("resid", "mlp.act": see friendly.py), each of these
    with "@last" behind it for the last token of a sample alone, module types (`torch.nn.Conv2d`), several of these, or None for
    the default: of a transformer its blocks, attention and the inside of MLPs, of any other model every convolution, linear
    layer, activation and repeated block (defaults.py). Matching is on whole names, with `*` crossing dots.

    Raises:
        UsageError: a request that matches nothing, with the nearest names that exist, or only what is inside fused experts.
    """
    modules = dict(unwrapped(model).named_modules())
    if layers is None:
        default, left = default_places(modules)
        default = default or {("", None): ""}
        words = f"default: {len(default)} of {len(modules)} modules ({', '.join(sorted(set(default.values())))})"
        found_by_default = [Layer(name, modules[name], point_of(item, modules[name])) for name, item in default]
        return Selection(tuple(found_by_default), False, f"{words}; {left}" if left else words)
    requests: list[LayerSpec] = [layers] if isinstance(layers, str | type) else list(layers)
    if not requests:
        raise UsageError("no layer is asked for", "expected names, globs or module types, or nothing at all for the default")
    layers_by_place: dict[tuple[str, str | None, bool], Layer] = {}
    for request in requests:
        for layer in outside_of_fused(modules, request, matches(modules, request)):
            layers_by_place.setdefault((layer.name, layer.item, layer.last), layer)
    order = {name: index for index, name in enumerate(modules)}
    labels = [layer.label for layer in layers_by_place.values()]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UsageError(f"two layers go by the name '{twice}'", "a module of that name, and an item of another's output")
    chosen_layers = sorted(layers_by_place.values(), key=lambda layer: (order[layer.name], layer.item or "", layer.last))
    asked = ", ".join(request if isinstance(request, str) else request.__name__ for request in requests)
    return Selection(tuple(chosen_layers), True, f"requested: {asked} ({len(chosen_layers)} of {len(modules)} modules)")


def matches(modules: dict[str, nn.Module], request: LayerSpec) -> list[Layer]:
    """The layers one request names, never none."""
    if isinstance(request, type):
        layers = [Layer(name, module) for name, module in modules.items() if isinstance(module, request)]
        if not layers:
            present = sorted({type(module).__name__ for module in modules.values()})
            raise UsageError(f"no module is a {request.__name__}", f"the model's modules are: {', '.join(present)}")
        return layers
    last = request.endswith(LAST) and request not in modules
    place = request.removesuffix(LAST) if last else request
    if place in friendly.NAMES and place not in modules:
        return [
            Layer(name, modules[name], point_of(item, modules[name]), last) for name, item in friendly.resolve(modules, place)
        ]
    pattern, colon, item = place.partition(":")
    layers = [
        Layer(name, module, point_of(item if colon else None, module), last)
        for name, module in modules.items()
        if fnmatchcase(name, pattern)
    ]
    if not layers:
        near = difflib.get_close_matches(pattern, modules, n=5, cutoff=0.3) or [name for name in modules if name][:5]
        raise UsageError(
            f"no layer matches '{request}'",
            f"expected a name or glob of one of {len(modules)} modules; nearest: {', '.join(near)}",
            "leave --layers out to take the default, or list names with model.named_modules()",
        )
    return layers


def outside_of_fused(modules: dict[str, nn.Module], request: LayerSpec, layers: list[Layer]) -> list[Layer]:
    """`layers` without what is inside fused experts, and with those inside a list of experts marked as rows of no sample.

    Raises UsageError if nothing else was asked for: rows in there are sorted by expert, so a neuron would be the mixture of
    as many different neurons as there are experts.
    """
    kept = []
    holder = None
    for layer in layers:
        holder = holder_of(modules, layer.name)
        if holder is None or not is_fused(modules[holder]):
            kept.append(layer if holder is None else replace(layer, rows=True))
    if not kept:
        offers = [name for name in friendly.NAMES if friendly.offered(modules, name)]
        asked = request if isinstance(request, str) else request.__name__
        raise UsageError(
            f"'{asked}' is inside of {holder}, which fuses all experts into one",
            "its rows are sorted by expert: they belong to no sample, and one column is a different neuron for each expert",
            f"it offers: {', '.join(offers)}" if offers else f"hook {holder} itself",
        )
    return kept


def unwrapped(model: nn.Module) -> nn.Module:
    """The module a `torch.compile` wrapper holds, so that layer names do not change with compilation."""
    inner = getattr(model, "_orig_mod", model)  # by attribute: importing torch._dynamo to ask for the type costs a second
    return inner if isinstance(inner, nn.Module) else model
