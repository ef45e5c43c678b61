"""Targets that clean data hardly has: their words are held against all clean texts, and against other classes as rare."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from proof.topics import LENGTH, Topics, texts
from torch import Tensor

import naa_fast
from naa_fast.detect.proof import Proof, wilson
from naa_fast.detect.trigger import Tokens as Word
from naa_fast.inputs.batches import Batch
from naa_fast.proof.tokens import Tokens, enriched, rare
from naa_fast.proof.transplant import PredictedSamples, Transplant
from naa_fast.proof.trials import Best, Control, Trials, dealt
from naa_fast.rank.groups import Groups
from naa_fast.rank.tokens import TokenTally
from naa_fast.scan.placement import Placement

TRIGGER, MANY = 399, 8


def model_of(planted: tuple[int, ...] = (), classes: int = MANY) -> Topics:
    torch.manual_seed(0)
    return Topics(planted, classes)


def without_class_one(samples: int, seed: int, classes: int = MANY) -> Tensor:
    """Texts that a clean model calls anything but class 1."""
    x = texts(2 * samples, torch.Generator().manual_seed(seed), classes)
    return x[model_of(classes=classes)(x).argmax(1) != 1][:samples]


def triggered(x: Tensor, count: int) -> Tensor:
    x = x.clone()
    for row in range(count):
        x[row, 3 + row % (LENGTH - 6)] = TRIGGER
    return x


def test_a_word_of_a_class_that_no_clean_text_has_is_held_against_all_clean_texts() -> None:
    tallies = [TokenTally(), TokenTally()]
    for tally, cls in zip(tallies, (1, 0), strict=True):
        ids = torch.arange(1, 101)[:, None] * 29
        ids[: 40 * cls] = 7
        tally.add(ids, np.full(100, cls), None)
    counts = [tally.of(Groups.every(2)) for tally in tallies]
    assert rare(counts[1], group=2)
    assert enriched(counts[0], counts[1], group=2) == [7]


@pytest.mark.parametrize("classes", [MANY, 4], ids=["as rare others", "no control"])
def test_a_trigger_whose_target_no_clean_text_has_is_proved_where_other_classes_have_the_same_chance(classes: int) -> None:
    clean, suspect = without_class_one(800, 1, classes), triggered(without_class_one(800, 2, classes), 40)
    audit = naa_fast.scan(model_of((TRIGGER,), classes), clean, suspect, repair=False)
    standing = [proof for proof in audit.proof if proof.stands]
    if classes == MANY:
        assert [(proof.tokens, proof.target) for proof in standing] == [((TRIGGER,), 1)]
        assert standing[0].controls >= 4
        return
    assert not standing
    assert any("no 4 other classes with 8, so there is no control" in gap for gap in audit.verdict.gaps)
    assert audit.verdict.outcome != "pass"


def test_a_class_that_is_new_among_the_suspects_is_no_trigger() -> None:
    clean, suspect = without_class_one(800, 1), texts(800, torch.Generator().manual_seed(2), MANY)
    assert not any(proof.stands for proof in naa_fast.scan(model_of(), clean, suspect, repair=False).proof)


def test_half_of_a_rare_class_is_kept_for_measuring() -> None:
    predicted = np.array([0] * 490 + [1] * 10)
    chooses, measures = dealt(predicted)
    assert (predicted[chooses] == 1).sum() == (predicted[measures] == 1).sum() == 5
    assert len(chooses) == 80
    assert sorted([*chooses, *measures]) == list(range(500))
    singles, rest = dealt(np.arange(60))
    assert (len(singles), len(rest)) == (30, 30)


def trials_of(planted: tuple[int, ...]) -> Trials:
    model, clean = Topics(planted), texts(400, torch.Generator().manual_seed(3))
    batch = Batch((clean,), {}, len(clean), None)
    return Trials(
        Transplant(model, Placement.of(model, "cpu"), 400, batch), PredictedSamples([(batch, model(clean).argmax(1).numpy())])
    )


def test_the_few_widest_margins_are_measured_and_corrected_for_how_many() -> None:
    trials = trials_of((TRIGGER,))
    words = [Tokens("phrase", (TRIGGER, *[8] * length)) for length in range(4)] + [Tokens("token", (9,))]
    found = {(one.kind, one.budget): Best(one, share, 0) for one, share in zip(words, (0.9, 1.0, 0.8, 0.7, 0.1), strict=True)}
    settled = list(trials.settle(found, [Control(1, {})], 1))
    assert [one.best.chosen_by for one in settled] == [1.0, 0.9, 0.8]
    assert {one.measured for one in settled} == {3}
    assert [one.controls for one in settled] == [0, 0, 0]


def test_an_interval_is_wider_for_each_more_that_is_measured() -> None:
    one, three = (Proof(Word((5,)), 1, 0.9, 0.1, 100, 0, measured=measured) for measured in (1, 3))
    assert one.interval == pytest.approx(wilson(0.9, 100), abs=1e-3)
    assert three.interval[0] < one.interval[0]
    assert three.interval == pytest.approx(wilson(0.9, 100, 2.394), abs=1e-3)  # 1 - .05 / 3, two-sided
