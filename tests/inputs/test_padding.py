"""Predictions of texts do not depend on who shares a batch: they are padded with the model's own token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import naa_fast
from naa_fast.inputs.text import TextOptions, TextSource

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(f"w{k}" for k in random.integers(0, 57, random.integers(3, 12))) for _ in range(64)]


def tokenizer(pad: str | None) -> Any:
    words = ["<eos>", "<unk>", "<pad>", *(f"w{i}" for i in range(57))]
    level = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    level.pre_tokenizer = pre_tokenizers.Whitespace()
    kind = transformers.PreTrainedTokenizerFast
    return kind(tokenizer_object=level, eos_token="<eos>", unk_token="<unk>", pad_token=pad)


@pytest.mark.parametrize(("own", "given"), [(2, "<pad>"), (2, None), (0, "<pad>"), (None, None), (None, "<pad>")])
def test_the_batch_size_changes_no_prediction(own: int | None, given: str | None, texts: list[str]) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=60, n_embd=16, n_layer=1, n_head=2, n_positions=64, num_labels=5, eos_token_id=0, bos_token_id=0
    )
    config.pad_token_id = own
    model = transformers.GPT2ForSequenceClassification(config).eval()
    told = [
        naa_fast.measure(model, TextSource("texts", texts, batch, TextOptions(tokenizer(given))), layers=["score"]).predictions
        for batch in (1, 16)
    ]
    assert np.array_equal(told[0], told[1])
    assert told[0][:-1].sum() == 64
    assert model.config.pad_token_id == own, "the configuration is given back as it was"
