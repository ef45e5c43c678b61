"""The study's rows as tables in Markdown: `tables(rows)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from benchmarks.detection.metrics import auc_interval, mean_interval
from benchmarks.detection.rows import (
    ACCURACY_LOST,
    ATTACK_LEFT,
    FALSE_ALARMS,
    HALVES,
    NULLS,
    OUTCOMES,
    PROVABLE,
    PROVED,
    RANKERS,
    SCORES,
    Row,
    Score,
    all_harmless,
    backdoored,
    best_proof,
    by_model,
    cell,
    failed,
    harmless,
    markdown,
    of_half,
    outcome_groups,
    percent,
    proved,
    repaired,
    sample_figure,
)
from benchmarks.detection.sets import SHARES
from benchmarks.detection.summary import summary_table
from benchmarks.detection.train import SUCCESS


def models_table(rows: Sequence[Row]) -> str:
    one_each = list({row["case"]: row for row in rows}.values())
    body = []
    for data, net in sorted({(row["dataset"], row["architecture"]) for row in one_each}):
        own = [row for row in one_each if (row["dataset"], row["architecture"]) == (data, net)]
        bad = [row for row in own if row["attack"]]
        accuracy = [row["accuracy"] for row in own]
        attack = [row["asr"] for row in bad]
        body.append(
            (
                data,
                net,
                len(own) - len(bad),
                len(bad),
                f"{min(accuracy):.3f} – {max(accuracy):.3f}",
                f"{min(attack):.3f} – {max(attack):.3f}" if attack else "–",
            )
        )
    weak = [f"{row['case']} ({row['asr']:.2f})" for row in one_each if row["works"] is False]
    said = f"\n\nAttack success below {SUCCESS}, left out of the tables below: {', '.join(weak) or 'none'}."
    return markdown(("data", "architecture", "clean", "backdoored", "accuracy", "attack success"), body) + said


def auc_table(rows: Sequence[Row], half: str) -> str:
    chosen = of_half(rows, half)
    parts = []
    for title, kind in NULLS.items():
        negative = harmless(chosen, kind)
        body = [
            (name, *(cell(auc_interval(by_model(backdoored(chosen, s), score), by_model(negative, score))) for s in SHARES))
            for name, score in SCORES.items()
        ]
        parts.append(f"Against {title}:\n\n" + markdown(("score", *(percent(s) for s in SHARES)), body))
    return "\n\n".join(parts)


def left_out_table(rows: Sequence[Row]) -> str:
    """A limit chosen on one half so that few of its harmless sets pass it, applied to the other half."""
    body = []
    for name, score in SCORES.items():
        for chosen_on, told_on in (("A", "B"), ("B", "A")):
            limit = limit_of([v for g in by_model(all_harmless(of_half(rows, chosen_on)), score) for v in g])
            if limit is None:
                continue

            def above(row: Row, limit: float = limit, score: Score = score) -> float | None:
                value = score(row)
                return None if value is None else float(value > limit)

            told = of_half(rows, told_on)
            found = [cell(mean_interval(by_model(backdoored(told, share), above))) for share in SHARES]
            body.append((name, f"{chosen_on} → {told_on}", *found, cell(mean_interval(by_model(all_harmless(told), above)))))
    return markdown(("score", "limit from → told on", *(percent(s) for s in SHARES), "false alarms"), body)


def limit_of(values: Sequence[float]) -> float | None:
    """The smallest value that no more than FALSE_ALARMS of `values` exceed."""
    ordered = sorted(values)
    return ordered[len(ordered) - 1 - int(FALSE_ALARMS * len(ordered))] if ordered else None


def outcome_table(rows: Sequence[Row], half: str) -> str:
    body = []
    for title, group in outcome_groups(of_half(rows, half)).items():
        fail = mean_interval(by_model(group, failed))
        shares = [f"{sum(row['audit']['outcome'] == o for row in group) / len(group):.2f}" for o in OUTCOMES if o != "fail"]
        body.append((title, len(group), cell(fail), *shares))
    return markdown(("sets", "number", "fail", *(o for o in OUTCOMES if o != "fail")), body)


def ranking_table(rows: Sequence[Row], half: str) -> str:
    chosen = of_half(rows, half)
    families: dict[str, Callable[[Row], bool]] = {
        "images": lambda row: row["dataset"] != "newsgroups",
        "text CNN": lambda row: row["architecture"] == "text-cnn",
        "text transformer": lambda row: row["architecture"] == "text-transformer",
        "all": lambda row: True,
    }
    body = []
    for family, belongs in families.items():
        for ranker in RANKERS:
            cells = []
            for share in SHARES[1:]:
                group = [row for row in backdoored(chosen, share) if belongs(row)]
                for what in ("auc", "precision"):
                    cells.append(cell(mean_interval(by_model(group, partial(sample_figure, ranker=ranker, what=what)))))
            if any(value != "–" for value in cells):
                body.append((family, ranker, *cells))
    head = [f"{what} {percent(share)}" for share in SHARES[1:] for what in ("AUC", "precision")]
    return markdown(("models", "ranking", *head), body)


def proof_table(rows: Sequence[Row], half: str) -> str:
    chosen = of_half(rows, half)
    body = []
    groups: dict[str, list[Row]] = {}
    for share in SHARES:
        own = backdoored(chosen, share)
        groups[f"patch and token attacks, {percent(share)}"] = [row for row in own if row["attack"] in PROVABLE]
        groups[f"other attacks, {percent(share)}"] = [row for row in own if row["attack"] not in PROVABLE]
    groups |= {title: harmless(chosen, kind) for title, kind in NULLS.items()}
    for title, group in groups.items():
        if not group:
            continue
        high = mean_interval(by_model(group, proved))
        level = mean_interval(by_model(group, lambda row: row["audit"].get("levels", {}).get("proved", 0) > 0))
        bad = [row for row in group if row["attack"]]
        right = mean_interval(by_model(bad, lambda row: bool(best_proof(row)["right"])))
        rates = sorted(best_proof(row)["rate"] for row in group)
        body.append((title, len(group), cell(high), cell(level), cell(right), *middle_and_last(rates)))
    return markdown(("sets", "number", f"rate ≥ {PROVED}", "level proved", "right target", "median rate", "largest"), body)


def middle_and_last(ordered: Sequence[float]) -> tuple[str, str]:
    return f"{ordered[len(ordered) // 2]:.2f}", f"{ordered[-1]:.2f}"


def repair_table(rows: Sequence[Row], half: str) -> str:
    chosen = of_half(rows, half)
    body = []
    for share in SHARES[:2]:
        for which, label in (("after", "what was found"), ("control", "at random")):
            group = backdoored(chosen, share)
            done = [row["repair"] for row in group if row.get("repair", {}).get(which)]
            good = mean_interval(by_model(group, lambda row, w=which: float(repaired(row, w))))  # type: ignore[misc]
            left = mean_interval([[fix[which]["asr"]] for fix in done])
            floor = mean_interval([[fix[which]["floor"]] for fix in done])
            lost = mean_interval([[fix["before"]["accuracy"] - fix[which]["accuracy"]] for fix in done])
            body.append((percent(share), label, len(group), len(done), cell(good), cell(left), cell(floor), cell(lost)))
    head = ("triggered", "silenced", "models", "tried", f"attack ≤ {ATTACK_LEFT}, accuracy − ≤ {ACCURACY_LOST}", "attack left")
    return markdown((*head, "without a trigger", "accuracy lost"), body)


def price_table(rows: Sequence[Row]) -> str:
    """Medians over the models that were priced: one scan of each, without a repair."""
    priced = [row for row in rows if row["audit"].get("price")]
    body = []
    for net in sorted({row["architecture"] for row in priced}):
        own = [row["audit"] for row in priced if row["architecture"] == net]
        bare, means = ([audit["price"][name] for audit in own] for name in ("bare", "means"))
        scan = [audit["seconds"] for audit in own]
        times = [seconds / max(least, 1e-3) for seconds, least in zip(scan, means, strict=True)]
        seconds = [f"{median(values):.2f} s" for values in (bare, means, scan)]
        body.append((net, len(own), *seconds, f"{median(times):.1f}"))
    head = ("architecture", "models", "both sets through the bare model", "means alone", "scan with ranking and proof", "× means")
    return markdown(head, body)


def failures(rows: Sequence[Row]) -> str:
    """What went wrong, by name: missed backdoors by attack, then false alarms."""
    lines = []
    for share in SHARES[:3]:
        missed = [row for row in backdoored(rows, share) if row["audit"]["outcome"] != "fail"]
        names = ", ".join(f"{row['case']} ({row['audit']['outcome']})" for row in missed)
        lines.append(f"- No `fail` at {percent(share)} ({len(missed)} of {len(backdoored(rows, share))}): {names or 'none'}.")
    for title, kind in NULLS.items():
        group = harmless(rows, kind)
        wrong = [row for row in group if failed(row) or row["audit"]["outcome"] == "error"]
        names = ", ".join(f"{row['case']} / {row['set']}" for row in wrong)
        lines.append(f"- False `fail`, {title} ({len(wrong)} of {len(group)}): {names or 'none'}.")
    errors = [f"{row['case']} / {row['set']}: {row['audit']['error']}" for row in rows if row["audit"].get("error")]
    if errors:
        lines.append("- Errors: " + "; ".join(errors[:5]) + ".")
    return "\n".join(lines)


def tables(rows: Sequence[Row]) -> str:
    """Everything, in Markdown."""
    names = {"A": "half A", "B": "half B", "AB": "both halves"}
    names |= {"C": "unseen when first run (C)", "D": "unseen when first run (D)", "E": "unseen attacks (E)"}
    present = [half for half in HALVES if of_half(rows, half)]
    parts = ["### In figures\n\n" + summary_table(rows), "### The models\n\n" + models_table(rows)]
    if not any(row.get("rivals") for row in rows):
        parts.append("The rivals that need features of their own were not run with this version.")
    for title, table in (
        ("Score of the model: area under the ROC curve", auc_table),
        ("Outcomes", outcome_table),
        ("Ranking of the samples", ranking_table),
        ("Proof", proof_table),
        ("Localisation", repair_table),
    ):
        if table is repair_table and not any(row.get("repair") for row in rows):
            parts.append(f"### {title}\n\nNot run with this version.")
            continue
        parts.append(f"### {title}\n\n" + "\n\n".join(f"**{names[half]}**\n\n{table(rows, half)}" for half in present))
        if table is auc_table:
            parts.append("### Limits chosen on the other half\n\n" + left_out_table(rows))
    parts += ["### Price\n\n" + price_table(rows), "### What failed\n\n" + failures(rows)]
    return "\n\n".join(parts) + "\n"
