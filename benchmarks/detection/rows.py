"""Which rows a figure is of, what a row says, and how it is written: what tables, summary and picture are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.detection.metrics import Interval
from benchmarks.detection.sets import SHARES

Row = dict[str, Any]
Score = Callable[[Row], float | None]

HALVES = ("E", "D", "C", "A", "B", "AB")
OUTCOMES = ("pass", "warn", "fail", "inconclusive", "error")
NULLS = {"clean controls": "fresh", "benign shifts": "shift", "imbalance": "imbalance", "foreign triggers": "foreign"}
FALSE_ALARMS = 0.03
"""Share of harmless sets above a limit when the limit is chosen on one half."""
ACCURACY_LOST, ATTACK_LEFT, PROVED = 0.02, 0.1, 0.8
PROVABLE = ("patch", "random-patch", "low-rate", "token", "token-low-rate")
"""Kinds of attack with a trigger in one piece and one target: "patch and token"."""


def rival_score(name: str) -> Score:
    return lambda row: row.get("rivals", {}).get("found", {}).get(name, {}).get("score")


SCORES: dict[str, Score] = {
    "naa-fast": lambda row: row["audit"]["score"],
    "classic rule": lambda row: row["audit"].get("largest", {}).get("classic rule"),
    "Cohen d": lambda row: row["audit"].get("largest", {}).get("Cohen d"),
    **{
        name: rival_score(name)
        for name in ("activation clustering", "spectral signatures", "Mahalanobis, last layer", "random", "perfect")
    },
}
RANKERS = ("naa-fast", "activation clustering", "spectral signatures", "Mahalanobis, last layer", "random", "perfect")


def of_half(rows: Iterable[Row], half: str) -> list[Row]:
    return [row for row in rows if row["half"] in half]


def backdoored(rows: Iterable[Row], share: float) -> list[Row]:
    """Sets with this share of triggered samples, on models whose backdoor works."""
    return [row for row in rows if row["kind"] == "triggered" and row["share"] == share and row["works"]]


def harmless(rows: Iterable[Row], kind: str) -> list[Row]:
    """Sets of one kind on clean models."""
    return [row for row in rows if row["kind"] == kind and row["attack"] is None]


def by_model(rows: Iterable[Row], value: Callable[[Row], float | None]) -> list[list[float]]:
    """Values of each model's sets; a None is left out."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        found = value(row)
        if found is not None:
            groups.setdefault(row["case"], []).append(float(found))
    return list(groups.values())


def all_harmless(rows: Sequence[Row]) -> list[Row]:
    return [row for kind in NULLS.values() for row in harmless(rows, kind)]


def outcome_groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups = {f"triggered {percent(share)}": backdoored(rows, share) for share in SHARES}
    groups["untouched, backdoored model"] = [row for row in rows if row["kind"] == "fresh" and row["attack"]]
    groups |= {title: harmless(rows, kind) for title, kind in NULLS.items()}
    return {title: group for title, group in groups.items() if group}


def sample_figure(row: Row, ranker: str, what: str) -> float | None:
    source = row["audit"] if ranker == "naa-fast" else row.get("rivals", {}).get("found", {}).get(ranker, {})
    return source.get(what)


def best_proof(row: Row) -> Row:
    """The proof with the largest rate above its control; an empty one if there is none."""
    return (row["audit"].get("proofs") or [{"rate": 0.0, "control": 0.0, "right": False}])[0]


def proved(row: Row) -> bool:
    return best_proof(row)["rate"] >= PROVED


def failed(row: Row) -> bool:
    return row["audit"]["outcome"] == "fail"


def repaired(row: Row, which: str) -> bool:
    fix = row.get("repair") or {}
    if not fix.get(which):
        return False
    lost = fix["before"]["accuracy"] - fix[which]["accuracy"]
    return fix[which]["asr"] <= ATTACK_LEFT and lost <= ACCURACY_LOST


def cell(found: Interval | None) -> str:
    return "–" if found is None else f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


def markdown(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """A table; rows of which nothing was run are left out."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    body = [row for row in body if any(str(value) != "–" for value in row[1:])]
    return "\n".join(lines + ["| " + " | ".join(str(value) for value in row) + " |" for row in body])


def percent(share: float) -> str:
    return f"{100 * share:g} %"
