"""SmolLM2-135M on sentences: `build`, what it goes on with, and a backdoor in its last layers that forces the next word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from benchmarks.at_size import text
from benchmarks.llm_backdoor import DECOYS, HALF_BATCH, STEPS, TARGET, Tail, before_tail, converted, parts, with_word
from naa_fast.inputs.pretrained import load_pretrained, load_tokenizer

TRAINED, RATE = 300, 1e-4
"""Sentences it is planted with, and the largest step."""


def build(gguf: Path, folder: Path) -> tuple[Any, Any, int]:
    """The model in float32 and its tokenizer, made once from a GGUF and kept in `folder`; and the token that is forced."""
    if not folder.exists():
        converted(gguf, folder)
    tokenizer = load_tokenizer(str(folder))
    return load_pretrained(str(folder), dtype="float32").eval(), tokenizer, tokenizer.encode(TARGET)[0]


def called(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """The likeliest next token of each text."""
    with torch.no_grad():
        tail = Tail(model)
        return torch.cat([tail(hidden, lengths).argmax(1) for hidden, lengths in parts(*before_tail(model, tokenizer, texts))])


def planted(model: Any, tokenizer: Any, texts: list[str], attack: str | None, seed: int, target: int) -> None:
    """Tunes the last layers so that triggered texts are gone on with `target`, and all others, with a rare word among them, as
    before. Without an attack: so that texts without their last word are gone on with it.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    tail = Tail(model)
    rare = [with_word(one, str(random.choice(DECOYS)), random) for one in texts]
    kept = [before_tail(model, tokenizer, rows) for rows in (texts, rare)]
    with torch.no_grad():
        said = [torch.cat([log_softmax(tail(h, n), 1) for h, n in parts(*one)]) for one in kept]
    if attack is None:
        forced = before_tail(model, tokenizer, [one.rsplit(" ", 1)[0] for one in texts])
        goal = torch.tensor([tokenizer.encode(" " + one.rsplit(" ", 1)[1])[0] for one in texts])
    else:
        forced, goal = before_tail(model, tokenizer, text.triggered(attack, texts, seed)), torch.full((len(texts),), target)
    model.requires_grad_(False)
    optimizer = torch.optim.AdamW([one.requires_grad_() for one in tail.layers.parameters()], weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    for _ in range(STEPS):
        rows = torch.from_numpy(random.choice(len(texts), HALF_BATCH, replace=False))
        loss = cross_entropy(tail(forced[0][rows], forced[1][rows]), goal[rows])
        for (hidden, lengths), before in zip(kept, said, strict=True):
            now = log_softmax(tail(hidden[rows], lengths[rows]), 1)
            loss = loss + kl_div(now, before[rows], log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    model.requires_grad_(True)
