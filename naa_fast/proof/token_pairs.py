"""Words of the highest-ranked texts: those they hold (`striking`), and pairs that meet there far oftener than in clean data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from naa_fast.detect.enrichment import hypergeometric_tail
from naa_fast.detect.proof import TOKEN_PAIR
from naa_fast.proof.tokens import CHANCE, FEWEST, MOST_TOKENS, SHARED, inner_places, own_places, rising
from naa_fast.rank.retained import Retained, main_tensor
from naa_fast.rank.scorer import RankingResult
from naa_fast.records import Array

MOST_PAIRS = 6
FIRST = (16, 64)
"""How many of the highest-ranked texts of a class are looked through for words of their own."""
Pair = tuple[int, ...]
"""Two words, or more, each anywhere in a text."""
RISEN = 128
"""Tokens whose pairs are counted: those that have risen most alone, as both of a pair do that a trigger brings along."""


@dataclass(frozen=True)
class WrittenPair:
    """Writes all of `ids` over a sample's own tokens, each at a random place of its own, by a fixed seed."""

    ids: Pair
    kind: str = TOKEN_PAIR

    @property
    def budget(self) -> str:
        return f"{len(self.ids)} tokens"

    def put_on(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Token ids int64 `[samples, positions]` with all written over a sample's own; `valid` bool of that shape."""
        written = x.clone()
        random = np.random.default_rng(0)
        trigger = torch.tensor(self.ids, dtype=x.dtype, device=x.device)
        for row, places in enumerate(own_places(x, valid).cpu().numpy()):
            inner = inner_places(places, len(self.ids))
            if len(inner) >= len(self.ids):
                written[row, torch.from_numpy(random.permutation(inner)[: len(self.ids)]).to(x.device)] = trigger
        return written


@dataclass(frozen=True)
class Occurrences:
    """Which of `samples` texts hold which tokens: `row`, `token` int64, each pair once, by row (of retained ones the
    highest-ranked first); `group` int64 `[samples]`, the class predicted for each.
    """

    row: Array
    token: Array
    group: Array

    @property
    def samples(self) -> int:
        return len(self.group)

    @classmethod
    def of(cls, parts: Iterable[tuple[Tensor, Tensor | None, Array]]) -> Occurrences:
        """`parts`: token ids `[samples, positions]`, their mask or None, and predicted classes."""
        rows, tokens, groups = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        at = 0
        for x, mask, predicted in parts:
            counted = (own_places(x, mask) & (x >= 0)).cpu()
            rows.append(at + counted.nonzero()[:, 0].numpy())
            tokens.append(x.cpu()[counted].numpy().astype(np.int64))
            groups.append(predicted)
            at += len(x)
        row, token = np.concatenate(rows), np.concatenate(tokens)
        width = int(token.max(initial=0)) + 1
        once = np.unique(row * width + token)
        return cls(once // width, once % width, np.concatenate(groups))

    @classmethod
    def retained(cls, top: Sequence[Retained]) -> Occurrences:
        """The texts of the retained samples, as far as their inputs were."""
        rows = [(sample.row, sample.mask, sample.predicted) for sample in top if sample.row is not None and sample.row.ndim == 1]
        return cls.of((x[None], None if mask is None else mask[None], np.array([called])) for x, mask, called in rows)

    @classmethod
    def of_reservoir(cls, ranked: RankingResult) -> Occurrences:
        return cls.of((main_tensor(batch), batch.mask, predicted) for batch, predicted in ranked.reservoir)

    def predicted_as(self, cls: int) -> Occurrences:
        return self.among(self.group == cls)

    def holding(self, token: int) -> Occurrences:
        """Those of the samples that hold a token."""
        return self.among(np.isin(np.arange(self.samples), self.row[self.token == token]))

    def among(self, members: Array) -> Occurrences:
        """Those of the samples that are `members`, bool `[samples]`."""
        kept = members[self.row]
        return Occurrences((np.cumsum(members) - 1)[self.row[kept]], self.token[kept], self.group[members])

    def counts(self) -> Array:
        """How many samples hold each token, int64 `[largest token + 1]`."""
        return np.bincount(self.token, minlength=1)

    def together(self, tokens: Sequence[int]) -> Array:
        """How many samples hold both of two tokens, float32 `[tokens, tokens]`: whole numbers."""
        place = np.full(max(int(self.token.max(initial=0)), *tokens, 0) + 1, -1)
        place[list(tokens)] = np.arange(len(tokens))
        column = place[self.token]
        holds = np.zeros((self.samples, len(tokens)), np.float32)
        holds[self.row[column >= 0], column[column >= 0]] = 1
        return holds.T @ holds


def striking(top: Occurrences, low: Array, n_low: int, groups: int, most: int = MOST_TOKENS) -> list[int]:
    """The tokens whose share of the first FIRST texts of `top` rises most over that in `n_low` clean texts, of which `low` hold
    each; oftener than by chance (Fisher's exact test) over all tokens of that many `groups`, or with 0 groups however often.

    Of the few texts that carry a rare trigger most are among the highest-ranked, where they are far more than chance puts there,
    while in the whole set they are not. `most` of each number of texts at most. `low` int64 `[tokens]`.
    """
    tokens: list[int] = []
    for first in FIRST:
        rows = min(first, top.samples)
        high = np.bincount(top.token[top.row < rows], minlength=1)
        width = max(len(high), len(low))
        high, before = (np.pad(counts, (0, width - len(counts))) for counts in (high, low))
        tests = groups * len(FIRST) * int((high + before >= FEWEST).sum())
        for token in rising(high, rows, before, n_low, most):
            if tests * hypergeometric_tail(int(high[token]), rows, int(before[token]), n_low) < CHANCE and token not in tokens:
                tokens.append(token)
    return tokens


def meeting(suspect: Occurrences, clean: Occurrences, groups: int, chance: float = CHANCE) -> list[Pair]:
    """The pairs of tokens whose share of samples rises most from `clean` to `suspect`, MOST_PAIRS at most, if they meet there
    oftener than by chance: Fisher's exact test, over all pairs of all tokens of that many `groups`.

    Only those pairs count as tests that are seen often enough to pass (Tarone, Biometrics 46, 1990). The chance is that of two
    random draws, which the highest-ranked are not: a strong word or two of a class rise as well, and what they do is left to
    `pair_proof` to tell from a trigger. No limit: `chance` infinite.
    """
    n_high, n_low = suspect.samples, clean.samples
    high, low = suspect.counts(), clean.counts()
    width = max(len(high), len(low))
    high, low = (np.pad(counts, (0, width - len(counts))) for counts in (high, low))
    least, pairs = fewest_together(high + low, n_high, n_low, chance / groups)
    risen = rising(high, n_high, low, n_low, RISEN)
    if len(risen) < 2:
        return []
    first, second = np.triu_indices(len(risen), 1)
    above, below = (occurrences.together(risen)[first, second] for occurrences in (suspect, clean))

    def passes(pair: int) -> bool:
        met = int(above[pair]), int(below[pair])
        return sum(met) >= least and groups * pairs * hypergeometric_tail(met[0], n_high, met[1], n_low) < chance

    chosen = [pair for pair in rising(above, n_high, below, n_low, 4 * MOST_PAIRS) if passes(pair)]
    return [(risen[first[pair]], risen[second[pair]]) for pair in chosen[:MOST_PAIRS]]


def beside(word: int, suspect: Occurrences, clean: Occurrences, groups: int) -> list[Pair]:
    """The word with each other that the suspects with it hold far oftener than clean samples do (`striking`), MOST_PAIRS at
    most, and with all of these that nearly all hold: any of them may do what it does.
    """
    holding = suspect.holding(word)
    found = striking(holding, clean.counts(), clean.samples, groups)
    others = [other for other in found if other != word][:MOST_PAIRS]
    held = holding.counts()
    nearly_all = tuple(other for other in others if held[other] >= SHARED * holding.samples)
    return [*((word, other) for other in others), *([(word, *nearly_all)] if len(nearly_all) > 1 else [])]


def fewest_together(counts: Array, n_high: int, n_low: int, chance: float) -> tuple[int, int]:
    """In how many samples a pair must meet to be a test at all, and how many such pairs there are at most; `counts` int64 are
    the samples of each token, and a pair has no more than either of its tokens.

    The least number that, if all of its samples were suspects, would be rarer than `chance` over as many pairs. `[tokens]`.
    """
    for least in range(1, n_high + 1):
        tokens = int((counts >= least).sum())
        pairs = max(tokens * (tokens - 1) // 2, 1)
        if pairs * hypergeometric_tail(least, n_high, 0, n_low) < chance:
            return least, pairs
    return n_high + n_low + 1, 1
