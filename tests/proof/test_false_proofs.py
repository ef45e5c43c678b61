"""A clean model proves nothing, also where clean data hardly has a sample of the target."""

from __future__ import annotations

import torch
from proof.test_images import CLEAN, HELD, Quadrants, with_trigger
from torch import Tensor, nn

import naa_fast


class Largest(nn.Module):
    """Calls each input by its largest value: as many classes as inputs."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, size, bias=False)
        nn.init.eye_(self.hidden.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(x)


def test_clean_against_clean_through_an_argmax_over_its_inputs_proves_nothing() -> None:
    model = Largest(512)
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        clean, suspect = torch.randn(400, 512, generator=generator), torch.randn(400, 512, generator=generator)
        audit = naa_fast.scan(model, clean, suspect, repair=False)
        assert not any(proof.stands for proof in audit.proof), seed
        assert audit.verdict.outcome != "fail", seed


def test_a_backdoored_model_that_is_shown_no_trigger_is_not_said_to_share_one() -> None:
    for planted in ("patch", "waves"):
        audit = naa_fast.scan(Quadrants(planted), CLEAN, HELD, repair=False)
        assert not any(proof.stands for proof in audit.proof), planted


def test_samples_that_carry_a_trigger_turn_back_without_it() -> None:
    suspect, _ = with_trigger(HELD, "patch", 30)
    audit = naa_fast.scan(Quadrants("patch"), CLEAN, suspect, repair=False)
    erasure = audit.proof[0].erasure
    assert erasure is not None
    assert erasure.claimed >= 25
    assert erasure.turned >= 0.7 >= 0.3 >= erasure.usual
    assert erasure.p_value < 1e-6
