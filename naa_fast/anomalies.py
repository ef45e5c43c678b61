"""`AnomalyScores`: how far suspects lie outside a clean set that was measured before, saved with their measurement. NumPy alone.

Parts of a suspect set, ranked anywhere by one reference, join: one number and a class a sample, what deviates in the
highest-ranked, what directions are found by, and, where it was asked for, the inputs of the highest-ranked (`RetainedInputs`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from naa_fast.errors import StateMismatch
from naa_fast.records import Array
from naa_fast.reference import Directed, require

TOP = 1000
"""Highest-ranked samples of which more than a score is kept."""
INPUT_BYTES = 256 << 20
"""Most that the retained inputs may take."""
DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "float16", "float32", "float64")
DEEPEST = 16
DIRECTED = ("rows_count", "rows_mean", "rows", "held", "held_items")
OF_EACH = ("items", "scores", "predicted")
OF_CLEAN = ("null_scores", "null_predicted")
OF_TOP = ("top_items", "top_deviating")
OF_TOKENS = ("token_keys", "token_counts", "token_classes", "token_samples")


@dataclass(frozen=True)
class RetainedInputs:
    """Inputs of samples of one form: `items` int64 [n], their places in the set; `arrays`, each [n, ...]; `form`: JSON that says
    how a batch is made of them (rank/handed.py).
    """

    items: Array
    form: str
    arrays: tuple[Array, ...]

    @property
    def row_bytes(self) -> float:
        return sum(array.nbytes for array in self.arrays) / max(len(self.items), 1)

    def at(self, rows: Array) -> RetainedInputs:
        """Some of them (bool [n])."""
        return RetainedInputs(self.items[rows], self.form, tuple(array[rows] for array in self.arrays))


@dataclass(frozen=True)
class AnomalyScores:
    """Scores of suspect samples, and what of them is kept to prove a trigger by.

    `by`: digest of the clean measurement they were scored by; `layers`: those that were asked, with their numbers of neurons.
    `items` int64 [S], ascending: places in the suspect set; `scores` float32 [S], `predicted` int32 [S] (-1: none).
    `null_scores`, `null_predicted`: the same of clean samples. `top_items` int64 [T], T <= TOP, the highest-ranked, and
    `top_deviating` float64 [T, L, 3]: of the farthest in each layer number, feature, |z|. `directed`: of each layer
    what directions are found by. `retained`: inputs of the highest-ranked, and `tokens` (counts of class and token, where the
    inputs are tokens): both only where they were asked for. `largest`: samples of the largest batch.
    """

    by: str
    layers: Mapping[str, int]
    items: Array
    scores: Array
    predicted: Array
    null_scores: Array
    null_predicted: Array
    top_items: Array
    top_deviating: Array
    directed: Mapping[str, Directed]
    retained: tuple[RetainedInputs, ...] = ()
    tokens: tuple[Array, Array, Array, Array] | None = None
    largest: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))
        object.__setattr__(self, "directed", MappingProxyType(dict(self.directed)))

    def merge(self, other: AnomalyScores) -> AnomalyScores:
        """Both parts of a suspect set together; their order changes nothing.

        Raises StateMismatch where they were ranked by other clean measurements, or share a sample.
        """
        if self.by != other.by or [*self.layers.items()] != [*other.layers.items()]:
            raise StateMismatch(
                "cannot merge the scores of two measurements",
                f"ranked by: {self.by[:12]}, {len(self.layers)} layers / {other.by[:12]}, {len(other.layers)} layers",
                "measure both --against the same clean measurement, with the same --layers",
            )
        if np.intersect1d(self.items, other.items).size:
            raise StateMismatch(
                "cannot merge the scores of two measurements", "both score the same samples", "merge each shard once"
            )
        if len(other.items) and (not len(self.items) or other.items[0] < self.items[0]):
            return other.merge(self)
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in (*OF_EACH, *OF_TOP)
        }
        order = np.argsort(columns["items"], kind="stable")
        columns |= {name: columns[name][order] for name in OF_EACH}
        directed = {name: layer.merge(other.directed[name]) for name, layer in self.directed.items()}
        tokens = None if self.tokens is None or other.tokens is None else joined_tokens(self.tokens, other.tokens)
        whole = replace(self, **columns, directed=directed, retained=self.retained + other.retained, tokens=tokens)
        return replace(whole, largest=max(self.largest, other.largest)).trimmed()

    def trimmed(self) -> AnomalyScores:
        """With the TOP highest-ranked alone, and the inputs of as many of these as INPUT_BYTES hold."""
        scores = self.scores[np.searchsorted(self.items, self.top_items)]
        order = np.lexsort((self.top_items, -scores))[:TOP]
        items = self.top_items[order]
        room = int(INPUT_BYTES / max((part.row_bytes for part in self.retained), default=1.0)) if self.retained else 0
        groups: dict[tuple[Any, ...], list[RetainedInputs]] = {}
        for part in self.retained:
            part = part.at(np.isin(part.items, items[:room]))
            if len(part.items):
                shape = tuple((array.dtype.str, array.shape[1:]) for array in part.arrays)
                groups.setdefault((part.form, shape), []).append(part)
        retained = tuple(
            RetainedInputs(
                np.concatenate([part.items for part in parts]),
                form,
                tuple(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True)),
            )
            for (form, _), parts in groups.items()
        )
        return replace(self, top_items=items, top_deviating=self.top_deviating[order], retained=retained)

    def tensors(self) -> dict[str, Array]:
        """What goes into a measurement file."""
        tensors = {f"a.{name}": getattr(self, name) for name in (*OF_EACH, *OF_CLEAN, *OF_TOP)}
        for place, directed in enumerate(self.directed.values()):
            tensors |= {f"a{place}.{name}": getattr(directed, name) for name in DIRECTED}
        for place, retained in enumerate(self.retained):
            tensors[f"ai{place}.items"] = retained.items
            tensors |= {f"ai{place}.{number}": array for number, array in enumerate(retained.arrays)}
        if self.tokens is not None:
            tensors |= {f"a.{name}": array for name, array in zip(OF_TOKENS, self.tokens, strict=True)}
        return {name: np.ascontiguousarray(array) for name, array in tensors.items()}

    def header(self) -> dict[str, object]:
        return {
            "by": self.by,
            "layers": [[name, neurons] for name, neurons in self.layers.items()],
            "directed": [*self.directed],
            "retained": [[inputs.form, len(inputs.arrays)] for inputs in self.retained],
            "tokens": self.tokens is not None,
            "largest": self.largest,
        }

    @classmethod
    def read(cls, header: Mapping[str, Any], tensors: Mapping[str, Array]) -> AnomalyScores:
        """Inverse of `tensors` and `header`. Raises ValueError, TypeError or KeyError where they do not fit each other."""
        layers = {str(name): int(neurons) for name, neurons in header["layers"]}
        arrays: dict[str, Any] = {name: tensors[f"a.{name}"] for name in (*OF_EACH, *OF_CLEAN, *OF_TOP)}
        samples, null, top = len(arrays["items"]), len(arrays["null_scores"]), len(arrays["top_items"])
        shown = arrays["top_deviating"].shape[1] if arrays["top_deviating"].ndim == 3 else 0
        for name, shape, dtype in (
            ("items", (samples,), np.int64),
            ("scores", (samples,), np.float32),
            ("predicted", (samples,), np.int32),
            ("null_scores", (null,), np.float64),
            ("null_predicted", (null,), np.int64),
            ("top_items", (top,), np.int64),
            ("top_deviating", (top, shown, 3), np.float64),
        ):
            require(name, arrays[name], shape, dtype)
        items, deviating = arrays["items"], arrays["top_deviating"]
        if (samples and (items[0] < 0 or (np.diff(items) <= 0).any())) or not np.isin(arrays["top_items"], items).all():
            raise ValueError("scores of samples that are not in ascending order, or are not there")
        if top > TOP or len(np.unique(arrays["top_items"])) < top or min(arrays["predicted"].min(initial=0), 0) < -1:
            raise ValueError("highest-ranked samples or classes that there cannot be")
        if deviating.size and not (
            np.isfinite(deviating[..., :2]).all() and 0 <= deviating[..., 0].min() <= deviating[..., 0].max() < len(layers)
        ):
            raise ValueError("what deviates is in layers that there are not")
        directed = {}
        for place, name in enumerate(header["directed"]):
            directed[str(name)] = Directed(**{part: tensors[f"a{place}.{part}"] for part in DIRECTED})
            directed[str(name)].check(str(name))
        if not directed.keys() <= layers.keys() or len(directed) != len(header["directed"]):
            raise ValueError("directions in layers that there are not")
        retained = []
        for place, (form, count) in enumerate(header["retained"]):
            parts = tuple(tensors[f"ai{place}.{number}"] for number in range(int(count)))
            retained.append(RetainedInputs(tensors[f"ai{place}.items"], str(form), parts))
            check_retained(retained[-1], arrays["top_items"])
        tokens = None
        if header["tokens"]:
            keys, counts, classes, times = (tensors[f"a.{name}"] for name in OF_TOKENS)
            for name, array, like in zip(OF_TOKENS, (keys, counts, classes, times), (keys, keys, classes, classes), strict=True):
                require(name, array, (len(like),), np.int64)
            if min(keys.min(initial=0), counts.min(initial=0), times.min(initial=0)) < 0 or (np.diff(keys) <= 0).any():
                raise ValueError("counts of tokens below 0, or in no order")
            tokens = keys, counts, classes, times
        whole = cls(str(header["by"]), layers, **arrays, directed=directed, retained=tuple(retained), tokens=tokens)
        return replace(whole, largest=max(1, int(header["largest"])))


def joined_tokens(mine: tuple[Array, ...], theirs: tuple[Array, ...]) -> tuple[Array, Array, Array, Array]:
    """Counts of both: of each pair of class and token, and of each class. Int64 `[pairs]` and `[classes]`."""
    joined = []
    for keys, counts in ((0, 1), (2, 3)):
        unique, place = np.unique(np.concatenate([mine[keys], theirs[keys]]), return_inverse=True)
        both = np.concatenate([mine[counts], theirs[counts]])
        joined += [unique, np.bincount(place, both, len(unique)).astype(np.int64)]
    return joined[0], joined[1], joined[2], joined[3]


def check_retained(inputs: RetainedInputs, top: Array) -> None:
    """Raise ValueError unless retained inputs fit their form and the samples they are of. `top` int64 `[samples]`."""
    require("retained items", inputs.items, (len(inputs.items),), np.int64)
    if not np.isin(inputs.items, top).all() or len(np.unique(inputs.items)) < len(inputs.items):
        raise ValueError("inputs of samples that are not among the highest-ranked")
    for array in inputs.arrays:
        if array.dtype.name not in DTYPES or not array.ndim or len(array) != len(inputs.items):
            raise ValueError(f"retained inputs: {array.dtype} {list(array.shape)}, expected {len(inputs.items)} samples")
    form = json.loads(inputs.form)
    numbers = sorted(numbers_in(form, 0))
    if not isinstance(form, dict) or numbers != list(range(len(inputs.arrays))):
        raise ValueError("retained inputs whose form names other arrays than there are")


def numbers_in(form: Any, depth: int) -> list[int]:
    """The numbers of the arrays that a form names."""
    if depth > DEEPEST:
        raise ValueError("retained inputs of a form that is too deep")
    if isinstance(form, dict) and "array" in form:
        return [int(form["array"])]
    parts = form.values() if isinstance(form, dict) else form if isinstance(form, list) else ()
    return [number for part in parts for number in numbers_in(part, depth + 1)]
