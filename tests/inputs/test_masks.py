"""Masks that come in tuples are found and used; texts are padded with the model's own token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import naa_fast
from naa_fast.inputs.masks import mask_beside

GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(1, 50, (80, 10), generator=GENERATOR)
LENGTHS = torch.randint(2, 9, (80, 1), generator=GENERATOR)
MASK = (torch.arange(10)[None] < LENGTHS).long()
IDS[MASK == 0] = 0
TYPES = (torch.arange(10)[None] >= 4).long().expand(80, 10).contiguous()
LABELS = torch.randint(0, 3, (80,), generator=GENERATOR)


class Tagged(nn.Module):
    """A text classifier; `names` are what its forward takes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.up, self.head = nn.Embedding(50, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None) -> Tensor:
        h = self.up(self.embed(input_ids))
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.head((h * seen[..., None]).sum(1) / seen.sum(1, keepdim=True))


class Plain(Tagged):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class Inverse(Tagged):
    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(x, None if key_padding_mask is None else 1 - key_padding_mask.long())


def loader(*tensors: Tensor) -> Any:
    return DataLoader(TensorDataset(*tensors), batch_size=16)


@pytest.mark.parametrize(
    ("model", "data", "given"),
    [
        (Tagged, (IDS, MASK, LABELS), True),
        (Tagged, (IDS, MASK.bool()), True),
        (Tagged, (IDS, TYPES, MASK, LABELS), True),
        (Plain, (IDS, MASK, LABELS), False),
        (Inverse, (IDS, 1 - MASK, LABELS), True),
    ],
    ids=["with labels", "bool", "behind token types", "the model takes none", "marks the padding"],
)
def test_the_mask_of_a_tuple_is_found(model: type[Tagged], data: tuple[Tensor, ...], given: bool) -> None:
    if len(data) == 4:
        data = (data[0], data[2], data[1], data[3])  # ids, mask, types, labels, as the model takes them
    measured = naa_fast.measure(model(), loader(*data), layers=["up", "head"])
    assert int(measured.layers["up"].positions.count[0]) == int(MASK.sum())
    want = naa_fast.measure(Tagged(), [{"input_ids": IDS, "attention_mask": MASK}], layers=["up", "head"])
    assert np.allclose(measured.layers["up"].positions.mean, want.layers["up"].positions.mean, atol=1e-6)
    heads = [one.layers["head"].positions.mean for one in (measured, want)]
    assert np.allclose(heads[0], heads[1], atol=1e-6) == given
    assert any("is the mask of its input" in line for line in measured.provenance["inputs"])


def test_what_is_no_mask_hides_no_position() -> None:
    names = ("input_ids", "token_type_ids", "attention_mask")
    assert mask_beside([TYPES], IDS, names) is None, "named token types"
    assert mask_beside([TYPES], IDS, ()) is None, "other tokens stand where it is 0"
    assert mask_beside([torch.randint(0, 2, IDS.shape, generator=GENERATOR)], IDS, ()) is None, "labels of tokens"
    assert mask_beside([LABELS], IDS, ()) is None
    assert mask_beside([torch.zeros_like(IDS)], IDS, ()) is None, "nothing would count"
    images = torch.rand(8, 3, 4, 4)
    assert mask_beside([torch.ones(8, dtype=torch.int64)], images, ("x", "mask")) is None


def test_what_is_not_given_to_the_model_is_said() -> None:
    measured = naa_fast.measure(Tagged(), loader(IDS, MASK, TYPES, LABELS), layers=["up"])
    assert any(line.startswith("item 2, item 3 of each batch: not given to the model") for line in measured.provenance["inputs"])
    assert "inputs" not in naa_fast.measure(Plain(), loader(IDS, LABELS), layers=["up"]).provenance
