"""Which token of a text deviates, against clean tokens at such places, is told of the highest-ranked and shown as a strip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from proof.topics import Topics, texts
from torch import Tensor

import naa_fast
from naa_fast.inputs.batches import Batch
from naa_fast.proof.token_heat import excess, like, places
from naa_fast.report.heat import LEVELS, heat_of
from naa_fast.result import Audit

TRIGGER, MARKED = 399, 30
GENERATOR = torch.Generator().manual_seed(3)


class Read:
    """Texts of whole numbers, with a tokenizer."""

    options = SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda ids: " ".join(map(str, ids))))

    def __init__(self, name: str, x: Tensor) -> None:
        self.name, self.x, self.samples = name, x, len(x)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        for part in self.x[start:stop].split(100):
            yield Batch((part,), {}, len(part), None)


@pytest.fixture(scope="module")
def audit() -> Audit:
    model = Topics((TRIGGER,))
    with torch.no_grad():
        model.embed.weight[TRIGGER] += 3
    clean, suspect = texts(400, GENERATOR), texts(300, GENERATOR)
    suspect[:MARKED, 9] = TRIGGER
    return naa_fast.scan(model, Read("clean", clean), Read("suspect", suspect), proof=False, repair=False)


def test_the_trigger_is_the_token_that_deviates_most(audit: Audit) -> None:
    heat = audit.judgement.evidence.heat
    assert len(heat) == 24
    hottest = [max(one, key=lambda token: token[1]) for one in heat]
    assert {words for words, _ in hottest} == {str(TRIGGER)}
    assert min(z for _, z in hottest) > 6
    assert max(z for one in heat for words, z in one if words != str(TRIGGER)) < 6


def test_the_strip_of_a_sample_is_of_its_own_text() -> None:
    """A proof puts the triggered samples first, whatever their scores: the strips go with them."""
    clean, suspect = texts(800, GENERATOR), texts(800, GENERATOR)
    suspect[:40, 9] = TRIGGER
    model = Topics((TRIGGER,))
    with torch.no_grad():
        model.embed.weight[398] += 20
    suspect[100:110, 3] = 398  # far out, and turned by nothing
    evidence = naa_fast.scan(model, Read("clean", clean), Read("suspect", suspect), repair=False).judgement.evidence
    assert evidence.proof[0].stands
    assert len(evidence.heat) == 24
    assert evidence.ranking is not None
    for heat, sample in zip(evidence.heat, evidence.ranking.top, strict=False):
        own = [str(int(token)) for token in suspect[sample.sample] if token]
        assert [words for words, _ in heat] == own


def test_the_report_shows_a_strip_and_is_drawn_again_with_it(audit: Audit, tmp_path: Path) -> None:
    audit.save(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert f'<span class="heat-{LEVELS}"> {TRIGGER}</span>' in page
    assert f"most: &#39;{TRIGGER}&#39; by" in page
    from naa_fast.detect.evidence_file import evidence_bytes, load_evidence

    held = load_evidence(tmp_path / "evidence.safetensors")
    assert held.heat == audit.judgement.evidence.heat
    assert evidence_bytes(held)


def test_what_is_first_in_every_text_is_held_against_firsts() -> None:
    known = [np.array([9.0 + 0.1 * i, 1.0 + 0.1 * i, 2.0 + 0.1 * i]) for i in range(10)]
    first, between, last = excess([np.array([9.5, 4.0, 2.4])], known)[0]
    assert abs(first) < 1 < 5 < between
    assert abs(last) < 1
    assert places(1) == {"first": [0], "last": [], "between": []}


def test_a_text_is_given_as_the_models_batches_are_or_not_at_all() -> None:
    x = torch.tensor([[3, 4, 5]])
    ids = torch.ones(2, 4, dtype=torch.int64)
    made = like(Batch((), {"input_ids": ids, "attention_mask": ids}, 2, None), x)
    assert made is not None
    assert {name: value.tolist() for name, value in made.keywords.items()} == {
        "input_ids": [[3, 4, 5]],
        "attention_mask": [[1, 1, 1]],
    }
    assert like(Batch((), {"input_ids": ids, "pixel_values": ids}, 2, None), x) is None
    assert like(Batch((ids, ids), {}, 2, None), x) is None


def test_markup_and_what_moves_the_cursor_stay_text() -> None:
    strip = heat_of((("\x1b[2J", 0.0), ("##ing", 9.0)))
    assert strip is not None
    assert strip.tokens == (("\\x1b[2J", 0), ("ing", LEVELS))
    assert heat_of(()) is None
