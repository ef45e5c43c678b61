"""`Trial`: what a change leaves of the trigger and of clean predictions, on samples that choose and on others that measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from naa_fast.detect.evidence import Ranking
from naa_fast.detect.proof import Proof
from naa_fast.detect.repair import Change
from naa_fast.inputs.batches import Batch
from naa_fast.proof.images import CleanImages, Offset, Patch
from naa_fast.proof.prove import CHOOSING, in_turns
from naa_fast.proof.tokens import Tokens
from naa_fast.proof.transplant import Bases, Candidate, Transplant, moved_by_rule, rule_of, turned
from naa_fast.rank.keep import Kept, main_tensor, taken, with_main
from naa_fast.records import Array
from naa_fast.repair.change import applied

CHOOSE, MEASURE = 300, 600
"""Clean samples that fix and choose a repair, and others that measure it."""
LIT = 200
LEAST = 10
"""Highest-ranked suspect samples that stand for the trigger: more than these, and half of them choose."""


class AsItIs:
    """No trigger."""

    kind = budget = "none"

    def put_on(self, x: Tensor, valid: Tensor | None) -> Tensor:
        return x


def candidate_of(proof: Proof, images: CleanImages | None) -> Candidate | None:
    """The trigger of a proof, to be put on samples."""
    if proof.tokens:
        return Tokens(proof.kind, proof.tokens)
    if proof.pattern is None:
        return None
    if proof.mask is not None:
        return Patch(proof.kind, "", proof.pattern, proof.mask)
    return None if images is None else Offset(proof.kind, "", proof.pattern, images.low, images.high)


def with_trigger(bases: Bases, candidate: Candidate) -> Bases:
    """The samples with the trigger on them, and what was predicted for each without it."""
    return Bases([(with_main(b, candidate.put_on(main_tensor(b), b.mask)), predicted) for b, predicted in bases.batches])


@dataclass(frozen=True)
class Part:
    """`clean` samples; `onto`, those of the proof's source class, or all; `turned`, these with the trigger on them (None without
    a proof); `shown`, suspects (None without).
    """

    clean: Bases
    onto: Bases
    turned: Bases | None
    shown: Bases | None


@dataclass(frozen=True)
class Left:
    """What is left of a trigger, 0 to 1: of what it turns of clean samples, and of the predictions of suspects."""

    turned: float | None
    shown: float | None

    @property
    def mean(self) -> float:
        """Over both, as far as they are known: a reconstruction is not quite the trigger, and suspects are not all of them with
        it."""
        return float(np.mean([share for share in (self.turned, self.shown) if share is not None]))

    @property
    def surest(self) -> float:
        """On clean samples, where each one with the trigger on it has it."""
        return self.mean if self.turned is None else self.turned


class Trial:
    """Parts that choose and measure, and the shares that are counted on them."""

    def __init__(self, transplant: Transplant, choose: Part, measure: Part, proof: Proof | None) -> None:
        self.transplant = transplant
        self.choose, self.measure = choose, measure
        self.proof = proof
        self.rule: dict[int, int] = {}
        if choose.turned is not None and proof is not None and not isinstance(proof.target, int):
            self.rule = rule_of(choose.turned.predicted, self.predictions(choose.turned))

    def predictions(self, bases: Bases, changes: Sequence[Change] = ()) -> Array:
        with applied(self.transplant.model, changes):
            return self.transplant.predictions(bases, AsItIs())

    def kept(self, bases: Bases, changes: Sequence[Change]) -> float:
        """Share of the predictions that stay."""
        return float((self.predictions(bases, changes) == bases.predicted).mean())

    def turns(self, bases: Bases, changes: Sequence[Change]) -> tuple[float, int]:
        """Share of the samples with the trigger that it turns, and of how many."""
        assert self.proof is not None
        after = self.predictions(bases, changes)
        if isinstance(self.proof.target, int):
            return turned(bases.predicted, after, self.proof.target)
        return moved_by_rule(bases.predicted, after, self.rule)

    def left(self, part: Part, changes: Sequence[Change]) -> Left:
        return Left(
            None if part.turned is None else self.turns(part.turned, changes)[0],
            None if part.shown is None else self.kept(part.shown, changes),
        )


def trial_of(
    transplant: Transplant,
    drawn: Sequence[tuple[Batch, Array]],
    top: Sequence[Kept],
    ranking: Ranking,
    proof: Proof | None,
    images: CleanImages | None,
) -> Trial | None:
    """Samples for a repair: clean ones that had no part in choosing the proof measure. None if nothing shows the trigger."""
    bases = Bases(list(drawn))
    predicted = bases.predicted
    order = np.random.default_rng(1).permutation(np.flatnonzero(predicted >= 0))
    chose = np.isin(order, in_turns(predicted)[:CHOOSING])  # the proof
    order = np.concatenate([order[chose], order[~chose]])
    cut = min(CHOOSE, len(order) // 2)
    lit = suspects(top, ranking, proof, drawn[0][0])
    candidate = None if proof is None else candidate_of(proof, images)
    parts = []
    for number, rows in enumerate((order[:cut], order[cut : cut + MEASURE])):
        clean = bases.of(rows)
        shown = None if lit is None else lit.of(np.arange(number, len(lit.predicted), 2))
        onto = clean if proof is None or proof.source is None else clean.of(np.flatnonzero(clean.predicted == proof.source))
        put = None if candidate is None or not len(onto.predicted) else with_trigger(onto, candidate)
        parts.append(Part(clean, onto, put, shown))
    if not cut or any(part.turned is None and part.shown is None for part in parts):
        return None
    return Trial(transplant, parts[0], parts[1], proof if candidate is not None else None)


def suspects(top: Sequence[Kept], ranking: Ranking, proof: Proof | None, template: Batch) -> Bases | None:
    """The highest-ranked suspects whose inputs were kept, at most LIT, from the first to the last of those that carry a proven
    trigger, or else lie beyond what clean samples score; of one target, those predicted as it. None if there are too few.

    The most extreme ones alone say little about the others.
    """
    carriers = ranking.carriers if ranking.carriers is not None and ranking.carriers.any() else None
    rows = [kept for kept in top if kept.row is not None and kept.predicted >= 0]
    rows = [kept for kept in rows if carriers[kept.sample]] if carriers is not None else rows[: max(LEAST, ranking.beyond)]
    if proof is not None and isinstance(proof.target, int):
        rows = [kept for kept in rows if kept.predicted == proof.target]
    if len(rows) < LEAST:
        return None
    rows = [rows[i] for i in np.linspace(0, len(rows) - 1, min(LIT, len(rows))).round().astype(int)]
    return bases_of(rows, template)


def bases_of(rows: Sequence[Kept], template: Batch) -> Bases | None:
    """Kept samples in batches of one shape; None where a forward needs more of each sample than was kept."""
    found: list[tuple[Batch, Array]] = []
    for shape in dict.fromkeys(kept.row.shape for kept in rows if kept.row is not None):
        own = [kept for kept in rows if kept.row is not None and kept.row.shape == shape]
        like = taken(template, np.zeros(len(own), np.int64))
        main = main_tensor(like)
        masks = [kept.mask for kept in own if kept.mask is not None]
        mask = torch.stack(masks) if len(masks) == len(own) else None
        keywords = dict(like.keywords)
        for name, value in like.keywords.items():
            if name == "attention_mask" and mask is not None and isinstance(value, Tensor) and value.shape == mask.shape:
                keywords[name] = mask.to(value.dtype)
        held = [v for v in (*like.arguments, *keywords.values()) if isinstance(v, Tensor) and v.ndim and v is not main]
        if any(value is not keywords.get("attention_mask") for value in held):
            return None
        inputs = torch.stack([kept.row for kept in own if kept.row is not None])
        batch = with_main(Batch(like.arguments, keywords, len(own), mask), inputs.to(main.dtype))
        found.append((batch, np.array([kept.predicted for kept in own])))
    return Bases(found)
