"""`Inserted`: words put into a text, which keeps its own; as far as the model has room for both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.detect.trigger import ANYWHERE as ANYWHERE
from naa_fast.detect.trigger import AT_END as AT_END
from naa_fast.detect.trigger import IN_FRONT as IN_FRONT
from naa_fast.inputs.batches import Batch
from naa_fast.proof.tokens import Tokens, inner_places, own_places
from naa_fast.rank.retained import main_tensor, with_main
from naa_fast.records import Array


@dataclass(frozen=True)
class Inserted(Tokens):
    """Puts `ids`, one after the other, into a text: in front, behind the tokenizer's mark; at the end, before the mark there; or
    by a fixed seed anywhere, as the `kind` says.
    """

    def into(self, batch: Batch, room: int | None) -> Batch:
        """The batch with the words in its texts. `room`: tokens that the model has positions for. Where that is unknown, or less
        than is needed, texts keep their length: padding goes first, then what stands last.
        """
        x = main_tensor(batch)
        counted = own_places(x, batch.mask).cpu().numpy()
        wide = x.shape[1] + len(self.ids)
        fits = room is not None and wide <= room and not any(square(value, x) for value in tensors(batch))
        index = self.sources(x, counted, wide if fits else x.shape[1])
        source = torch.from_numpy(index)
        near = torch.from_numpy(neighbours(index))

        def widened(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[:2] != x.shape:
                return value
            return value[torch.arange(len(value))[:, None].to(value.device), near.to(value.device)]

        words = torch.zeros(source.shape, dtype=x.dtype)
        for row, places in enumerate(index):
            at = np.flatnonzero(places < 0)
            words[row, torch.from_numpy(at)] = torch.tensor(self.ids[: len(at)], dtype=x.dtype)
        put = torch.where(source.to(x.device) < 0, words.to(x.device), widened(x))
        keywords = {name: widened(value) for name, value in batch.keywords.items()}
        mask = widened(batch.mask)
        if "position_ids" in keywords and mask is not None and mask.shape == put.shape:
            keywords["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        told = replace(batch, arguments=tuple(map(widened, batch.arguments)), keywords=keywords, mask=mask)
        return with_main(replace(told, decoder_mask=widened(batch.decoder_mask)), put)

    def put_on(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Token ids int64 `[samples, positions]` with the words put in, as wide as before; `valid` bool of that shape."""
        return main_tensor(self.into(Batch((x,), {}, len(x), valid if valid is None or valid.shape == x.shape else None), None))

    def sources(self, x: Tensor, counted: Array, wide: int) -> Array:
        """Which place of the text each place of the new one comes from, -1 for the words: int64 `[samples, wide]`."""
        random = np.random.default_rng(0)
        own = [ids[places] for ids, places in zip(x, counted, strict=True) if places.any()]
        first, last = (len(x) > 1 and len({int(ids[at]) for ids in own}) == 1 for at in (0, -1))
        rows = [self.row(places, wide, (first, last), random) for places in counted]
        return np.stack(rows) if rows else np.zeros((0, wide), np.int64)

    def row(self, counted: Array, wide: int, marked: tuple[bool, bool], random: np.random.Generator) -> Array:
        """The same of one text, int64 `[wide]`; as it is where it has no place of its own. `counted` bool `[positions]`: its own
        places; `marked`: whether the first and the last of them are the tokenizer's.
        """
        places, length, new = np.flatnonzero(counted), len(counted), len(self.ids)
        whole = np.arange(length)
        if not len(places):
            return np.concatenate([whole, np.full(wide - length, length - 1)])
        inner = inner_places(counted, 1)
        ends = {IN_FRONT: int(places[0]) + marked[0], AT_END: int(places[-1]) + 1 - marked[1]}
        at = ends[self.kind] if self.kind in ends else int(random.choice(inner))
        put = np.concatenate([whole[:at], np.full(new, -1), whole[at:]])
        surplus = len(put) - wide
        # Padding behind, padding in front, then a text's own tokens from the last but one backwards; at last the words.
        order = [*whole[places[-1] + 1 :][::-1], *whole[: places[0]], *[p for p in places[::-1][1:] if p >= at]]
        order += [*(p for p in places[::-1][1:] if p not in order), places[-1]]
        gone = np.isin(put, order[:surplus])
        put = put[~gone]
        return put[:wide]


def neighbours(index: Array) -> Array:
    """The sources, int64 `[samples, positions]`, of words that of the token beside them: what marks a text's own place marks
    theirs.
    """
    near = index.copy()
    for row in near:
        words = np.flatnonzero(row < 0)
        if len(words):
            behind, before = words[-1] + 1, words[0] - 1
            row[words] = row[behind] if behind < len(row) else row[max(before, 0)]
    return near.clip(min=0)


def tensors(batch: Batch) -> list[Tensor]:
    """What a batch holds, `[samples, ...]` each."""
    return [value for value in (*batch.arguments, *batch.keywords.values()) if isinstance(value, Tensor)]


def square(value: Tensor, x: Tensor) -> bool:
    """Whether `value` holds a number for each pair of the places of `x` `[samples, positions]`, as attention masks of four axes
    do.
    """
    return value.ndim > 2 and value.shape[-2:] == (x.shape[1], x.shape[1])
