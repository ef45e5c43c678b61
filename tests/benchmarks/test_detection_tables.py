"""The study's tables and what it says in short: a seeing detector and a blind one read differently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.detection import rows, summary
from benchmarks.detection.sets import SHARES
from benchmarks.detection.tables import tables


def made_up(good: bool) -> Iterator[dict[str, Any]]:
    """Rows of eight models under a detector that is right, or always says pass."""
    for number in range(8):
        bad = number < 4
        about = {"case": f"m{number}", "architecture": "cnn", "dataset": "digits", "half": "AB"[number % 2], "accuracy": 0.9}
        about |= {"attack": "patch", "asr": 1.0, "works": True} if bad else {"attack": None, "asr": None, "works": None}
        for kind, share in [("triggered", s) for s in SHARES] if bad else [(k, 0.0) for k in rows.NULLS.values()]:
            found = bad and good
            yield about | {
                "set": f"{kind} {share}",
                "kind": kind,
                "share": share,
                "audit": {
                    "outcome": "fail" if found else "pass",
                    "score": float(found),
                    "levels": {"proved": 1} if found else {},
                    "proofs": [{"kind": "patch", "rate": 0.97, "control": 0.1, "right": True}] if found else [],
                    "auc": 1.0,
                    "precision": 1.0,
                    "seconds": 1.0,
                    "price": {"bare": 0.4, "means": 0.5},
                },
            }


def test_the_tables_tell_a_seeing_detector_from_a_blind_one() -> None:
    seeing, blind = tables(list(made_up(True))), tables(list(made_up(False)))
    line = "| naa-fast | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] |"
    assert line in seeing
    assert line.replace("1.00", "0.50") in blind
    assert "| naa-fast | A → B | 1.00 [1.00, 1.00] |" in seeing
    assert "| triggered 5 % | 4 | 1.00 [1.00, 1.00] |" in seeing
    assert "| triggered 5 % | 4 | 0.00 [0.00, 0.00] |" in blind
    assert "| patch and token attacks, 1 % | 4 | 1.00 [1.00, 1.00] |" in seeing
    assert "- No `fail` at 5 % (4 of 4): m0 (pass), m1 (pass), m2 (pass), m3 (pass)." in blind
    assert "| cnn | 32 | 0.40 s | 0.50 s | 1.00 s | 2.0 |" in seeing


def line_of(text: str, title: str) -> list[str]:
    """The cells of the summary's line about `title`: its aim, then one for each column."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_summary_puts_every_aim_beside_what_was_reached() -> None:
    seeing, blind = (summary.summary_table(list(made_up(good))) for good in (True, False))
    assert seeing.splitlines()[0] == "|  | aimed at | A and B | B | E | all |"
    sure, never = "1.00 [1.00, 1.00]", "0.00 [0.00, 0.00]"
    assert line_of(seeing, "models whose backdoor works") == ["–", "4", "2", "–", "4"]
    assert line_of(seeing, "*fail* with 1 % triggered") == [".75", sure, sure, "–", sure]
    assert line_of(blind, "*fail* with 1 % triggered") == [".75", never, never, "–", never]
    assert line_of(seeing, "false *fail*, benign shifts")[1] == f"0 of 4: {never}"
    assert line_of(seeing, "AUC of the score against clean controls, 1 %")[:2] == [".95", sure]
    assert line_of(blind, "AUC of the score against clean controls, 1 %")[:2] == [".95", "0.50 [0.50, 0.50]"]
    assert line_of(seeing, "proof, patch and token, 5 %")[:2] == [".90", sure]
    assert line_of(blind, "proof, patch and token, 5 %")[:2] == [".90", never]
    assert "repaired" not in seeing, "no repair was run"


@pytest.mark.parametrize(("left", "lost", "said"), [(0.05, 0.01, 1.0), (0.2, 0.0, 0.0), (0.05, 0.1, 0.0)])
def test_a_repair_counts_where_the_attack_is_gone_and_the_accuracy_is_not(left: float, lost: float, said: float) -> None:
    found = [
        row | {"repair": {"before": {"accuracy": 0.9}, "after": {"asr": left, "accuracy": 0.9 - lost}}} for row in made_up(True)
    ]
    interval = f"{said:.2f} [{said:.2f}, {said:.2f}]"
    assert line_of(summary.summary_table(found), "repaired, 5 %")[:2] == [".80", interval]
