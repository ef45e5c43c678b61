"""What a model's own configuration calls its classes: `own_names`, and `numbers_by_name` the other way round."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

GENERIC = re.compile(r"LABEL_\d+")


def numbers_by_name(model: nn.Module) -> dict[str, Any]:
    """The number of each class by its name without case (`label2id`), as it stands there: maybe no number; empty for others."""
    known = getattr(getattr(model, "config", None), "label2id", None)
    return {str(name).casefold(): number for name, number in known.items()} if isinstance(known, dict) else {}


def own_names(model: nn.Module, classes: int) -> dict[int, str]:
    """The names of all `classes` (`id2label`); empty where they are of another number, or no names but numbers themselves."""
    known = getattr(getattr(model, "config", None), "id2label", None)
    try:
        names = {int(number): str(name) for number, name in dict(known or {}).items()}
    except (TypeError, ValueError):
        return {}
    return {} if len(names) != classes or all(GENERIC.fullmatch(name) for name in names.values()) else names


def vocabulary(model: nn.Module) -> int | None:
    """How many tokens a transformers model predicts; None for other models."""
    config = getattr(model, "config", None)
    for part in (config, getattr(config, "text_config", None)):
        size = getattr(part, "vocab_size", None)
        if isinstance(size, int):
            return size
    return None
