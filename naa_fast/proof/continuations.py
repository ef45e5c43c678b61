"""`continued`: a language model whose classes are what it answers, not its next token.

Inside of it the model gives, for every prompt, scores of behaviours: that its greedy continuation begins with certain tokens,
that it refuses, or neither. What ranks, proves and reports classes then speaks of answers: "with this phrase in the prompt the
model answers X on 97 % of clean prompts, against 2 %".
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.capture.positions import positions_of
from naa_fast.capture.scores import last_place
from naa_fast.capture.selection import unwrapped
from naa_fast.detect.enrichment import hypergeometric_tail
from naa_fast.detect.trigger import Decoder
from naa_fast.errors import InputError, UsageError
from naa_fast.inputs.batches import Source
from naa_fast.inputs.text import TextSource, decoder
from naa_fast.records import Array
from naa_fast.scan.last_logits import INDEXED
from naa_fast.scan.placement import Placement

CACHES = ("cache", "past_key_values")
"""What transformers calls the keys and values in a forward and in its output: the second until 5.23."""
LOOKED_AT = 2048
"""Prompts of each set whose continuations say which behaviours there are."""
RISEN, USUAL = 4, 8
"""How many behaviours are those that have risen from clean to suspect prompts, and how many the commonest of clean ones: they are
what a proof is held against."""
FEWEST, CHANCE = 4, 0.01
"""Suspect prompts that must be continued alike, and the chance of so many over all that were tried (Fisher, Bonferroni)."""
AS_MANY = 0.95
"""Share of the prompts with the beginning of a continuation that must share more of it for that to be the behaviour."""
SURE = 50.0
"""What the score of the behaviour that was seen is raised by: beside it log probabilities of the first token tell how near others
were."""
REFUSALS = ("i'm sorry", "i am sorry", "sorry, but", "i cannot", "i can't", "i can not", "i won't", "as an ai", "unable to")
OTHER = "something else"


@dataclass(frozen=True)
class Behaviour:
    """Answers that begin with the tokens `ids`; without any, answers that refuse."""

    name: str
    ids: tuple[int, ...] = ()


class Greedy:
    """The likeliest `tokens` after each prompt, one by one, with the model's cache of keys and values.

    Only the prompt's forward goes through the model itself, where hooks see it; what follows runs in a copy of its modules that
    shares its weights, as neurons of an answer are no part of the prompt's.
    """

    def __init__(self, model: nn.Module, tokens: int, texts: bool = True) -> None:
        """`texts`: prompts are read from texts, not given as ids. Raises UsageError for a model that is no causal language model
        of transformers, or has no positions for so many tokens.
        """
        self.model, self.tokens, self.texts = model, tokens, texts
        self.forward: Callable[..., Any] = model.forward
        known = inspect.signature(self.forward).parameters
        self.cache = next((name for name in CACHES if name in known), "")
        if not self.cache or not {"input_ids", "use_cache"} <= known.keys():
            raise UsageError(
                f"{type(model).__name__} cannot be continued",
                f"expected a causal language model: a forward with input_ids, use_cache and {' or '.join(CACHES)}",
                "leave --continue out",
            )
        self.numbered, self.narrow = "position_ids" in known, INDEXED in known
        shared = {id(part): part for part in (*model.parameters(), *model.buffers())}
        self.twin = copy.deepcopy(model, shared).eval()
        self.room = positions_of(model)
        if self.room is not None and tokens >= self.room:
            raise UsageError(
                f"{tokens} tokens to continue by leave no room for a prompt",
                f"the model has positions for {self.room}",
                "ask for fewer: --continue N",
            )
        end = getattr(getattr(model, "generation_config", None) or getattr(model, "config", None), "eos_token_id", None)
        self.ends = [end] if isinstance(end, int) else list(end or ())

    @torch.no_grad()
    def __call__(self, **given: Any) -> tuple[Tensor, Tensor]:
        """The continuations int64 `[samples, tokens]`, and the next token's log probabilities float32 `[samples, vocabulary]`.

        Raises InputError for prompts that leave too few of the model's positions.
        """
        ids = given["input_ids"]
        mask = given.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        if self.room is not None and ids.shape[1] + self.tokens > self.room:
            how = "texts: --max-length" if self.texts else "ids of a prompt to"
            raise InputError(
                f"prompts of {ids.shape[1]} tokens leave no room for {self.tokens} more",
                f"the model has positions for {self.room}",
                f"cut the {how} {self.room - self.tokens}, or --continue fewer",
            )
        last = last_place(mask)
        more: dict[str, Any] = {**given, "attention_mask": mask, "use_cache": True}
        if self.numbered:
            more["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        places = last
        if self.narrow:
            kept, places = torch.unique(last, return_inverse=True)
            more[INDEXED] = kept
        output = self.forward(**more)
        logs = output.logits[torch.arange(len(ids), device=ids.device), places].float().log_softmax(1)
        tokens, cache = [logs.argmax(1)], output[self.cache]
        ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for _ in range(self.tokens - 1):
            for end in self.ends:
                ended |= tokens[-1] == end
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            step: dict[str, Any] = {"attention_mask": mask, "use_cache": True, self.cache: cache}
            if self.numbered:
                step["position_ids"] = mask.long().sum(1, keepdim=True) - 1
            output = self.twin(input_ids=tokens[-1][:, None], **step)
            cache, likeliest = output[self.cache], output.logits[:, -1].argmax(1)
            tokens.append(torch.where(ended, tokens[-1], likeliest))
        return torch.stack(tokens, 1), logs


@contextmanager
def continued(
    model: nn.Module, clean: Source, suspect: Source, tokens: int, device: str | torch.device = "auto"
) -> Iterator[dict[int, str]]:
    """Inside of it the model's classes are what it answers; gives their names.

    Cost: the first LOOKED_AT prompts of each set are continued once to see which behaviours there are, and inside every forward
    runs `tokens` - 1 steps more. A repair is of no use there: it would see the prompt alone. Sets must be readable twice.

    Raises:
        UsageError: the model cannot be continued.
        InputError: prompts that leave too few of its positions.
    """
    model = unwrapped(model)
    texts = all(isinstance(source, TextSource) for source in (clean, suspect))
    greedy, decode = Greedy(model, tokens, texts), decoder(suspect) or decoder(clean)
    place, training = Placement.of(model, device), model.training
    model.eval()
    behaviours = chosen(answered(greedy, clean, place), answered(greedy, suspect, place), decode)
    read = Read(greedy, behaviours, decode)
    had = "forward" in vars(model)
    try:
        model.forward = read
        yield dict(enumerate([OTHER, *(behaviour.name for behaviour in behaviours)]))
    finally:
        if had:
            model.forward = greedy.forward
        else:
            del model.forward
        model.train(training)


def answered(greedy: Greedy, source: Source, place: Placement) -> Array:
    """The continuations of a set's first prompts, int64 `[samples, tokens]`."""
    answers: list[Array] = []
    for batch in source.batches():
        if batch.size:
            keywords = dict(batch.keywords)
            if batch.arguments:
                keywords["input_ids"] = batch.arguments[0]
            answers.append(greedy(**place.moved(keywords))[0].cpu().numpy())
        if sum(map(len, answers)) >= LOOKED_AT:
            break
    return np.concatenate(answers) if answers else np.zeros((0, greedy.tokens), np.int64)


def chosen(clean: Array, suspect: Array, decode: Decoder | None) -> list[Behaviour]:
    """The behaviours that have risen, the longest beginning that as many share of each, those that are usual, and refusing.

    More specific ones come before what they begin with. `clean`, `suspect`: continuations, int64 `[samples, tokens]`.
    """
    beginnings: list[tuple[int, ...]] = []
    high, low = prefixes(suspect), prefixes(clean)
    able = [ids for ids, count in high.items() if count >= FEWEST]

    def by_chance(ids: tuple[int, ...]) -> float:
        return len(able) * hypergeometric_tail(high[ids], len(suspect), low[ids], len(clean))

    for ids in sorted((ids for ids in able if by_chance(ids) < CHANCE), key=lambda ids: (by_chance(ids), len(ids))):
        longest = max((more for more in able if more[: len(ids)] == ids and high[more] >= AS_MANY * high[ids]), key=len)
        if not any(longest[: len(known)] == known or known[: len(longest)] == longest for known in beginnings):
            beginnings.append(longest)
        if len(beginnings) == RISEN:
            break
    first = Counter({ids: count for ids, count in low.items() if len(ids) == 1})
    beginnings += [ids for ids, _ in first.most_common(USUAL) if ids not in beginnings]
    words = [decode(ids) if decode is not None else " ".join(map(str, ids)) for ids in beginnings]
    named = [Behaviour(f"answers '{text.strip()}…'", ids) for ids, text in zip(beginnings, words, strict=True)]
    return ([] if decode is None else [Behaviour("refuses")]) + sorted(named, key=lambda behaviour: -len(behaviour.ids))


def prefixes(answers: Array) -> Counter[tuple[int, ...]]:
    """How many continuations begin with each beginning of one. `answers` int64 `[samples, tokens]`."""
    rows = [tuple(row) for row in answers.tolist()]
    return Counter(row[:length] for row in rows for length in range(1, len(row) + 1))


class Read:
    """The forward of a continued model: scores of the behaviours `[samples, 1 + behaviours]`, the first of none of them."""

    def __init__(self, greedy: Greedy, behaviours: Sequence[Behaviour], decode: Decoder | None) -> None:
        self.greedy, self.behaviours, self.decode = greedy, behaviours, decode

    def __call__(self, input_ids: Tensor, **given: Any) -> Tensor:
        answers, logs = self.greedy(input_ids=input_ids, **given)
        first = [
            logs[:, behaviour.ids[0]] if behaviour.ids else torch.full_like(logs[:, 0], -SURE) for behaviour in self.behaviours
        ]
        known = torch.stack(first, 1) if first else logs[:, :0]
        rest = (1 - known.exp().sum(1)).clamp(min=1e-6).log()
        scores = torch.cat([rest[:, None], known], 1)
        scores[torch.arange(len(answers), device=scores.device), self.shown(answers)] += SURE
        return scores

    def shown(self, answers: Tensor) -> Tensor:
        """Which behaviour each answer is, int64 `[samples]`: 0 for none."""
        classes = torch.zeros(len(answers), dtype=torch.int64, device=answers.device)
        for number, behaviour in reversed(list(enumerate(self.behaviours, 1))):
            if behaviour.ids:
                same = (answers[:, : len(behaviour.ids)] == torch.tensor(behaviour.ids, device=answers.device)).all(1)
            else:
                same = torch.tensor([self.refuses(row) for row in answers.tolist()], device=answers.device)
            classes[same] = number
        return classes

    def refuses(self, answer: list[int]) -> bool:
        assert self.decode is not None
        text = self.decode(tuple(answer)).lower().replace("’", "'")
        return any(words in text for words in REFUSALS)
