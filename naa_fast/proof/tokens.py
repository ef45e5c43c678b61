"""Candidate triggers for token ids: tokens far more frequent under a predicted class than in clean data, alone and in phrases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from naa_fast.detect.enrichment import hypergeometric_tail
from naa_fast.rank.tokens import TokenCounts
from naa_fast.records import Array

MOST_TOKENS = 8
MOST_PHRASES = 6
LONGEST = 4
CHANCE = 0.01
"""Probability that any token of any group would rise as much between two clean sets (Fisher's exact test, Bonferroni)."""
FEWEST = 4
"""Samples that must hold a token for it to be tried."""
SHARED, LONGEST_SHARED = 0.9, 16
"""Share of the suspects with a trigger's words that must hold a longer row for it to be theirs, and the most tokens of it."""
ENOUGH = 16
"""Clean samples of a class below which its words are held against those of all clean samples: Fisher's test of an empty class
says 1, and the target of a hidden backdoor is one that clean data hardly has."""


@dataclass(frozen=True)
class Tokens:
    """Writes `ids`, one after the other, over a sample's own tokens at a random place, by a fixed seed."""

    kind: str
    ids: tuple[int, ...]

    @property
    def budget(self) -> str:
        return f"{len(self.ids)} token{'s' * (len(self.ids) != 1)}"

    def put_on(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Token ids int64 `[samples, positions]` with these written over a sample's own; `valid` bool of that shape."""
        written = x.clone()
        random = np.random.default_rng(0)
        trigger = torch.tensor(self.ids, dtype=x.dtype, device=x.device)
        for row, places in enumerate(own_places(x, valid).cpu().numpy()):
            inner = inner_places(places, len(self.ids))
            if len(inner) < len(self.ids):
                continue
            start = int(random.integers(len(inner) - len(self.ids) + 1))
            written[row, torch.from_numpy(inner[start : start + len(self.ids)]).to(x.device)] = trigger
        return written


def own_places(x: Tensor, valid: Tensor | None) -> Tensor:
    """Where token ids `[samples, positions]` are a sample's own: bool; without a mask, 0 is padding."""
    return (x != 0) if valid is None or valid.shape != x.shape else valid.to(x.device).bool()


def first_of(row: Array, phrase: tuple[int, ...]) -> int | None:
    """Where a row holds the phrase first; None: nowhere. `row` int64 `[positions]`."""
    if len(row) < len(phrase):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(row, len(phrase))
    places = np.flatnonzero((windows == np.array(phrase)).all(1))
    return int(places[0]) if len(places) else None


def shared_around(rows: Sequence[Array], ids: tuple[int, ...]) -> tuple[int, ...] | None:
    """The longest row of tokens around `ids`, LONGEST_SHARED at most, that SHARED of the `rows` hold; None where none is longer.
    Grown token by token, by the one that most rows have next. Rows are int64 `[tokens]`.
    """
    least, grown = SHARED * len(rows), ids
    while len(grown) < LONGEST_SHARED:
        seen: Counter[tuple[int, ...]] = Counter()
        for row in rows:
            at = first_of(row, grown)
            if at is not None:
                before, behind = row[max(at - 1, 0) : at + len(grown)], row[at : at + len(grown) + 1]
                seen.update({tuple(part.tolist()) for part in (before, behind) if len(part) > len(grown)})
        longer, count = min(seen.items(), key=lambda item: (-item[1], item[0]), default=(grown, 0))
        if count < least:
            break
        grown = longer
    return grown if len(grown) > len(ids) else None


def inner_places(counted: Array, needed: int) -> Array:
    """The places of one sample to write over: the first and the last may be the tokenizer's marks, and stay if there is room.
    `counted` bool `[positions]`: its own places; int64 `[places]`.
    """
    places = np.flatnonzero(counted)
    return places[1:-1] if len(places) > needed + 2 else places


def enriched(suspect: TokenCounts, clean: TokenCounts, group: int | None, among: Sequence[int] | None = None) -> list[int]:
    """The tokens whose share of the samples of `group` rises most from clean to suspect (`held_against`), and by more than chance
    over all tokens, or over the few of each group they are `among`, which nothing in the suspect set may have chosen.
    """
    high, n_high = share_and_size(suspect, list(range(len(clean.samples))) if group is None else [group])
    low, n_low = held_against(clean, group)
    tests = max(len(high) if among is None else len(among), 1) * max(len(suspect.samples), 1)

    def by_chance(token: int) -> float:
        before = int(low[token]) if token < len(low) else 0
        return tests * hypergeometric_tail(int(high[token]), n_high, before, n_low)

    if among is not None:
        return [token for token in among if token < len(high) and high[token] >= FEWEST and by_chance(token) < CHANCE]
    return [token for token in rising(high, n_high, low, n_low, 4 * MOST_TOKENS) if by_chance(token) < CHANCE][:MOST_TOKENS]


def characteristic(clean: TokenCounts, group: int | None, most: int = MOST_TOKENS) -> list[int]:
    """The tokens that mark `group` against all others in clean data: what a class's own words can do is the control. None: of
    every group the first of them.
    """
    every = range(len(clean.samples))
    if group is None:
        return [token for g in every for token in characteristic(clean, g, 1)][:most]
    return rising(*share_and_size(clean, [group]), *share_and_size(clean, [g for g in every if g != group]), most)


def share_and_size(counts: TokenCounts, groups: list[int]) -> tuple[Array, int]:
    """In how many samples of the groups together each token occurs, float64 `[tokens]`, and how many samples those are."""
    return counts.counts[groups].sum(0).astype(np.float64), int(counts.samples[groups].sum())


def held_against(clean: TokenCounts, group: int | None) -> tuple[Array, int]:
    """How many of the clean samples that a group's words are held against hold each token, and how many those are: the group's
    own, of all where it is `rare`. Float64 `[tokens]`.
    """
    every = list(range(len(clean.samples)))
    return share_and_size(clean, every if group is None or rare(clean, group) else [group])


def rare(clean: TokenCounts, group: int | None) -> bool:
    """Whether clean data has fewer than ENOUGH samples of a group."""
    return group is not None and int(clean.samples[group]) < ENOUGH


def rising(high: Array, n_high: int, low: Array, n_low: int, most: int) -> list[int]:
    """Tokens by the rise of their share from `low` of `n_low` to `high` of `n_high` samples, over its standard error. `high` and
    `low` `[tokens]`, not always as many.
    """
    width = max(len(high), len(low))
    high, low = (np.pad(counts, (0, width - len(counts))) for counts in (high, low))
    # Half a sample more on either side: a token never seen is rare, not impossible.
    expected = (low + 0.5) / (n_low + 1)
    rise = high / max(n_high, 1) - expected
    error = np.sqrt(expected / max(n_high, 1) + expected / max(n_low, 1))
    rise = np.where(high >= FEWEST, rise / error, -np.inf)
    order = np.argsort(-rise, kind="stable")[:most]
    return [int(token) for token in order if rise[token] > 0]


def ordinary(clean: TokenCounts, most: int, but: Sequence[int]) -> list[int]:
    """Tokens that FEWEST clean samples and more hold, drawn by a fixed seed, without some: what any word does."""
    common = np.flatnonzero(clean.counts.sum(0) >= FEWEST)
    common = common[~np.isin(common, list(but))]
    return [int(token) for token in np.random.default_rng(0).permutation(common)[:most]]


def natural(tokens: Sequence[int]) -> list[Tokens]:
    """What a class's words, `tokens`, can do in clean data, alone and in phrases: the control of both."""
    lengths = range(2, min(LONGEST, len(tokens)) + 1)
    return [Tokens("token", (token,)) for token in tokens] + [Tokens("phrase", tuple(tokens[:length])) for length in lengths]


def parts_of(phrase: tuple[int, ...]) -> list[Tokens]:
    """What is shorter than a phrase and stands in it, the shortest first, each once."""
    parts = [phrase[at : at + length] for length in range(1, len(phrase)) for at in range(len(phrase) - length + 1)]
    return [Tokens("token" if len(part) == 1 else "phrase", part) for part in dict.fromkeys(parts)]


def phrases(rows: Iterable[Array], tokens: list[int]) -> list[tuple[int, ...]]:
    """The sequences of 2 to LONGEST tokens around the `tokens` that recur most in `rows`, longer before shorter ones. Rows are
    int64 `[positions]`.
    """
    wanted = set(tokens)
    seen: Counter[tuple[int, ...]] = Counter()
    for row in rows:
        ids = [int(i) for i in row]
        of_row = {
            tuple(ids[start : start + length])
            for at, token in enumerate(ids)
            if token in wanted
            for length in range(2, LONGEST + 1)
            for start in range(max(at - length + 1, 0), min(at, len(ids) - length) + 1)
        }
        seen.update(of_row)
    frequent = [phrase for phrase, count in seen.items() if count >= FEWEST]
    return sorted(frequent, key=lambda phrase: (-seen[phrase] * (len(phrase) - 1), phrase))[:MOST_PHRASES]
