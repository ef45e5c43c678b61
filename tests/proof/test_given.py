"""A trigger from outside is looked for among suspects: its place is given, what is there is theirs, and there are controls."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from invert.planted import TARGET, WORD, Planted, Reader, pictures, sentences

import naa_fast
from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Offset, Patch, Tokens
from naa_fast.errors import EXIT_INCONCLUSIVE, UsageError
from naa_fast.proof.chances import Sought
from naa_fast.proof.given import AS_GIVEN, gain_of, given_first, read_at, untold, words_for
from naa_fast.proof.images import CleanImages
from naa_fast.proof.images import Patch as Candidate


def proof_of(trigger: Patch | Offset | Tokens, target: int = TARGET) -> Proof:
    return Proof(trigger, target, 0.95, 0.1, 200, 100, singled=True)


def corner(value: float = 0.4) -> Patch:
    """The place of the planted trigger, and not what belongs there."""
    mask = np.zeros((1, 8, 8), np.float32)
    mask[0, :2, :2] = 0.8
    mask[0, 4, 4] = 0.1  # a search never quite gets to zero
    return Patch(np.full((1, 8, 8), value, np.float32), mask, "6 % of the input")


def triggered(samples: int) -> torch.Tensor:
    x = pictures(6, samples)
    x[:, 0, :2, :2] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    return x


def clean_images() -> CleanImages:
    return CleanImages.of(pictures(6).numpy())


def test_a_given_patch_lends_its_place_and_the_suspects_what_is_there() -> None:
    rows = [(TARGET, row) for row in triggered(12).numpy()]
    (_, (candidate, group)) = read_at([corner()], Sought.of(TARGET, rows, pictures(6).numpy()), clean_images())
    assert (candidate.kind, candidate.budget, group) == ("patch", AS_GIVEN, 12)
    assert isinstance(candidate, Candidate)
    assert candidate.mask.sum() == 4
    assert candidate.pattern[0, :2, :2].tolist() == [[1, 0], [0, 1]]


def test_of_a_given_offset_it_is_as_much_as_the_suspects_have() -> None:
    clean, wave = clean_images(), np.zeros((1, 8, 8), np.float32)
    wave[0, ::2] = 0.2
    for share in (0.0, 1.0):
        rows = (pictures(6).numpy()[:48] + share * wave).astype(np.float32)
        assert gain_of(rows, wave, clean, None) == pytest.approx(share, abs=0.15)
    assert gain_of(rows, 0 * wave, clean, None) == 0


def test_another_shape_and_words_are_no_place_in_a_picture() -> None:
    rows = [(TARGET, row) for row in triggered(12).numpy()]
    other = Offset(np.ones((1, 4, 4), np.float32))
    assert not list(read_at([other, Tokens((3,))], Sought.of(TARGET, rows, pictures(6).numpy()), clean_images()))


def test_given_targets_come_first_where_enough_suspects_are_called_them() -> None:
    given = [proof_of(corner(), 5), proof_of(corner(), 2), proof_of(corner(), 1)]
    assert given_first(given, [0, 2], [5] * 3 + [2] * 20 + [1] * 20) == [2, 1, 0]
    told = list(untold(given, [replace(proof_of(corner(), 1), erasure=None)], [5] * 3 + [2] * 20))
    assert len(told) == 2
    assert "3 of the highest-ranked suspects" in told[0]
    assert "class 2: the suspects that are called that were not seen to hold it" in told[1]


def held_out() -> torch.Tensor:
    """Pictures in which nothing looks like the trigger."""
    x = pictures(6, 480)[60:]
    return x[Planted().hidden(x.flatten(1))[:, 6] <= 0][:240]


def test_a_few_suspects_with_a_given_trigger_are_proved_where_nothing_would_have_looked_for_it() -> None:
    model, clean, given = Planted(), pictures(6, 480), [proof_of(corner())]
    suspect = torch.cat([held_out(), triggered(8)])
    assert not naa_fast.scan(model, clean, suspect).proof
    found = naa_fast.scan(model, clean, suspect, triggers=given, repair=False)
    assert (found.verdict.outcome, found.proof[0].target, found.proof[0].stands) == ("fail", TARGET, True)
    assert found.report()["provenance"]["options"]["triggers"] == ["patch, 6 % of the input to 3"]


def test_a_given_trigger_that_no_suspect_holds_proves_nothing_though_it_turns_the_model() -> None:
    real = Patch(triggered(1).numpy()[0], corner().mask, "6 % of the input")
    found = naa_fast.scan(Planted(), pictures(6, 480), held_out(), triggers=[proof_of(real)], repair=False)
    assert not any(proof.stands for proof in found.proof)
    assert any("the given patch to class 3" in line for line in found.verdict.not_checked)


def test_a_given_word_is_tried_for_its_target_and_needs_suspects_that_hold_it() -> None:
    given = [proof_of(Tokens((WORD,)), 2), proof_of(Tokens((7, 8)), 2), proof_of(Tokens((9,)), 1)]
    assert words_for(given, 2) == [WORD, 7, 8]
    suspect = sentences(300)
    suspect[-10:, 4] = WORD
    found = naa_fast.scan(Reader(), sentences(400), suspect, triggers=given, repair=False)
    assert {proof.tokens for proof in found.proof if proof.stands} == {(WORD,)}
    without = naa_fast.scan(Reader(), sentences(400), sentences(300), triggers=given, repair=False)
    assert not any(proof.stands for proof in without.proof)


def test_a_given_trigger_that_does_not_fit_is_not_said_to_be_absent() -> None:
    other = Patch(np.full((1, 4, 4), 0.4, np.float32), np.ones((1, 4, 4), np.float32), "6 % of the input")
    given = [proof_of(other), proof_of(corner(), 70), proof_of(Tokens((3,)))]
    found = naa_fast.scan(Planted(), pictures(6, 480), held_out(), triggers=given, repair=False)
    assert found.gate.exit_code == EXIT_INCONCLUSIVE
    [check] = [check for check in found.verdict.checks if check.name == "proof"]
    for words in (
        "the given patch to class 3 does not fit: it is made for inputs of shape [1, 4, 4], those here have [1, 8, 8]",
        "the given patch to class 70 does not fit: the model has",
        "the given token to class 3 does not fit: it is of words, and the inputs are none",
    ):
        assert words in check.reason
    assert not any("were not seen to hold it" in line for line in found.verdict.not_checked)


def test_a_given_patch_does_not_fit_texts() -> None:
    found = naa_fast.scan(Reader(), sentences(400), sentences(300), triggers=[proof_of(corner(), 2)], repair=False)
    assert found.verdict.outcome == "inconclusive"
    [check] = [check for check in found.verdict.checks if check.name == "proof"]
    assert "it is made for inputs of shape [1, 8, 8], and the inputs are texts" in check.reason


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (proof_of(corner(), -1), "a trigger to class -1, expected a class from 0 on"),
        (replace(proof_of(corner()), target="everything"), "a trigger to class 'everything'"),
        (proof_of(corner(float("nan"))), "a trigger whose pattern holds NaN"),
        (proof_of(replace(corner(), mask=-corner().mask)), "a trigger whose mask is not from 0 to 1"),
        (proof_of(Tokens(())), "a trigger of the tokens []"),
        (proof_of(Tokens((3, -7))), "a trigger of the tokens [3, -7]"),
        (replace(proof_of(corner()), rate=2.0), "a proof whose rate is 2.0"),
        (replace(proof_of(corner()), samples=-1), "a proof whose samples is -1"),
        (corner(), "a Patch in place of a proof"),
    ],
)
def test_what_can_be_no_trigger_is_refused_before_anything_is_measured(given: Any, words: str) -> None:
    def never(*told: object) -> None:
        raise AssertionError("something was measured")

    with pytest.raises(UsageError, match=re.escape(words)):
        naa_fast.scan(Planted(), pictures(6, 480), held_out(), triggers=[given], progress=never)


@pytest.mark.parametrize("how", [{"proof": False}, {"ranking": False}, {"stop_early": True}])
def test_triggers_that_nothing_would_look_for_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="triggers that nothing would look for"):
        naa_fast.scan(Planted(), pictures(6, 480), held_out(), triggers=[proof_of(corner())], **how)
    reference = naa_fast.measure(Planted(), pictures(6, 480), reference=True)
    with pytest.raises(UsageError, match="give the clean set in place of a reference"):
        naa_fast.scan(Planted(), reference, held_out(), triggers=[proof_of(corner())])
