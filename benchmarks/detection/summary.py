"""What the page says in short: every figure that has an aim, beside it, with its interval over models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.detection.metrics import Interval, auc_interval, mean_interval
from benchmarks.detection.rows import (
    NULLS,
    PROVABLE,
    SCORES,
    Row,
    backdoored,
    by_model,
    cell,
    failed,
    harmless,
    markdown,
    of_half,
    percent,
    proved,
    repaired,
    sample_figure,
)
from benchmarks.detection.sets import SHARES

COLUMNS = {"A and B": "AB", "B": "B", "E": "E", "all": "ABCDE"}
Figure = Callable[[Sequence[Row]], str]


def summary_table(rows: Sequence[Row]) -> str:
    """A line a figure: what it is, what is aimed at, what is reached in each of COLUMNS."""
    chosen = [of_half(rows, halves) for halves in COLUMNS.values()]
    body = [(title, aim, *(figure(own) for own in chosen)) for title, aim, figure in figures()]
    return markdown(("", "aimed at", *COLUMNS), [line for line in body if any(value != "–" for value in line[2:])])


def figures() -> Iterator[tuple[str, str, Figure]]:
    """Title, aim ("–" where there is none), and the figure of some rows."""
    yield "models whose backdoor works", "–", lambda rows: models(backdoored(rows, 1.0))
    yield "clean models", "–", lambda rows: models(harmless(rows, "fresh"))
    for share, aim in zip(SHARES, (".98", ".92", ".75", "–"), strict=True):
        yield f"*fail* with {percent(share)} triggered", aim, mean(share, failed)
    for title, kind in NULLS.items():
        yield f"false *fail*, {title}", "–", alarms(kind)
    for title, aims in (("benign shifts", (".99", ".97", ".90")), ("clean controls", ("1.00", ".99", ".95"))):
        for share, aim in zip(SHARES, aims, strict=False):
            yield f"AUC of the score against {title}, {percent(share)}", aim, score_auc(share, NULLS[title])
    for share, aimed in ((0.05, (".98", ".85")), (0.01, (".97", ".75"))):
        for what, aim in zip(("auc", "precision"), aimed, strict=True):
            title = {"auc": "AUC", "precision": "precision"}[what]
            yield f"ranking, {title}, {percent(share)}", aim, mean(share, partial(sample_figure, ranker="naa-fast", what=what))
    for share in (0.05, 0.01):
        yield (
            f"proof, patch and token, {percent(share)}",
            ".90",
            mean(share, proved, lambda row: row["attack"] in PROVABLE),
        )
    yield "proof, other attacks, 5 %", ".50", mean(0.05, proved, lambda row: row["attack"] not in PROVABLE)
    for share in SHARES[:2]:
        yield f"repaired, {percent(share)}", ".80", mean(share, repair_of("after"), lambda row: "repair" in row)
    yield "repaired at random, 5 %", "–", mean(0.05, repair_of("control"), lambda row: "repair" in row)


def models(rows: Sequence[Row]) -> str:
    return str(len({row["case"] for row in rows}) or "–")


def mean(share: float, value: Callable[[Row], float | None], belongs: Callable[[Row], bool] = lambda row: True) -> Figure:
    """Of backdoored models with this share triggered: the mean of `value`."""
    return lambda rows: cell(mean_interval(by_model(filter(belongs, backdoored(rows, share)), value)))


def repair_of(which: str) -> Callable[[Row], float]:
    return lambda row: float(repaired(row, which))


def alarms(kind: str) -> Figure:
    """How many of how many harmless sets of clean models end in `fail`, and the share with its interval."""

    def figure(rows: Sequence[Row]) -> str:
        group = harmless(rows, kind)
        found: Interval | None = mean_interval(by_model(group, failed))
        return "–" if found is None else f"{sum(map(failed, group))} of {len(group)}: {cell(found)}"

    return figure


def score_auc(share: float, kind: str) -> Figure:
    score = SCORES["naa-fast"]
    return lambda rows: cell(auc_interval(by_model(backdoored(rows, share), score), by_model(harmless(rows, kind), score)))
