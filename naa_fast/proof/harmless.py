"""Harmless changes of continuous inputs: what they do to the model is no trigger, however many samples it turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from naa_fast.proof.images import CleanImages

BRIGHTER = (-0.2, -0.1, 0.1, 0.2)
"""Of the range of clean values."""
CONTRAST = (0.6, 0.75, 1.33)
NOISE = (0.1, 0.2)


@dataclass(frozen=True)
class Harmless:
    """One change with its strength, kept within the values that clean inputs have."""

    kind: str
    budget: str
    amount: float
    low: float
    high: float

    def put_on(self, x: Tensor, valid: Tensor | None) -> Tensor:
        return self.changed(x).clamp(self.low, self.high)

    def changed(self, x: Tensor) -> Tensor:
        span = self.high - self.low
        if self.kind == "brightness":
            return x + self.amount * span
        if self.kind == "contrast":
            middle = x.mean(tuple(range(1, x.ndim)), keepdim=True)
            return (x - middle) * self.amount + middle
        if self.kind == "noise":
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
            return x + self.amount * span * noise.to(x.device, x.dtype)
        if self.kind == "blur":
            return blurred(x)
        down, right = int(self.amount) // 3, int(self.amount) % 3  # 1 is where it was
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        return padded[..., down : down + x.shape[2], right : right + x.shape[3]]


def blurred(x: Tensor) -> Tensor:
    """Images `[samples, channels, height, width]` under binomial weights over three pixels each way."""
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    weights = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    shifted = (
        weights[i] * weights[j] * padded[..., i : i + x.shape[2], j : j + x.shape[3]] for i, j in product(range(3), repeat=2)
    )
    return torch.stack(tuple(shifted)).sum(0)


def harmless_changes(clean: CleanImages) -> Iterator[Harmless]:
    """Brightness, contrast, noise, and of images blur and shifts by a pixel: the benign shifts a trigger has to beat."""
    for kind, amounts in (("brightness", BRIGHTER), ("contrast", CONTRAST), ("noise", NOISE)):
        for amount in amounts:
            yield Harmless(kind, f"{amount:+g}", amount, clean.low, clean.high)
    if clean.x.ndim == 4:
        yield Harmless("blur", "3 x 3", 0.0, clean.low, clean.high)
        for place in (0, 1, 3, 5, 7):
            yield Harmless("shift", "1 pixel", float(place), clean.low, clean.high)
