"""How a set is fitted to its model: texts are padded with the model's own token, as some find the end of a text by it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from naa_fast.inputs.batches import IterableSource, Source
from naa_fast.inputs.masks import parameters_of
from naa_fast.inputs.positions import positions_of
from naa_fast.inputs.text import TextSource

_LENT: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Models whose configuration names no such token, and the one that their texts are padded with."""


def fitted(model: nn.Module, source: Source) -> Source:
    """A set of texts padded with the model's `pad_token_id`, so that no prediction depends on who shares a batch; batches as
    somebody else cut them are told what the model takes; others as they are. A model that names no padding token is lent the
    tokenizer's (`padding_known`).
    """
    if isinstance(source, IterableSource):
        source.parameters = parameters_of(model)
    if not isinstance(source, TextSource):
        return source
    config = text_config(model)
    known = getattr(config, "pad_token_id", None)
    if not isinstance(known, int) or known < 0:
        known = source.options.fill
        if config is not None:
            _LENT[model] = known
    padded = copy.copy(source)
    padded.options = replace(source.options, pad_id=known, positions=positions_of(model))
    return padded


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
