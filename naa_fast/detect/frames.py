"""Tables for pandas, where it is installed: `neurons_frame` and `ranking_frame`. NumPy only until they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from naa_fast.detect.comparison import LayerComparison, known_mean
from naa_fast.detect.tails import tail_signature
from naa_fast.errors import UsageError

if TYPE_CHECKING:
    from naa_fast.detect.evidence import Ranking


def pandas() -> Any:
    """The package. Raises UsageError where it is not installed."""
    try:
        import pandas as package
    except ImportError:
        raise UsageError(
            "to_frame() needs pandas, which is not installed",
            "install it: pip install pandas",
            "or take the arrays: audit.layers[name].z, audit.ranking.scores",
        ) from None
    return package


def neurons_frame(layers: Iterable[LayerComparison]) -> Any:
    """A row a neuron: layer, neuron, z, the view z is of, difference, clean and suspect mean, tail, abnormal."""
    made = pandas()
    parts = []
    for layer in layers:
        known = np.isfinite(layer.z_mean) & np.isfinite(layer.z_max)
        view = np.where(known, np.where(layer.z_mean >= layer.z_max, "mean", "maximum"), "")
        columns = {
            "layer": np.full(layer.neurons, layer.name, object),
            "neuron": np.arange(layer.neurons),
            "z": layer.z,
            "view": view.astype(object),
            "difference": layer.difference,
            "clean_mean": known_mean(layer.clean.positions),
            "suspect_mean": known_mean(layer.suspect.positions),
            "tail": tail_signature(layer),
            "abnormal": np.isin(np.arange(layer.neurons), layer.abnormal),
        }
        parts.append(made.DataFrame(columns))
    return made.concat(parts, ignore_index=True)


def ranking_frame(ranking: Ranking) -> Any:
    """A row a sample, highest-ranked first: sample, score, predicted (-1: none), triggered (None: unknown), file, deviating (the
    neurons that deviate most, as `(layer, neuron, z)`, of the samples they were kept for).
    """
    made = pandas()
    rows = list(ranking.rows())
    columns = {
        "sample": [row.sample for row in rows],
        "score": [row.score for row in rows],
        "predicted": [row.predicted for row in rows],
        "triggered": made.array([row.triggered for row in rows], dtype="boolean"),
        "file": [row.file for row in rows],
        "deviating": [row.deviating for row in rows],
    }
    return made.DataFrame(columns)
