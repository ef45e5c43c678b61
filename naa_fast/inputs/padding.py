"""How a set is fitted to its model: texts are padded with the model's own token, as some find the end of a text by it."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from naa_fast.capture.padding import padding_of
from naa_fast.capture.positions import positions_of
from naa_fast.inputs.batches import IterableSource, Source
from naa_fast.inputs.masks import parameters_of
from naa_fast.inputs.text import TextSource


def fitted(model: nn.Module, source: Source) -> Source:
    """A set of texts padded with the model's `pad_token_id`, so that no prediction depends on who shares a batch; batches as
    somebody else cut them are told what the model takes; others as they are. A model that names no padding token is lent the
    tokenizer's (`naa_fast.capture.padding`).
    """
    if isinstance(source, IterableSource):
        source.parameters = parameters_of(model)
    if not isinstance(source, TextSource):
        return source
    padded = copy.copy(source)
    pad_id = padding_of(model, source.options.fill)
    padded.options = replace(source.options, pad_id=pad_id, positions=positions_of(model))
    return padded
