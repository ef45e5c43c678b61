"""Two words that turn a model only together, anywhere in a text, are found, proved, and shown; each alone is not."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from proof.topics import LENGTH, TopicsApart, texts
from torch import Tensor

import naa_fast
from naa_fast.detect.enrichment import hypergeometric_tail
from naa_fast.detect.proof import TOKEN_PAIR, Proof
from naa_fast.detect.trigger import TokenPair, Tokens
from naa_fast.inputs.batches import Batch
from naa_fast.proof.apply import closenesses, holds_all
from naa_fast.proof.rivals import Search, Suspects
from naa_fast.proof.texts import pair_proof
from naa_fast.proof.token_pairs import MOST_PAIRS, Occurrences, WrittenPair, fewest_together, meeting
from naa_fast.proof.tokens import CHANCE, parts_of
from naa_fast.proof.transplant import PredictedSamples, Transplant
from naa_fast.proof.trials import Trials
from naa_fast.report.pictures import text_trigger
from naa_fast.report.retained import marked, triggers_in
from naa_fast.scan.placement import Placement

GENERATOR = torch.Generator().manual_seed(0)
PAIR = 250, 331

NOBODY = Suspects([], None)  # no suspects to take words out of


def planted_in(x: Tensor, count: int) -> tuple[Tensor, np.ndarray]:
    """Both words in `count` samples, and either alone in as many others."""
    x, triggered = x.clone(), np.arange(len(x)) < count
    generator = torch.Generator().manual_seed(1)  # whatever other tests drew
    for row in range(3 * count):
        words = PAIR if row < count else PAIR[row % 2 : row % 2 + 1]
        places = torch.randperm(LENGTH - 2, generator=generator)[: len(words)] + 1
        x[row, places] = torch.tensor(words)
    order = torch.randperm(len(x), generator=generator)
    return x[order], triggered[order.numpy()]


CLEAN, _ = planted_in(texts(1600, GENERATOR), 1)
HELD = texts(1600, GENERATOR)


@pytest.mark.parametrize("count", [80, 32], ids=["5 %", "2 %"])
def test_two_words_apart_are_proved_and_their_carriers_named(count: int) -> None:
    suspect, triggered = planted_in(HELD, count)
    audit = naa_fast.scan(TopicsApart(PAIR), CLEAN, suspect, repair=False)
    best = audit.proof[0]
    assert best.stands
    assert (best.kind, best.target, set(best.tokens)) == (TOKEN_PAIR, 1, set(PAIR))
    assert best.rate > 0.95
    assert audit.verdict.outcome == "fail"
    assert audit.ranking is not None
    assert audit.ranking.triggered is not None
    assert audit.ranking.triggered[triggered].all()
    both = np.array([set(PAIR) <= set(row) for row in suspect.tolist()])  # a few hold both by chance, and are turned as well
    assert (audit.ranking.triggered == both).all()
    shown = audit.judgement.evidence.texts[0]
    assert f"»{PAIR[0]}«" in shown
    assert f"»{PAIR[1]}«" in shown


def test_two_words_that_do_nothing_together_prove_nothing() -> None:
    suspect, _ = planted_in(HELD, 80)
    assert not any(proof.stands for proof in naa_fast.scan(TopicsApart(), CLEAN, suspect, repair=False).proof)


def test_a_word_that_does_it_alone_is_no_pair() -> None:
    """Both words rise together, but one of them is the trigger: it is proved alone, and the pair would only hide triggered."""
    suspect, _ = planted_in(HELD, 80)
    clean = CLEAN[~torch.isin(CLEAN, torch.tensor(PAIR[0])).any(1)]
    standing = [proof for proof in naa_fast.scan(TopicsApart(PAIR[:1]), clean, suspect, repair=False).proof if proof.stands]
    assert [proof.tokens for proof in standing] == [PAIR[:1]]


def trials_of(needed: tuple[int, ...]) -> Trials:
    model = TopicsApart(needed)
    batch = Batch((CLEAN,), {}, len(CLEAN), None)
    bases = PredictedSamples([(batch, model(CLEAN).argmax(1).numpy())])
    return Trials(Transplant(model, Placement.of(model, "cpu"), len(CLEAN), batch), bases)


def search_of(trials: Trials) -> Search:
    return Search(trials, SimpleNamespace(), None, 1, NOBODY)  # type: ignore[arg-type]


class EitherWord(TopicsApart):
    """One of the words turns a text as both do."""

    def found(self, ids: Tensor) -> Tensor:
        return torch.stack([(ids == word).any(1) for word in self.planted]).any(0)


@pytest.mark.parametrize("unheard", [(385, 391), (385, 391, 397)], ids=["two", "three"])  # in no clean text
def test_words_of_which_each_does_it_are_taken_out_together(unheard: tuple[int, ...]) -> None:
    suspect = HELD.clone()
    for row in range(60):
        suspect[row, torch.tensor([2 + row % 7, 10 + row % 5, 16 + row % 6])[: len(unheard)]] = torch.tensor(unheard)
    best = naa_fast.scan(EitherWord(unheard), CLEAN, suspect, repair=False).proof[0]
    assert best.stands
    assert (best.kind, set(best.tokens)) == (TOKEN_PAIR, set(unheard))
    assert best.erasure is not None
    assert best.erasure.turned > 0.6


def test_a_pair_does_far_more_than_either_word_twice() -> None:
    pairs, clean = [(9, 250), PAIR, (14, 331)], [(1, 5), (5, 9)]
    proof = pair_proof(search_of(trials_of(PAIR)), pairs, lambda lengths: [(1, clean)])
    assert proof is not None
    assert proof.stands
    assert (proof.tokens, proof.kind) == (PAIR, TOKEN_PAIR)
    one_word = trials_of(PAIR[:1])
    assert one_word.rate(WrittenPair(PAIR), 1, 0)[0] > 0.95
    assert pair_proof(search_of(one_word), pairs, lambda lengths: [(1, clean)]) is None, "turns as much, but one word does it"
    same = pair_proof(search_of(trials_of(PAIR)), [PAIR], lambda lengths: [(1, [PAIR])])
    assert same is not None
    assert not same.stands, "what clean texts' pairs do as well is no trigger"


def held(x: np.ndarray, group: np.ndarray | None = None) -> Occurrences:
    return Occurrences.of([(torch.from_numpy(x), None, np.zeros(len(x), np.int64) if group is None else group)])


def test_pairs_are_counted_as_a_loop_over_texts_counts_them() -> None:
    random = np.random.default_rng(1)
    x, group = random.integers(0, 12, (60, 7)), random.integers(0, 3, 60)
    for number in range(3):
        mine = held(x, group).predicted_as(number)
        rows = [set(row) - {0} for row in x[group == number]]
        counted = mine.together(range(12))
        assert mine.samples == len(rows)
        for i, j in combinations(range(12), 2):
            assert counted[i, j] == sum({i, j} <= row for row in rows)
        assert mine.counts().tolist() == [sum(i in row for row in rows) for i in range(len(mine.counts()))]


def test_a_mask_says_which_tokens_are_a_texts_own() -> None:
    x, mask = torch.tensor([[3, 4, 5], [3, 4, 0]]), torch.tensor([[True, False, True], [True, True, True]])
    assert Occurrences.of([(x, mask, np.zeros(2, np.int64))]).counts().tolist() == [1, 0, 0, 2, 1, 1]


def test_batches_of_several_lengths_are_counted_together() -> None:
    parts = [(torch.ones(2, 3, dtype=torch.long), None, np.zeros(2)), (torch.full((1, 5), 2), None, np.zeros(1))]
    both = Occurrences.of(parts)
    assert both.samples == 3
    assert both.counts().tolist() == [0, 2, 1]


def test_between_two_random_draws_no_pair_meets_oftener() -> None:
    """Words that do meet: half of the texts hold a lot of one topic's, in both draws."""
    random = np.random.default_rng(2)
    alarms = 0
    for _ in range(100):
        topic = random.integers(0, 2, (400, 1))
        x = random.zipf(1.4, (400, 16)).clip(max=1500) + 1
        x = np.where((random.random((400, 16)) < 0.3) & (topic == 1), 1500 + random.integers(0, 30, (400, 16)), x)
        alarms += bool(meeting(held(x[:150]), held(x[150:]), 4))
    assert alarms <= 5  # CHANCE is .01 of all draws of all groups; 6 of 100 has a chance below .001
    assert CHANCE == 0.01


def test_a_pair_that_meets_in_few_of_many_texts_is_found() -> None:
    random = np.random.default_rng(3)
    x = random.integers(10, 600, (600, 20))
    x[:300, 0] = np.where(random.random(300) < 0.3, 5, x[:300, 0])
    x[300:, 1] = np.where(random.random(300) < 0.3, 6, x[300:, 1])
    suspect, clean = x[::2].copy(), x[1::2]
    suspect[:25, 2:4] = 5, 6
    found = meeting(held(suspect), held(clean), 4)
    assert set(found[0]) == {5, 6}
    assert len(meeting(held(suspect), held(clean), 4, np.inf)) == MOST_PAIRS, "without a limit, as many as may be tried"


def test_only_pairs_that_could_pass_count_as_tests() -> None:
    counts = np.array([0, 1, 5, 9, 9, 40, 3])
    least, pairs = fewest_together(counts, 50, 100, 1e-4)
    tokens = int((counts >= least).sum())
    assert pairs == max(tokens * (tokens - 1) // 2, 1)
    assert pairs * hypergeometric_tail(least, 50, 0, 100) < 1e-4
    fewer = int((counts >= least - 1).sum())
    assert fewer * (fewer - 1) // 2 * hypergeometric_tail(least - 1, 50, 0, 100) >= 1e-4
    assert fewest_together(counts, 0, 100, 1e-4)[0] > 100, "no suspects, nothing that could pass"


def test_both_words_are_written_over_a_texts_own_at_places_of_their_own() -> None:
    x = torch.arange(1, 11).repeat(50, 1)
    x[:, 8:] = 0
    on = WrittenPair((98, 99)).put_on(x, None)
    assert (on == 98).sum(1).tolist() == [1] * 50
    assert (on == 99).sum(1).tolist() == [1] * 50
    assert (on[:, [0, 7]] == x[:, [0, 7]]).all(), "the first and last may be the tokenizer's own"
    assert (on[:, 8:] == 0).all()
    between = ((on == 99).int().argmax(1) - (on == 98).int().argmax(1)).unique()
    assert (between > 0).any()
    assert (between < 0).any()
    assert len(between) > 3, "apart, not one distance"
    assert WrittenPair((98, 99)).put_on(torch.tensor([[0, 7, 0]]), None).tolist() == [[0, 7, 0]], "no room, no trigger"


def test_carriers_hold_both_words_wherever() -> None:
    x = torch.tensor([[7, 1, 9], [9, 7, 1], [7, 7, 1], [1, 2, 3]])
    assert holds_all(x, (7, 9)).tolist() == [True, True, False, False]
    [close] = closenesses(TokenPair((7, 9)))
    assert close is not None
    assert close(x).tolist() == [1, 1, 0, 0]


def test_words_apart_are_marked_and_named_one_by_one() -> None:
    triggers = [TokenPair((7, 9)), Tokens((4, 5))]
    assert marked([7, 1, 9], triggers_in([7, 1, 9], triggers), None) == "»7« 1 »9«"
    assert marked([7, 4, 5], triggers_in([7, 4, 5], triggers), None) == "7 »4 5«", "one alone is no trigger"
    assert triggers_in([7, 9, 4, 5], triggers) == [(4, 5), (7,), (9,)], "phrases first: a word may stand in one"
    decoder = SimpleNamespace(decode=lambda tokens: " ".join(f"w{token}" for token in tokens)).decode
    assert [trigger.worded(decoder).words for trigger in triggers] == ["w7 … w9", "w4 w5"]
    assert "token ids: 7 … 9\n" in text_trigger(Proof(triggers[0], 1, 1.0, 0.0, 300, 0)).decode()
    assert "token ids: 4 5\n" in text_trigger(Proof(triggers[1], 2, 1.0, 0.0, 300, 0)).decode()


def test_parts_of_a_phrase_are_the_shorter_ones_in_it_once_each() -> None:
    assert [part.ids for part in parts_of((1, 1, 5))] == [(1,), (5,), (1, 1), (1, 5)]
    assert parts_of((3,)) == []
