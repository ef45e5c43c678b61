"""`sentence_proof`: a phrase that the highest-ranked texts share, grown around a word, put into clean texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from naa_fast.detect.proof import Proof
from naa_fast.proof.inserted import ANYWHERE, AT_END, IN_FRONT, Inserted
from naa_fast.proof.measured import AS_GOOD, token_proof
from naa_fast.proof.rivals import Rival, Search
from naa_fast.proof.tokens import FEWEST, MOST_TOKENS, Tokens, characteristic, first_of, own_places
from naa_fast.proof.transplant import SCREEN, WORTH_A_CONTROL
from naa_fast.proof.trials import SCREENED, Best
from naa_fast.rank.retained import Retained
from naa_fast.records import Array

LENGTHS = (2, 3, 4, 6, 8, 12)
"""Tokens of the phrases that are grown around a word, besides the longest that as many texts share."""
GROWN = 2
"""Words that phrases are grown around: a sentence has several, and any of them finds it."""
SHARED = 1 / 3
"""Share of the texts with the word that must hold a phrase with it."""
PLACED, NEAR = 0.8, 1
"""Share of the texts with a phrase that must have it in front, or at the end, for it to be tried there, and how many tokens, the
tokenizer's mark, may lie beyond it."""
WINDOWS = 3
"""Phrases of clean texts around the class's own words that are tried instead, of each length."""

Phrase = tuple[int, ...]


def sentence_candidates(search: Search, tokens: Sequence[int]) -> list[Inserted]:
    """Phrases around those of the `tokens` that turn most, as the suspects of the target hold them, the shortest first."""
    rows = own_rows(search.ranked.top, search.target)
    alone = {token: search.trials.rate(Tokens("token", (token,)), search.target, SCREEN)[0] for token in tokens}
    words = sorted(tokens, key=lambda token: -alone[token])[:GROWN]
    phrases = dict.fromkeys(phrase for word in words for phrase in grown(rows, word))
    return [Inserted(place_of(rows, phrase), phrase) for phrase in sorted(phrases, key=len)]


def grown(rows: Sequence[Array], word: int) -> list[Phrase]:
    """Of each of LENGTHS the phrase with the word that most rows hold, and the longest that as many hold as any of two tokens.
    Rows are int64 `[positions]`.
    """
    holding = [row for row in rows if word in row]
    least = max(FEWEST, SHARED * len(holding))
    phrases: list[Phrase] = []
    longest: Phrase = ()
    most = 0
    for length in range(2, LENGTHS[-1] + 1):
        seen: Counter[Phrase] = Counter()
        for row in holding:
            places = np.flatnonzero(row == word).tolist()
            starts = {at for place in places for at in range(max(place - length + 1, 0), place + 1)}
            seen.update({tuple(row[at : at + length].tolist()) for at in starts if at + length <= len(row)})
        if not seen:
            break
        phrase, count = min(seen.items(), key=lambda item: (-item[1], item[0]))
        if count < least:
            break
        most = max(most, count)
        longest = phrase if count >= most * (1 - AS_GOOD) else longest
        if length in LENGTHS:
            phrases.append(phrase)
    return list(dict.fromkeys([*phrases, *([longest] if longest else [])]))


def place_of(rows: Sequence[Array], phrase: Phrase) -> str:
    """Where the rows hold a phrase: nearly all in front, or at the end, or anywhere. Rows are int64 `[positions]`."""
    places = [(start, len(row) - start - len(phrase)) for row in rows if (start := first_of(row, phrase)) is not None]
    before, behind = (np.mean([place[side] <= NEAR for place in places] or [False]) for side in (0, 1))
    return IN_FRONT if before >= PLACED else AT_END if behind >= PLACED else ANYWHERE


def own_rows(top: Sequence[Retained], target: int | str) -> list[Array]:
    """The retained texts of samples predicted as the target, without their padding: int64 `[tokens]` each."""
    texts = [sample for sample in top if sample.row is not None and sample.row.ndim == 1 and sample.predicted == target]
    rows = []
    for sample in texts:
        assert sample.row is not None
        places = own_places(sample.row[None], None if sample.mask is None else sample.mask[None])[0]
        rows.append(sample.row[places].cpu().numpy().astype(np.int64))
    return rows


def chosen_phrases(search: Search, tokens: Sequence[int]) -> dict[tuple[str, str], Best]:
    """The shortest part that turns as many as any phrase, the shortest phrase that does, and the longest, where one turns
    WORTH_A_CONTROL; else nothing. A part of a name turns as many as the name, and texts that it is taken out of keep the rest.
    """
    trials, target = search.trials, search.target
    share: dict[Inserted, float] = {}

    def rate(phrase: Inserted) -> float:
        if phrase not in share:
            few = trials.screened(phrase, target)
            share[phrase] = trials.rate(phrase, target, 0)[0] if few >= SCREENED else few
        return share[phrase]

    phrases = sentence_candidates(search, tokens)
    if not phrases or max(map(rate, phrases)) < WORTH_A_CONTROL:
        return {}
    needed = max(map(rate, phrases)) - AS_GOOD
    whole = next(phrase for phrase in phrases if rate(phrase) >= needed)
    short = shaved(whole, lambda phrase: rate(phrase) >= needed)
    return {(words.kind, words.budget): Best(words, rate(words), 0) for words in dict.fromkeys((short, whole, phrases[-1]))}


def shaved(phrase: Inserted, enough: Callable[[Inserted], bool]) -> Inserted:
    """The phrase without what stands at either end, token by token, as far as it does enough."""
    ids = phrase.ids
    while len(ids) > 1:
        shorter = next((part for part in (ids[1:], ids[:-1]) if enough(Inserted(phrase.kind, part))), None)
        if shorter is None:
            break
        ids = shorter
    return Inserted(phrase.kind, ids)


def phrase_rivals(search: Search, bests: dict[tuple[str, str], Best]) -> list[Rival]:
    """What clean texts have instead, of the same lengths at the same place: a class's own words in a row, and what stands around
    them in its highest-ranked texts; of a rare target those of other classes for these.
    """
    shapes = {(best.candidate.kind, len(best.candidate.ids)) for best in bests.values() if isinstance(best.candidate, Tokens)}
    classes: list[tuple[int | None, int | str]] = [(search.number, search.target), *(search.others if search.rare else [])]
    rivals: list[Rival] = []
    for number, target in classes:
        words = characteristic(search.clean, number, max(MOST_TOKENS, LENGTHS[-1]))
        rows = own_rows(search.ranked.null_top, target)
        rivals.append((target, [Inserted(kind, ids) for kind, length in sorted(shapes) for ids in usual(words, rows, length)]))
    if search.rare:
        rows = own_rows(search.ranked.null_top, search.ranked.null_top[0].predicted) if search.ranked.null_top else []
        rivals[0] = (search.target, [Inserted(kind, ids) for kind, n in sorted(shapes) for ids in usual([], rows, n)])
    return rivals


def usual(words: Sequence[int], rows: Sequence[Array], length: int) -> list[Phrase]:
    """`words` in a row, and the windows of so many tokens around one of them, WINDOWS at most; of no word any windows. Rows are
    int64 `[positions]`.
    """
    first = [tuple(words[:length])] if len(words) >= length else []
    windows: list[Phrase] = []
    for row in rows:
        middle = next((int(at) for at, token in enumerate(row) if token in set(words) or not words), None)
        if middle is None or len(row) < length:
            continue
        start = min(max(middle - length // 2, 0), len(row) - length)
        windows.append(tuple(int(token) for token in row[start : start + length]))
        if len(windows) == WINDOWS:
            break
    return [*first, *windows]


def sentence_proof(search: Search, tokens: Sequence[int]) -> Proof | None:
    """The shortest phrase around one of the `tokens` that does the whole, put into clean texts; None where none is worth a
    control.
    """
    phrases = chosen_phrases(search, tokens)
    if not phrases:
        return None
    return token_proof(search.trials, phrases, phrase_rivals(search, phrases), search.target, search.suspects)
