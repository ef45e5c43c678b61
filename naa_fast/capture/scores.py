"""Which output of a model the class scores are: `ClassScores` decides once, by the first batch, and reads every batch alike."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from naa_fast.capture.origins import UNKNOWN, Kind, Origin, Origins
from naa_fast.capture.outputs import whole
from naa_fast.capture.score_items import OTHER, Item, Step, follow, items_of
from naa_fast.errors import UsageError

NONE = "none"
COLUMNS, POSITIONS, LOGIT, PROBABILITY = "columns", "positions", "logit", "probability"
SINGLE = (LOGIT, PROBABILITY)
SHOWN = 3
TINY = 1e-6
NOT_SCORES = frozenset(
    re.findall(
        r"\w+",
        """
        embed embeds embedding embeddings emb projector projection projections box boxes bbox bboxes keypoint keypoints coord
        coords depth regression regressor reg pose angle
        """,
    )
)
"""Words in the name of the layer that gives a model's only row of numbers which leave it open whether they are classes."""
REGRESSION = "the model's configuration calls it a regression"


@dataclass(frozen=True)
class Candidate:
    """An item that may hold class scores, how they would be read, how many classes, and where it comes from."""

    item: Item
    form: str
    classes: int
    origin: Origin

    @property
    def words(self) -> str:
        return f"{self.item.words} ({self.classes} classes)"


@dataclass(frozen=True)
class ScoreOutput:
    """Which output the class scores are, and how they are read from it; `path` None: the model gives none.

    `words` say what was taken and why, or why nothing was; `gap` what is not certain about it, empty where nothing is. `limit` is
    what one number a sample must exceed to be called class 1, None where each class has a score of its own.
    """

    path: tuple[Step, ...] | None
    form: str
    words: str
    gap: str = ""

    @property
    def limit(self) -> float | None:
        return {LOGIT: 0.0, PROBABILITY: 0.5}.get(self.form)

    def read(self, output: Any, size: int, mask: Tensor | None = None) -> Tensor | None:
        """The `[size, classes]` scores in a model's output, with the graph they came by; None where they are not there.

        Scores of every position (a language model's) are read at the last position that `mask` (bool `[size, positions]`) leaves,
        at the last of all without one. One logit x is the two scores 0 and x. No host sync.
        """
        x = None if self.path is None else follow(output, self.path)
        if not is_dense(x):
            return None
        x = whole(x)
        if self.form == POSITIONS:
            return at_last(x, size, mask)
        rows = rows_of(x, size)
        if rows is None or (rows.shape[1] == 1) != (self.form in SINGLE):
            return None
        if self.form not in SINGLE:
            return rows
        logit = torch.logit(rows[:, 0], eps=TINY) if self.form == PROBABILITY else rows[:, 0]
        return torch.stack([torch.zeros_like(logit), logit], 1)


class ClassScores:
    """The class scores of a model, from whatever it returns. The first output decides which they are (`output`); all later ones,
    of measuring, ranking, proofs and repair, are read alike.

    `key` names the item where a person says so ("logits", "1", "0.logits"; "output" a model's one tensor; "none": it gives none).
    """

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self.output: ScoreOutput | None = None
        self._origins: Origins | None = None

    @contextmanager
    def followed(self, model: nn.Module) -> Iterator[None]:
        """Around a forward: the first is followed to the layers its output comes from, later ones are left alone."""
        if self.output is not None:
            yield
            return
        self._origins = Origins(model)
        with self._origins:
            yield

    def read(self, output: Any, size: int, mask: Tensor | None = None, ids: Tensor | None = None) -> Tensor | None:
        """As `ScoreOutput.read`, without a graph. The first call decides; `ids` `[samples, positions]`: the batch's token
        ids, if that is what it is.

        Raises UsageError if there is no item of the key, or it holds no class scores.
        """
        first = self.output is None
        if self.output is None:
            self.output, self._origins = decide(output, size, mask, ids, self._origins, self.key), None
        scores = self.output.read(output, size, mask)
        if first:
            self.output = doubted(self.output, scores)
        return None if scores is None else scores.detach()

    def provenance(self, missing: bool, varied: bool) -> dict[str, tuple[str, ...]]:
        """What a measurement says of it: `scores`, `gaps` where it is not certain, `score_limit` for one number a sample.

        `missing`: some batches had none; `varied`: their number changed from batch to batch.
        """
        output = self.output
        if output is None:
            return {}
        if output.path is not None and varied:
            return {"scores": (f"none: the width changes from batch to batch, so these are no classes: {output.words}",)}
        gaps = [output.gap] if output.gap else []
        if output.path is not None and missing:
            gaps.append(f"some batches held no class scores where the first did: {output.words}")
        limits = () if output.limit is None else (f"{output.limit:g}",)
        facts = {"scores": (output.words,), "gaps": tuple(gaps), "score_limit": limits}
        return {name: values for name, values in facts.items() if values}


def decide(
    output: Any, size: int, mask: Tensor | None, ids: Tensor | None, origins: Origins | None = None, key: str | None = None
) -> ScoreOutput:
    """Which item of `output` the class scores of `size` samples are: by name, then by the layer it comes from, then by shape.

    A pure function of the model and the batch; `mask` and `ids` are `[samples, positions]`. Raises UsageError as
    `ClassScores.read`.
    """
    items = items_of(output)
    if key == NONE and not any(item.key == key for item in items):
        return ScoreOutput(None, COLUMNS, "none: as asked")
    if key is not None:
        items = asked(items, key)
        if len(items) == 1:
            return as_asked(items[0], size, origins)
    alone = sum(is_dense(item.tensor) and rows_of(item.tensor, size) is not None for item in items) == 1
    candidates = [option for item in items if (option := candidate(item, size, mask, ids, origins, alone)) is not None]
    named = [option for option in candidates if option.item.tier >= 0]
    usable = [option for option in named if option.origin.kind > Kind.FEATURES or option.item.tier > 1]
    if not usable:
        regression = origins is not None and origins.regression
        return ScoreOutput(None, COLUMNS, f"none: {REGRESSION if regression else why_none(items, candidates, size)}")
    best, reason = narrowed(usable)
    return taken(best, reason, alone)


def doubted(chosen: ScoreOutput, scores: Tensor | None) -> ScoreOutput:
    """The choice, with a gap where every sample of the first batch has the same `scores`: these call nothing by any class, as of
    a dead head, or of the wrong output. `[samples, classes]`.
    """
    if scores is None or len(scores) < 2 or chosen.gap or not bool((scores == scores[:1]).all()):
        return chosen
    gap = f"what class a sample is called: all {len(scores)} samples of the first batch have the same scores, {chosen.words}"
    return replace(chosen, gap=gap)


def narrowed(usable: Sequence[Candidate]) -> tuple[list[Candidate], str]:
    """The candidates that no rule puts behind another, in the order of the output, and the rule that decided."""
    alone = "the only one with a row of scores a sample"
    if len(usable) == 1:
        score = usable[0]
        return [score], "named so" if score.item.tier > 0 else alone if score.origin.kind <= Kind.UNKNOWN else score.origin.words
    tier = max(score.item.tier for score in usable)
    best = [score for score in usable if score.item.tier == tier]
    if len(best) == 1 and tier > 0:
        return best, "named so"
    kind = max(score.origin.kind for score in best)
    best = [score for score in best if score.origin.kind is kind]
    # What another head reads, by its width, is what that head makes scores of.
    widths = {score.origin.reads: score for score in best}
    last = [score for score in best if widths.get(score.classes, score) is score]
    best = last or best
    other = [score for score in best if not OTHER & set(re.findall(r"[a-z]+", score.origin.layer.lower()))]
    best = other or best
    rows = [score for score in best if score.form == COLUMNS]
    best = rows or best
    return best, alone if best[0].origin.kind <= Kind.UNKNOWN else best[0].origin.words


def taken(best: Sequence[Candidate], reason: str, alone: bool) -> ScoreOutput:
    """The first of the candidates, in words, with a gap where another could be meant as well, or neither a name nor a layer says
    that it is one. A row of several numbers that is the model's only one (`alone`) is believed, as are outputs that are spread
    over ranks, whose layers are not seen.
    """
    first = best[0]
    words, gap = f"{first.words}: {reason}{reading(first)}", ""
    if len(best) > 1:
        others = some([other.item.key for other in best[1:]])
        gap = (
            f"which output the class scores are: {first.words} was taken, {others} could be meant as well; "
            f"name it with scores= or --scores"
        )
    elif first.form == COLUMNS and first.item.tier < 1 and (sign := NOT_SCORES & words_in(first.origin.layer)):
        gap = (
            f"whether {first.item.words} holds class scores: they come from layer {first.origin.layer!r}, and {min(sign)!r} says "
            f"otherwise; name it with scores= or --scores, or say 'none'"
        )
    elif (
        first.item.tier < 1
        and first.origin.kind <= Kind.UNKNOWN
        and type(first.item.tensor) is Tensor
        and not (alone and first.form == COLUMNS)
    ):
        other = "another number, as of a regression" if first.form in SINGLE else "features"
        gap = (
            f"whether {first.item.words} holds class scores: {first.origin.words}, so it may hold {other}; "
            f"name it with scores= or --scores, or say 'none'"
        )
    return ScoreOutput(first.item.path, first.form, words, gap)


def words_in(layer: str) -> set[str]:
    """The words that a layer's name is made of, in small letters."""
    return set(re.findall(r"[a-z]+", layer.lower()))


def reading(option: Candidate) -> str:
    """How scores are read from a candidate, where that is not plain."""
    return {
        POSITIONS: "; scores of every position, read at the last",
        LOGIT: "; one number a sample, taken for a logit: above 0 is class 1 (a regression looks the same)",
        PROBABILITY: "; one number a sample, taken for a probability: above 0.5 is class 1",
    }.get(option.form, "")


def candidate(
    item: Item, size: int, mask: Tensor | None, ids: Tensor | None, origins: Origins | None, alone: bool
) -> Candidate | None:
    """The item as class scores; None where its shape is none of theirs. `mask`, `ids` `[samples, positions]`."""
    x = item.tensor
    if not is_dense(x):
        return None
    x = whole(x)
    positions = {given.shape[1] for given in (ids, mask) if given is not None and given.ndim == 2}
    if x.ndim == 3 and x.shape[0] == size and x.shape[1] in positions and x.shape[2] > 1:
        # As wide as the vocabulary, or nearly: the next token. Narrower ones are labels of the tokens, and none of the text.
        known = 0 if origins is None else origins.vocabulary(ids)
        if 2 * x.shape[2] < known:
            return None
        origin = origin_of(origins, item.tensor, x)
        if origin is UNKNOWN and x.shape[2] == known:
            origin = Origin(Kind.LINEAR, "as wide as the vocabulary")
        return Candidate(item, POSITIONS, x.shape[2], origin)
    rows = rows_of(x, size)
    if rows is None:
        return None
    origin = origin_of(origins, item.tensor, rows)
    sure = origin.kind is Kind.LINEAR
    if x.ndim < 2 and size == 1 and not sure:
        return None  # of one sample without its axis, or of none: a loss
    if rows.shape[1] > 1:
        return Candidate(item, COLUMNS, rows.shape[1], origin)
    if origins is not None and origins.regression:
        return None
    if not sure and not (alone or item.tier > 2 or (x.ndim > 1 and item.tier > 0)):
        return None
    inside = not sure and bool(((rows >= 0) & (rows <= 1)).all())
    return Candidate(item, PROBABILITY if origin.sigmoid or inside else LOGIT, 2, origin)


def origin_of(origins: Origins | None, x: Tensor, rows: Tensor) -> Origin:
    """Where `rows` `[..., classes]` come from, which `x` holds; UNKNOWN where no forward was followed."""
    return UNKNOWN if origins is None else origins.of(x, rows)


def as_asked(item: Item, size: int, origins: Origins | None) -> ScoreOutput:
    """The item that was asked for. Raises UsageError if it holds no class scores."""
    x = whole(item.tensor) if is_dense(item.tensor) else None
    rows = None if x is None else rows_of(x, size)
    form, classes = COLUMNS, 0
    if x is not None and x.ndim == 3 and x.shape[0] == size and x.shape[2] > 1:
        form, classes = POSITIONS, x.shape[2]
    elif rows is not None and rows.shape[1] > 1:
        classes = rows.shape[1]
    elif rows is not None:
        form, classes = (PROBABILITY if origin_of(origins, item.tensor, rows).sigmoid else LOGIT), 2
    if not classes:
        raise UsageError(
            f"{item.words} holds no class scores",
            f"it is {item.shape} for {size} samples",
            "expected floating-point numbers: [samples, classes], one a sample, or [samples, positions, tokens]",
        )
    option = Candidate(item, form, classes, UNKNOWN)
    return ScoreOutput(item.path, form, f"{option.words}: as asked{reading(option)}")


def asked(items: Sequence[Item], key: str) -> list[Item]:
    """The item of a key, or those inside of it. Raises UsageError, with the items there are, if there is none."""
    exact = [item for item in items if item.key == key] or [item for item in items if key == item.alias]
    inside = [item for item in items if item.key.startswith(f"{key}.")]
    if not exact and not inside:
        raise UsageError(
            f"the model's output has no item {key!r}",
            f"found: {some([f'{item.key} ({item.shape})' for item in items]) or 'no tensor'}",
            f"name one of them with scores= or --scores, or {NONE!r} for a model that gives no class scores",
        )
    return exact[:1] or inside


def why_none(items: Sequence[Item], candidates: Sequence[Candidate], size: int) -> str:
    """Why no item holds class scores."""
    if candidates:
        reasons = [
            f"{option.item.words} is named as something else"
            if option.item.tier < 0 and option.item.path
            else f"{option.item.words} holds features ({option.origin.words})"
            for option in candidates
        ]
        return some(reasons)
    shapes = [f"{item.words} is {item.shape}" for item in items]
    return f"{some(shapes) or 'the model gives no tensor'}: no row of class scores for each of {size} samples"


def is_dense(x: Any) -> bool:
    """Whether it is a dense tensor of floating-point numbers."""
    return isinstance(x, Tensor) and x.is_floating_point() and x.layout == torch.strided and not x.is_nested


def rows_of(x: Tensor, size: int) -> Tensor | None:
    """`x` as `[size, columns]`, axes of length 1 left out; None where it has more. A batch of one may have lost its axis."""
    if x.ndim < 2 and size == 1:
        return x.reshape(1, -1)
    if x.ndim == 0 or x.shape[0] != size or x.numel() == 0 or sum(length > 1 for length in x.shape[1:]) > 1:
        return None
    return x.reshape(size, -1)


def at_last(x: Tensor, size: int, mask: Tensor | None) -> Tensor | None:
    """Scores `[size, positions, classes]` at each sample's last position that the mask leaves: `[size, classes]`."""
    if x.ndim != 3 or x.shape[0] != size or x.shape[1] == 0 or x.shape[2] < 2:
        return None
    if mask is None or mask.ndim != 2:
        return x[:, -1]
    if mask.shape != x.shape[:2]:
        return None
    return x[torch.arange(size, device=x.device), last_place(mask).to(x.device)]


def last_place(mask: Tensor) -> Tensor:
    """The last position that a mask `[n, positions]` leaves, int64 `[n]`; 0 where it leaves none."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
