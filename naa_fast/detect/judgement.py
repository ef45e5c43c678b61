"""`judge`: two measurements become a `Judgement`, which reports and audits are made from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite

import numpy as np

from naa_fast.detect.accept import Gate, Rules, gate
from naa_fast.detect.comparison import LayerComparison, known_mean
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.null import CleanNull, clean_null
from naa_fast.detect.repair import Repair
from naa_fast.detect.scored import scored_evidence
from naa_fast.detect.tails import tail_shares
from naa_fast.detect.verdict import Verdict, abnormal_limit, judge_outcome
from naa_fast.errors import InputError, StateMismatch, UsageError
from naa_fast.measurement import Measurement

MIN_SAMPLES = 2


@dataclass(frozen=True)
class TopNeuron:
    """One row of a ranking; means over all positions, in the layer's own units. `view`: whether `z` is of the samples' means
    ("mean") or of their maxima ("maximum"), empty where it is unknown.

    `tail`: the largest share of suspect samples beyond the clean 99.9 % point, of means and maxima and of both sides; NaN where
    no histograms were kept. Bins are coarse (`detect.tails`).
    """

    layer: str
    neuron: int
    difference: float
    z: float
    clean_mean: float
    suspect_mean: float
    tail: float = float("nan")
    view: str = ""


@dataclass(frozen=True)
class Judgement:
    """Everything that was found: `layers` in model order, the `null` it was calibrated with, and the `verdict`.

    `threshold` is the user's, on the difference, or None; then `limit` (on z) comes from the null. `top_k` rows a ranking.
    `evidence` is what ranking the samples found, empty where there was none. `repair`: None where none was tried, or none helps;
    it is no part of what is judged. `rules` are what a script is told by.
    """

    clean: Measurement
    suspect: Measurement
    layers: dict[str, LayerComparison]
    null: CleanNull
    verdict: Verdict
    threshold: float | None
    limit: float
    top_k: int
    evidence: Evidence = field(default_factory=Evidence)
    repair: Repair | None = None
    rules: Rules = field(default_factory=Rules)

    def with_repair(self, repair: Repair | None, why: str) -> Judgement:
        """The same with a repair, or with the reason `why` there is none; the verdict says no less and no more than before."""
        verdict = replace(self.verdict, not_checked=(*self.verdict.not_checked, why)) if why else self.verdict
        return replace(self, repair=repair, verdict=verdict)

    @cached_property
    def gate(self) -> Gate:
        """The exit code by the `rules`, and why."""
        return gate(self.verdict, self.rules)

    def __repr__(self) -> str:
        return f"Judgement({self.verdict.outcome}, score {self.verdict.score:.4g}, {len(self.layers)} layers)"

    @property
    def limit_on(self) -> str:
        """The number `limit` applies to: "difference" or "z"."""
        return "z" if self.threshold is None else "difference"

    def top(self, k: int | None = None) -> list[TopNeuron]:
        """The `k` most abnormal neurons over all layers, most abnormal first (`top_k` by default)."""
        k = self.top_k if k is None else k
        rows = [row for layer in self.layers.values() for row in rows_of(layer, layer.top(k))]
        key = "z" if self.limit_on == "z" else "difference"
        # Stable: ties keep model order. What cannot be compared comes first, as within a layer.
        return sorted(rows, key=lambda row: -getattr(row, key) if isfinite(getattr(row, key)) else -np.inf)[:k]

    def abnormal_rows(self, layer: str) -> list[TopNeuron]:
        """The layer's abnormal neurons, most abnormal first."""
        comparison = self.layers[layer]
        order = np.argsort(-comparison.measure[comparison.abnormal], kind="stable")
        return rows_of(comparison, comparison.abnormal[order])


def rows_of(layer: LayerComparison, neurons: np.ndarray) -> list[TopNeuron]:
    """What a report says of these `neurons`, int64 `[count]`."""
    clean, suspect = known_mean(layer.clean.positions), known_mean(layer.suspect.positions)
    return [
        TopNeuron(
            layer.name,
            int(i),
            float(layer.difference[i]),
            float(layer.z[i]),
            float(clean[i]),
            float(suspect[i]),
            float(tail),
            layer.view_of(int(i)),
        )
        for i, tail in zip(neurons, tail_shares(layer, neurons), strict=True)
    ]


def judge(
    clean: Measurement,
    suspect: Measurement,
    threshold: float | None = None,
    top_k: int = 20,
    evidence: Evidence | None = None,
    accept_unranked: bool = False,
) -> Judgement:
    """Compare two measurements of one model and say what it means.

    `threshold`: neurons whose difference exceeds it are abnormal, in the layer's own units; None takes a limit on z from the
    clean set itself. `accept_unranked`: a pass may rest on means alone, where samples were not ranked, nothing could be proved or
    no classes were predicted; without it that is inconclusive. Without `evidence` the scores count that the suspects were given
    against this clean set while they were measured, where they were. Cost: O(neurons).

    Raises:
        InputError: fewer than two samples in a set, or no layer.
        StateMismatch: the measurements are of different models, dtypes or layers, or hold the same data.
        UsageError: a negative or non-finite threshold, or `top_k` below 1.
    """
    require_comparable(clean, suspect, threshold, top_k)
    evidence = evidence or scored_evidence(clean, suspect)
    pairs = {name: record.alike(suspect.layers[name]) for name, record in clean.layers.items() if name in suspect.layers}
    null = replace(clean_null(of_clean for of_clean, _ in pairs.values()), share=evidence.share)
    limit = abnormal_limit(null, clean, suspect) if threshold is None else threshold
    limit_on = "z" if threshold is None else "difference"
    layers = {name: LayerComparison(name, *pair, limit, limit_on) for name, pair in pairs.items()}
    verdict = judge_outcome(list(layers.values()), null, clean, suspect, threshold is not None, evidence, accept_unranked)
    return Judgement(clean, suspect, layers, null, verdict, threshold, limit, top_k, evidence)


def require_rules(threshold: float | None, top_k: int) -> None:
    """Raise UsageError unless a judgement can be made by these, before anything is measured for it."""
    if threshold is not None and not isinstance(threshold, int | float):
        raise UsageError(f"threshold is {threshold!r}", "expected a finite number >= 0, or none for a calibrated limit")
    if threshold is not None and not (threshold >= 0 and isfinite(threshold)):
        raise UsageError(f"threshold is {threshold}", "expected a finite number >= 0, or none for a calibrated limit")
    if not isinstance(top_k, int) or top_k < 1:
        raise UsageError(f"top_k is {top_k!r}", "expected 1 or more")


def require_comparable(clean: Measurement, suspect: Measurement, threshold: float | None, top_k: int) -> None:
    """Raise what `judge` would, before anything else is spent."""
    require_rules(threshold, top_k)
    for name, measurement in (("clean", clean), ("suspect", suspect)):
        if not isinstance(measurement, Measurement):
            raise UsageError(
                f"the {name} set is of type {type(measurement).__name__}",
                "expected a measurement",
                "measure it with naa_fast.measure, or read one: naa_fast.Measurement.load(path)",
            )
        if measurement.samples < MIN_SAMPLES:
            raise InputError(
                f"the {name} set has {measurement.samples} sample{'s' * (measurement.samples != 1)}",
                f"expected at least {MIN_SAMPLES}, or no deviation can be computed; several hundred are better",
            )
    clean.require_same_subject(suspect, "compare")
    if not clean.layers.keys() & suspect.layers.keys():
        raise StateMismatch("cannot compare: the measurements hold no layer", "measure again with layers that exist")
