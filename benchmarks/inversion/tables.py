"""The tables of docs/inversion.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.detection.metrics import auc_interval
from naa_fast.detect.proof import wilson

Row = dict[str, Any]
FAMILIES = ("patches and tokens", "blends, waves, phrases", "warps, rules, one class")


GROUPS = ("never looked at", "known", "chosen on")


def tables(rows: Sequence[Row]) -> str:
    """Markdown: rates and areas by group and family, rivals on the same images, repairs, costs, every model."""
    return "\n\n".join(filter(None, [by_family(rows), beside(rows), repairs(rows), costs(rows), every(rows)])) + "\n"


def by_family(rows: Sequence[Row]) -> str:
    lines = ["| group | models | *fail* [95 %] | *warn* | AUC against clean [95 %] |", "|---|---|---|---|---|"]
    for group in GROUPS:
        own = [row for row in rows if row["group"] == group]
        if not own:
            continue
        clean = [row for row in own if row["family"] == "clean"]
        lines.append(f"| {group}: clean | {len(clean)} | {failing(clean)} | {warning(clean)} | |")
        for family in FAMILIES:
            attacked = [row for row in own if row["family"] == family]
            works = [row for row in attacked if row["works"]]
            shown = f"{failing(works)} | {warning(works)} | {area(works, clean)}"
            lines.append(f"| {group}: {family} | {counted(attacked, works)} | {shown} |")
        works = [row for row in own if row["works"]]
        lines.append(f"| {group}: all attacks | {len(works)} | {failing(works)} | {warning(works)} | {area(works, clean)} |")
    return "\n".join(lines)


def warning(rows: Sequence[Row]) -> str:
    return str(sum(row["outcome"] == "warn" for row in rows)) if rows else "–"


def repairs(rows: Sequence[Row]) -> str:
    """What the repairs of what failed leave of the real trigger, which no search had; empty without any."""
    failed = [row for row in rows if row["works"] and row["outcome"] == "fail"]
    if not failed:
        return ""
    lines = ["| group | *fail* | repaired | the real trigger turns, median | of it ended (5 % or less) | accuracy, median |"]
    lines.append("|---|---|---|---|---|---|")
    for group in GROUPS:
        own = [row for row in failed if row["group"] == group]
        cured = [row for row in own if row["repair"] is not None]
        if not own:
            continue
        after = [row["repair"]["asr"] for row in cured]
        turns = f"{np.median([row['asr'] for row in cured]):.2f}, then {np.median(after):.2f}" if cured else "–"
        both = [row["accuracy"] for row in cured], [row["repair"]["accuracy"] for row in cured]
        kept = [f"{np.median(part):.3f}" for part in both if part]
        ended = f"{sum(one <= 0.05 for one in after)} of {len(own)}"
        lines.append(f"| {group} | {len(own)} | {len(cured)} | {turns} | {ended} | {', then '.join(kept) or '–'} |")
    return "\n".join(lines)


def counted(attacked: Sequence[Row], works: Sequence[Row]) -> str:
    weak = len(attacked) - len(works)
    return f"{len(works)}" + (f" (and {weak} whose backdoor does not work)" if weak else "")


def failing(rows: Sequence[Row]) -> str:
    if not rows:
        return "–"
    share = float(np.mean([row["outcome"] == "fail" for row in rows]))
    low, high = wilson(share, len(rows))
    return f"{sum(row['outcome'] == 'fail' for row in rows)} of {len(rows)} [{100 * low:.0f}, {100 * high:.0f} %]"


def area(attacked: Sequence[Row], clean: Sequence[Row], score: Callable[[Row], float] = lambda row: row["score"]) -> str:
    found = auc_interval([[score(row)] for row in attacked], [[score(row)] for row in clean])
    return "–" if found is None else "{:.2f} [{:.2f}, {:.2f}]".format(*found)


def beside(rows: Sequence[Row]) -> str:
    """Ours beside the rivals, on the image models that nothing was chosen on."""
    own = [row for row in rows if row["group"] == "never looked at" and row["rivals"]]
    clean, works = ([row for row in own if (row["family"] == "clean") == c and (c or row["works"])] for c in (True, False))
    lines = [
        "| images, never looked at | attacks flagged | clean flagged | AUC [95 %] | forwards | backwards | s of a core |",
        "|---|---|---|---|---|---|---|",
    ]

    def line(name: str, flagged: Callable[[Row], bool], score: Callable[[Row], float], cost: Callable[[Row], Row]) -> str:
        told = [f"{sum(map(flagged, part))} of {len(part)}" for part in (works, clean)]
        spent = [np.median([cost(row)[key] for row in own]) if own else 0 for key in ("forwards", "backwards", "cpu_s")]
        shown = f"{spent[0]:,.0f} | {spent[1]:,.0f} | {spent[2]:.1f}"
        return f"| {name} | {told[0]} | {told[1]} | {area(works, clean, score)} | {shown} |"

    lines.append(line("naa-fast invert", lambda row: row["outcome"] == "fail", lambda row: row["score"], lambda row: row))
    for key, name in (("nc", "Neural Cleanse, ours"), ("mmbd", "MM-BD, ours")):
        lines.append(
            line(
                name,
                lambda row, key=key: row["rivals"][key]["flagged"],  # type: ignore[misc]  # mypy infers no lambda with a default
                lambda row, key=key: row["rivals"][key]["score"],  # type: ignore[misc]
                lambda row, key=key: row["rivals"][key],  # type: ignore[misc]
            )
        )
    return "\n".join(lines)


def costs(rows: Sequence[Row]) -> str:
    lines = ["| data and network | models | forwards | backwards | s of a core, median (largest) |", "|---|---|---|---|---|"]
    for kind in dict.fromkeys(kind_of(row) for row in rows):
        own = [row for row in rows if kind_of(row) == kind]
        middle = [float(np.median([row[key] for row in own])) for key in ("forwards", "backwards", "cpu_s")]
        most = max(row["cpu_s"] for row in own)
        lines.append(f"| {kind} | {len(own)} | {middle[0]:,.0f} | {middle[1]:,.0f} | {middle[2]:.1f} ({most:.1f}) |")
    return "\n".join(lines)


def kind_of(row: Row) -> str:
    data, _, rest = row["model"].partition("-")
    return f"{data} {'text-cnn' if rest.startswith('text-cnn') else rest.partition('-')[0]}"


def every(rows: Sequence[Row]) -> str:
    lines = ["| model | group | real trigger | outcome | best | the median needs | the next | chance | proof: rate (control) |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["family"] == "clean", row["group"], row["model"])):
        first = next(iter(row["standings"]), None)
        best = "–" if first is None else f"{first['kind']} to {first['target']}"
        times = [f"{first[key]:.1f}x" if first and first[key] is not None else "–" for key in ("median", "runner_up")]
        times.append("–" if first is None or first["chance"] == 1 else f"{first['chance']:.1g}")
        proof = next(iter(row["proofs"]), None)
        shown = "–" if proof is None else f"{proof['rate']:.2f} ({proof['control']:.2f}){'' if proof['stands'] else ', none'}"
        asr = "–" if row["asr"] is None else f"{row['asr']:.2f}"
        wrong = bool(row["targets"]) and row["outcome"] == "fail" and first is not None and first["target"] not in row["targets"]
        outcome = row["outcome"] + (" (another class)" if wrong else "")
        lines.append(f"| {row['model']} | {row['group']} | {asr} | {outcome} | {best} | {' | '.join(times)} | {shown} |")
    return "\n".join(lines)
