"""Harmless changes do what they say, keep to the clean range, and rob of its proof what they alone explain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naa_fast
from naa_fast.proof.harmless import Harmless, harmless_changes
from naa_fast.proof.images import CleanImages

X = torch.rand(6, 2, 5, 7, generator=torch.Generator().manual_seed(0))


def changed(kind: str, amount: float, x: Tensor = X) -> Tensor:
    return Harmless(kind, "", amount, 0.0, 1.0).put_on(x, None)


def test_each_change_is_the_one_it_names() -> None:
    assert torch.allclose(changed("brightness", 0.1), (X + 0.1).clamp(0, 1))
    flat = changed("contrast", 0.5)
    assert torch.allclose(flat.mean((1, 2, 3)), X.mean((1, 2, 3)), atol=1e-6)
    assert torch.allclose(flat.std((1, 2, 3)), 0.5 * X.std((1, 2, 3)), rtol=1e-4)
    assert torch.equal(changed("noise", 0.1), changed("noise", 0.1)), "the same noise each time"
    assert 0.05 < float((changed("noise", 0.1) - X).abs().mean()) < 0.1
    constant = torch.full_like(X, 0.25)
    assert torch.allclose(changed("blur", 0, constant), constant)
    assert torch.allclose(
        changed("blur", 0)[0, 0, 2, 2], (X[0, 0, 1:4, 1:4] * torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16).sum()
    )
    assert torch.equal(changed("shift", 4), X), "the middle of nine places"
    assert torch.equal(changed("shift", 7)[..., :-1, :], X[..., 1:, :])
    assert torch.equal(changed("shift", 3)[..., :, 1:], X[..., :, :-1])


def test_all_changes_stay_in_the_clean_range_and_images_have_six_more() -> None:
    changes = list(harmless_changes(CleanImages.of(X.numpy())))
    assert len(changes) == len(list(harmless_changes(CleanImages.of(X.flatten(1).numpy())))) + 6
    for change in changes:
        out = change.put_on(X, None)
        assert out.shape == X.shape
        assert out.min() >= X.min()
        assert out.max() <= X.max()


class Bright(nn.Module):
    """Calls every image class 1 that is brighter than clean ones: fragile, and no backdoor."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.head = nn.Flatten(), nn.Linear(64, 3)
        with torch.no_grad():
            self.head.weight[1] = 1 / 64

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.flat(x))
        return torch.stack([logits[:, 0], 60 * (x.mean((1, 2, 3)) - 0.53), logits[:, 2]], 1)


@pytest.mark.parametrize("brighter", [0.1, 0.15])
def test_what_brightness_alone_explains_is_a_shift_and_no_trigger(brighter: float) -> None:
    torch.manual_seed(0)
    clean, held = (0.8 * torch.rand(400, 1, 8, 8) + 0.05 for _ in range(2))
    model = Bright()
    audit = naa_fast.scan(model, clean, (held + brighter).clamp(0, 1))
    with torch.no_grad():
        assert float((model(held + brighter).argmax(1) == 1).float().mean()) > 0.6
    for proof in audit.proof:
        assert not proof.stands, proof
    assert np.isfinite(audit.verdict.score)
