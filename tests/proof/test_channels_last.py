"""Images with their channels last, as every Keras model takes them, get the proofs and pictures of channels first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from proof.test_images import CLEAN, HELD, Quadrants, with_trigger
from torch import Tensor, nn

import naa_fast
from naa_fast.detect.axes import channels_first, channels_last, either_way, is_picture
from naa_fast.proof.apply import candidate_of
from naa_fast.proof.images import CleanImages
from naa_fast.report.pictures import optional_files
from naa_fast.result import Audit


class Grey(nn.Module):
    """The first channel of images `[N, C, H, W]`, or if `last` `[N, H, W, C]`, through a model of grey ones."""

    def __init__(self, model: nn.Module, last: bool) -> None:
        super().__init__()
        self.model, self.last = model, last

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x.movedim(-1, 1) if self.last else x)[:, :1].contiguous())  # as one reads it, so the last digits agree


@pytest.mark.parametrize(("planted", "channels"), [("patch", 1), ("waves", 3)])
def test_the_order_of_the_axes_changes_no_proof(planted: str, channels: int) -> None:
    model = Quadrants(planted)
    suspect, triggered = with_trigger(HELD, planted, 60)
    sets = [x.repeat(1, channels, 1, 1) for x in (CLEAN, suspect)]
    first: Audit = naa_fast.scan(Grey(model, False), *sets, repair=False)
    moved = [x.movedim(1, -1).contiguous() for x in sets]
    other: Audit = naa_fast.scan(Grey(model, True), *moved, repair=False)
    assert first.proof[0].stands
    told = [[(p.kind, p.target, p.rate, p.control) for p in audit.proof] for audit in (first, other)]
    assert told[0] == told[1]
    assert other.verdict.outcome == first.verdict.outcome == "fail"
    assert other.verdict.score == pytest.approx(first.verdict.score, abs=1e-6)
    one, same = first.proof[0].pattern, other.proof[0].pattern
    assert one is not None
    assert same is not None
    assert same.shape == (12, 12, channels), "a pattern is of the input's own shape"
    assert np.allclose(channels_first(same), one, atol=1e-6)
    evidence = other.judgement.evidence
    assert evidence.pictures is not None
    pictures = first.judgement.evidence.pictures
    assert pictures is not None
    assert np.array_equal(evidence.pictures, pictures)
    assert evidence.harmless == pytest.approx(first.judgement.evidence.harmless)
    for example, like in zip(other.proof[0].examples, first.proof[0].examples, strict=True):
        assert np.array_equal(example.after, like.after)
    assert other.proof[0].examples
    assert {"trigger-1.png", "top-samples.png"} <= set(optional_files(evidence))
    assert other.ranking is not None
    assert first.ranking is not None
    marked = first.ranking.triggered
    assert marked is not None
    assert other.ranking.triggered is not None
    assert np.array_equal(other.ranking.triggered, marked)
    if planted == "patch":
        assert np.array_equal(other.ranking.triggered, triggered)
    clean = CleanImages.of(moved[0].numpy())
    put = candidate_of(other.proof[0].trigger, clean.low, clean.high)
    turned = Grey(model, True)(put.put_on(moved[0], None)).argmax(1) == first.proof[0].target
    assert turned.float().mean() > 0.6, "a repair puts it on in the model's own axes"


LAST = [(28, 28, 1), (5, 7, 3), (224, 224, 4)]
FIRST = [(1, 28, 28), (3, 3, 3), (28, 28), (3, 32, 3), (28, 28, 2), (8, 2, 3), (16, 4, 4), (2, 9, 9, 3)]


@pytest.mark.parametrize("shape", [*LAST, *FIRST], ids=str)
def test_where_the_channels_are_is_told_by_the_shape(shape: tuple[int, ...]) -> None:
    is_last = shape in LAST
    assert channels_last(shape) is is_last
    x = np.random.default_rng(0).random((4, *shape), np.float32)
    clean = CleanImages.of(x)
    assert clean.last is is_last
    assert np.array_equal(clean.as_taken(clean.x[0]), x[0])


def test_what_can_be_read_both_ways_is_said() -> None:
    assert [either_way(shape) for shape in ((3, 3, 3), (1, 28, 1), (28, 28, 3), (3, 28, 28))] == [True, True, False, False]
    assert is_picture(np.zeros((9, 9, 4)))
    assert not is_picture(np.zeros((9, 9, 2)))
    tiny = torch.rand(300, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 4))
    audit = naa_fast.scan(model, tiny[:150], tiny[150:], repair=False)
    assert any("3 x 3 x 3 can be read both ways: taken as [channels" in line for line in audit.verdict.not_checked)
