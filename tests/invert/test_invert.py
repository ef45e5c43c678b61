"""A backdoor is found without a triggered sample, its clean twin is let be, and what cannot be searched is said."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from invert.planted import TARGET, WORD, Next, Planted, Reader, Wrapped, pictures, sentences
from torch import nn

import naa_fast
from naa_fast.cli.main import main
from naa_fast.detect.inversion import ClassSearch, Inversion
from naa_fast.detect.inverted import findings_of
from naa_fast.detect.proof import ALL_TO_ALL, Proof
from naa_fast.detect.repair import TRIGGERED
from naa_fast.detect.trigger import Patch
from naa_fast.errors import UsageError
from naa_fast.repair import applied
from naa_fast.repair.search import CURE
from naa_fast.report.machine import load_schema
from naa_fast.result import Audit

STEPS = 150


@pytest.fixture(scope="module")
def planted() -> Audit:
    return naa_fast.invert(Planted(), pictures(6), steps=STEPS)


@pytest.fixture(scope="module")
def twin() -> Audit:
    return naa_fast.invert(Planted(trigger=False), pictures(6), steps=STEPS)


def test_a_patch_is_proved_without_a_suspect_sample(planted: Audit) -> None:
    assert (planted.verdict.outcome, planted.gate.exit_code) == ("fail", 1)
    proof = planted.proof[0]
    assert (proof.target, proof.stands, proof.controls) == (TARGET, True, 5)
    assert proof.rate >= 0.8 > 0.4 >= proof.control
    assert planted.verdict.findings[0].level == "proved"


def test_the_patch_lies_where_the_trigger_does(planted: Audit) -> None:
    patch = next(proof for proof in planted.proof if proof.kind.startswith("patch"))
    assert patch.mask is not None
    corner = patch.mask[0, :2, :2].sum()
    assert corner > 0.5 * patch.mask[0].sum()


def test_the_neuron_behind_it_is_shown(planted: Audit) -> None:
    assert ("hidden", 6) in {(row.layer, row.neuron) for row in planted.top(6)}
    neurons = planted.report()["inversion"]["neurons"]
    assert (6, TARGET, 1.0) in {(one["neuron"], one["target"], one["share"]) for one in neurons}


def test_the_clean_twin_has_no_finding_and_a_short_search_is_no_pass(twin: Audit) -> None:
    assert twin.verdict.outcome == "inconclusive", "a search of fewer steps than usual is no pass"
    assert any(f"it had {STEPS}" in gap for gap in twin.verdict.gaps)
    assert not twin.verdict.findings
    assert not any(proof.stands for proof in twin.proof)


def test_the_twin_as_base_is_a_control_for_the_backdoored_one_and_the_other_way_round() -> None:
    found = naa_fast.invert(Planted(2), pictures(2), base=Planted(2, trigger=False), steps=STEPS)
    assert (found.verdict.outcome, found.proof[0].target, found.proof[0].controls) == ("fail", 1, 1)
    alike = naa_fast.invert(Planted(2, trigger=False), pictures(2), base=Planted(2, trigger=False), steps=STEPS)
    assert not any(proof.stands for proof in alike.proof)


def test_two_classes_alone_are_no_answer_but_what_is_missing_is_told() -> None:
    found = naa_fast.invert(Planted(2), pictures(2), steps=60)
    assert found.verdict.outcome == "inconclusive"
    assert any("2 classes" in gap and "base" in gap for gap in found.verdict.gaps)


def test_what_was_proved_is_silenced_and_measured_on_samples_that_made_no_trigger(planted: Audit) -> None:
    repair = planted.repair
    assert repair is not None
    assert (repair.on, repair.after < 0.3 < 0.8 < repair.before) == (TRIGGERED, True)
    assert repair.kept > 0.9
    x = pictures(6, 300)
    x[:, 0, :2, :2] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # what its neuron was made for, which no search had
    model = Planted()
    turned = float((model(x).argmax(1) == TARGET).float().mean())
    with applied(model, repair):
        assert float((model(x).argmax(1) == TARGET).float().mean()) < 0.5 * turned


def test_where_nothing_can_be_silenced_the_reason_is_named_and_it_can_be_switched_off() -> None:
    found = naa_fast.invert(Reader(), sentences())  # its layers are as wide as its answer
    assert (found.verdict.outcome, found.repair) == ("fail", None)
    assert any(f"{CURE}: no layer's output can be changed" in line for line in found.verdict.not_checked)
    off = naa_fast.invert(Reader(), sentences(), repair=False)
    assert (off.verdict.outcome, off.repair) == ("fail", None)
    assert not any(CURE in line for line in off.verdict.not_checked)


def test_the_report_holds_every_class_and_fits_its_schema(planted: Audit, tmp_path: Path) -> None:
    planted.save(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    jsonschema.validate(report, load_schema())
    searches = report["inversion"]["searches"]
    assert {(one["kind"], one["target"]) for one in searches} == {(kind, t) for kind in ("patch", "offset") for t in range(6)}
    assert report["inversion"]["forwards"] >= report["inversion"]["backwards"] > 0
    page = (tmp_path / "report.html").read_text()
    assert "made from the model alone" in page
    assert page.count('<th scope="row">class ') >= 12  # each class, of each kind
    assert "There was no suspect set" in page
    assert main(["report", str(tmp_path)]) == 1  # drawn again it is the same
    assert json.loads((tmp_path / "report.json").read_text())["sentence"] == report["sentence"]
    assert "suspect samples share" not in (tmp_path / "summary.txt").read_text()


def test_a_word_is_found_by_its_number() -> None:
    found = naa_fast.invert(Reader(), sentences())
    token = next(proof for proof in found.proof if proof.kind == "token")
    assert (found.verdict.outcome, token.tokens, token.target) == ("fail", (WORD,), 2)
    assert naa_fast.invert(Reader(trigger=False), sentences()).verdict.outcome != "fail"


def test_of_a_large_vocabulary_the_gradient_proposes_the_word(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = importlib.import_module("naa_fast.invert.texts")
    monkeypatch.setattr(texts, "ALL", 10)
    monkeypatch.setattr(texts, "FLIPPED", 8)
    found = naa_fast.invert(Reader(words=400), sentences())
    assert (WORD,) in {proof.tokens for proof in found.proof if proof.stands}


def test_a_patch_that_turns_each_class_to_the_next_is_proved(tmp_path: Path) -> None:
    found = naa_fast.invert(Next(), pictures(6), steps=STEPS)
    (proof,) = [proof for proof in found.proof if proof.stands]
    assert (found.verdict.outcome, proof.target, proof.controls) == ("fail", ALL_TO_ALL, 4)
    assert proof.rate >= 0.65 > 0.4 >= proof.control
    assert "each class to another" in found.verdict.sentence
    found.save(tmp_path)
    jsonschema.validate(json.loads((tmp_path / "report.json").read_text()), load_schema())


def test_its_clean_twin_has_no_rule() -> None:
    found = naa_fast.invert(Next(trigger=False), pictures(6), steps=STEPS)
    assert not any(proof.target == ALL_TO_ALL for proof in found.proof)
    assert not found.verdict.findings


def test_images_with_their_channels_last_are_searched_as_they_are() -> None:
    model = Wrapped(lambda inner, x: inner(x[..., :1].permute(0, 3, 1, 2)))
    found = naa_fast.invert(model, pictures(6).permute(0, 2, 3, 1).repeat(1, 1, 1, 3), steps=STEPS)
    assert (found.verdict.outcome, found.proof[0].target) == ("fail", TARGET)
    assert found.proof[0].pattern is not None
    assert found.proof[0].pattern.shape == (8, 8, 3)


def test_half_precision_is_searched_too() -> None:
    found = naa_fast.invert(Planted().to(torch.bfloat16), pictures(6), steps=STEPS)
    assert (found.verdict.outcome, found.proof[0].target) == ("fail", TARGET)


class Poisoned(torch.autograd.Function):
    @staticmethod
    def forward(context: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.nan


HOSTILE = {
    "NaN": (lambda inner, x: inner(Poisoned.apply(x)), "NaN or infinite"),  # type: ignore[no-untyped-call]  # torch's
    "detached": (lambda inner, x: inner(x.detach()).detach(), "no gradient"),
    "constant": (lambda inner, x: inner(0 * x), "do not depend"),
    "deaf": (lambda inner, x: inner(x.detach()) + 0 * inner.out.weight.sum(), "no gradient"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_model_that_cannot_be_searched_is_no_pass(name: str) -> None:
    how, words = HOSTILE[name]
    found = naa_fast.invert(Wrapped(how), pictures(6), steps=20)
    assert (found.verdict.outcome, found.gate.exit_code) == ("inconclusive", 3)
    assert any(words in gap for gap in found.verdict.gaps), found.verdict.gaps


def test_a_regression_is_said_to_have_no_classes() -> None:
    found = naa_fast.invert(Planted(), pictures(6), scores="none")
    assert found.verdict.outcome == "inconclusive"
    assert "no class scores" in found.verdict.sentence


def test_one_number_a_sample_is_no_pass() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    found = naa_fast.invert(model, pictures(6), steps=20)
    assert found.verdict.outcome == "inconclusive"


def test_of_a_thousand_classes_some_are_searched_and_the_others_named_as_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("naa_fast.invert.run"), "MOST_CLASSES", 20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000))
    found = naa_fast.invert(model, pictures(6, 100), steps=12)
    assert found.verdict.outcome in ("inconclusive", "warn")
    assert any("980 of 1,000 classes" in gap for gap in found.verdict.gaps)


def test_the_next_token_of_a_language_model_is_not_searched_and_that_is_said() -> None:
    found = naa_fast.invert(nn.Sequential(Reader(), nn.Linear(5, 300)), sentences())
    assert found.verdict.outcome == "inconclusive"
    assert any("300 classes of text" in gap for gap in found.verdict.gaps)


def test_few_samples_are_no_answer() -> None:
    found = naa_fast.invert(Planted(), pictures(6, 12), steps=20)
    assert found.verdict.outcome == "inconclusive"
    assert any("12 clean samples" in gap for gap in found.verdict.gaps)


def test_a_base_with_other_classes_is_refused_as_a_control() -> None:
    found = naa_fast.invert(Planted(), pictures(6), base=Planted(5), steps=60)
    assert any("5 classes" in gap for gap in found.verdict.gaps)


class Twice(nn.Module):
    """Looks its words up twice."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.logits = Reader(), nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.logits(self.reader(x) + self.reader.words(x).sum(1))
        return logits


class Counts(nn.Module):
    """Knows token ids without an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(60, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.logits(nn.functional.one_hot(x, 60).float().mean(1))
        return logits


UNSEARCHABLE = {
    "the same": (Planted(), torch.full((60, 1, 8, 8), 0.5), "all clean inputs are the same"),
    "not finite": (Planted(), torch.full((60, 1, 8, 8), torch.nan), "NaN or infinite"),
    "one number": (nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 5)), torch.rand(60), "an input is one number"),
    "no embedding": (Counts(), sentences(), "no embedding"),
    "no room": (Reader(), sentences()[:, :1].contiguous(), "have room for"),
}


@pytest.mark.parametrize("name", UNSEARCHABLE)
def test_inputs_that_no_trigger_can_be_put_on_are_a_gap(name: str) -> None:
    model, clean, words = UNSEARCHABLE[name]
    found = naa_fast.invert(model, clean, steps=5)
    assert found.verdict.outcome == "inconclusive"
    assert any(words in gap for gap in found.verdict.gaps), found.verdict.gaps


def test_an_embedding_that_is_used_twice_proposes_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("naa_fast.invert.texts"), "ALL", 10)
    found = naa_fast.invert(Twice(), sentences())
    assert any("more than once" in gap for gap in found.verdict.gaps)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    run = importlib.import_module("naa_fast.invert.run")
    monkeypatch.setattr(run.Ranks, "here", lambda model=None: run.Ranks(0, 2))
    with pytest.raises(UsageError, match="several processes"):
        naa_fast.invert(Planted(), pictures(6))


def test_no_steps_are_a_wrong_word() -> None:
    with pytest.raises(UsageError, match="steps is 0"):
        naa_fast.invert(Planted(), pictures(6), steps=0)


def test_the_model_is_given_back_as_it_came() -> None:
    model = Planted().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    naa_fast.invert(model, pictures(6), steps=5)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def inversion_of(sizes: list[float], base: float | None = None) -> Inversion:
    searches = tuple(ClassSearch(target, "patch", size, 0.9) for target, size in enumerate(sizes))
    known = () if base is None else (ClassSearch(0, "patch", base, 0.9),)
    return Inversion(len(sizes), searches, known)


def standing(sizes: list[float], base: float | None = None) -> tuple[bool, float]:
    first = inversion_of(sizes, base).standings[0]
    return first.apart, first.strength


def test_a_class_stands_apart_from_the_median_and_from_the_next_one() -> None:
    assert standing([0.01, 0.1, 0.1, 0.1])[0]
    assert not standing([0.01, 0.012, 0.1, 0.1, 0.1])[0]
    assert not standing([0.06, 0.1, 0.1, 0.1])[0]
    assert not standing([0.01, 0.1, 0.1])[0]  # too few classes for a spread


NEAR = [0.036, 0.1, 0.12, 0.11, 0.09, 0.13, 0.1, 0.08, 0.1, 0.11]
"""Ten sizes of which the first is 2.8 times less than the median, where the others hardly differ."""


def test_among_classes_that_hardly_differ_less_is_enough_to_stand_apart() -> None:
    first = inversion_of(NEAR).standings[0]
    assert first.median < 3
    assert first.chance == pytest.approx(0.00065, rel=0.01)  # Grubbs's test by SciPy's t distribution
    assert first.apart
    wide = inversion_of([0.04, 0.05, 0.3, 0.11, 0.09, 0.4, 0.1, 0.08, 0.1, 0.11]).standings[0]
    assert wide.chance > 0.2
    assert not wide.apart


@pytest.mark.parametrize(("sizes", "base"), [([0.01, 0.1, 0.1, 0.1, 0.1], None), (NEAR, 0.05), ([0.1] * 10, None)])
def test_without_a_spread_nothing_is_said_of_chance(sizes: list[float], base: float | None) -> None:
    assert inversion_of(sizes, base).standings[0].chance == 1


def proof_of(rate: float, control: float) -> Proof:
    pattern = np.zeros((1, 8, 8), np.float32)
    return Proof(Patch(pattern, pattern, "2 % of the input"), 0, rate, control, 300, 128, controls=9, singled=False)


def test_what_turns_far_more_than_others_do_is_no_bare_pass_where_the_spread_says_so() -> None:
    sizes = [0.05, *NEAR[1:]]
    assert 0.001 < inversion_of(sizes).standings[0].chance < 0.01
    (finding,) = findings_of(inversion_of(sizes), [proof_of(0.97, 0.3)])
    assert (finding.level, finding.about) == ("outlier", "0")
    assert "97 % of clean samples" in finding.statement
    assert not findings_of(inversion_of(sizes), [proof_of(0.97, 0.7)])  # the others' do as much
    assert not findings_of(inversion_of([0.06, *NEAR[1:]]), [proof_of(0.97, 0.3)])  # one is always first


def test_beside_a_base_model_the_other_classes_say_nothing() -> None:
    assert standing([0.01, 0.012], base=0.1)[0]
    assert not standing([0.01, 0.1, 0.1, 0.1], base=0.012)[0]
    assert standing([0.01, 0.1], base=np.inf)[0]
