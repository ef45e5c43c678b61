"""`examples_of`: a few clean samples without and with a trigger, for people to look at; `with_words`: of texts the words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from naa_fast.detect.axes import channels_first
from naa_fast.detect.proof import Example, Pieces, Proof
from naa_fast.detect.trigger import Decoder, Tokens
from naa_fast.inputs.batches import Batch
from naa_fast.proof.tokens import first_of, own_places
from naa_fast.proof.transplant import Candidate
from naa_fast.proof.trials import Trials, in_turns
from naa_fast.rank.retained import main_tensor
from naa_fast.records import Array

EXAMPLES = 6
LARGEST_SIDE = 256
"""Pixels a side that a picture for people needs at most; larger ones are averaged down, as a report may hold many."""
CONTEXT = 12
"""Tokens shown on either side of a trigger."""
LONGEST_CUT = 60
"""Tokens of a text that is shown where the trigger changed nothing."""


def examples_of(trials: Trials, candidate: Candidate, target: int | str) -> tuple[Example, ...]:
    """EXAMPLES of the measuring part, of predicted classes in turns, turned or not: what they are is fixed before the candidate
    is run. No forward: the part has been run already.
    """
    clean = trials.parts[1]
    before, after = clean.predicted, trials.after(candidate, 1)
    others = np.flatnonzero((before >= 0) & (before != target))
    chosen = others[in_turns(before[others])[:EXAMPLES]]
    examples: dict[int, Example] = {}
    at = 0
    for batch, _ in clean.batches:
        rows = chosen[(chosen >= at) & (chosen < at + batch.size)]
        if len(rows):
            both = batch, trials.transplant.placed(candidate, batch)
            for number in rows.tolist():
                plain, triggered = (shown(main_tensor(inputs)[number - at], valid_in(inputs, number - at)) for inputs in both)
                examples[number] = Example(int(before[number]), int(after[number]), plain, triggered)
        at += batch.size
    return tuple(examples[number] for number in chosen.tolist())


def valid_in(batch: Batch, row: int) -> Tensor | None:
    """A text's own places, bool `[positions]`; None of a picture."""
    x = main_tensor(batch)
    if x.is_floating_point():
        return None
    return own_places(x[row][None], None if batch.mask is None else batch.mask[row][None])[0]


def shown(x: Tensor, valid: Tensor | None) -> Array:
    """One input for a person to look at: a picture shrunk, a text without its padding. `x` `[channels, height, width]` or
    `[positions]`, `valid` bool `[positions]`; what comes is as large or smaller.
    """
    if valid is not None:
        return x[valid].cpu().numpy().astype(np.int64) if valid.shape == x.shape else x.cpu().numpy()
    values = channels_first(x.detach().cpu().float().numpy())
    step = -(-max(values.shape[-2:]) // LARGEST_SIDE) if values.ndim == 3 else 1
    if step == 1:
        return values
    high, wide = (side // step for side in values.shape[1:])
    cut = values[:, : high * step, : wide * step].reshape(len(values), high, step, wide, step)
    return np.ascontiguousarray(cut.mean((2, 4)), np.float32)


def with_words(proof: Proof, decode: Decoder | None) -> Proof:
    """The proof with its trigger and its examples' texts in words, these in token ids where there is no tokenizer."""
    if not isinstance(proof.trigger, Tokens):
        return proof
    trigger = proof.trigger if decode is None else proof.trigger.worded(decode)

    def worded(example: Example) -> Example:
        changed = changes_in(example, proof.tokens)
        before, after = (
            pieces(ids, places, decode) for ids, places in zip((example.before, example.after), changed, strict=True)
        )
        return replace(example, words_before=before, words_after=after)

    against = proof.against if decode is None or proof.against is None else proof.against.worded(decode)
    erasure = proof.erasure
    if decode is not None and erasure is not None and erasure.around is not None:
        erasure = replace(erasure, around=erasure.around.worded(decode))
    return replace(proof, trigger=trigger, examples=tuple(map(worded, proof.examples)), against=against, erasure=erasure)


def changes_in(example: Example, tokens: Sequence[int]) -> tuple[Array, Array]:
    """Which places of a text without and with the trigger it changed: bool `[tokens]` each. What was put in is in one alone."""
    before, after = example.before, example.after
    if before.shape == after.shape and (before != after).sum() <= len(tokens):
        return before != after, before != after
    first = first_of(after, tuple(tokens))
    put = np.zeros(len(after), bool)
    if first is not None:
        put[first : first + len(tokens)] = True
    return np.zeros(len(before), bool), put


def pieces(ids: Array, changed: Array, decode: Decoder | None) -> Pieces:
    """The text around what was changed, bool `[tokens]`, in pieces that were changed or not; an ellipsis for what is left out."""
    places = np.flatnonzero(changed)
    if not len(places):
        return ((words_of(ids[:LONGEST_CUT].tolist(), decode) + ("" if len(ids) <= LONGEST_CUT else " …"), False),)
    near = np.abs(np.arange(len(ids))[:, None] - places[None]).min(1) <= CONTEXT
    edges = np.flatnonzero(np.diff(changed.astype(np.int8) + 2 * near.astype(np.int8))) + 1
    cut = []
    for start, end in zip([0, *edges], [*edges, len(ids)], strict=True):
        words = words_of(ids[start:end].tolist(), decode) if near[start] else "…"
        cut.append((words, bool(changed[start])))
    return tuple(cut)


def words_of(ids: Sequence[int], decode: Decoder | None) -> str:
    return " ".join(map(str, ids)) if decode is None else decode(tuple(ids)).strip()
