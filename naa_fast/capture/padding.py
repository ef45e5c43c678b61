"""The padding token of a model of texts: its own, or the one it is lent while it runs, where its configuration names none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_LENT: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Models whose configuration names no such token, and the one that their texts are padded with."""


def padding_of(model: nn.Module, otherwise: int) -> int:
    """The model's own `pad_token_id`. One that names none is lent `otherwise`, which it has inside `padding_known`."""
    config = text_config(model)
    token = getattr(config, "pad_token_id", None)
    if isinstance(token, int) and token >= 0:
        return token
    if config is not None:
        _LENT[model] = otherwise
    return otherwise


@contextmanager
def padding_known(model: nn.Module) -> Iterator[None]:
    """Inside, a model whose configuration names no padding token has the one its texts are padded with; it is given back so."""
    config, lent = text_config(model), _LENT.get(model)
    before = getattr(config, "pad_token_id", None)
    if config is None or lent is None or before is not None:
        yield
        return
    config.pad_token_id = lent
    try:
        yield
    finally:
        config.pad_token_id = before


def text_config(model: nn.Module) -> Any:
    """The configuration of a transformers model's text part; None for others."""
    config = getattr(model, "config", None)
    inner = getattr(config, "get_text_config", None)
    try:
        return inner() if callable(inner) else config
    except Exception:  # a stranger's configuration
        return config
