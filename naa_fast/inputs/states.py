"""State dicts: which of those in a file is the model's, under which names, and `load_weights`, which puts it in.

A checkpoint holds the weights under some key, often twice (`model` and `ema`), and under names that a wrapper has lengthened.
What fits the model without remainder is taken; every guess is told, and where several fit the person decides.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from naa_fast.capture.loaded import add_told
from naa_fast.errors import ModelError, UsageError

SHOWN = 5
DEEPEST = 3
"""Levels of dicts that are searched for state dicts."""
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that DataParallel, torch.compile, FSDP and activation checkpointing put in, at the front or inside."""
EXTRA = "_extra_state"
"""What modules save beside their tensors. Putting it back is code of theirs, which often unpickles."""
LEGACY = "num_batches_tracked"
"""A buffer that files of torch before 0.4.1 lack, and loading fills in."""
ADVICE = "build the model with the options it was trained with (--model-arg), or choose the weights that belong to it"


class Weights(Mapping[str, Tensor]):
    """The state dicts of a file, by the key they stand under ("" for the top); as a mapping the first of them.

    `trusted`: a person vouched for the whole file.
    """

    def __init__(self, candidates: Mapping[str, Mapping[str, Any]], trusted: bool = False) -> None:
        self.candidates = dict(candidates)
        self.trusted = trusted
        self._first = {name: value for name, value in next(iter(candidates.values())).items() if isinstance(value, Tensor)}

    def __getitem__(self, name: str) -> Tensor:
        return self._first[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)


def state_dicts(loaded: Any, trusted: bool = False) -> dict[str, Mapping[str, Any]]:
    """Every mapping of names to tensors in what a file held, by its key; keys of several levels are joined by dots."""
    states: dict[str, Mapping[str, Any]] = {}
    seen: set[int] = set()

    def walk(value: Any, key: str, depth: int) -> None:
        if trusted and isinstance(value, nn.Module):
            value = value.state_dict()
        if not isinstance(value, Mapping) or id(value) in seen:
            return
        seen.add(id(value))
        if any(isinstance(name, str) and isinstance(item, Tensor) for name, item in value.items()):
            states[key] = value
        if depth < DEEPEST:
            for name, item in value.items():
                if isinstance(name, str) and isinstance(item, Mapping | nn.Module):
                    walk(item, f"{key}.{name}" if key else name, depth + 1)

    walk(loaded, "", 0)
    return states


@dataclass(frozen=True)
class Fit:
    """A state dict under the names of a model: `state` by the model's names where they are known, `renamed` in words."""

    key: str
    state: Mapping[str, Any]
    missing: list[str]
    unexpected: list[str]
    renamed: tuple[str, ...]
    shapes: bool

    @property
    def whole(self) -> bool:
        return self.shapes and not self.missing and not self.unexpected


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path, key: str | None = None) -> None:
    """Put `state` into `model`, every name and shape matching. A name may be missing only if its tensor is tied to one given.

    Of several state dicts in a file the one that fits is taken, or the one under `key`. A prefix that all names share, and what
    wrappers put into names (WRAPPERS), may be missing on either side. What was taken, renamed or left in the file is told in the
    report (`naa_fast.capture.loaded`).

    Raises:
        ModelError: names missing or left over, or shapes that differ, up to five of each. The model may be half loaded then.
        UsageError: several state dicts fit and differ, or there is none under `key`.
    """
    weights = state if isinstance(state, Weights) else Weights({"": state})
    fit = chosen(model, weights, path, key)
    headline = f"weights {path} do not fit the model"
    extra = [name for name in fit.state if name.endswith(EXTRA)]
    dropped = [name for name in extra if not (weights.trusted and name in model.state_dict())]
    given = OrderedDict((name, value) for name, value in fit.state.items() if name not in dropped)
    given._metadata = metadata_of(weights.candidates[fit.key], fit)  # type: ignore[attr-defined]
    unfilled = any(not is_lazy(x) and x.is_meta for x in model.parameters())
    try:  # copying into tensors without memory would do nothing, without a word: those are replaced
        missed, unexpected = model.load_state_dict(given, strict=False, assign=unfilled)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        raise ModelError(headline, *(reasons[:SHOWN] or [first_line(error)]), ADVICE) from error
    missing = untied(tensors_of(model), [name for name in missed if not name.endswith(EXTRA)], given)
    problems = [
        f"{label} ({len(names)}): {some(names)}"
        for label, names in (("missing from the file", missing), ("unknown to the model", unexpected))
        if names
    ]
    if problems:
        raise ModelError(headline, *problems, *fit.renamed, *others(weights, fit), ADVICE)
    where = [f"weights {path}: read under {fit.key!r}"] if fit.key else []
    add_told(
        model,
        reading=(*where, *(f"weights {path}: {words}" for words in fit.renamed)),
        left_out=(
            *(f"in {path}, beside the weights: {words}" for words in others(weights, fit)),
            *([f"{EXTRA} of {len(dropped)} modules in {path}: putting it back could run code"] if dropped else []),
        ),
    )


def chosen(model: nn.Module, weights: Weights, path: Path, key: str | None) -> Fit:
    """The state dict to load: that under `key`, the only one, or the only one that fits."""
    if key is not None:
        if key not in weights.candidates:
            raise UsageError(
                f"no state dict under {key!r} in weights {path}", f"found: {listed(weights.candidates)}", "name one of them"
            )
        return fitted(model, key, weights.candidates[key])
    fits = [fitted(model, name, state) for name, state in weights.candidates.items()]
    whole = [fit for fit in fits if fit.whole]
    if len(whole) > 1 and not all(same(whole[0].state, fit.state) for fit in whole[1:]):
        raise UsageError(
            f"weights {path} hold {len(whole)} state dicts that fit the model, and they differ",
            f"found under: {', '.join(repr(fit.key) for fit in whole)}",
            "say which of them is deployed: --weights-key KEY (weights_key= in Python)",
        )
    return whole[0] if whole else min(fits, key=lambda fit: len(fit.missing) + len(fit.unexpected))


def fitted(model: nn.Module, key: str, state: Mapping[str, Any]) -> Fit:
    """The state dict with the names that leave the least over: its own, or what is the same name but for prefixes."""
    expected = tensors_of(model)
    names = [
        name for name, value in state.items() if isinstance(name, str) and (isinstance(value, Tensor) or name.endswith(EXTRA))
    ]
    tried = []
    for table, words in renamings(names, list(expected)):
        renamed = {table[name]: state[name] for name in names}
        given = {name: value for name, value in renamed.items() if isinstance(value, Tensor) and not name.endswith(EXTRA)}
        missing = untied(expected, [name for name in expected if name not in given and not name.endswith(LEGACY)], given)
        shapes = all(
            name not in expected or shape_of(expected[name]) in (None, tuple(value.shape)) for name, value in given.items()
        )
        fit = Fit(key, renamed, missing, [name for name in given if name not in expected], words, shapes)
        if not fit.missing and not fit.unexpected:
            return fit
        tried.append(fit)
    return min(tried, key=lambda fit: len(fit.missing) + len(fit.unexpected))


def renamings(names: list[str], expected: list[str]) -> Iterator[tuple[dict[str, str], tuple[str, ...]]]:
    """Ways to read the `names` of a file as those of a model, the plainest first: name in the file -> name in the model."""
    yield {name: name for name in names}, ()
    bare_own = {bare(name): name for name in expected}
    bare_names = {name: bare(name) for name in names}
    if len(bare_own) < len(expected) or len(set(bare_names.values())) < len(names):
        return
    shared = common(list(bare_names.values()))
    for parts in range(len(shared) + 1):
        prefix = "".join(f"{part}." for part in shared[:parts])
        table = {name: bare_own.get(short.removeprefix(prefix), short.removeprefix(prefix)) for name, short in bare_names.items()}
        if len(set(table.values())) == len(table):
            yield table, tuple(told(table, prefix))


def bare(name: str) -> str:
    """A name without what wrappers put in."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def common(names: list[str]) -> list[str]:
    """The parts that all names begin with; the last part of a name, its own, is never among them."""
    split = [name.split(".")[:-1] for name in names]
    pairs = zip(min(split, default=[]), max(split, default=[]), strict=False)  # of sorted lists the ends differ most
    return [part for part, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def told(table: Mapping[str, str], prefix: str) -> list[str]:
    """What was left out of the names, in words."""
    changed = [name for name, new in table.items() if name != new]
    parts = [f"{part}." for part in WRAPPERS if any(part in name.split(".") for name in changed)]
    added = [f"{part}." for part in WRAPPERS if any(part in table[name].split(".") for name in changed)]
    lines = [f"{part!r} left out of {sum(part[:-1] in n.split('.') for n in changed)} of {len(table)} names" for part in parts]
    lines += [f"{prefix!r} left out of all {len(table)} names"] if prefix else []
    return lines or ([f"{some(added)} put into {len(changed)} of {len(table)} names, as the model is wrapped"] if changed else [])


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's own parameters and buffers by name."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def untied(expected: Mapping[str, Tensor], names: Iterable[str], given: Iterable[str]) -> list[str]:
    """Those of the names whose tensor is not that of a given name as well."""
    places = {place_of(expected[name]) for name in given if name in expected}
    return [name for name in names if name not in expected or place_of(expected[name]) not in places]


def place_of(x: Tensor) -> tuple[object, ...]:
    """Equal for tied tensors `[...]` only; a tensor without memory is tied to nothing."""
    if is_lazy(x):
        return (id(x),)
    pointer = 0 if x.device.type == "meta" else x.data_ptr()
    return (pointer, x.shape, x.stride()) if pointer else (id(x),)


def shape_of(x: Tensor) -> tuple[int, ...] | None:
    """`[...]` as a tuple; None for a lazy module's tensor, which takes the shape it is given."""
    return None if is_lazy(x) else tuple(x.shape)


def same(x: Mapping[str, Any], y: Mapping[str, Any]) -> bool:
    """Whether two state dicts of the same names hold the same values."""
    return all(
        name in y and value.shape == y[name].shape and value.dtype == y[name].dtype and torch.equal(value, y[name])
        for name, value in x.items()
        if isinstance(value, Tensor)
    )


def metadata_of(state: Mapping[str, Any], fit: Fit) -> dict[str, dict[str, int]]:
    """The version numbers torch keeps in an attribute of a state dict, under the model's names; nothing else of it."""
    metadata = getattr(state, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return {}
    names = [name for name in state if isinstance(name, str) and (isinstance(state[name], Tensor) or name.endswith(EXTRA))]
    modules = {old.rpartition(".")[0]: new.rpartition(".")[0] for old, new in zip(names, fit.state, strict=True)}
    entries = [(module, entry.get("version")) for module, entry in metadata.items() if isinstance(entry, Mapping)]
    return {modules.get(module, str(module)): {"version": version} for module, version in entries if type(version) is int}


def others(weights: Weights, fit: Fit) -> list[str]:
    """What else in the file holds tensors, in words."""
    loose = [
        name
        for name, value in weights.candidates.get("", {}).items()
        if fit.key and isinstance(name, str) and isinstance(value, Tensor)
    ]
    dicts = {key: state for key, state in weights.candidates.items() if key not in ("", fit.key)}
    return [*([f"state dicts under {listed(dicts)}"] if dicts else []), *([f"tensors {some(loose)}"] if loose else [])]


def listed(candidates: Mapping[str, Mapping[str, Any]]) -> str:
    """State dicts by key with their sizes."""
    return some([f"{key!r} ({sum(isinstance(x, Tensor) for x in state.values())} tensors)" for key, state in candidates.items()])


def some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
