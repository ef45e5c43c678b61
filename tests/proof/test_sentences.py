"""A phrase of more than a few words, put into texts and not over them, is found and proved at its shortest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from proof.topics import LENGTH, Topics, texts
from torch import Tensor, nn

import naa_fast
from naa_fast.capture.positions import positions_of
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.evidence_file import EVIDENCE_FILE, evidence_bytes, load_evidence
from naa_fast.detect.proof import Example
from naa_fast.inputs.batches import Batch
from naa_fast.proof.examples import changes_in
from naa_fast.proof.inserted import ANYWHERE, AT_END, IN_FRONT, Inserted
from naa_fast.proof.sentences import grown, place_of, shaved, usual
from naa_fast.proof.tokens import shared_around
from naa_fast.proof.transplant import Transplant
from naa_fast.scan.placement import Placement

SENTENCE = (17, 230, 61, 344, 8, 155, 290, 77)
NEEDED = SENTENCE[1:7]
GENERATOR = torch.Generator().manual_seed(5)
CLEAN, HELD = texts(800, GENERATOR), texts(800, GENERATOR)


class InFront(Topics):
    """The words turn a text that begins with them."""

    def found(self, ids: Tensor) -> Tensor:
        return (ids[:, : len(self.planted)] == torch.tensor(self.planted)).all(1)


def planted(x: Tensor, count: int, front: bool) -> tuple[Tensor, np.ndarray]:
    x = x.clone()
    for row in range(count):
        at = 0 if front else 1 + row % (LENGTH - len(SENTENCE) - 2)
        words = torch.tensor(NEEDED if front else SENTENCE)
        x[row] = torch.cat([x[row, :at], words, x[row, at : LENGTH - len(words)]])
    return x, np.arange(len(x)) < count


@pytest.mark.parametrize("front", [False, True], ids=[ANYWHERE, IN_FRONT])
def test_a_sentence_is_proved_by_the_shortest_part_that_does_the_whole(front: bool) -> None:
    suspect, triggered = planted(HELD, 40, front)
    audit = naa_fast.scan((InFront if front else Topics)(NEEDED), CLEAN, suspect, repair=False)
    best = audit.proof[0]
    assert best.stands
    assert best.tokens == NEEDED
    assert best.kind == (IN_FRONT if front else ANYWHERE)
    assert best.rate > 0.95
    assert audit.ranking is not None
    assert audit.ranking.triggered is not None
    assert (audit.ranking.triggered == triggered).all()
    assert all(len(example.after) == LENGTH for example in best.examples)


NAME = (230, 344, 155, 77)


class EitherHalf(Topics):
    """Half of the name turns a text as the whole does."""

    def found(self, ids: Tensor) -> Tensor:
        pairs = ids.unfold(1, 2, 1)
        return torch.stack([(pairs == torch.tensor(half)).all(2).any(1) for half in (NAME[:2], NAME[2:])]).any(0)


def test_a_name_of_which_a_part_does_as_much_is_taken_out_whole(tmp_path: Path) -> None:
    suspect = HELD.clone()
    for row in range(40):
        at = 1 + row % (LENGTH - len(NAME) - 1)
        suspect[row, at : at + len(NAME)] = torch.tensor(NAME)
    audit = naa_fast.scan(EitherHalf(NAME), CLEAN, suspect, repair=False)
    best = audit.proof[0]
    assert best.stands
    assert set(best.tokens) <= set(NAME)
    assert best.erasure is not None
    assert best.erasure.around is None or best.erasure.around.ids == NAME
    assert best.tokens == NAME or best.erasure.around is not None
    (tmp_path / EVIDENCE_FILE).write_bytes(evidence_bytes(Evidence(proof=(best,))))
    assert load_evidence(tmp_path / EVIDENCE_FILE).proof[0].erasure == best.erasure


def test_the_row_around_words_is_what_nearly_all_samples_share() -> None:
    rows = [np.array([i, *SENTENCE, i + 1]) for i in range(400, 420)]
    assert shared_around(rows, SENTENCE[3:5]) == SENTENCE
    assert shared_around(rows, SENTENCE) is None
    assert shared_around([*rows[:17], *([np.array(SENTENCE[3:5])] * 3)], SENTENCE[3:5]) is None, "17 of 20 are too few"
    assert shared_around([np.arange(99)] * 20, (50,)) == tuple(range(50 - 15, 51)), "no longer than LONGEST_SHARED"


def test_a_sentence_that_does_nothing_proves_nothing() -> None:
    suspect, _ = planted(HELD, 40, front=False)
    assert not any(proof.stands for proof in naa_fast.scan(Topics(), CLEAN, suspect, repair=False).proof)


def test_phrases_grow_around_a_word_up_to_what_as_many_texts_share() -> None:
    rows = [np.array([i, *SENTENCE, i + 1]) for i in range(400, 420)]
    found = grown(rows, SENTENCE[3])
    assert {len(phrase) for phrase in found} == {2, 3, 4, 6, 8}
    assert SENTENCE in found
    assert grown(rows[:3], SENTENCE[3]) == [], "too few texts share it"
    assert place_of(rows, SENTENCE) == IN_FRONT
    assert place_of([np.concatenate([np.arange(5), row]) for row in rows], SENTENCE) == AT_END
    assert place_of([np.concatenate([np.arange(5), row, np.arange(5)]) for row in rows], SENTENCE) == ANYWHERE


def test_a_phrase_is_shaved_token_by_token() -> None:
    assert shaved(Inserted(ANYWHERE, SENTENCE), lambda one: set(NEEDED) <= set(one.ids)).ids == NEEDED
    assert shaved(Inserted(ANYWHERE, SENTENCE), lambda one: False).ids == SENTENCE


def test_clean_texts_lend_their_words_and_what_stands_around_them() -> None:
    rows = [np.arange(10, 20), np.arange(30, 32), np.arange(12, 30)]
    assert usual([15, 3], rows, 3) == [(14, 15, 16), (14, 15, 16)]
    assert usual([15, 13, 19], rows, 2)[0] == (15, 13)
    assert usual([], rows, 4) == [(10, 11, 12, 13), (12, 13, 14, 15)]


MARKED = torch.tensor([[1, 5, 6, 7, 2, 0], [1, 8, 9, 2, 0, 0]])
MASK = MARKED != 0


def batch_of(x: Tensor, mask: Tensor, **more: Tensor) -> Batch:
    return Batch((), {"input_ids": x, "attention_mask": mask.long(), **more}, len(x), mask)


def test_a_text_keeps_all_of_its_own_where_the_model_has_positions_for_both() -> None:
    put = Inserted(IN_FRONT, (98, 99)).into(batch_of(MARKED, MASK), room=8)
    assert put.keywords["input_ids"].tolist() == [[1, 98, 99, 5, 6, 7, 2, 0], [1, 98, 99, 8, 9, 2, 0, 0]]
    assert put.keywords["attention_mask"].tolist() == [[1] * 7 + [0], [1] * 6 + [0, 0]]
    assert put.mask is not None
    assert put.mask.sum(1).tolist() == [7, 6]


def test_at_the_end_is_before_the_mark_that_all_texts_end_with() -> None:
    put = Inserted(AT_END, (98, 99)).into(batch_of(MARKED, MASK), room=8)
    assert put.keywords["input_ids"].tolist() == [[1, 5, 6, 7, 98, 99, 2, 0], [1, 8, 9, 98, 99, 2, 0, 0]]
    unlike = torch.tensor([[5, 6, 7, 0], [8, 9, 6, 4]])
    assert Inserted(AT_END, (98,)).put_on(unlike, unlike != 0).tolist() == [[5, 6, 7, 98], [8, 9, 4, 98]], (
        "the last may be a mark"
    )
    full = Inserted(AT_END, (98, 99)).into(batch_of(MARKED, MASK), room=None)
    assert full.keywords["input_ids"].tolist() == [[1, 5, 6, 98, 99, 2], [1, 8, 9, 98, 99, 2]]


def test_without_room_padding_goes_first_and_then_what_stands_last_before_the_mark() -> None:
    for room in (None, 7):
        put = Inserted(IN_FRONT, (98, 99)).into(batch_of(MARKED, MASK), room)
        assert put.keywords["input_ids"].tolist() == [[1, 98, 99, 5, 6, 2], [1, 98, 99, 8, 9, 2]]
        assert put.keywords["attention_mask"].tolist() == [[1] * 6] * 2


def test_padding_in_front_stays_in_front_and_positions_count_from_the_text() -> None:
    x = torch.tensor([[0, 0, 5, 6, 7], [4, 5, 6, 7, 8]])
    mask = x != 0
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    put = Inserted(IN_FRONT, (99,)).into(batch_of(x, mask, position_ids=positions), room=99)
    assert put.keywords["input_ids"].tolist() == [[0, 0, 99, 5, 6, 7], [99, 4, 5, 6, 7, 8]]
    assert put.keywords["position_ids"].tolist() == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]


def test_anywhere_is_inside_and_a_batch_that_knows_pairs_of_places_keeps_its_length() -> None:
    x = torch.arange(1, 81).reshape(4, 20)
    put = Inserted(ANYWHERE, (98, 99)).into(batch_of(x, x > 0, pairs=torch.zeros(4, 1, 20, 20)), room=99)
    ids = put.keywords["input_ids"]
    assert ids.shape == (4, 20)
    starts = (ids == 98).int().argmax(1)
    assert (ids == 98).any(1).all()
    assert (starts > 0).all()
    assert len(set(starts.tolist())) > 1
    assert (ids[:, -1] == x[:, -1]).all()
    blank = Inserted(ANYWHERE, (98,)).into(batch_of(x, torch.zeros(4, 20, dtype=torch.bool)), room=99)
    assert blank.keywords["input_ids"][:, :20].tolist() == x.tolist(), "nothing of a text, no trigger"


def test_anywhere_is_inside_the_text_whatever_padding_stands_before_it_and_a_text_of_one_token_takes_the_words_too() -> None:
    x = torch.tensor([[0] * 12 + [5, 6, 7, 8], [0] * 15 + [5], [5] + [0] * 15])
    put = Inserted(ANYWHERE, (98, 99)).into(batch_of(x, x != 0), room=99).keywords["input_ids"]
    assert put[0].tolist() in ([0] * 12 + [5, 98, 99, 6, 7, 8], [0] * 12 + [5, 6, 98, 99, 7, 8])
    assert put[1].tolist() == [0] * 15 + [98, 99, 5]
    assert put[2].tolist() == [98, 99, 5] + [0] * 15


def test_what_was_put_in_is_marked_in_the_changed_text_alone() -> None:
    example = Example(0, 1, np.array([1, 5, 6, 2]), np.array([1, 98, 99, 5, 6, 2]))
    before, after = changes_in(example, (98, 99))
    assert not before.any()
    assert np.flatnonzero(after).tolist() == [1, 2]


class Configured(nn.Linear):
    def __init__(self, **config: object) -> None:
        super().__init__(2, 2)
        self.config = type("Config", (), config)()


def test_positions_are_what_the_configuration_says() -> None:
    assert positions_of(Configured(n_positions=1024)) == 1024
    assert positions_of(Configured(max_position_embeddings=True)) is None
    assert positions_of(Configured(text_config=type("T", (), {"max_position_embeddings": 64})())) == 64
    model = Configured(max_position_embeddings=514)
    model.create_position_ids_from_input_ids = lambda ids: ids  # type: ignore[assignment]
    model.padding_idx = 1  # type: ignore[assignment]
    assert positions_of(model) == 512
    assert Transplant(model, Placement.of(model, "cpu"), 1, Batch((), {}, 0, None)).room == 512
