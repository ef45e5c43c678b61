"""The study in one picture: outcomes by kind of set, and how far each score tells backdoors from harmless changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.detection.metrics import auc_interval
from benchmarks.detection.rows import SCORES, backdoored, by_model, harmless, outcome_groups, percent
from benchmarks.detection.sets import SHARES

COLOURS = {"pass": "#8fbf8f", "warn": "#f2c14e", "fail": "#c8453b", "inconclusive": "#b8b8b8", "error": "#000000"}
SHOWN = {
    "naa-fast": "#c8453b",
    "Cohen d": "#1f77b4",
    "activation clustering": "#e0881c",
    "spectral signatures": "#2c8a4b",
    "Mahalanobis, last layer": "#7a5aa6",
}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    outcomes(rows, left)
    curves(rows, right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def outcomes(rows: Sequence[dict[str, Any]], axes: Axes) -> None:
    groups = outcome_groups(rows)
    start = [0.0] * len(groups)
    for outcome, colour in COLOURS.items():
        width = [sum(row["audit"]["outcome"] == outcome for row in group) / len(group) for group in groups.values()]
        if any(width):
            axes.barh(range(len(groups)), width, left=start, color=colour, label=outcome)
        start = [a + b for a, b in zip(start, width, strict=True)]
    axes.set_yticks(range(len(groups)), [f"{title} ({len(group)})" for title, group in groups.items()])
    axes.invert_yaxis()
    axes.set_xlabel("share of sets")
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize="small")


def curves(rows: Sequence[dict[str, Any]], axes: Axes) -> None:
    negative = harmless(rows, "shift")
    for name, colour in SHOWN.items():
        score = SCORES[name]
        found = [auc_interval(by_model(backdoored(rows, share), score), by_model(negative, score)) for share in SHARES]
        known = [(place, value) for place, value in enumerate(found) if value is not None]
        if known:
            places, values = [place for place, _ in known], [value for _, value in known]
            spread = [[v[0] - v[1] for v in values], [v[2] - v[0] for v in values]]
            width = 2.2 if name == "naa-fast" else 1.2
            line = [v[0] for v in values]
            axes.errorbar(places, line, spread, marker="o", capsize=3, label=name, color=colour, linewidth=width)
    axes.axhline(0.5, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(SHARES)), [percent(share) for share in SHARES])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("triggered samples in the suspect set")
    axes.set_ylabel("AUC against benign shifts")
    axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize="small")
