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

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from naa_fast.anomalies import AnomalyScores
from naa_fast.errors import InputError, StateMismatch, UsageError
from naa_fast.files import nearest_files, write_whole
from naa_fast.histograms import dense, sparse
from naa_fast.parts import UNKNOWN_SET, Part, of_unknown_set, require_joinable_parts, require_one_set
from naa_fast.records import (
    BIN_RULE,
    COUNT_FIELDS,
    FOLD_FIELDS,
    MOMENT_FIELDS,
    VIEWS,
    Array,
    LayerRecord,
    check_packed,
)
from naa_fast.reference import Reference

FORMAT = "naa-fast/measurement/2"
WITH_REFERENCE = "naa-fast/measurement/3"
WITH_SCORES = "naa-fast/measurement/4"
WITH_CODES = "naa-fast/measurement/5"
READ = (WITH_CODES, WITH_SCORES, WITH_REFERENCE, FORMAT, "naa-fast/measurement/1")
"""Formats that can be read: 1 had no histograms, 2 is written where there are no scores and no reference, 5 where a reference has
codes in place of classes.
"""
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
    class scores); `labelled` int64 `[2, classes + 1]`: samples labelled with each class, and those predicted as it, the last
    column for labels beyond the classes (`[2, 0]` without labels); `shards`, `parts` and `provenance` accumulate (`provenance`:
    sorted distinct strings under each key). `parts`: which shards of a set these are, empty for a set that was not cut.
    What `unread` names is not in `layers`. `reference`: what suspects can be ranked by without a clean sample, `anomalies`: how
    far the samples lie outside such a one; None where it was not asked for.

    >>> measured = naa_fast.measure(model, clean)
    >>> measured.layers["0"].sample_mean.mean.shape
    (8,)
    """

    layers: Mapping[str, LayerRecord] = field(default_factory=dict)
    model: str = ""
    input_dtype: str = ""
    shards: tuple[Shard, ...] = ()
    provenance: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    predictions: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    parts: tuple[Part, ...] = ()
    labelled: Array = field(default_factory=lambda: np.zeros((2, 0), np.int64))
    reference: Reference | None = None
    anomalies: AnomalyScores | None = None

    def __post_init__(self) -> None:
        joined = {key: tuple(sorted(set(values))) for key, values in sorted(self.provenance.items())}
        object.__setattr__(self, "provenance", MappingProxyType(joined))
        layers = {name: record for name, record in self.layers.items() if not is_among(name, self.unread)}
        object.__setattr__(self, "layers", MappingProxyType(layers))
        object.__setattr__(self, "shards", tuple(sorted(self.shards)))
        object.__setattr__(self, "parts", tuple(sorted(self.parts)))
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

    @property
    def unread(self) -> tuple[str, ...]:
        """Default layers that could not be read in some batch: what was counted of them until then does not count.

        >>> naa_fast.measure(model, clean).unread
        ()
        """
        return self.provenance.get("unread", ())

    def missing(self) -> list[Part]:
        """The shards that are not in it; none for a set that was not cut.

        >>> [str(part) for part in naa_fast.measure(model, clean, shard=(1, 2)).missing()]
        ['shard 2/2 (items 250 to 499 of 500)']
        """
        if not self.parts:
            return []
        count, items = self.parts[0].count, self.parts[0].items
        here = {part.number for part in self.parts}
        return [Part.of(number, count, items) for number in range(1, count + 1) if number not in here]

    def merge(self, other: Measurement) -> Measurement:
        """Both sets together, as if measured in one pass (accuracy: `Moments.merge`); the order of the two changes no bit of the
        records. A reference needs one in both, and so do scores.

        >>> halves = naa_fast.measure(model, clean[:256]), naa_fast.measure(model, clean[256:], first_index=256)
        >>> halves[0].merge(halves[1])
        Measurement(500 samples, 3 layers)

        Raises:
            StateMismatch: different models, input dtypes or layers, shards of different sets, or a shard that is in both.
        """
        if not self.shards and not self.layers:
            return other
        if not other.shards and not other.layers:
            return self
        both = {s.digest for s in self.shards if s.digest} & {s.digest for s in other.shards if s.digest}
        require_joinable_parts(self.parts, other.parts)
        require_one_set(self.provenance, other.provenance)
        if both:
            raise StateMismatch(
                "cannot merge: the same data is in both measurements and would count twice",
                f"shard {min(both)} (of {len(both)} shared)",
                "merge each shard once",
            )
        if self.layers and other.layers:
            self.require_same_subject(other, "merge")
            common = [name for name in self.layers if not is_among(name, other.unread)]
            layers = {name: self.layers[name].merge(other.layers[name]) for name in common}
            predictions = self.predictions + other.predictions
        else:  # a part of which nothing could be decoded has shards and nothing else
            whole = self if self.layers else other
            layers, predictions = dict(whole.layers), whole.predictions
        keys = self.provenance.keys() | other.provenance.keys()
        told = {key: (*self.provenance.get(key, ()), *other.provenance.get(key, ())) for key in keys}
        if any(of_unknown_set(part.parts, part.provenance) for part in (self, other)):
            told["gaps"] = (*told.get("gaps", ()), UNKNOWN_SET)
        return Measurement(
            layers,
            self.model or other.model,
            self.input_dtype or other.input_dtype,
            self.shards + other.shards,
            told,
            predictions,
            self.parts + other.parts,
            joined_labels(self.labelled, other.labelled),
            None if self.reference is None or other.reference is None else self.reference.merge(other.reference),
            None if self.anomalies is None or other.anomalies is None else self.anomalies.merge(other.anomalies),
        )

    def require_same_subject(self, other: Measurement, verb: str) -> None:
        """Raise StateMismatch unless both measurements are of the same model, input dtype and layers, but for unread ones."""
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
        missing = {name for name in self.layers.keys() ^ other.layers.keys() if not is_among(name, self.unread + other.unread)}
        if missing:
            name = min(missing)
            holder = "first" if name in self.layers else "second"
            raise StateMismatch(
                f"cannot {verb}: the measurements have different layers",
                f"{name} is only in the {holder} ({len(missing)} such layers)",
                "measure both with the same --layers",
            )
        for name, record in self.layers.items():
            if name not in other.layers:  # unread in the other
                continue
            record, theirs_record = record.alike(other.layers[name])
            # Sets of which only one has histograms can be compared, but not joined.
            for what in ("channels", "layout", "dtype", *(("bins",) if verb == "merge" else ())):
                mine, theirs = getattr(record, what), getattr(theirs_record, what)
                if mine != theirs:
                    raise StateMismatch(
                        f"cannot {verb}: layer {name} differs",
                        f"{what}: {mine} / {theirs}",
                        "measure both with the same model, precision and --layers",
                    )

    def to_bytes(self) -> bytes:
        """The safetensors file: tensors t0, t1, ... (three a layer, `LayerRecord.packed`), h0 and n0, h1 and n1, ... (`sparse`
        histograms, where there are any), the predictions, and what labels said of them; all else in one JSON header key.
        """
        tensors = {"predictions": np.ascontiguousarray(self.predictions)}
        if self.labelled.size:
            tensors["labelled"] = np.ascontiguousarray(self.labelled)
        for index, record in enumerate(self.layers.values()):
            for part, array in enumerate(record.packed()):
                tensors[f"t{3 * index + part}"] = np.ascontiguousarray(array)
            if record.bins:
                tensors[f"h{index}"], tensors[f"n{index}"] = sparse(record.tails)
        header = {
            "format": FORMAT,
            "views": VIEWS,
            "moments": MOMENT_FIELDS,
            "counts": COUNT_FIELDS,
            "folds": FOLD_FIELDS,
            "bins": BIN_RULE,
            "layers": [[name, record.layout, record.dtype] for name, record in self.layers.items()],
            "model": self.model,
            "input_dtype": self.input_dtype,
            "shards": [[s.digest, s.samples, s.skipped] for s in self.shards],
            "parts": [[p.number, p.count, p.items] for p in self.parts],
            "provenance": {key: list(values) for key, values in self.provenance.items()},
        }
        if self.reference is not None:
            tensors |= self.reference.tensors()
            header |= {"format": WITH_REFERENCE, "reference": self.reference.header()}
        if self.anomalies is not None:
            tensors |= self.anomalies.tensors()
            header |= {"format": WITH_SCORES, "anomalies": self.anomalies.header()}
        if self.reference is not None and self.reference.coded:
            header["format"] = WITH_CODES
        return bytes(save_tensors(tensors, {HEADER_KEY: json.dumps(header, ensure_ascii=True)}))

    def digest(self) -> str:
        """sha256 of the file's bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the measurement file whole or not at all. Raises InputError if it cannot be written there.

        >>> naa_fast.measure(model, clean).save(folder / "clean.naa.safetensors")
        """
        try:
            write_whole(Path(path), self.to_bytes())
        except OSError as error:
            raise InputError(f"cannot write {path}", str(error.strerror), "name a file in a folder that can be written") from None

    @classmethod
    def load(cls, path: str | Path) -> Measurement:
        """Read a measurement file. Raises InputError when it is missing, truncated or something else.

        >>> naa_fast.measure(model, clean).save(folder / "clean.naa.safetensors")
        >>> naa_fast.Measurement.load(folder / "clean.naa.safetensors")
        Measurement(500 samples, 3 layers)
        """
        path = Path(path)
        try:
            if path.exists() and not path.is_file():
                raise InputError(
                    f"cannot read measurement {path}", "it is not a regular file", "expected a .naa.safetensors file"
                )
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read measurement {path}", str(error.strerror), *nearest_files(path)) from None
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
            if header["format"] not in READ:
                raise ValueError(f"format {header['format']!r}, this version reads {', '.join(READ)}")
            if header.get("bins", BIN_RULE) != BIN_RULE:
                raise ValueError(f"histograms with bins {header['bins']!r}, this version reads {BIN_RULE!r}")
            tensors = load_tensors(content)
            of_reference = {name: tensors.pop(name) for name in [*tensors] if name.startswith("r")}
            reference = Reference.read(header["reference"], of_reference) if "reference" in header else None
            of_scores = {name: tensors.pop(name) for name in [*tensors] if name.startswith("a")}
            anomalies = AnomalyScores.read(header["anomalies"], of_scores) if "anomalies" in header else None
            kept = sum(name.startswith("h") for name in tensors)
            labelled = tensors.pop("labelled", np.zeros((2, 0), np.int64))
            if len(tensors) != 3 * len(header["layers"]) + 2 * kept + 1:
                raise ValueError(f"{len(tensors)} tensors for {len(header['layers'])} layers")
            layers = {}
            for index, (name, layout, dtype) in enumerate(header["layers"]):
                if not all(isinstance(word, str) for word in (name, layout, dtype)) or name in layers:
                    raise ValueError(f"layer {index} has no name of its own")
                packed = [tensors[f"t{3 * index + part}"] for part in range(3)]
                check_packed(name, packed)
                tails = None
                if f"h{index}" in tensors:
                    tails = dense(name, tensors[f"h{index}"], tensors[f"n{index}"], packed[1][1:, 0])
                layers[name] = LayerRecord.unpacked(layout, dtype, *packed, tails=tails)
            predictions = tensors["predictions"]
            if predictions.ndim != 1 or predictions.dtype != np.int64:
                raise ValueError(f"predictions: {predictions.dtype} {list(predictions.shape)}, expected int64 [classes + 1]")
            check_labelled(labelled, predictions)
            shards = tuple(Shard(str(digest), int(samples), int(skipped)) for digest, samples, skipped in header["shards"])
            parts = tuple(Part.of(int(number), int(count), int(items)) for number, count, items in header["parts"])
            if len(set(parts)) < len(parts) or len({(part.count, part.items) for part in parts}) > 1:
                raise ValueError("parts that are not of one set")
            if any(shard.samples < 0 or shard.skipped < 0 for shard in shards):
                raise ValueError("a shard of fewer than 0 samples")
            provenance = {str(key): tuple(map(str, values)) for key, values in header["provenance"].items()}
            subject = str(header["model"]), str(header["input_dtype"])
            return cls(layers, *subject, shards, provenance, predictions, parts, labelled, reference, anomalies)
        except UsageError as error:
            raise InputError("not a measurement file, or a damaged one", error.headline, remedy) from None
        except KeyError as error:
            raise InputError("not a measurement file", f"it has no {error}", remedy) from None
        except (ValueError, TypeError, AttributeError, SafetensorError, RecursionError, OverflowError) as error:
            raise InputError("not a measurement file, or a damaged one", str(error), remedy) from None


def joined_labels(mine: Array, theirs: Array) -> Array:
    """What the labels of two parts of a set say; nothing where they are of models of different classes. Int64 `[2, classes + 1]`
    each.
    """
    if not (mine.size and theirs.size):
        return mine if mine.size else theirs
    return mine + theirs if mine.shape == theirs.shape else np.zeros((2, 0), np.int64)


def check_labelled(labelled: Array, predictions: Array) -> None:
    """Raise ValueError unless the counts of labels fit the predictions and each other. Int64 `[2, classes + 1]` and
    `[classes + 1]`.
    """
    fits = labelled.dtype == np.int64 and labelled.shape in ((2, 0), (2, len(predictions)))
    if not fits or (labelled < 0).any() or (labelled[1] > labelled[0]).any():
        raise ValueError(
            f"labelled: {labelled.dtype} {list(labelled.shape)}, expected int64 [2, classes + 1], right ones below all"
        )


def is_among(name: str, layers: tuple[str, ...]) -> bool:
    """Whether a layer is one of `layers`, or what calls of another shape made of one of them: `layer[neurons, n-d]`."""
    return name in layers or (name.endswith("-d]") and name[: name.rfind("[")] in layers)


def begin_alike(whole: Measurement) -> bool:
    """Whether two of the parts in it begin at the same item, as whole sets do, and parts of one set do not."""
    starts = [shard.digest.rpartition("@")[2] for shard in whole.shards if "@" in shard.digest]
    return len(set(starts)) < len(starts)


def first_items(path: Path) -> tuple[int, str]:
    """What puts the measurements of a set in order: the first item of each, and a digest. Reads the file's header alone."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            content = file.read(min(length, path.stat().st_size))
        header = json.loads(json.loads(content)["__metadata__"][HEADER_KEY])
        starts = [int(start) for digest, *_ in header["shards"] for start in digest.rpartition("@")[2:] if start.isdecimal()]
        parts = [Part.of(*part).start for part in header["parts"]]
        return min(parts or starts, default=0), min((digest for digest, *_ in header["shards"]), default="")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError):
        return 0, ""  # `load` says what is wrong with it
