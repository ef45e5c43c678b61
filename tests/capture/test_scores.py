"""Which output the class scores are: by name, by the layer it comes from, then by shape; a gap where it could be another."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naa_fast
from naa_fast.errors import UsageError
from naa_fast.measurement import Measurement

X = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
Output = namedtuple("Output", ["features", "logits"])


class Net(nn.Module):
    """Sixteen features, then four classes, in whatever form `give` puts them: of features, logits and the loss."""

    def __init__(self, give: Callable[[Tensor, Tensor], Any], classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.act, self.head = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, classes)
        self.give = give

    def forward(self, x: Tensor) -> Any:
        features = self.act(self.body(x))
        return self.give(features, self.head(features))


def measured(give: Callable[[Tensor, Tensor], Any], classes: int = 4, **options: Any) -> Measurement:
    return naa_fast.measure(Net(give, classes).eval(), X, batch_size=40, **options)


def counted(classes: int = 4) -> list[int]:
    """How often each class is the largest logit."""
    with torch.no_grad():
        logits = Net(lambda features, logits: logits, classes).eval()(X)
    return np.bincount(logits.argmax(1).numpy(), minlength=classes).tolist()


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "logits": lambda f, s: s,
    "logits, features": lambda f, s: (s, f),
    "features, logits": lambda f, s: (f, s),
    "a list": lambda f, s: [f, s],
    "a named tuple": lambda f, s: Output(f, s),
    "a dict": lambda f, s: {"logits": s},
    "a dict with features first": lambda f, s: {"features": f, "logits": s},
    "names that say nothing": lambda f, s: {"a": f, "b": s},
    "a dict in a tuple": lambda f, s: (f, {"cls": s}),
    "loss, logits": lambda f, s: (s.logsumexp(1).mean(), s),
    "loss, features, logits": lambda f, s: (s.logsumexp(1).mean(), f, s),
    "None first": lambda f, s: (None, s),
    "softmax of them": lambda f, s: (f, s.softmax(1)),
    "log-softmax of them": lambda f, s: (f, s.log_softmax(1)),
    "with a temperature": lambda f, s: (f, s / 3),
    "axes of length one": lambda f, s: (f, s[:, :, None, None]),
    "unit-length features": lambda f, s: (nn.functional.normalize(f, dim=1), s),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_logits_are_found(form: str) -> None:
    found = measured(FORMS[form])
    assert found.predictions[:-1].tolist() == counted()
    assert not found.provenance.get("gaps"), found.provenance["gaps"]
    [words] = found.provenance["scores"]
    assert "(4 classes)" in words


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)], ids=str)
def test_one_logit_is_two_classes(shape: tuple[int, ...]) -> None:
    found = measured(lambda f, s: s.reshape(shape), classes=1)
    with torch.no_grad():
        above = int((Net(lambda f, s: s, 1).eval()(X) > 0).sum())
    assert found.predictions[:-1].tolist() == [96 - above, above]
    assert "one number a sample, taken for a logit" in found.provenance["scores"][0]


def test_a_sigmoid_is_a_probability() -> None:
    found, logit = (measured(give, classes=1) for give in (lambda f, s: s.sigmoid(), lambda f, s: s))
    assert found.predictions.tolist() == logit.predictions.tolist()
    assert "taken for a probability" in found.provenance["scores"][0]


class TwoHeads(nn.Module):
    """Two linear heads on the same features, under names that say nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.one, self.other = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = torch.relu(self.body(x))
        return {"left": self.one(features), "right": self.other(features)}


def test_two_heads_are_a_gap_that_scores_decides() -> None:
    [gap] = naa_fast.measure(TwoHeads().eval(), X).provenance["gaps"]
    assert "could be meant as well" in gap
    assert "--scores" in gap
    right = naa_fast.measure(TwoHeads().eval(), X, scores="right")
    with torch.no_grad():
        logits = TwoHeads().eval()(X)["right"]
    assert right.predictions[:-1].tolist() == np.bincount(logits.argmax(1).numpy(), minlength=4).tolist()
    assert not right.provenance.get("gaps")


def test_the_gap_is_no_pass_and_a_choice_ends_it() -> None:
    model = TwoHeads().eval()
    clean, suspect = (torch.randn(400, 8, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3))
    open_question = naa_fast.scan(model, clean, suspect, repair=False).verdict
    assert (open_question.outcome, open_question.exit_code) == ("inconclusive", 3)
    decided = naa_fast.scan(model, clean, suspect, repair=False, scores="left").verdict
    assert not any("class scores" in gap for gap in decided.gaps)


def test_a_head_that_gives_every_sample_the_same_is_no_pass() -> None:
    model = Net(lambda f, s: s * 0).eval()
    [gap] = naa_fast.measure(model, X).provenance["gaps"]
    assert "all 96 samples of the first batch have the same scores" in gap
    clean, suspect = (torch.randn(400, 8, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3))
    verdict = naa_fast.scan(model, clean, suspect, repair=False).verdict
    assert (verdict.outcome, verdict.exit_code) == ("inconclusive", 3)


@pytest.mark.parametrize(
    ("give", "words"),
    [
        (lambda f, s: f, "features"),
        (lambda f, s: {"features": f}, "features"),
        (lambda f, s: s.logsumexp(1).mean(), "no row of class scores"),
        (lambda f, s: f[:, :, None].expand(-1, -1, 5), "no row of class scores"),
    ],
    ids=["what an activation gives", "named features", "a loss alone", "a map"],
)
def test_what_is_none_is_not_taken(give: Callable[[Tensor, Tensor], Any], words: str) -> None:
    found = measured(give)
    assert found.predictions[:-1].sum() == 0
    [told] = found.provenance["scores"]
    assert told.startswith("none: ")
    assert words in told


def test_what_is_asked_for_must_be_there_and_be_scores() -> None:
    with pytest.raises(UsageError, match=r"(?s)no item 'logit'.*found: features .*logits"):
        measured(lambda f, s: {"features": f, "logits": s}, scores="logit")
    with pytest.raises(UsageError, match=r"(?s)holds no class scores.*for 40 samples"):
        measured(lambda f, s: {"map": f[:, :, None, None].expand(-1, -1, 5, 5), "logits": s}, scores="map")
    assert measured(lambda f, s: s, scores="none").predictions[:-1].sum() == 0


class Language(nn.Module):
    """Next-token scores in a vocabulary of 30, by a linear layer after an embedding."""

    def __init__(self, give: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.mix, self.head = nn.Embedding(30, 12), nn.Linear(12, 12), nn.Linear(12, 30)
        self.give = give

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        return self.give(self.head(torch.tanh(self.mix(self.embed(input_ids)))))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    "give",
    [lambda s: s, lambda s: (s, None), lambda s: {"logits": s}, lambda s: (s.mean(), s)],
    ids=["tensor", "tuple", "dict", "loss"],
)
def test_the_next_token_is_the_class_with_a_mask_and_without(give: Callable[[Tensor], Any], masked: bool) -> None:
    ids = torch.randint(1, 30, (24, 7), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[::2, 4:] = 0
    batches = [{"input_ids": ids, **({"attention_mask": mask} if masked else {})}]
    found = naa_fast.measure(Language(give).eval(), batches)
    with torch.no_grad():
        scores = Language(lambda s: s).eval()(ids)
    last = torch.where(torch.arange(24) % 2 == 0, 3, 6) if masked else torch.full((24,), 6)
    expected = scores[torch.arange(24), last].argmax(1)
    assert found.predictions[:-1].tolist() == np.bincount(expected.numpy(), minlength=30).tolist()
