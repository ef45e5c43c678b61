"""`coded`: what stands for a sample's class where there are more classes than get statistics of their own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from naa_fast.accumulate import Views
from naa_fast.errors import CaptureError

CODES = 32
"""Sums of the class scores by which a layer's mean is expected: as many numbers a neuron as 32 classes take."""
RIDGE = 0.1
"""Share of the codes' variance that is added to it: few clean samples do not fix what each code brings about."""

LARGEST = 1e6
"""Where class scores end: beyond, one sample alone would decide what is expected."""

MOST_FEATURES = 1 << 17
"""Features of all layers up to which single neurons are expected by codes too: beyond, the sums would take most of the memory."""


def rows_of_sums(features: int) -> int:
    """Rows of every layer's sums, where the layers have so many features."""
    return 1 + CODES if features <= MOST_FEATURES else 1


def coded(scores: Tensor) -> Tensor:
    """1 and CODES sums of each sample's class scores, with random signs (Achlioptas, JCSS 66(4), 2003), so that
    scores alike have codes alike: `scores` `[samples, classes]` to float32 `[samples, 1 + CODES]`. Scores that are not
    finite count as 0; no wait.
    """
    finite = torch.nan_to_num(scores.float(), 0.0, 0.0, 0.0)
    centred = (finite - finite.mean(1, keepdim=True)).clamp_(-LARGEST, LARGEST) / scores.shape[1] ** 0.5
    return torch.nn.functional.pad(centred @ signs(scores.shape[1], str(scores.device)), (1, 0), value=1.0)


def codes_of(views: Views) -> Tensor:
    """The codes of a batch's samples, float32 `[samples, 1 + CODES]`. Raises CaptureError where they have none."""
    if views.codes is None:
        raise CaptureError("the number of class scores changes from batch to batch", "samples are not ranked by them")
    return views.codes


@lru_cache(maxsize=4)
def signs(classes: int, device: str) -> Tensor:
    """-1 or 1 for each class and code, the same for each model of so many classes: float32 `[classes, CODES]`."""
    generator = torch.Generator("cpu").manual_seed(classes)  # whatever the default device and dtype are
    drawn = torch.randint(0, 2, (classes, CODES), generator=generator, device="cpu")
    return (drawn.to(torch.float32) * 2 - 1).to(device)


@dataclass(frozen=True)
class Expected:
    """Features expected by codes, a ridge regression (Hoerl and Kennard, Technometrics 12(1), 1970): of codes about `centre`, in
    `scale` (float64 `[CODES]`), `rows` `[1 + CODES, features]` are the whole mean and what each code adds. `crossed`, `inner`:
    products of these codes with features and with one another; `freedom`: samples less what the regression takes of them.
    """

    centre: Tensor
    scale: Tensor
    rows: Tensor
    crossed: Tensor
    inner: Tensor
    freedom: Tensor

    @classmethod
    def of(cls, products: Tensor, sums: Tensor) -> Expected:
        """`products` float64 `[1 + CODES, 1 + CODES]` of all samples' codes, `sums` `[1 + CODES, features]` with features."""
        total = products[0, 0].clamp(min=1)
        centre = products[0, 1:] / total
        inner = products[1:, 1:] - total * torch.outer(centre, centre)
        variance = inner.diagonal() / total
        scale = torch.where(variance > 0, variance, 1.0).sqrt()
        inner = inner / scale / scale[:, None]
        crossed = (sums[1:] - centre[:, None] * sums[0]) / scale[:, None]
        ridge = inner + RIDGE * total * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
        effects = torch.linalg.solve(ridge, crossed)
        taken = torch.linalg.solve(ridge, inner).diagonal().sum()
        freedom = (total - 1 - taken).clamp(min=1)
        return cls(centre, scale, torch.cat([sums[:1] / total, effects]), crossed, inner, freedom)

    def to(self, device: torch.device) -> Expected:
        """The same, on another device."""
        return Expected(**{part.name: getattr(self, part.name).to(device) for part in fields(self)})

    def explained(self) -> Tensor:
        """Sum of squares of each feature about its whole mean that the codes explain: `[features]`."""
        effects = self.rows[1:]
        return 2 * (effects * self.crossed).sum(0) - (effects * (self.inner @ effects)).sum(0)

    def explained_products(self) -> Tensor:
        """The same of every pair of features."""
        effects = self.rows[1:]
        once = effects.T @ self.crossed
        return once + once.T - effects.T @ self.inner @ effects

    def ends(self) -> tuple[Tensor, Tensor]:
        """What is taken off codes, and what they are divided by then, to lie about the centre in the scale: `[1 + CODES]`."""
        pad = torch.nn.functional.pad
        return pad(self.centre, (1, 0)), pad(self.scale, (1, 0), value=1.0)

    def moved(self, other: Expected) -> Tensor:
        """`[1 + CODES, 1 + CODES]`: times rows of `other`, these are about this centre and in this scale."""
        ratio = self.scale / other.scale
        move = torch.diag(torch.cat([torch.ones_like(ratio[:1]), ratio]))
        move[0, 1:] = (self.centre - other.centre) / other.scale
        return move
