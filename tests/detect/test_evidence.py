"""The second look's numbers: against exact arithmetic, and with the rate of false alarms where the truth is known."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from report.examples import measured, noise

from naa_fast.detect import evidence
from naa_fast.detect.enrichment import hypergeometric_tail
from naa_fast.detect.evidence import Evidence, Ranking
from naa_fast.detect.findings import find_in_samples
from naa_fast.detect.judgement import judge
from naa_fast.detect.proof import ALL_TO_ALL, PROVED_MARGIN, Erasure, Proof, wilson
from naa_fast.detect.trigger import Patch, Tokens

RNG = np.random.default_rng(0)
WHITE = np.ones((1, 2, 2), np.float32)
WORD = Tokens((3,))
PROOF = Proof(Patch(WHITE, WHITE, "1 % of the input"), 7, 0.95, 0.1, 300, 8)


def ranking(suspect: np.ndarray, clean: np.ndarray, called: np.ndarray | None = None) -> Ranking:
    none = np.full(len(clean), -1)
    return Ranking(suspect, np.full(len(suspect), -1) if called is None else called, clean, none)


@pytest.mark.parametrize(
    "numbers",
    [(3, 10, 1, 20), (0, 5, 0, 5), (10, 10, 0, 30), (2, 40, 9, 30), (1, 1, 0, 500), (200, 5000, 1, 5000), (400, 400, 0, 400)],
    ids=str,
)
def test_the_tail_is_fishers_exact_test(numbers: tuple[int, int, int, int]) -> None:
    a, n_a, b, n_b = numbers
    ways = sum(comb(n_a, k) * comb(n_b, a + b - k) for k in range(a, min(a + b, n_a) + 1))
    assert hypergeometric_tail(*numbers) == pytest.approx(float(Fraction(ways, comb(n_a + n_b, a + b))), rel=1e-13)


def test_wilsons_interval_covers_the_rate_it_should() -> None:
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-3)  # Newcombe, Statistics in Medicine 17, 1998, table I
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-3)
    assert wilson(0.5, 0) == (0.0, 1.0)
    hits = RNG.binomial(60, 0.9, 4000)
    covered = np.mean([low <= 0.9 <= high for low, high in (wilson(h / 60, 60) for h in hits)])
    assert covered > 0.93


@pytest.mark.parametrize("draw", [RNG.standard_normal, RNG.standard_exponential, lambda n: RNG.standard_t(2, n)])
def test_fresh_clean_samples_raise_a_tail_finding_at_most_one_time_in_a_thousand(draw: object) -> None:
    alarms = sum(
        bool(find_in_samples(Evidence(ranking(draw(500), draw(400)))))  # type: ignore[operator]
        for _ in range(1500)
    )
    assert alarms <= 6  # 1.5 expected if the test were exact; 7 has a chance below 0.001


def test_a_hundredth_of_outliers_is_seen() -> None:
    suspect = np.r_[RNG.standard_normal(4950), RNG.standard_normal(50) + 8]
    [finding] = find_in_samples(Evidence(ranking(suspect, RNG.standard_normal(2500))))
    assert finding.level == "outlier"
    assert "% of clean samples reach, 50 of them beyond all" in finding.statement


def test_few_clean_samples_set_no_limit_but_their_largest_still_counts() -> None:
    few = ranking(RNG.standard_normal(50) + 100, RNG.standard_normal(40))
    assert few.limit == float("inf")
    [finding] = find_in_samples(Evidence(few))
    assert finding.statement.startswith("50 suspect samples lie beyond")
    assert not find_in_samples(Evidence(ranking(RNG.standard_normal(50), RNG.standard_normal(40))))
    assert not find_in_samples(Evidence(ranking(np.zeros(50), np.zeros(0))))


def test_carriers_come_first_and_keep_their_order() -> None:
    scores = np.array([1.0, 9.0, 3.0, np.inf, 2.0])
    ranked = replace(ranking(scores, scores), triggered=np.array([True, False, False, False, True])).ranked
    assert np.argsort(-ranked, kind="stable").tolist() == [4, 0, 3, 1, 2]
    assert ranking(scores, scores).ranked is scores


def test_every_list_has_the_one_order_and_rows_name_the_place_in_the_set() -> None:
    scores = np.array([1.0, np.nan, 3.0, np.inf, 3.0])
    found = replace(
        ranking(scores, scores),
        items=np.array([0, 2, 3, 5, 9]),
        deviating={2: (("a", 4, 7.5),)},
        triggered=np.arange(5) == 0,
        file_of=lambda item: f"{item}.png",
    )
    assert found.order.tolist() == [0, 3, 2, 4, 1]
    assert [row.sample for row in found.top] == [0, 5, 3, 9, 2]
    assert [row.file for row in found.rows(2)] == ["0.png", "5.png"]
    assert [row.triggered for row in found.rows()] == [True, False, False, False, False]
    assert [row.deviating for row in found.rows(3)] == [(), (), (("a", 4, 7.5),)]


def test_reports_list_a_thousand_samples_or_as_asked_all(monkeypatch: pytest.MonkeyPatch) -> None:
    many = ranking(np.arange(1500.0), np.zeros(100))
    assert [row.sample for row in many.listed] == list(range(1499, 499, -1))
    assert len(list(replace(many, whole=True).listed)) == 1500
    monkeypatch.setattr(evidence, "MOST_LISTED", 1200)
    assert len(list(replace(many, whole=True).listed)) == 1200


def test_concentration_is_the_share_of_one_class_beyond_what_the_set_holds() -> None:
    scores = np.arange(100.0)
    called = np.where(np.arange(100) >= 80, 3, np.arange(100) % 2)
    assert ranking(scores, scores, called).concentration == pytest.approx((3, 0.8))
    assert ranking(scores, scores).concentration == (-1, 0.0)


def test_where_fewer_than_twenty_lie_beyond_every_clean_sample_these_are_asked_for_their_class() -> None:
    scores, called = np.arange(300.0), np.arange(300) % 100 + 10
    called[-14:] = 3
    clean = np.arange(150.0)
    found = ranking(scores, np.r_[clean, 285.5], called)
    assert (found.outside, found.farthest) == (14, 14)
    assert found.concentration == pytest.approx((3, 1 - 14 / 300))
    assert ranking(scores, np.r_[clean, 293.5], called).farthest == 20, "six are too few"
    assert ranking(scores, clean, called).farthest == 20


@pytest.mark.parametrize(
    ("change", "stands"),
    [
        ({}, True),
        ({"rate": 0.5}, False),
        ({"control": 0.95 - PROVED_MARGIN / 2}, False),
        ({"rate": 0.95, "control": 0.45, "samples": 8}, False),  # too few to tell the two apart
        ({"trigger": WORD, "control": 0.85}, True),
        ({"trigger": WORD, "rate": 0.7}, False),
        ({"own": True, "control": 0.95}, False),  # what other classes share does as much
        ({"own": True, "control": 0.1}, True),
        ({"controls": 0}, False),  # nothing had the same chance
        ({"erasure": Erasure(30, 0.8, 0.1, 1e-6)}, True),
        ({"erasure": Erasure(30, 0.8, 0.7, 0.2)}, False),  # as much taken out elsewhere does it
        ({"erasure": Erasure(30, 0.2, 0.0, 1e-4)}, False),
        ({"erasure": Erasure(3, 0.4, 0.0, 0.3)}, True),
        ({"erasure": Erasure(0, 0.0, 0.0, 1.0)}, False),  # nobody holds it
        ({"own": True, "rate": 0.94}, False),
        ({"own": True, "trigger": WORD, "control": 0.95}, False),  # words have the class's other words for one
    ],
    ids=str,
)
def test_a_proof_needs_a_rate_a_margin_and_enough_samples(change: dict[str, float], stands: bool) -> None:
    assert replace(PROOF, **change).stands == stands  # type: ignore[arg-type]


def test_a_proof_fails_the_model_and_says_so_in_a_sentence() -> None:
    clean, suspect = (measured({"a": noise(seed, 200, 8)}, f"{seed}") for seed in (1, 2))
    assert judge(clean, suspect, accept_unranked=True).verdict.outcome == "pass"
    found = judge(clean, suspect, evidence=Evidence(proof=(PROOF,))).verdict
    assert found.outcome == "fail"
    assert (
        "Backdoor proved: a trigger that suspect samples share turns 95 % of clean samples of other classes to class 7"
        in found.sentence
    )
    assert [f.level for f in found.findings] == ["proved"]
    every = judge(clean, suspect, evidence=Evidence(proof=(replace(PROOF, target=ALL_TO_ALL),))).verdict
    assert "classes to one another" in every.sentence
    almost = judge(
        clean, suspect, evidence=Evidence(proof=(replace(PROOF, rate=0.59, control=0.0),)), accept_unranked=True
    ).verdict
    assert almost.outcome == "pass"
    barely = judge(clean, suspect, evidence=Evidence(proof=(replace(PROOF, trigger=WORD, control=0.85),))).verdict
    assert almost.score < 0.5 <= barely.score < found.score < 1.0, "what fails a model scores above all that does not"
    held = judge(clean, suspect, evidence=Evidence(proof=(replace(PROOF, own=True, control=0.1),))).verdict
    assert held.outcome == "fail"
    assert "clean samples of that class hold the like" in held.sentence


def test_what_suspects_do_not_share_is_said_of_the_model_and_fails_nothing() -> None:
    clean, suspect = (measured({"a": noise(seed, 200, 8)}, f"{seed}") for seed in (1, 2))
    easy = replace(PROOF, erasure=Erasure(30, 0.05, 0.02, 0.5))
    verdict = judge(clean, suspect, evidence=Evidence(proof=(easy,)), accept_unranked=True).verdict
    assert verdict.outcome == "warn"
    [finding] = verdict.findings
    assert finding.level == "outlier"
    assert "this model is easily turned to class 7, whatever the samples" in finding.statement


def test_without_a_ranking_the_gap_is_named() -> None:
    clean, suspect = (measured({"a": noise(seed, 200, 8)}, f"{seed}") for seed in (1, 2))
    lines = judge(clean, suspect).verdict.not_checked
    assert any("that takes the model and the samples" in line for line in lines)
    assert any("less than about a quarter" in line for line in lines)
    looked = judge(clean, suspect, evidence=Evidence(ranking(np.zeros(200), np.zeros(200)))).verdict.not_checked
    assert not any("less than about a quarter" in line for line in looked)
