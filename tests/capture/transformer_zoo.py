"""Small transformers models with random weights, and the brute force that stores all they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from naa_fast.records import FOLDS, Folds, LayerRecord, Moments, fold_of

VOCABULARY = 44
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.3,  # the default gives activations so small that nothing routes anywhere in particular
}
TEXT: dict[str, Any] = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "pad_token_id": 0}
BUILDERS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2
        )
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=1, **TEXT)),
    "mixtral": lambda: transformers.MixtralForCausalLM(
        transformers.MixtralConfig(num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2, **TEXT)
    ),
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(id2label=dict(enumerate("abc")), **TEXT)),
    "vit": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=16, patch_size=4, num_channels=3, id2label=dict(enumerate("abc")), **SIZES)
    ),
}


def build(kind: str) -> Any:
    torch.manual_seed(0)
    model = BUILDERS[kind]().eval()
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return model


def batches(kind: str, sizes: Sequence[int] = (7, 5, 9)) -> list[Any]:
    """Batches of `sizes` samples as a loader would give them; text is padded on alternating sides."""
    random = np.random.default_rng(3)
    if kind == "vit":
        return [torch.from_numpy(random.standard_normal((size, 3, 16, 16)).astype(np.float32)) for size in sizes]
    return [padded([texts(random) for _ in range(size)], side) for size, side in zip(sizes, ("right", "left") * 9, strict=False)]


def texts(random: np.random.Generator) -> list[int]:
    return [int(token) for token in random.integers(3, VOCABULARY, random.integers(1, 12))]


def padded(rows: list[list[int]], side: str = "right", extra: int = 0) -> dict[str, Tensor]:
    """Token lists as one batch, `extra` positions longer than the longest, with positions counted from the first token."""
    width = max(map(len, rows)) + extra
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for row, tokens in enumerate(rows):
        place = slice(0, len(tokens)) if side == "right" else slice(width - len(tokens), width)
        ids[row, place] = torch.tensor(tokens)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def stored(model: nn.Module, data: list[Any], labels: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Per label and sample: the float64 activations `[tokens, neurons]` of the tokens that count, as one list of positions
    whatever the form the layer gave them in.
    """
    found: dict[str, list[np.ndarray]] = {label: [] for label in labels}
    batch: dict[str, Any] = {}

    def keep(label: str, value: Any) -> None:
        x = value if isinstance(value, Tensor) else next(part for part in value if isinstance(part, Tensor))
        x = x.detach().double()
        size, mask = batch["size"], batch["mask"]
        if x.ndim == 4:  # an image
            x = x.movedim(1, -1)
        if x.ndim == 2 and len(x) == size:  # pooled
            x = x[:, None]
        rows = x.reshape(size, -1, x.shape[-1]).numpy()
        for sample in range(size):
            counted = rows[sample] if mask is None or rows.shape[1] == 1 else rows[sample][mask[sample]]
            found[label].append(counted)

    handles = []
    for label in labels:
        name, _, item = label.partition(":")
        module = model.get_submodule(name)
        if item == "in":
            handles.append(module.register_forward_pre_hook(lambda _, given, label=label: keep(label, given[0])))
        elif item == "routing":
            handles.append(module.register_forward_pre_hook(lambda m, given, label=label: keep(label, dense_routing(m, *given))))
        else:
            handles.append(module.register_forward_hook(lambda _, __, output, label=label: keep(label, output)))
    with torch.no_grad():
        for item in data:
            mask = item["attention_mask"].bool().numpy() if isinstance(item, dict) else None
            batch.update(size=len(item if mask is None else mask), mask=mask)
            model(**item) if isinstance(item, dict) else model(item)
    for handle in handles:
        handle.remove()
    return found


def dense_routing(module: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The weight of each expert for each token, one by one."""
    dense = torch.zeros(len(hidden), module.num_experts)  # type: ignore[call-overload]
    for token in range(len(hidden)):
        for expert, weight in zip(index[token].tolist(), weights[token].tolist(), strict=True):
            dense[token, expert] = weight
    return dense


def record(samples: list[np.ndarray], last: bool = False) -> LayerRecord:
    """The definition of every statistic, from each sample's activations `[tokens, neurons]`, all kept."""
    kept = [x[-1:] for x in samples] if last else samples
    means, tops = np.stack([x.mean(0) for x in kept]), np.stack([x.max(0) for x in kept])
    folds = fold_of(np.arange(len(kept)))

    def parts(x: np.ndarray) -> Folds:
        each = [Moments.of(x[folds == fold]) for fold in range(FOLDS)]
        return Folds(*(np.stack([getattr(part, name) for part in each]).astype(float) for name in ("count", "mean", "m2")))

    every = np.concatenate(kept)
    return LayerRecord("", "", Moments.of(every), Moments.of(means), Moments.of(tops), parts(means), parts(tops))
