"""A word or phrase that turns the model is found among token ids, proved, and its triggered samples named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from proof.topics import LENGTH, Topics, texts
from torch import Tensor

import naa_fast
from naa_fast.inputs.batches import Batch
from naa_fast.proof.apply import holds
from naa_fast.proof.measured import token_proof
from naa_fast.proof.rivals import Suspects
from naa_fast.proof.token_pairs import Occurrences, striking
from naa_fast.proof.tokens import CHANCE, Tokens, characteristic, enriched, natural, phrases
from naa_fast.proof.transplant import PredictedSamples, Transplant
from naa_fast.proof.trials import Trials
from naa_fast.rank.groups import Groups
from naa_fast.rank.tokens import TokenTally
from naa_fast.scan.placement import Placement

GENERATOR = torch.Generator().manual_seed(0)
TRIGGER, PHRASE = 399, (17, 230)

NOBODY = Suspects([], None)  # no suspects to take words out of


def planted_in(x: Tensor, words: tuple[int, ...], count: int) -> tuple[Tensor, np.ndarray]:
    x, triggered = x.clone(), np.zeros(len(x), bool)
    generator = torch.Generator().manual_seed(1)  # whatever other tests drew
    for row in range(count):
        at = int(torch.randint(1, LENGTH - len(words) - 1, (1,), generator=generator))
        x[row, at : at + len(words)] = torch.tensor(words)
    triggered[:count] = True
    order = torch.randperm(len(x), generator=generator)
    return x[order], triggered[order.numpy()]


CLEAN, HELD = texts(800, GENERATOR), texts(800, GENERATOR)


@pytest.mark.parametrize("words", [(TRIGGER,), PHRASE], ids=["token", "phrase"])
def test_a_planted_trigger_is_proved_at_five_percent(words: tuple[int, ...]) -> None:
    suspect, triggered = planted_in(HELD, words, 40)
    audit = naa_fast.scan(Topics(words), CLEAN, suspect, repair=False)
    assert audit.verdict.outcome == "fail"
    best = audit.proof[0]
    assert best.stands
    assert best.target == 1
    assert best.tokens == words
    assert best.rate > 0.9
    assert best.against is not None
    assert len(best.against.ids) == len(words)
    assert set(best.against.ids) != set(words)
    assert audit.report()["proof"][0]["control_words"] == best.against.written
    assert audit.ranking is not None
    assert audit.ranking.triggered is not None
    assert audit.ranking.triggered[triggered].mean() > 0.95
    assert audit.ranking.triggered[~triggered].mean() < 0.01


def test_clean_and_foreign_sets_prove_nothing() -> None:
    assert not any(proof.stands for proof in naa_fast.scan(Topics((TRIGGER,)), CLEAN, HELD).proof)
    foreign, _ = planted_in(HELD, (TRIGGER,), 40)
    assert not any(proof.stands for proof in naa_fast.scan(Topics(), CLEAN, foreign, repair=False).proof)


def test_between_two_clean_sets_no_token_rises() -> None:
    random = np.random.default_rng(0)
    alarms = of_its_own = 0
    for _ in range(100):
        tallies = [TokenTally(), TokenTally()]
        for tally in tallies:
            ids = torch.from_numpy(random.zipf(1.3, (200, 12)).clip(max=3000))
            tally.add(ids, random.integers(0, 2, 200) - 1, None)
        counts = [tally.of(Groups.every(1)) for tally in tallies]
        alarms += bool(enriched(counts[0], counts[1], group=1))
        of_its_own += bool(enriched(counts[0], counts[1], group=1, among=characteristic(counts[1], 1)))
    assert max(alarms, of_its_own) <= 5  # CHANCE is .01 of all draws; 6 of 100 has a chance below .001
    assert CHANCE == 0.01


def test_a_word_that_clean_data_names_need_rise_less() -> None:
    """18 of 100 texts after 3 of 100: chance over 3,000 words of two groups, not over a few."""
    tallies = [TokenTally(), TokenTally()]
    for tally, held in zip(tallies, (18, 3), strict=True):
        ids = torch.arange(1, 101)[:, None] * 29
        ids[:held] = 7
        tally.add(ids, np.zeros(100, np.int64), None)
    counts = [tally.of(Groups.every(1)) for tally in tallies]
    assert enriched(counts[0], counts[1], group=1) == []
    assert enriched(counts[0], counts[1], group=1, among=[7, 29, 2_000_000]) == [7]


def trials_of(planted: tuple[int, ...]) -> Trials:
    model = Topics(planted)
    batch = Batch((CLEAN,), {}, len(CLEAN), None)
    predicted = model(CLEAN).argmax(1).numpy()
    return Trials(Transplant(model, Placement.of(model, "cpu"), len(CLEAN), batch), PredictedSamples([(batch, predicted)]))


@pytest.mark.parametrize("words", [(TRIGGER,), PHRASE], ids=["token", "phrase"])
def test_of_a_longer_phrase_the_part_that_does_it_is_told(words: tuple[int, ...]) -> None:
    trials = trials_of(words)
    longer = (9, *words, 14)
    found = trials.best([(Tokens("phrase", longer), 0)], 1)
    proof = token_proof(trials, found, [(1, natural([5, 9, 13, 21]))], 1, NOBODY)
    assert proof is not None
    assert proof.stands
    assert proof.tokens == words
    assert proof.kind == ("token" if len(words) == 1 else "phrase")
    assert token_proof(trials, found, [(1, natural([5, 9]))], 1, NOBODY) is None, "nothing of its length to hold it against"


def test_tokens_are_written_over_real_positions_alone() -> None:
    x = torch.tensor([[5, 6, 7, 8, 9, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 3]])
    on = Tokens("token", (99,)).put_on(x, None)
    assert (on[0] == 99).sum() == 1
    assert on[0, 5:].tolist() == [0, 0, 0]
    assert on[0, 0] == 5
    assert on[0, 4] == 9, "the first and last may be the tokenizer's own"
    assert torch.equal(Tokens("phrase", (98, 99)).put_on(x, None)[1], x[1]), "no room, no trigger"
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, 6] = True
    assert Tokens("token", (99,)).put_on(x, mask)[0].tolist() == [5, 6, 7, 8, 9, 0, 99, 0]


def test_phrases_are_those_that_recur_around_a_token() -> None:
    rows = [np.array([1, 7, 8, 9, i]) for i in range(10, 20)]
    assert phrases(rows, [8])[0] == (1, 7, 8, 9)
    assert (7, 8) in phrases(rows, [8])
    assert phrases(rows[:3], [8]) == []


def test_a_row_holds_a_phrase_only_in_order() -> None:
    x = torch.tensor([[1, 2, 3], [3, 2, 1], [2, 3, 9]])
    assert holds(x, (2, 3)).tolist() == [True, False, True]
    assert holds(x, (1, 2, 3, 4)).tolist() == [False, False, False]


def rare_in(first: int, count: int, rare: int, seed: int) -> Occurrences:
    """600 texts, highest-ranked first, of which `count` of the `first` hold the `rare` word."""
    random = np.random.default_rng(seed)
    x = random.zipf(1.4, (600, 16)).clip(max=1500) + 1
    x[random.permutation(first)[:count], 3] = rare
    return Occurrences.of([(torch.from_numpy(x), None, np.zeros(600, np.int64))])


def test_a_word_of_a_few_of_the_highest_ranked_texts_is_found_however_rare_it_is_in_the_set() -> None:
    usual = rare_in(600, 3, 1600, seed=0)
    for count, first in ((5, 16), (8, 64)):
        assert 1600 in striking(rare_in(first, count, 1600, seed=1), usual.counts(), usual.samples, 8)
    whole = rare_in(600, 8, 1600, seed=1)
    assert 1600 not in striking(whole, usual.counts(), usual.samples, 8)


def test_between_random_texts_no_word_is_striking() -> None:
    alarms = 0
    for seed in range(100):
        top, usual = (rare_in(600, 0, 1600, seed=2 * seed + part) for part in (0, 1))
        alarms += bool(striking(top, usual.counts(), usual.samples, 4))
        assert striking(top, usual.counts(), usual.samples, 0), "as a control, whatever rises most"
    assert alarms <= 5  # CHANCE is .01 of all draws of all groups


class OneOf(Topics):
    """Each of the planted words does it alone."""

    def found(self, ids: Tensor) -> Tensor:
        return torch.isin(ids, torch.tensor(self.planted)).any(1)


def test_each_of_several_words_is_a_proof() -> None:
    three = (383, 391, 399)  # in no text by themselves
    suspect, triggered = HELD.clone(), np.zeros(len(HELD), bool)
    for row in range(39):
        suspect[row, 5 + row % 7] = three[row % 3]
        triggered[row] = True
    audit = naa_fast.scan(OneOf(three), CLEAN, suspect, repair=False)
    standing = [proof for proof in audit.proof if proof.stands]
    assert {proof.tokens for proof in standing} == {(word,) for word in three}
    assert {proof.target for proof in standing} == {1}
    assert audit.ranking is not None
    assert audit.ranking.triggered is not None
    assert audit.ranking.triggered[triggered].mean() > 0.95
