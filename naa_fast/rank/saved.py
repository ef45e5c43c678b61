"""What a ranking has learned of the clean set, as a `Reference` that a measurement file holds, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import torch

from naa_fast.rank.directions import Directions
from naa_fast.rank.reference import Reference as Sums
from naa_fast.records import Array
from naa_fast.reference import CALIBRATION, HELD, LayerReference, Reference, chosen

OF_SUMS = ("count", "pivot", "width", "sums", "squares", "known", "folds", "products", "projected")


def arrays_of(references: Mapping[str, Sums]) -> dict[str, dict[str, Array]]:
    """The sums of each layer, on the host, before they are frozen."""
    layers = {}
    for name, reference in references.items():
        sums: dict[str, torch.Tensor] = {field: getattr(reference, field) for field in OF_SUMS}
        sums["projected"] = reference.count if reference.projected is None else reference.projected
        sums["anchor"] = reference.projection((reference.pivot / reference.width)[None])[0].double()
        layers[name] = {field: value.cpu().numpy().copy() for field, value in sums.items()}
    return layers


def layers_of(arrays: Mapping[str, dict[str, Array]], directions: Directions) -> dict[str, LayerReference]:
    """With what was seen of each layer's directions."""
    layers, looked_at = {}, directions.saved({name: len(sums["pivot"]) for name, sums in arrays.items()})
    for name, sums in arrays.items():
        more = looked_at[name]
        aside, items = chosen(HELD, (more["held"], more["held"][:0]), (more["held_items"], more["held_items"][:0]))
        layers[name] = LayerReference(**sums, **more | {"held": aside, "held_items": items})
    return layers


def reference_of(
    classes: int, samples: int, layers: Mapping[str, LayerReference], items: Array, parts: Array, predicted: Array
) -> Reference:
    """With at most CALIBRATION of the samples that say what chance does: of places `items` int64 `[samples]`, with `parts`
    `[samples, layers, 3]` and `predicted` `[samples]`.
    """
    none = items[:0]
    rows, kept = chosen(CALIBRATION, (np.arange(len(items)), none), (items, none))
    return Reference(classes, samples, layers, kept, parts[rows].astype(np.float32), predicted[rows])


def sums_of(layer: LayerReference) -> Sums:
    """The layer's sums, on the host."""
    return Sums.of(**{field: torch.tensor(getattr(layer, field)) for field in OF_SUMS})


def directions_of(reference: Reference, neurons: Mapping[str, int], suspects: int) -> Directions:
    """What was seen of the clean set's directions; 0 suspects: unknown how many."""
    directions = Directions(neurons, (reference.samples, suspects))
    names = {kept.name for kept in fields(LayerReference)} - {*OF_SUMS, "anchor"}
    directions.restore({name: {field: getattr(layer, field) for field in names} for name, layer in reference.layers.items()})
    return directions
