"""Figures of result files: `python -m benchmarks.plots FILE.json ... [--out benchmarks/results]`.

One PNG a file, named after it, by what its rows hold: shares of the read bandwidth, rivals, overheads, or scale.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

OURS, OTHER, LINE = "#c0392b", "#7f8c8d", "#2c3e50"
DPI = 90  # keeps every file below 100 KB
Rows = list[dict[str, Any]]


def bars(names: list[str], values: list[float], colours: list[str], label: str, log: bool = False) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.24 * len(names)), layout="constrained")
    axes.barh(names[::-1], values[::-1], color=colours[::-1], height=0.7, log=log)
    axes.set_xlabel(label)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def shape_of(entry: dict[str, Any]) -> str:
    return "×".join(map(str, entry["shape"]))


def bandwidth(rows: Rows) -> Figure:
    """Share of the read bandwidth, case by case."""
    names = [f"{entry['case']} {entry['dtype']} {shape_of(entry)}" for entry in rows]
    label = "bytes read per second by reduce + fold / read bandwidth, same run"
    return bars(names, [entry["share_of_read"] for entry in rows], [OURS] * len(rows), label)


def rivals(rows: Rows) -> Figure:
    """Time over ours, rival by rival; those without a right answer or without a time are left out."""
    shown = [entry for entry in rows if entry["times_ours"] is not None]
    names = [f"{entry['case']}: {entry['rival']}{'' if entry['status'] == 'ok' else ' (wrong)'}" for entry in shown]
    colours = [OURS if entry["rival"] == "naa-fast" else OTHER for entry in shown]
    return bars(names, [entry["times_ours"] for entry in shown], colours, "time / naa-fast's for all its statistics", log=True)


def overheads(rows: Rows) -> Figure:
    """What each kind of hook adds to a forward."""
    shown = [entry for entry in rows if entry["variant"] != "alone"]
    names = [f"{entry['case']}: {entry['variant']}" for entry in shown]
    colours = [OURS if entry["variant"] == "ours" else OTHER for entry in shown]
    return bars(names, [100 * entry["overhead"] for entry in shown], colours, "time added to the bare forward (%)")


def scale(rows: Rows) -> Figure:
    """Time and memory against samples, time against neurons."""
    figure, (time, memory, width) = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    by_samples = [entry for entry in rows if "samples" in entry]
    by_neurons = [entry for entry in rows if "neurons" in entry]
    samples = [entry["samples"] for entry in by_samples]
    time.loglog(samples, [entry["total_s"] for entry in by_samples], "o-", color=LINE)
    memory.semilogx(samples, [entry["resident_MB"] for entry in by_samples], "o-", color=LINE)
    memory.set_ylim(0, 1.2 * max(entry["resident_MB"] for entry in by_samples))
    neurons = [entry["neurons"] for entry in by_neurons]
    width.semilogx(neurons, [entry["median_ms"] for entry in by_neurons], "o-", color=LINE)
    width.set_ylim(0, 1.2 * max(entry["median_ms"] for entry in by_neurons))
    labels = (("samples", "scan (s)"), ("samples", "peak resident memory (MB)"), ("neurons, same bytes", "scan (ms)"))
    for axes, (x, y) in zip((time, memory, width), labels, strict=True):
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


KINDS = {"share_of_read": bandwidth, "times_ours": rivals, "overhead": overheads, "total_s": scale}
"""A field that tells what a file's rows are about, and who draws them."""


def draw(path: Path, folder: Path) -> Path | None:
    """The figure of one result file, or None if there is nothing in it to draw."""
    rows = json.loads(path.read_text())["rows"]
    for known, drawer in KINDS.items():
        chosen = [entry for entry in rows if known in entry] if drawer is not scale else rows
        if any(known in entry for entry in chosen):
            figure = drawer(chosen)
            target = folder / f"{path.stem}.png"
            figure.savefig(target, dpi=DPI, metadata={"Software": None})
            plt.close(figure)
            return target
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.files:
        target = draw(path, options.out)
        print(f"{path.name}: {'nothing to draw' if target is None else f'{target.name}, {target.stat().st_size // 1000} KB'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
