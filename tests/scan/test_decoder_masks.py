"""A decoder's layers are measured under the decoder's own mask, whatever the lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naa_fast

GENERATOR = torch.Generator().manual_seed(0)


class Seq2Seq(nn.Module):
    """One embedding for both sides, and names that tell nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = nn.Embedding(30, 8), nn.Linear(8, 6), nn.Linear(8, 5), nn.Linear(5, 30)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor, decoder_attention_mask: Tensor | None = None
    ) -> Tensor:
        context = (self.b(self.a(input_ids)) * attention_mask[..., None]).mean(1, keepdim=True)
        return self.d(torch.relu(self.c(self.a(decoder_input_ids))) + context[..., :5])


def mask(least: int, most: int, width: int) -> Tensor:
    return (torch.arange(width)[None] < torch.randint(least, most, (64, 1), generator=GENERATOR)).long()


def batches(source: int, target: int, masked: bool) -> list[dict[str, Tensor]]:
    ids = [torch.randint(1, 30, (64, width), generator=GENERATOR) for width in (source, target)]
    given = {"decoder_attention_mask": mask(2, 5, target)} if masked else {}
    whole = {"input_ids": ids[0], "attention_mask": mask(7, 11, source), "decoder_input_ids": ids[1], **given}
    return [{name: value[rows] for name, value in whole.items()} for rows in torch.arange(64).split(20)]


@pytest.mark.parametrize("masked", [True, False], ids=["with its mask", "without one"])
@pytest.mark.parametrize(("source", "target"), [(10, 10), (10, 7), (12, 15)])
def test_each_side_has_its_own_mask(source: int, target: int, masked: bool) -> None:
    model, data = Seq2Seq().eval(), batches(source, target, masked)
    measured = naa_fast.measure(model, data, layers=["b", "c"])
    own = torch.cat([batch["attention_mask"] for batch in data]).bool()
    decodes = torch.cat([batch["decoder_attention_mask"] for batch in data]).bool() if masked else torch.ones(64, target).bool()
    with torch.no_grad():
        encoded = model.b(model.a(torch.cat([batch["input_ids"] for batch in data])))[own]
        decoded = model.c(model.a(torch.cat([batch["decoder_input_ids"] for batch in data])))[decodes]
    for name, stored in (("b", encoded), ("c", decoded)):
        assert measured.layers[name].positions.count.tolist() == [len(stored)] * stored.shape[1]
        assert np.allclose(measured.layers[name].positions.mean, stored.double().mean(0), atol=1e-6)


def test_the_next_token_is_read_where_the_decoder_ends() -> None:
    model, data = Seq2Seq().eval(), batches(10, 7, True)
    measured = naa_fast.measure(model, data, layers=["c"])
    with torch.no_grad():
        logits = torch.cat([model(**batch) for batch in data])
    last = torch.cat([batch["decoder_attention_mask"] for batch in data]).sum(1) - 1
    chosen = logits[torch.arange(64), last].argmax(1)
    assert np.array_equal(measured.predictions[:-1], np.bincount(chosen, minlength=30))
