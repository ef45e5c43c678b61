"""What a proof shows to a person: clean samples of many classes, chosen before they are run, as they are with the trigger."""

from __future__ import annotations

import numpy as np
import torch
from proof.topics import LENGTH, Topics, texts

from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Offset
from naa_fast.detect.trigger import Tokens as Written
from naa_fast.inputs.batches import Batch
from naa_fast.proof.examples import CONTEXT, EXAMPLES, LARGEST_SIDE, examples_of, pieces, shown, with_words
from naa_fast.proof.images import Patch
from naa_fast.proof.tokens import Tokens
from naa_fast.proof.transplant import PredictedSamples, Transplant
from naa_fast.proof.trials import Trials
from naa_fast.scan.placement import Placement

WORD = 399
CLEAN = texts(400, torch.Generator().manual_seed(0))
torch.manual_seed(0)
MODEL = Topics((WORD,))


def trials_of(model: torch.nn.Module, x: torch.Tensor, predicted: np.ndarray) -> Trials:
    batch = Batch((x,), {}, len(x), None)
    return Trials(Transplant(model, Placement.of(model, "cpu"), len(x), batch), PredictedSamples([(batch, predicted)]))


def token_examples() -> tuple[Trials, Tokens]:
    return trials_of(MODEL, CLEAN, MODEL(CLEAN).argmax(1).numpy()), Tokens("token", (WORD,))


def test_examples_are_of_all_other_classes_and_say_what_the_model_says_of_each() -> None:
    trials, trigger = token_examples()
    found = examples_of(trials, trigger, 1)
    assert len(found) == EXAMPLES
    assert {example.predicted for example in found} == {0, 2, 3}
    for example in found:
        assert (example.before != example.after).sum() == 1
        assert WORD in example.after.tolist()
        assert WORD not in example.before.tolist()
        for ids, called in ((example.before, example.predicted), (example.after, example.turned_to)):
            assert MODEL(torch.from_numpy(ids)[None]).argmax(1).tolist() == [called]
    assert {example.turned_to for example in found} == {1}


def test_they_are_fixed_before_the_trigger_is_run_and_not_those_it_turned() -> None:
    trials, trigger = token_examples()
    harmless = examples_of(trials, Tokens("token", (5,)), 1)
    assert [one.before.tolist() for one in harmless] == [one.before.tolist() for one in examples_of(trials, trigger, 1)]
    assert sum(one.turned_to == 1 for one in harmless) < EXAMPLES / 2


def test_of_all_to_all_every_class_is_shown() -> None:
    trials, trigger = token_examples()
    assert {example.predicted for example in examples_of(trials, trigger, "all-to-all")} == {0, 1, 2, 3}


def test_of_fewer_samples_than_examples_all_are_shown_and_of_none_none() -> None:
    x = CLEAN[:6]
    assert 1 <= len(examples_of(trials_of(MODEL, x, np.array([0, 0, 0, 1, 0, 1])), Tokens("token", (WORD,)), 1)) <= 3
    assert examples_of(trials_of(MODEL, x, np.full(6, 1)), Tokens("token", (WORD,)), 1) == ()


def test_a_picture_keeps_what_the_trigger_covers_and_large_ones_shrink() -> None:
    mask = np.zeros((3, 600, 520), np.float32)
    mask[:, 300:360, 100:160] = 1
    before = torch.full((3, 600, 520), 0.25)
    after = Patch("patch", "x", np.ones_like(mask), mask).put_on(before[None], None)[0]
    picture = shown(after, None)
    assert picture.shape == (3, 200, 173)
    assert max(picture.shape) <= LARGEST_SIDE
    assert picture[0, 110, 40] == 1.0
    assert picture[0, 10, 10] == 0.25
    assert np.array_equal(shown(after.permute(1, 2, 0), None), picture)


def test_words_are_marked_where_the_trigger_changed_them() -> None:
    ids = np.arange(1, 60)
    changed = np.isin(np.arange(59), (30, 31))
    found = pieces(ids, changed, lambda tokens: " ".join(f"w{token}" for token in tokens))
    assert [mark for _, mark in found] == [False, False, True, False, False]
    assert found[0][0] == found[-1][0] == "…"
    assert found[2][0] == "w31 w32"
    assert found[1][0].split() == [f"w{i}" for i in range(31 - CONTEXT, 31)]
    assert pieces(ids[:3], changed[:3], None) == (("1 2 3", False),)


def test_a_proof_of_words_shows_them_and_others_stay_as_they_are() -> None:
    trials, trigger = token_examples()
    proof = Proof(Written((WORD,)), 1, 1.0, 0.1, 320, 0, examples=examples_of(trials, trigger, 1))
    for example in with_words(proof, None).examples:
        assert ("399", True) in example.words_after
        assert sum(mark for _, mark in example.words_before) == 1
        whole = [words for words, _ in example.words_after if words != "…"]
        assert 1 + CONTEXT <= len(" ".join(whole).split()) <= LENGTH
    patch = Proof(Offset(np.ones(3, np.float32)), 1, 1.0, 0.1, 320, 0)
    assert with_words(patch, None) is patch
