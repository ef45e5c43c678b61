"""Triggers from outside, as an inversion hands them over: they say where to look, the suspects say what is there.

Any network is turned by an input that was optimised for it, so that a given trigger is never put on clean samples as it is. Of a
patch its place is taken and what the suspects hold there, of an offset how much of it the suspects have, of words those that the
suspects hold oftener than clean texts do. Clean groups get the same place, offset or words, and are the control.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from naa_fast.detect.axes import channels_first
from naa_fast.detect.proof import Proof, flaw
from naa_fast.detect.trigger import Placed, Tokens, Trigger
from naa_fast.errors import UsageError
from naa_fast.proof import images
from naa_fast.proof.chances import Sought
from naa_fast.proof.images import LOUDEST_GAIN, SIZES, CleanImages
from naa_fast.proof.matched_filter import FEWEST
from naa_fast.records import Array

AS_GIVEN = "where the given trigger lies"
"""The budget of what is read off at a given place: the clean groups' candidates there compete with it alone."""
COVERS = 0.5
"""Share of its strongest place that a soft mask has where the trigger is looked for."""


def require_triggers(given: Sequence[Proof], looked_for: bool) -> None:
    """Raise UsageError unless all can be triggers of some model and will be `looked_for`, before anything is measured."""
    if given and not looked_for:
        raise UsageError(
            "triggers that nothing would look for",
            "they are looked for among ranked suspects, and proved on the clean samples themselves",
            "give the clean set in place of a reference, and leave ranking and proof on; or leave the triggers out",
        )
    for proof in given:
        wrong = flaw(proof) if isinstance(proof, Proof) else f"a {type(proof).__name__} in place of a proof"
        if wrong:
            raise UsageError(f"among the triggers is {wrong}", "expected the proofs of an audit: audit.proof")


def misfit(proof: Proof, classes: int, shape: Sequence[int] | None) -> str:
    """Why a given trigger cannot be looked for in a model of so many classes (0: unknown) and inputs of this shape (None: they
    are texts), in words; empty where it can.
    """
    what = f"the given {proof.kind.partition(',')[0]} to class {proof.target}"
    if isinstance(proof.target, int) and 0 < classes <= proof.target:
        return f"{what} does not fit: the model has {classes} classes, 0 to {classes - 1}"
    if isinstance(proof.trigger, Tokens):
        return "" if shape is None else f"{what} does not fit: it is of words, and the inputs are none"
    made = list(channels_first(proof.trigger.pattern).shape)
    if shape is None:
        return f"{what} does not fit: it is made for inputs of shape {made}, and the inputs are texts"
    return (
        ""
        if made == list(shape)
        else f"{what} does not fit: it is made for inputs of shape {made}, those here have {list(shape)}"
    )


def triggers_for(given: Sequence[Proof], target: int | str) -> list[Trigger]:
    """The given triggers that turn to a target."""
    return [proof.trigger for proof in given if proof.target == target]


def words_for(given: Sequence[Proof], target: int | str) -> list[int]:
    """The token ids of the given triggers that turn to a target, each once."""
    phrases = [trigger.ids for trigger in triggers_for(given, target) if isinstance(trigger, Tokens)]
    return list(dict.fromkeys(token for ids in phrases for token in ids))


def given_first(given: Sequence[Proof], likely: Sequence[int], called: Sequence[int]) -> list[int]:
    """The targets to search: those of given triggers that FEWEST of the suspects are `called`, then the `likely` ones."""
    first = [proof.target for proof in given if isinstance(proof.target, int) and list(called).count(proof.target) >= FEWEST]
    return list(dict.fromkeys([*first, *likely]))


def read_at(
    triggers: Sequence[Trigger], sought: Sought, clean: CleanImages
) -> Iterator[tuple[images.Patch | images.Offset, int]]:
    """For each trigger that fits the inputs what the first SIZES rows of a group have of it, as far as there are so many."""
    fitting = [
        trigger
        for trigger in triggers
        if not isinstance(trigger, Tokens) and channels_first(trigger.pattern).shape == clean.mean.shape
    ]
    for size in sorted({min(size, len(sought.group)) for size in SIZES}) if fitting else ():
        if size < FEWEST:
            continue
        rows, read_off = np.stack([row for _, row in sought.group[:size]]), tuple(range(size))
        for trigger in fitting:
            pattern = channels_first(trigger.pattern)
            if isinstance(trigger, Placed):
                mask = channels_first(trigger.mask)
                inside = (mask >= COVERS * max(float(mask.max()), 1e-9)).astype(np.float32)
                yield images.Patch("patch", AS_GIVEN, np.median(rows, 0).astype(np.float32), inside, read_off), size
            else:
                offset = (gain_of(rows, pattern, clean, sought.usual) * pattern).astype(np.float32)
                yield images.Offset("offset, pixels", "as given", offset, clean.low, clean.high, read_off), size


def gain_of(rows: Array, pattern: Array, clean: CleanImages, usual: Array | None) -> float:
    """How often an offset is in what the rows have beyond clean inputs: the projection on it, 0 to LOUDEST_GAIN. `rows` float32
    `[samples, ...]`, `pattern` and `usual` `[...]`.
    """
    difference = clean.without(rows.mean(0) - clean.mean, usual)
    length = float((pattern.astype(np.float64) ** 2).sum())
    return float(np.clip((difference * pattern).sum() / length, 0, LOUDEST_GAIN)) if length > 0 else 0.0


def untold(given: Sequence[Proof], proofs: Sequence[Proof | str], called: Sequence[int] | None) -> Iterator[str]:
    """Of each given trigger whose target has no proof, that it has none. `called`: the classes of the suspects that were looked
    at, None of texts.
    """
    proved = {proof.target for proof in proofs if isinstance(proof, Proof) and proof.stands}
    for proof in given:
        if proof.target in proved:
            continue
        what = f"the given {proof.kind.partition(',')[0]} to class {proof.target}"
        count = None if called is None else list(called).count(int(proof.target)) if isinstance(proof.target, int) else 0
        if count is not None and count < FEWEST:
            yield f"{what}: {count} of the highest-ranked suspects are called that, and it is looked for in {FEWEST} at least"
        else:
            yield f"{what}: the suspects that are called that were not seen to hold it; the model may have it all the same"
