"""After a `fail` the backdoor is silenced, by something better than chance, in numbers the truth agrees with."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn (the demo extra)")

import naa_fast
from naa_fast import demo
from naa_fast.detect.repair import LEAST_HELP, RANKED, TRIGGERED, Repair
from naa_fast.repair.trial import most_general
from naa_fast.report.machine import load_schema
from naa_fast.report.summary import full as summary
from naa_fast.result import Audit

DIGITS = demo.load_digits()


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    return demo.train(DIGITS, backdoored=True)


@pytest.fixture(scope="module")
def audit(model: nn.Sequential) -> Audit:
    return naa_fast.scan(model, DIGITS.clean_x, DIGITS.suspect_x)


@pytest.fixture(scope="module")
def repair(audit: Audit) -> Repair:
    assert audit.repair is not None
    return audit.repair


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@torch.no_grad()
def scores(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def test_the_repair_ends_the_attack_and_its_random_control_does_not(model: nn.Sequential, repair: Repair) -> None:
    accuracy, success = demo.rates(model, DIGITS)
    with naa_fast.repair.applied(model, repair):
        repaired_accuracy, left = demo.rates(model, DIGITS)
    with naa_fast.repair.applied(model, repair.random):
        _, by_chance = demo.rates(model, DIGITS)
    assert success > 0.95
    assert left < 0.1
    assert repaired_accuracy > accuracy - 0.02
    assert by_chance > 0.8


def test_what_the_repair_says_of_itself_is_so(model: nn.Sequential, repair: Repair) -> None:
    assert repair.on == TRIGGERED
    assert repair.before > 0.8
    assert repair.control - repair.after > 0.5 > LEAST_HELP
    assert repair.helps
    with naa_fast.repair.applied(model, repair):
        kept = float((scores(model, DIGITS.clean_x).argmax(1) == unrepaired(model)).double().mean())
    assert abs(kept - repair.kept) < 0.03
    assert repair.clean_samples >= repair.samples > 100
    assert 1000 < repair.forwards < 60_000


def test_a_repair_fits_into_what_the_proof_leaves_of_the_budget_of_a_large_model(model: nn.Sequential, repair: Repair) -> None:
    audit = naa_fast.scan(model, DIGITS.clean_x, DIGITS.suspect_x, budget=8000)
    small = audit.repair
    assert small is not None
    assert audit.judgement.evidence.forwards + small.forwards <= 8000
    assert small.after < 0.1
    assert small.kept > 0.97
    assert small.interval[0] <= small.after < small.interval[1] < 0.12
    assert small.forwards < 6000 < repair.forwards


def unrepaired(model: nn.Sequential) -> Tensor:
    """The clean predictions of the same weights without any hook."""
    bare = demo.small_cnn()
    bare.load_state_dict(model.state_dict())
    return scores(bare.eval(), DIGITS.clean_x).argmax(1)


def test_the_model_is_given_back_without_hooks_also_when_it_raises(model: nn.Sequential, repair: Repair) -> None:
    before = scores(model, DIGITS.suspect_x)
    assert hooks_of(model) == 0
    with naa_fast.repair.applied(model, repair):
        assert hooks_of(model) == len(repair.changes)
    with pytest.raises(RuntimeError), naa_fast.repair.applied(model, repair):
        model(torch.zeros(1, 1, 3, 3))  # no digit
    assert hooks_of(model) == 0
    assert torch.equal(scores(model, DIGITS.suspect_x), before)


def test_a_report_keeps_the_repair_and_a_loaded_one_does_the_same(
    model: nn.Sequential, audit: Audit, repair: Repair, tmp_path: Path
) -> None:
    audit.save(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    jsonschema.validate(report, load_schema())
    told = report["repair"]
    assert [change["layer"] for change in told["changes"]] == [change.layer for change in repair.changes]
    assert (told["after"], told["control"], told["forwards"]) == (repair.after, repair.control, repair.forwards)
    assert f"{repair.forwards} samples run" in " ".join(audit.summary(verbose=True).split())
    loaded = naa_fast.repair.load(tmp_path / told["file"])
    assert (loaded.kept, loaded.on, loaded.samples) == (repair.kept, repair.on, repair.samples)
    with naa_fast.repair.applied(model, repair):
        expected = scores(model, DIGITS.suspect_x)
    with naa_fast.repair.applied(model, loaded):
        assert torch.equal(scores(model, DIGITS.suspect_x), expected)
    assert not torch.equal(scores(model, DIGITS.suspect_x), expected)


def test_a_report_without_a_repair_says_null_and_removes_an_older_file(audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "repair.safetensors").touch()
    without = replace(audit, judgement=replace(audit.judgement, repair=None))
    without.save(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["repair"] is None
    assert not (tmp_path / "repair.safetensors").exists()
    assert "Repair:" in summary(audit.judgement)
    assert "Repair:" not in summary(without.judgement)


def test_nothing_is_tried_unless_it_is_a_fail_or_when_switched_off(model: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("tried")

    monkeypatch.setattr("naa_fast.repair.search.attempt", never)
    darker = naa_fast.scan(model, DIGITS.clean_x, 0.6 * DIGITS.held_x)
    same = naa_fast.scan(model, DIGITS.clean_x, DIGITS.held_x)
    assert {darker.verdict.outcome, same.verdict.outcome} == {"warn", "pass"}
    off = naa_fast.scan(model, DIGITS.clean_x, DIGITS.suspect_x, repair=False)
    assert off.verdict.outcome == "fail"
    for audit in (darker, same, off):
        assert audit.repair is None
        assert not any("cures" in line for line in audit.verdict.not_checked)


def test_a_repair_that_fails_loses_no_verdict(model: nn.Sequential, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("no luck")

    monkeypatch.setattr("naa_fast.repair.search.trial_of", broken)
    again = naa_fast.scan(model, DIGITS.clean_x, DIGITS.suspect_x)
    assert (again.verdict.outcome, again.verdict.score) == (audit.verdict.outcome, audit.verdict.score)
    assert again.verdict.gaps == ()
    assert again.repair is None
    assert any("the attempt ended with ValueError: no luck" in line for line in again.verdict.not_checked)
    assert hooks_of(model) == 0


def test_without_a_proof_the_highest_ranked_suspects_stand_for_the_trigger(model: nn.Sequential) -> None:
    audit = naa_fast.scan(model, DIGITS.clean_x, DIGITS.suspect_x, proof=False)
    assert audit.verdict.outcome == "fail"
    assert audit.repair is not None
    assert audit.repair.on == RANKED
    assert audit.repair.before == 1.0  # all keep the predictions that nothing changed
    with naa_fast.repair.applied(model, audit.repair):
        _, left = demo.rates(model, DIGITS)
    assert left < 0.3


def test_a_model_in_which_no_layer_can_be_changed_is_told_so() -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(64, 10))  # its one layer gives the scores
    linear.get_parameter("0.weight").data[7, 63] = 40.0
    audit = naa_fast.scan(linear, DIGITS.clean_x.flatten(1), DIGITS.suspect_x.flatten(1))
    assert audit.verdict.outcome == "fail"
    assert audit.repair is None
    assert any("cures the model: no layer's output can be changed" in line for line in audit.verdict.not_checked)


def test_a_model_that_no_gradient_comes_through_is_repaired_all_the_same(model: nn.Sequential) -> None:
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    closed = Closed()
    audit = naa_fast.scan(closed, DIGITS.clean_x, DIGITS.suspect_x)
    assert audit.repair is not None
    assert not any("tuned" in change.choice for change in audit.repair.changes)
    with naa_fast.repair.applied(closed, audit.repair):
        _, left = demo.rates(closed, DIGITS)
    assert left < 0.1


def test_half_precision_is_repaired_too(model: nn.Sequential) -> None:
    half = deepcopy(model).bfloat16()
    audit = naa_fast.scan(half, DIGITS.clean_x, DIGITS.suspect_x)
    assert audit.repair is not None
    clean, triggered = DIGITS.clean_x.bfloat16(), DIGITS.suspect_x.bfloat16()
    before = scores(half, clean).argmax(1)
    with naa_fast.repair.applied(half, audit.repair):
        kept = (scores(half, clean).argmax(1) == before).double().mean()
        left = (scores(half, triggered).argmax(1) == demo.TARGET).double().mean()
    assert left < 0.1
    assert kept > 0.95


def test_what_costs_too_many_clean_predictions_is_no_repair(model: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naa_fast.repair.search.AGREEMENT", 1.01)
    audit = naa_fast.scan(model, DIGITS.clean_x, DIGITS.suspect_x)
    assert audit.verdict.outcome == "fail"
    assert audit.repair is None
    [why] = [line for line in audit.verdict.not_checked if "leaves clean predictions as they are" in line]
    assert re.search(
        r"; the best leaves \d+ % of clean samples turned by the trigger and \d+ % of suspects as they were predicted, and "
        r"\d+\.\d % of clean predictions as they are$",
        why,
    ), "how far the best of them came"


def test_a_repair_that_does_no_more_than_a_random_one_says_what_it_leaves(
    model: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Repair, "helps", property(lambda repair: False))
    audit = naa_fast.scan(model, DIGITS.clean_x, DIGITS.suspect_x)
    assert audit.repair is None
    [why] = [line for line in audit.verdict.not_checked if "does no more than a random one" in line]
    assert re.search(r"it leaves \d+ % of \d+ %, a random one \d+ % of the trigger's success$", why)


def test_the_most_general_proof_that_stands_is_repaired(audit: Audit) -> None:
    one = next(proof for proof in audit.proof if proof.stands)
    narrow, none = replace(one, source=1), replace(one, rate=0.0)
    assert most_general([none, narrow, one]) is one
    assert most_general([none, narrow]) is narrow
    assert most_general([none]) is None
