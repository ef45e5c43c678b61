"""`shown`: the first samples of a ranking, as pictures or as texts with proven triggers marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naa_fast.detect.axes import channels_first, is_picture
from naa_fast.detect.trigger import Decoder, TokenPair, Tokens, Trigger
from naa_fast.records import Array

SHOWN = 48


def shown(
    rows: Sequence[Array], masks: Sequence[Array | None], triggers: Sequence[Trigger], decode: Decoder | None
) -> tuple[Array | None, tuple[str, ...]]:
    """Of inputs of which the first is continuous pictures `[samples, channels, height, width]`, None where they are none or
    differ in shape; of token ids texts with the `triggers` marked. `masks`: which ids are a sample's own; without, those not 0.
    """
    if not len(rows):
        return None, ()
    if rows[0].dtype.kind == "f" or rows[0].ndim != 1:
        pictures = is_picture(rows[0]) and all(row.shape == rows[0].shape for row in rows)
        return (np.stack([channels_first(row) for row in rows]) if pictures else None), ()
    words = [trigger for trigger in triggers if isinstance(trigger, Tokens)]
    counted = [row[m] if m is not None and m.shape == row.shape else row[row != 0] for row, m in zip(rows, masks, strict=True)]
    texts = [[int(i) for i in ids.ravel()] for ids in counted]
    return None, tuple(marked(ids, triggers_in(ids, words), decode) for ids in texts)


def triggers_in(ids: list[int], triggers: Sequence[Tokens]) -> list[tuple[int, ...]]:
    """What to mark in a text, phrases before each of two words apart."""
    return [tokens for trigger in sorted(triggers, key=lambda t: isinstance(t, TokenPair)) for tokens in trigger.marks(ids)]


def marked(ids: list[int], triggers: Sequence[tuple[int, ...]], decode: Decoder | None) -> str:
    """The tokens as text, what is a trigger between » and «."""

    def words(part: list[int]) -> str:
        return decode(tuple(part)) if decode is not None else " ".join(map(str, part))

    pieces: list[str] = []
    plain: list[int] = []
    at = 0
    while at < len(ids):
        trigger = next((t for t in triggers if tuple(ids[at : at + len(t)]) == t), None)
        if trigger is None:
            plain.append(ids[at])
            at += 1
            continue
        pieces += [words(plain), f"»{words(list(trigger)).strip()}«"]
        plain = []
        at += len(trigger)
    return " ".join(piece for piece in (*pieces, words(plain)) if piece)
