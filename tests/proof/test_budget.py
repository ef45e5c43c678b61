"""Proof and repair keep to a budget; what it leaves out is told, and is no pass."""

from __future__ import annotations

from typing import Any

import pytest
from proof.test_tokens import CLEAN, HELD, TRIGGER, planted_in
from proof.topics import Topics
from torch import nn

import naa_fast
from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Tokens
from naa_fast.errors import UsageError
from naa_fast.proof.budget import LEAST, MOST, Budget, BudgetSpent, ShareSpent, default_budget, rule
from naa_fast.proof.prove import in_classes, search_in_turns
from naa_fast.result import Audit

SUSPECT, _ = planted_in(HELD, (TRIGGER,), 80)


def scanned(budget: int, **options: Any) -> Audit:
    return naa_fast.scan(Topics((TRIGGER,)), CLEAN, SUSPECT, budget=budget, **options)


def test_a_proof_that_the_budget_ends_did_not_run_and_how_much_may_run_is_told_before() -> None:
    told: list[tuple[str, int, int | None]] = []
    audit = scanned(600, progress=lambda *what: told.append(what))
    assert next(what for what in told if what[0] == "proving") == ("proving", 0, 600)
    assert max(done for label, done, _ in told if label == "proving") <= 600
    assert audit.judgement.evidence.forwards <= 600
    [proof] = [check for check in audit.verdict.checks if check.name == "proof"]
    assert not proof.ran
    assert "the budget of 600 samples is spent before" in proof.reason
    assert audit.verdict.exit_code != 0


def test_with_less_than_a_repair_needs_none_is_tried_and_that_is_said() -> None:
    audit = scanned(2000)
    assert audit.verdict.outcome == "fail"
    assert audit.repair is None
    left = 2000 - audit.judgement.evidence.forwards
    assert any(
        f"{left:,} samples are left of the budget, and a repair is tried with 1,500 at least" in note
        for note in audit.verdict.not_checked
    )


def test_by_default_it_is_half_as_much_again_as_both_sets_and_more_for_small_models() -> None:
    large = nn.Linear(10_000, 2_500)
    assert default_budget(large, 100) == LEAST
    assert default_budget(large, 100_000) == 150_000
    assert default_budget(large, 1_000_000) == default_budget(nn.ReLU(), 10**9) == MOST == 150_000
    assert default_budget(nn.Linear(1000, 1000), 100) == 19_980
    assert default_budget(nn.ReLU(), 100) == 80_000


def test_a_target_for_which_something_turns_clean_samples_does_not_wait_for_the_others() -> None:
    def searched(turning: bool) -> tuple[list[str], dict[int | str, list[Proof | str]]]:
        budget, asked, ran = Budget(1000), list[str](), {"a": 0, "b": 0}

        def search(target: int | str) -> list[Proof | str]:
            asked.append(str(target))
            needed = {"a": 700, "b": 200}[str(target)]
            while ran[str(target)] < needed:  # what ran is not run again
                budget.take(100)
                ran[str(target)] += 100
            return [str(target)]

        outcomes: dict[int | str, list[Proof | str]] = {}
        search_in_turns(search, ["a", "b"], outcomes, budget, lambda target: turning and target == "a")
        return asked, outcomes

    assert searched(turning=True) == (["a", "a", "b"], {"a": ["a"], "b": ["b"]})
    assert searched(turning=False) == (["a", "b", "a"], {"a": ["a"], "b": ["b"]})


def test_what_is_too_much_is_not_taken() -> None:
    budget = Budget(10)
    budget.take(6)
    assert budget.halfway
    with pytest.raises(BudgetSpent, match="the budget of 10 samples is spent"):
        budget.take(5)
    assert (budget.spent, budget.left) == (6, 4)


def test_once_a_proof_stands_half_is_left_for_a_repair() -> None:
    left: list[int | str] = [3, 1]
    found: dict[int | str, list[Proof | str]] = {}
    budget = Budget(20)

    def search(target: int | str) -> list[Proof]:
        budget.take(11 if budget.left > 10 else 6)
        return [Proof(Tokens((5,)), target, 1.0, 0.0, 100, 0)]

    budget.take(6)
    with pytest.raises(BudgetSpent, match="half of the budget of 20 samples is spent, and the rest is left for a repair"):
        search_in_turns(search, left, found, budget)
    assert {target: len(proofs) for target, proofs in found.items()} == {3: 1}
    assert left == [1]


def test_no_target_and_no_form_takes_what_another_needs_and_what_is_left_over_goes_to_those_that_were_cut_short() -> None:
    budget, order = Budget(1000), list[str]()
    wants = {"long": 700, "short": 100}

    def search(target: int | str) -> list[Proof]:
        name = str(target)
        while wants[name]:
            budget.take(50)
            wants[name] -= 50
        order.append(name)
        return []

    left: list[int | str] = ["long", "short"]
    search_in_turns(search, left, {}, budget)
    assert order == ["short", "long"], "half was too little for the first, which went on after the other"
    assert (left, budget.spent) == ([], 800)
    with budget.share(4):
        assert budget.left == 50
        budget.take(50)
        with pytest.raises(ShareSpent):
            budget.take(1)
    assert budget.left == 150
    with budget.share(2), budget.share(3):
        assert budget.left == 25


def test_the_rule_is_told_beforehand() -> None:
    assert rule(None, repair=True).startswith(
        "proof and repair run 1.5 times both sets at most, and never over 150,000 samples: half"
    )
    assert rule(8000, repair=False).startswith("proof runs 8,000 samples at most: half of them for the likeliest target")


def test_targets_that_are_left_out_are_named() -> None:
    assert in_classes([3]) == "class 3"
    assert in_classes(["all-to-all"]) == "all-to-all"
    assert in_classes([1, 2, "all-to-all"]) == "classes 1, 2, all-to-all"
    assert in_classes(list(range(7))) == "classes 0, 1, 2, 3, 4 and 2 others"


@pytest.mark.parametrize("budget", [0, -3, 1.5])
def test_a_budget_is_a_number_of_samples(budget: float) -> None:
    with pytest.raises(UsageError, match="expected a whole number of samples, 1 or more"):
        naa_fast.scan(Topics(), CLEAN, HELD, budget=budget)  # type: ignore[arg-type]
