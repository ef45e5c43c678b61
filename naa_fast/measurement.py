"""`Measurement`: what a scan of one set brings home. NumPy and safetensors only, so a laptop can judge a cluster's work.

Immutable and mergeable: chunks measured anywhere, in any order, join to the measurement of the whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from naa_fast.errors import InputError, StateMismatch
from naa_fast.files import write_whole
from naa_fast.records import COUNT_FIELDS, FOLD_FIELDS, FOLDS, MOMENT_FIELDS, VIEWS, Array, LayerRecord

FORMAT = "naa-fast/measurement/1"
HEADER_KEY = "naa_fast"  # one key: several would be written in an order that changes from run to run


@dataclass(frozen=True, order=True)
class Shard:
    """A part of a data set that was measured: `samples` observed, `skipped` left out, `digest` of what was read."""

    digest: str
    samples: int
    skipped: int = 0


@dataclass(frozen=True)
class Measurement:
    """Per-neuron records of every layer, and where they come from.

    `layers` in the order the model ran them; `model` and `input_dtype` must agree for two measurements to merge or be compared
    ("" where unknown); `predictions` counts the predicted classes (see `accumulate.Predictions`; empty where the model gives no
    class scores); `shards` and `provenance` accumulate (`provenance`: sorted distinct strings under each key).
    """

    layers: Mapping[str, LayerRecord] = field(default_factory=dict)
    model: str = ""
    input_dtype: str = ""
    shards: tuple[Shard, ...] = ()
    provenance: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    predictions: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))
        joined = {key: tuple(sorted(set(values))) for key, values in sorted(self.provenance.items())}
        object.__setattr__(self, "provenance", MappingProxyType(joined))
        object.__setattr__(self, "shards", tuple(sorted(self.shards)))
        for record in self.layers.values():
            record.freeze()

    def __repr__(self) -> str:
        return f"Measurement({self.samples} samples, {len(self.layers)} layers)"

    @classmethod
    def zero(cls) -> Measurement:
        """Nothing measured: the identity of `merge`."""
        return cls()

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def skipped(self) -> int:
        return sum(shard.skipped for shard in self.shards)

    def merge(self, other: Measurement) -> Measurement:
        """Both sets together, as if measured in one pass (accuracy: `Moments.merge`); the order of the two changes no bit.

        Raises:
            StateMismatch: different models, input dtypes or layers, or a shard that is in both.
        """
        if not self.shards and not self.layers:
            return other
        if not other.shards and not other.layers:
            return self
        both = {s.digest for s in self.shards if s.digest} & {s.digest for s in other.shards if s.digest}
        if both:
            raise StateMismatch(
                "cannot merge: the same data is in both measurements and would count twice",
                f"shard {min(both)} (of {len(both)} shared)",
                "merge each shard once",
            )
        if self.layers and other.layers:
            self.require_same_subject(other, "merge")
            layers = {name: record.merge(other.layers[name]) for name, record in self.layers.items()}
            predictions = self.predictions + other.predictions
        else:  # a part of which nothing could be decoded has shards and nothing else
            held = self if self.layers else other
            layers, predictions = dict(held.layers), held.predictions
        keys = self.provenance.keys() | other.provenance.keys()
        return Measurement(
            layers,
            self.model or other.model,
            self.input_dtype or other.input_dtype,
            self.shards + other.shards,
            {key: (*self.provenance.get(key, ()), *other.provenance.get(key, ())) for key in keys},
            predictions,
        )

    def require_same_subject(self, other: Measurement, verb: str) -> None:
        """Raise StateMismatch unless both measurements are of the same model, input dtype and layers."""
        for what, mine, theirs, remedy in (
            ("model", self.model, other.model, "measure both sets with the same model and weights"),
            ("input dtype", self.input_dtype, other.input_dtype, "convert one set, so that both are read alike"),
        ):
            if mine and theirs and mine != theirs:
                raise StateMismatch(f"cannot {verb}: the {what} differs", f"{what}: {mine} / {theirs}", remedy)
        if self.predictions.shape != other.predictions.shape:
            raise StateMismatch(
                f"cannot {verb}: the measurements count different classes",
                f"classes and a bin for the rest: {len(self.predictions)} / {len(other.predictions)}",
                "measure both with the same model",
            )
        missing = self.layers.keys() ^ other.layers.keys()
        if missing:
            name = min(missing)
            holder = "first" if name in self.layers else "second"
            raise StateMismatch(
                f"cannot {verb}: the measurements have different layers",
                f"{name} is only in the {holder} ({len(missing)} such layers)",
                "measure both with the same --layers",
            )
        for name, record in self.layers.items():
            theirs_record = other.layers[name]
            for what in ("channels", "layout", "dtype"):
                mine, theirs = getattr(record, what), getattr(theirs_record, what)
                if mine != theirs:
                    raise StateMismatch(
                        f"cannot {verb}: layer {name} differs",
                        f"{what}: {mine} / {theirs}",
                        "measure both with the same model, precision and --layers",
                    )

    def to_bytes(self) -> bytes:
        """The safetensors file: tensors t0, t1, ... (three a layer, `LayerRecord.packed`) and the predictions; all else in one
        JSON header key.
        """
        tensors = {"predictions": np.ascontiguousarray(self.predictions)}
        for index, record in enumerate(self.layers.values()):
            for part, array in enumerate(record.packed()):
                tensors[f"t{3 * index + part}"] = np.ascontiguousarray(array)
        header = {
            "format": FORMAT,
            "views": VIEWS,
            "moments": MOMENT_FIELDS,
            "counts": COUNT_FIELDS,
            "folds": FOLD_FIELDS,
            "layers": [[name, record.layout, record.dtype] for name, record in self.layers.items()],
            "model": self.model,
            "input_dtype": self.input_dtype,
            "shards": [[s.digest, s.samples, s.skipped] for s in self.shards],
            "provenance": {key: list(values) for key, values in self.provenance.items()},
        }
        return bytes(save_tensors(tensors, {HEADER_KEY: json.dumps(header, ensure_ascii=True)}))

    def digest(self) -> str:
        """sha256 of the file's bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the measurement file whole or not at all. Raises InputError if it cannot be written there."""
        try:
            write_whole(Path(path), self.to_bytes())
        except OSError as error:
            raise InputError(f"cannot write {path}", str(error.strerror), "name a file in a folder that can be written") from None

    @classmethod
    def load(cls, path: str | Path) -> Measurement:
        """Read a measurement file. Raises InputError when it is missing, truncated or something else."""
        path = Path(path)
        try:
            if path.exists() and not path.is_file():
                raise InputError(
                    f"cannot read measurement {path}", "it is not a regular file", "expected a .naa.safetensors file"
                )
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read measurement {path}", str(error.strerror)) from None
        try:
            return cls.from_bytes(content)
        except InputError as error:
            raise error.at(str(path)) from None

    @classmethod
    def from_bytes(cls, content: bytes) -> Measurement:
        """Inverse of `to_bytes`; every size and name is checked before it is believed."""
        remedy = "expected a file written by `naa-fast measure`; measure again"
        try:
            length = int.from_bytes(content[:8], "little")
            if length > len(content):
                raise ValueError(f"the header announces {length} bytes, the file has {len(content)}")
            header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][HEADER_KEY])
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']!r}, this version reads {FORMAT!r}")
            tensors = load_tensors(content)
            if len(tensors) != 3 * len(header["layers"]) + 1:
                raise ValueError(f"{len(tensors)} tensors for {len(header['layers'])} layers")
            layers = {}
            for index, (name, layout, dtype) in enumerate(header["layers"]):
                if not all(isinstance(word, str) for word in (name, layout, dtype)) or name in layers:
                    raise ValueError(f"layer {index} has no name of its own")
                packed = [tensors[f"t{3 * index + part}"] for part in range(3)]
                check_packed(name, packed)
                layers[name] = LayerRecord.unpacked(layout, dtype, *packed)
            predictions = tensors["predictions"]
            if predictions.ndim != 1 or predictions.dtype != np.int64:
                raise ValueError(f"predictions: {predictions.dtype} {list(predictions.shape)}, expected int64 [classes + 1]")
            shards = tuple(Shard(str(digest), int(samples), int(skipped)) for digest, samples, skipped in header["shards"])
            if any(shard.samples < 0 or shard.skipped < 0 for shard in shards):
                raise ValueError("a shard of fewer than 0 samples")
            provenance = {str(key): tuple(map(str, values)) for key, values in header["provenance"].items()}
            return cls(layers, str(header["model"]), str(header["input_dtype"]), shards, provenance, predictions)
        except KeyError as error:
            raise InputError("not a measurement file", f"it has no {error}", remedy) from None
        except (ValueError, TypeError, AttributeError, SafetensorError, RecursionError, OverflowError) as error:
            raise InputError("not a measurement file, or a damaged one", str(error), remedy) from None


def check_packed(name: str, packed: list[Any]) -> None:
    """Raise ValueError unless the three arrays have the shapes and dtypes of `LayerRecord.packed`."""
    channels = packed[0].shape[-1] if packed[0].ndim else 0
    expected = [
        ((len(VIEWS), len(MOMENT_FIELDS), channels), np.float64),
        ((len(VIEWS), len(COUNT_FIELDS), channels), np.int64),
        ((2, len(FOLD_FIELDS), FOLDS, channels), np.float64),
    ]
    for array, (shape, dtype) in zip(packed, expected, strict=True):
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"layer {name}: {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {list(shape)}")
    if (packed[1] < 0).any() or (packed[2][:, 0] < 0).any():
        raise ValueError(f"layer {name}: counts below 0")
    if not np.array_equal(packed[2][:, 0].sum(1), packed[1][1:, 0]):
        raise ValueError(f"layer {name}: the folds do not add up to the samples")
