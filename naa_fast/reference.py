"""`Reference`: what suspects are held against, measured once and saved with the clean measurement. NumPy alone.

Bounded bytes a neuron whatever the number of classes and samples, and mergeable: parts of a clean set, measured anywhere, join.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

import numpy as np

from naa_fast.errors import StateMismatch
from naa_fast.records import Array

CALIBRATION = 4096
"""Clean samples that say what chance does, at most."""
HELD = 256
"""Clean samples of a layer that directions are measured on, at most."""
ROWS = 32
"""Rows a sketch keeps (rank/directions.py)."""
BUFFER = 128
"""Rows it holds before it cuts them down to ROWS again."""
EXACT = 256
"""Neurons of a layer that is kept exactly, at most: less time than cutting down from 1,000 samples on, and twice the memory."""
PARTS = 3


@dataclass(frozen=True)
class Directed:
    """What a layer's directions are found by, of samples of one set: `rows_count` [3]: samples, energy and what was lost of the
    sketch; `rows_mean` [N]; `rows` its scatter float64 [N, N], or float32 [at most 128, N] of more than 256 neurons; `held`
    float32 [K, N] samples that fixed none of it, of places `held_items` int64 [K].
    """

    rows_count: Array
    rows_mean: Array
    rows: Array
    held: Array
    held_items: Array

    def merge(self, other: Directed) -> Directed:
        """Both parts of the set (Ross, Lim, Lin and Yang, IJCV 77, 2008)."""
        kept_rows, items = chosen(HELD, (self.held, other.held), (self.held_items, other.held_items))
        ours, theirs = float(self.rows_count[0]), float(other.rows_count[0])
        if not ours or not theirs:
            kept = self if ours else other
            return Directed(kept.rows_count, kept.rows_mean, kept.rows, kept_rows, items)
        between = (other.rows_mean - self.rows_mean) * (ours * theirs / (ours + theirs)) ** 0.5
        mean = self.rows_mean + (other.rows_mean - self.rows_mean) * (theirs / (ours + theirs))
        counted = self.rows_count + other.rows_count + np.array([0.0, float(between @ between), 0.0])
        if len(mean) <= EXACT:
            return Directed(counted, mean, self.rows + other.rows + np.outer(between, between), kept_rows, items)
        rows = np.concatenate([self.rows, other.rows, between[None]]).astype(np.float64)
        if len(rows) > BUFFER:
            values, vectors = np.linalg.eigh(rows @ rows.T)
            values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
            scale = np.sqrt((values[:ROWS] - values[ROWS]).clip(min=0) / values[:ROWS].clip(min=1e-300))
            rows, lost = (vectors[:, :ROWS] * scale).T @ rows, float(values[ROWS])
            counted = counted + np.array([0.0, 0.0, lost])
        return Directed(counted, mean, rows.astype(np.float32), kept_rows, items)

    def check(self, name: str) -> None:
        """Raise ValueError unless the arrays of a layer of that name fit each other."""
        wide, held = len(self.rows_mean), len(self.held_items)
        exact = wide <= EXACT
        require_all(
            name,
            self,
            {
                "rows_count": ((3,), np.float64),
                "rows_mean": ((wide,), np.float64),
                "rows": ((wide if exact else min(len(self.rows), BUFFER), wide), np.float64 if exact else np.float32),
                "held": ((held, wide), np.float32),
                "held_items": ((held,), np.int64),
            },
        )
        if (self.rows_count < 0).any():
            raise ValueError(f"layer {name}: counts below 0")


@dataclass(frozen=True)
class LayerReference:
    """What clean samples do in one layer: sums by predicted class, and a sketch of what varies in its neurons.

    G groups of classes, F features (means, and maxima of samples with several positions), P = min(F, 256) projected ones, N
    neurons looked at for directions. `count` [G] samples; `pivot` [F] what values are centred on, `anchor` [P] its projection;
    `width` [F] what they are divided by before they are projected; `sums` [G, F], `squares` [F]; `known` bool [F];
    `projected` [G] samples in `folds` [G, P] and `products` [P, P]; all float64. The rest as of `Directed`.

    Where there are too many classes, samples have codes (rank/codes.py), of which the first is 1: `count` and `projected` are
    then their products [G, G], `sums` and `folds` those of codes with features; of large layers `sums` has the first code alone.
    """

    count: Array
    pivot: Array
    anchor: Array
    width: Array
    sums: Array
    squares: Array
    known: Array
    projected: Array
    folds: Array
    products: Array
    rows_count: Array
    rows_mean: Array
    rows: Array
    held: Array
    held_items: Array

    def merge(self, other: LayerReference) -> LayerReference:
        """Both parts together: exact but for rounding. Projections that are in other widths are not added up, where features
        share sums: that of more samples is kept. Pairwise updates: Chan, Golub and LeVeque, The American Statistician 37(3),
        1983.
        """
        for name in ("pivot", "count", "sums", "rows_mean"):  # codes are more than the one group of many classes had
            mine, theirs = (len(getattr(one, name)) for one in (self, other))
            if mine != theirs:
                raise StateMismatch("cannot merge two references", f"{name}: {mine} / {theirs} values", "measure both alike")
        if not same(self.width, other.width) and self._narrower(other):
            return other.merge(self)
        apart = other.pivot - self.pivot
        count, total = (other.count[0], other.count[0, 0]) if self.coded else (other.count, other.count.sum())
        projected, folds, products = self._projections(other)
        directed = self.directed.merge(other.directed)
        return LayerReference(
            self.count + other.count,
            self.pivot,
            self.anchor,
            self.width,
            self.sums + other.sums + count[: len(self.sums), None] * apart,
            self.squares + other.squares + 2 * apart * self._whole(other.sums) + apart**2 * total,
            self.known | other.known,
            projected,
            folds,
            products,
            *(getattr(directed, layer.name) for layer in fields(Directed)),
        )

    @property
    def coded(self) -> bool:
        return self.count.ndim == 2

    def _whole(self, sums: Array) -> Array:
        """Of sums of each group those of all samples."""
        whole: Array = sums[0] if self.coded else sums.sum(0)
        return whole

    @property
    def directed(self) -> Directed:
        return Directed(**{one.name: getattr(self, one.name) for one in fields(Directed)})

    def _narrower(self, other: LayerReference) -> bool:
        """Whether the other's projection is the one to keep, where only one can be."""
        samples = [one.projected[0, 0] if self.coded else one.projected.sum() for one in (self, other)]
        mine, theirs = ((float(many), one.width.tobytes()) for many, one in zip(samples, (self, other), strict=True))
        return len(self.pivot) > len(self.anchor) and theirs > mine

    def _projections(self, other: LayerReference) -> tuple[Array, Array, Array]:
        """`projected`, `folds` and `products` of both, in this one's widths and about its pivot."""
        if not same(self.width, other.width) and len(self.pivot) > len(self.anchor):
            return self.projected, self.folds, self.products
        scale = other.width[0] / self.width[0]  # one for all features where these do not share sums
        moved = other.anchor - self.anchor / scale
        count, total = (other.projected[0], other.projected[0, 0]) if self.coded else (other.projected, other.projected.sum())
        crossed = np.outer(self._whole(other.folds), moved)
        products = other.products + crossed + crossed.T + total * np.outer(moved, moved)
        folds = other.folds + count[:, None] * moved
        return self.projected + other.projected, self.folds + scale * folds, self.products + scale**2 * products


@dataclass(frozen=True)
class Reference:
    """What clean samples do: in each of `layers`, and what is said of those that fixed nothing of it.

    `classes`: how many the model predicts (0: it gives no class scores), `samples` of the set. `items` int64 [C]: places of at
    most CALIBRATION clean samples; `said` float32 [C, layers, 3]: their excess, distance and margin in each layer; `predicted`
    int64 [C], -1 for none. Samples of parts that merged are said what their own part's sums say.
    """

    classes: int
    samples: int
    layers: Mapping[str, LayerReference]
    items: Array
    said: Array
    predicted: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))

    def merge(self, other: Reference) -> Reference:
        """Both parts of a clean set together. Raises StateMismatch for other classes or layers."""
        if self.classes != other.classes:
            raise StateMismatch("cannot merge two references", f"classes: {self.classes} / {other.classes}", "measure both alike")
        if self.layers.keys() != other.layers.keys():
            name = min(self.layers.keys() ^ other.layers.keys())
            raise StateMismatch(
                "cannot merge two references", f"{name} is in one of them alone", "measure both with the same --layers"
            )
        order = [list(other.layers).index(name) for name in self.layers]
        items = self.items, other.items
        parts, kept = chosen(CALIBRATION, (self.said, other.said[:, order]), items)
        predicted, _ = chosen(CALIBRATION, (self.predicted, other.predicted), items)
        layers = {name: layer.merge(other.layers[name]) for name, layer in self.layers.items()}
        return Reference(self.classes, self.samples + other.samples, layers, kept, parts, predicted)

    @property
    def coded(self) -> bool:
        """Whether samples are held against what their class scores let expect (`LayerReference`)."""
        return any(layer.coded for layer in self.layers.values())

    def without(self, names: tuple[str, ...]) -> Reference:
        """The same without some layers."""
        kept = [place for place, name in enumerate(self.layers) if name not in names]
        layers = {name: layer for name, layer in self.layers.items() if name not in names}
        return Reference(self.classes, self.samples, layers, self.items, self.said[:, kept], self.predicted)

    def tensors(self) -> dict[str, Array]:
        """What goes into a measurement file."""
        arrays = {"r.items": self.items, "r.said": self.said, "r.predicted": self.predicted}
        for index, layer in enumerate(self.layers.values()):
            arrays |= {f"r{index}.{kept.name}": np.ascontiguousarray(getattr(layer, kept.name)) for kept in fields(layer)}
        return arrays

    def header(self) -> dict[str, object]:
        return {"classes": self.classes, "samples": self.samples, "layers": list(self.layers)}

    @classmethod
    def read(cls, header: Mapping[str, object], tensors: Mapping[str, Array]) -> Reference:
        """Inverse of `tensors` and `header`. Raises ValueError or KeyError where they do not fit each other."""
        names, classes, samples = header["layers"], header["classes"], header["samples"]
        if not isinstance(names, list) or len({*map(str, names)}) != len(names):
            raise ValueError("a reference whose layers have no names of their own")
        if not isinstance(classes, int) or not isinstance(samples, int) or min(classes, samples) < 0:
            raise ValueError("a reference of no number of classes or samples")
        items, said, predicted = (tensors[f"r.{name}"] for name in ("items", "said", "predicted"))
        require("items", items, (len(items),), np.int64)
        require("said", said, (len(items), len(names), PARTS), np.float32)
        require("predicted", predicted, (len(items),), np.int64)
        if len(predicted) and not -1 <= predicted.min() <= predicted.max() < max(classes, 1 << 31):
            raise ValueError("a reference with classes that there are not")
        layers = {}
        for index, name in enumerate(names):
            layer = LayerReference(**{kept.name: tensors[f"r{index}.{kept.name}"] for kept in fields(LayerReference)})
            check(str(name), layer)
            layers[str(name)] = layer
        if len({layer.count.shape for layer in layers.values()}) > 1:
            raise ValueError("a reference whose layers have different groups of classes")
        return cls(classes, samples, layers, items, said, predicted)


def same(a: Array, b: Array) -> bool:
    """Whether two arrays `[...]` have the same shape and values."""
    return a is b or np.array_equal(a, b)


def chosen(most: int, values: tuple[Array, Array], items: tuple[Array, Array]) -> tuple[Array, Array]:
    """The `values` of at most so many samples and their `items`, in order: spread evenly over any stretch (multiples of the
    golden ratio), and the same whatever was merged first. `[samples, ...]` and int64 `[samples]`.
    """
    both, places = np.concatenate(values), np.concatenate(items)
    key = places.astype(np.uint64) * np.uint64(2654435769) % np.uint64(1 << 32)
    kept = np.lexsort((places, key))[:most]
    kept = kept[np.argsort(places[kept], kind="stable")]
    return both[kept], places[kept]


def check(name: str, layer: LayerReference) -> None:
    """Raise ValueError unless a layer's arrays fit each other."""
    groups, features = len(layer.count), len(layer.pivot)
    folded, each = min(features, EXACT), (groups, groups) if layer.coded else (groups,)
    rows = 1 if layer.coded and len(layer.sums) == 1 else groups
    require_all(
        name,
        layer,
        {
            "count": (each, np.float64),
            "pivot": ((features,), np.float64),
            "anchor": ((folded,), np.float64),
            "width": ((features,), np.float64),
            "sums": ((rows, features), np.float64),
            "squares": ((features,), np.float64),
            "known": ((features,), np.bool_),
            "projected": (each, np.float64),
            "folds": ((groups, folded), np.float64),
            "products": ((folded, folded), np.float64),
        },
    )
    layer.directed.check(name)
    counts = layer.count.diagonal() if layer.coded else layer.count  # of codes their squares
    if features == 0 or not (layer.width > 0).all() or (counts < 0).any():
        raise ValueError(f"layer {name}: widths or counts of a reference that are below 0")


def require_all(name: str, holder: object, shapes: Mapping[str, tuple[tuple[int, ...], type]]) -> None:
    """Raise ValueError unless the holder's arrays have these shapes and types, and those of float64 are finite."""
    for field, (shape, dtype) in shapes.items():
        array = getattr(holder, field)
        require(f"layer {name}: {field}", array, shape, dtype)
        if dtype == np.float64 and not np.isfinite(array).all():
            raise ValueError(f"layer {name}: {field} of a reference is not finite")


def require(name: str, array: Array, shape: tuple[int, ...], dtype: type) -> None:
    """Raise ValueError unless `array` has this `[shape]` and dtype."""
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name}: {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {list(shape)}")
