"""Where class scores may be: `items_of` lists the tensors in whatever a model returns, `follow` finds one of them again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

OUTPUT = "output"
"""The key of a model's one tensor."""
TIERS = (
    {"out", "output", "outputs", "result", "y", "hat"},
    {"score", "scores", "pred", "preds", "prediction", "predictions", "prob", "probs", "probabilities", "class", "cls"},
    {"logit", "logits"},
)
"""Words in the name of an item that holds class scores, the surest last; `logits` alone is surer still."""
OTHER = frozenset(
    re.findall(
        r"\w+",
        """
        feature features feat feats embedding embeddings embed embeds emb hidden latent latents repr representation
        representations pooler pooled state states past cache key keys value values proj projection projections attn attention
        attentions router gate loss losses aux auxiliary domain teacher box boxes bbox bboxes anchors keypoints depth mask masks
        recon reconstruction mu logvar sigma std var variance start end weight weights uncertainty temperature regression reg
        """,
    )
)
"""Words in the name of what is something else."""
ATTRIBUTES = ("logits", "scores", "class_logits", "pred", "prediction", "predictions", "probs", "out", "output")
DEEPEST, MOST_ITEMS = 4, 256

Step = tuple[str, Any]
"""One step into a structure: ("item", key or place) or ("attribute", name)."""


@dataclass(frozen=True)
class Item:
    """A tensor somewhere in a model's output: its `key`, the names on the way to it, the way, and the key it has by places
    alone, where it has one."""

    key: str
    tensor: Tensor
    names: tuple[str, ...]
    path: tuple[Step, ...]
    alias: str = ""

    @property
    def words(self) -> str:
        return f"output {self.key!r}" if self.path else "the model's output"

    @property
    def shape(self) -> str:
        return f"{str(self.tensor.dtype).removeprefix('torch.')} {list(self.tensor.shape)}"

    @property
    def tier(self) -> int:
        """How surely its name says that it holds class scores: 0 not at all; -1 where it says something else."""
        parts = [re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()) for name in self.names]
        if any(OTHER & set(words) for words in parts):
            return -1
        last = parts[-1] if parts else []
        if last in (["logits"], ["logit"]):
            return len(TIERS) + 1
        return max((number for number, tier in enumerate(TIERS, 1) if tier & set(last)), default=0)


def items_of(output: Any) -> list[Item]:
    """The tensors in a model's output, in its order: of tuples, lists, mappings, named tuples, dataclasses, and objects."""
    if isinstance(output, Tensor):
        return [Item(OUTPUT, output, (), ())]
    items: list[Item] = []

    def walk(value: Any, item: Item) -> None:
        if isinstance(value, Tensor):
            if len(items) < MOST_ITEMS:
                items.append(dataclasses.replace(item, tensor=value))
            return
        if len(item.path) >= DEEPEST:
            return
        numbered = isinstance(value, tuple | list) or dataclasses.is_dataclass(value)
        for place, (name, step, part) in enumerate(parts_of(value)):
            before = f"{item.key}." if item.key else ""
            names = item.names if name == str(place) and isinstance(value, tuple | list) else (*item.names, name)
            alias = f"{before}{place}" if numbered else ""
            walk(part, Item(f"{before}{name}", item.tensor, names, (*item.path, step), alias))

    walk(output, Item("", torch.empty(0), (), ()))
    return items


def parts_of(value: Any) -> Iterator[tuple[str, Step, Any]]:
    """Name, step and value of each part of a structure; of an object those of its attributes that are tensors or hold some."""
    if isinstance(value, Mapping):
        yield from ((str(key), ("item", key), part) for key, part in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((name, ("attribute", name), getattr(value, name)) for name in value._fields)
    elif isinstance(value, tuple | list):
        yield from ((str(place), ("item", place), part) for place, part in enumerate(value))
    elif not isinstance(value, str | bytes | int | float | bool | type | nn.Module | None):
        fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        for name in dict.fromkeys([*fields, *getattr(value, "__dict__", ()), *ATTRIBUTES]):
            part = None if name.startswith("_") else attribute(value, name)
            if isinstance(part, Tensor | Mapping | tuple | list):
                yield name, ("attribute", name), part


def attribute(value: Any, name: str) -> Any:
    """An attribute of a stranger's object, None where it has none or computing it fails."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def follow(output: Any, path: Sequence[Step]) -> Any:
    """What lies at the end of a path, None where it leads nowhere in this output."""
    for kind, where in path:
        try:
            output = getattr(output, where) if kind == "attribute" else output[where]
        except (AttributeError, KeyError, IndexError, TypeError):
            return None
    return output
