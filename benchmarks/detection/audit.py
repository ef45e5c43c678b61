"""One scan as a row: what the verdict said, how well the samples were ranked, what was proved, and what it cost."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import naa_fast
from benchmarks.detection.cases import Case
from benchmarks.detection.metrics import auc, precision_at_k
from benchmarks.detection.sets import Suspect


def audit_row(case: Case, model: nn.Module, clean: Tensor, suspect: Suspect, repair: bool) -> tuple[dict[str, Any], Any]:
    """The row, and the audit itself, None if it raised: an error is a result, and no pass. Its `seconds` hold the `repair` too,
    if one is asked for.
    """
    started, cpu = time.perf_counter(), time.process_time()
    try:
        audit = naa_fast.scan(model, clean, suspect.x, repair=repair)
    except Exception as error:
        return {"outcome": "error", "error": f"{type(error).__name__}: {error}", "score": 0.0}, None
    seconds = {"seconds": round(time.process_time() - cpu, 3), "wall": round(time.perf_counter() - started, 3)}
    verdict = audit.verdict
    levels = Counter(finding.level for finding in verdict.findings)
    largest = {
        "classic rule": max(top(layer.difference) for layer in audit.layers.values()),
        "Cohen d": max(top(layer.z) for layer in audit.layers.values()),
    }
    row = {
        "outcome": verdict.outcome,
        "score": float(verdict.score),
        "p_value": float(verdict.p_value),
        "levels": dict(levels),
        "largest": largest,
        "sentence": verdict.sentence,
        **ranking(audit, suspect.triggered),
        **proofs(case, audit),
        **seconds,
    }
    return row, audit


def top(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else 0.0


def ranking(audit: Any, truth: np.ndarray) -> dict[str, Any]:
    found = getattr(audit, "ranking", None)
    if found is None:
        return {"auc": None, "precision": None}
    scores = np.asarray(found.ranked, float)  # the order that the report shows: carriers of a proven trigger first
    return {"auc": auc(scores, truth), "precision": precision_at_k(scores, truth)}


def proofs(case: Case, audit: Any) -> dict[str, Any]:
    """Every reconstruction, best first, and whether its target is the attack's."""
    found = [
        {
            "kind": proof.kind,
            "target": proof.target,
            "rate": float(proof.rate),
            "control": float(proof.control),
            "interval": [float(edge) for edge in proof.interval],
            "right": right_target(case, proof.target, proof.source),
        }
        for proof in getattr(audit, "proof", None) or ()
    ]
    return {"proofs": sorted(found, key=lambda proof: proof["control"] - proof["rate"])}


def right_target(case: Case, target: Any, source: int | None = None) -> bool | None:
    """Whether a class, or a word for a rule, is what the attack aims at, for the one class `source` if it is of one; None for
    clean models.
    """
    if case.attack is None:
        return None
    if source is not None:
        return target == int(case.attack.wanted(torch.tensor(source)))
    return not isinstance(target, int | np.integer) if case.attack.target is None else target in case.attack.targets


def neuron_axis(layer: Any) -> int:
    """The axis of a layer's output that holds its neurons, from the words of its layout: "axis 1 of 4"."""
    return int(layer.clean.layout.split()[1])


@torch.no_grad()
def price(model: nn.Module, audit: Any, clean: Tensor, suspect: Tensor) -> dict[str, float]:
    """Seconds of one core for both sets: `bare` forwards, `means` with the mean of every neuron alone, of the layers audited."""
    handles: list[Any] = []
    sums: dict[str, Tensor] = {}

    def hook(name: str, neurons: int) -> Any:
        def add(module: nn.Module, arguments: object, output: Tensor) -> None:
            axes = [axis for axis in range(output.ndim) if axis != neurons]
            sums[name] = sums.get(name, 0) + output.sum(axes).double()

        return add

    def run() -> float:
        started = time.process_time()
        for part in (*clean.split(256), *suspect.split(256)):
            model(part)
        return round(time.process_time() - started, 3)

    run()
    bare = run()
    try:
        for name, layer in audit.layers.items():
            handles.append(model.get_submodule(name).register_forward_hook(hook(name, neuron_axis(layer))))
        means = run()
    finally:
        for handle in handles:
            handle.remove()
    return {"bare": bare, "means": means}
