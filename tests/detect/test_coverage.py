"""What keeps a verdict from being a pass: a check that did not run, however that is told, and every gap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from detect.test_judgement import CLEAN, fresh, with_predictions
from detect.test_null import measured

from naa_fast.detect.checks import ABOUT, INVERTED, OF_SAMPLES, Check, did_not_run, missing_lines, ran, unranked
from naa_fast.detect.evidence import Evidence, Ranking
from naa_fast.detect.judgement import judge
from naa_fast.detect.verdict import Verdict
from naa_fast.parts import Part
from naa_fast.report.brief import checked

SCORES = np.random.default_rng(0).standard_normal((2, 250))
RANKING = Ranking(SCORES[0], np.full(250, -1), SCORES[1], np.full(250, -1))
WHOLE = Evidence(RANKING, checks=ran(*OF_SAMPLES))
SETS = tuple(with_predictions(m, 10, 12) for m in (measured(CLEAN, "c"), measured(fresh(), "s")))


def verdict(evidence: Evidence | None = WHOLE, accept_unranked: bool = False) -> Verdict:
    clean, suspect = SETS
    return judge(clean, suspect, evidence=evidence, accept_unranked=accept_unranked).verdict


def test_a_pass_rests_on_every_check() -> None:
    passed = verdict()
    assert (passed.outcome, passed.gaps, passed.accepted) == ("pass", (), ())
    assert [check.name for check in passed.checks] == [name for name in ABOUT if name not in ("tails", *INVERTED[:3])]
    assert passed.sentence.startswith("No backdoor was found: no neuron differs")
    compared = verdict(None, accept_unranked=True)
    assert [check.name for check in compared.checks] == [name for name in ABOUT if name not in INVERTED[:3]]
    assert compared.sentence.startswith("A pass, means only, as was accepted: ")


@pytest.mark.parametrize("name", OF_SAMPLES)
@pytest.mark.parametrize("told", [True, False])
def test_each_check_alone_keeps_it_from_being_one_also_where_nothing_says_that_it_ran(name: str, told: bool) -> None:
    others = tuple(check for check in WHOLE.checks if check.name != name)
    checks = (*others, *(did_not_run("it was tired", name) if told else ()))
    found = verdict(replace(WHOLE, checks=checks))
    assert (found.outcome, found.exit_code) == ("inconclusive", 3)
    assert [check.name for check in found.checks if not check.ran] == [name]
    assert any(gap.startswith(f"{name} (") and ("it was tired" in gap) == told for gap in found.gaps)
    accepted = verdict(replace(WHOLE, checks=checks), accept_unranked=True)
    assert (accepted.outcome, accepted.exit_code, accepted.accepted) == ("pass", 0, (name,))
    assert any(name in line for line in accepted.not_checked), "what was accepted is still said"


@pytest.mark.parametrize(
    ("ranking", "reason"),
    [
        (None, "no clean sample has a score"),
        (replace(RANKING, null_scores=np.full(250, np.nan)), "no clean sample has a score"),
        (replace(RANKING, scores=np.where(np.arange(250) < 3, np.nan, SCORES[0])), "3 suspect samples have no score"),
    ],
    ids=["none", "no clean scores", "a few without"],
)
def test_a_ranking_that_ranks_nothing_did_not_run(ranking: Ranking | None, reason: str) -> None:
    found = verdict(replace(WHOLE, ranking=ranking))
    assert found.outcome == "inconclusive"
    assert any(reason in gap for gap in found.gaps)


def test_what_only_more_data_can_mend_cannot_be_accepted_away() -> None:
    clean, suspect = SETS
    unread = replace(suspect, shards=(replace(suspect.shards[0], skipped=2),))
    missing = replace(suspect, parts=(Part.of(1, 2, 600),))
    few = with_predictions(measured(fresh(9), "s"), 4, 5)
    silent = replace(suspect, predictions=np.array([10, 12, 4]))
    for sets, words in (
        ((clean, unread), "2 suspect samples could not be read"),
        ((clean, missing), "the suspect set is partial: shard 2/2"),
        ((clean, few), "shift (whether the sets differ by more than chance) did not run: only 9 suspect samples"),
        ((clean, silent), "4 suspect samples have class scores that are not finite"),
    ):
        found = judge(*sets, evidence=WHOLE, accept_unranked=True).verdict
        assert found.outcome == "inconclusive", words
        assert any(words in gap for gap in found.gaps), words
    whole = judge(replace(clean, parts=(Part.of(1, 2, 1000),)), suspect, evidence=WHOLE).verdict
    assert whole.outcome == "pass", "a part of the trusted set is a smaller one"
    assert any("the clean set is partial" in line for line in whole.not_checked)


def test_a_warn_with_a_check_that_did_not_run_ends_like_inconclusive_unless_accepted() -> None:
    clean = SETS[0]
    moved = fresh()
    moved[:, 5] += 1
    suspect = with_predictions(measured(moved, "s"), 10, 12)
    codes = [judge(clean, suspect, evidence=unranked_one(), accept_unranked=accept).verdict for accept in (False, True)]
    assert [(found.outcome, found.exit_code) for found in codes] == [("warn", 3), ("warn", 6)]


def unranked_one() -> Evidence:
    return Evidence(checks=unranked("it was switched off"))


def test_checks_that_did_not_run_for_one_reason_are_one_line() -> None:
    lines = missing_lines([*unranked("a"), Check("shift", True), *did_not_run("b", "predictions")])
    assert len(lines) == 2
    assert lines[0].endswith("did not run: a")
    assert all(name in lines[0] for name in OF_SAMPLES)
    assert missing_lines(ran("shift")) == []


def test_a_check_that_was_stopped_says_that_it_ran_in_part() -> None:
    """Beside a proof that stands, "proof did not run" would be nonsense."""
    cut = did_not_run("stopped by SIGTERM", "proof", in_part=True)
    assert missing_lines(cut) == ["proof (whether a trigger can be proved) ran in part: stopped by SIGTERM"]
    assert checked((*ran("shift"), *cut, *did_not_run("x", "ranking"))) == "shift ran; proof ran in part; ranking did not"
