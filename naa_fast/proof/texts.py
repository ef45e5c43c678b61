"""`token_proofs`: words that turn a model, alone, in phrases or apart, and what clean texts' words do instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations

import numpy as np

from naa_fast.detect.proof import ALL_TO_ALL, PROVED_MARGIN, Proof
from naa_fast.proof.apart import Apart, Held, Pair, meeting
from naa_fast.proof.tokens import MOST_TOKENS, Tokens, characteristic, enriched, natural, parts_of, phrases
from naa_fast.proof.transplant import SCREEN, WORTH_A_CONTROL
from naa_fast.proof.trials import Best, Trials
from naa_fast.rank.keep import Kept
from naa_fast.rank.look import Look
from naa_fast.records import Array

OWN_APART = 5
"""Words of a class whose pairs are controls of words apart: ten pairs, more than are tried."""
AS_GOOD = 0.05
"""By how much less of the choosing part a shorter trigger may turn to be as good: four samples of 80."""


def token_proofs(trials: Trials, seen: Look) -> Iterator[Proof]:
    """Words that follow one another first; words apart where that is no proof, or two words that need not follow one another."""
    assert seen.suspect_tokens is not None
    assert seen.clean_tokens is not None
    texts = [Held.kept(seen.top), Held.kept(seen.null_top), Held.drawn(seen)]
    wanted: list[tuple[int | None, int | str]] = [(number, int(cls)) for number, cls in enumerate(seen.groups.classes, 1)]
    for number, target in [*wanted, (None, ALL_TO_ALL)]:
        proof = together_proof(trials, seen, number, target)
        if isinstance(target, int):
            top, usual, clean = (held.predicted_as(target) for held in texts)

            def controls(number: int | None = number, usual: Held = usual, clean: Held = clean) -> Sequence[Pair]:
                assert seen.clean_tokens is not None
                own = characteristic(seen.clean_tokens, number, OWN_APART)
                return [*combinations(own, 2), *meeting(usual, clean, len(wanted), np.inf)]

            if proof is None or not proof.stands:
                apart = apart_proof(trials, meeting(top, clean, len(wanted)), controls, target)
                proof = apart if apart is not None and (proof is None or apart.stands) else proof
            elif len(proof.tokens) == 2:
                apart = apart_proof(trials, [(proof.tokens[0], proof.tokens[1])], controls, target)
                proof = apart if apart is not None and apart.stands and apart.rate >= proof.rate - AS_GOOD else proof
        if proof is not None:
            yield proof


def together_proof(trials: Trials, seen: Look, number: int | None, target: int | str) -> Proof | None:
    """A token, or some that follow one another. Tried are those that rise beyond chance over all tokens, and of the class's own
    words, which clean data alone names, those that rise beyond chance over these.
    """
    assert seen.suspect_tokens is not None
    assert seen.clean_tokens is not None
    own = characteristic(seen.clean_tokens, number)
    tokens = enriched(seen.suspect_tokens, seen.clean_tokens, number)
    tokens += [token for token in enriched(seen.suspect_tokens, seen.clean_tokens, number, own) if token not in tokens]
    tried = [Tokens("token", (token,)) for token in tokens]
    tried += [Tokens("phrase", ids) for ids in phrases(rows_of(seen.top, target), tokens)]
    found = trials.best([(candidate, 0) for candidate in tried], target)
    if max((best.chosen_by for best in found.values()), default=0.0) < WORTH_A_CONTROL:
        return None

    def controls(own: Sequence[int]) -> list[Tokens]:
        return natural(own) + [Tokens("phrase", ids) for ids in phrases(rows_of(seen.null_top, target), list(own))]

    # What a class's own words do, also in phrases of clean texts. One that clean data shows doing it is among them.
    proof = token_proof(trials, found, controls(own), target)
    if not (proof is not None and proof.stands) and target != ALL_TO_ALL and set(tokens) & set(own):
        known = characteristic(seen.clean_tokens, number, MOST_TOKENS + len(tokens))
        others = controls([token for token in known if token not in tokens][:MOST_TOKENS])
        others = [one for one in others if not set(tokens) & set(one.ids)]
        again = token_proof(trials, found, others, target, own=True)
        proof = again if again is not None and again.stands else proof
    return proof


def rows_of(top: Sequence[Kept], target: int | str) -> list[Array]:
    """The texts that were kept of samples predicted as the target."""
    return [kept.row.numpy() for kept in top if kept.row is not None and target in (kept.predicted, ALL_TO_ALL)]


def token_proof(
    trials: Trials, found: dict[tuple[str, str], Best], controls: Sequence[Tokens], target: int | str, own: bool = False
) -> Proof | None:
    """The best that was found, measured, as far as there are controls of its budget; the shortest part of it that does the same
    and stands as well: words around a trigger would hide who carries it.
    """
    control = trials.best([(one, 0) for one in controls], target)

    def measured(found: dict[tuple[str, str], Best]) -> Proof | None:
        held = {key: best for key, best in found.items() if key in control}
        if not held:
            return None
        best, rate, usual, samples = trials.settle(held, [control], target)
        assert isinstance(best.candidate, Tokens)
        return Proof(best.candidate.kind, target, rate, usual, samples, 0, tokens=best.candidate.ids, own=own)

    whole = measured(found)
    if whole is None or not whole.stands:
        return whole
    needed = max(best.chosen_by for best in found.values()) - AS_GOOD
    for part in parts_of(whole.tokens):
        found_part = trials.best([(part, 0)], target)
        as_good = max(best.chosen_by for best in found_part.values()) >= needed
        shorter = measured(found_part) if as_good else None
        if shorter is not None and shorter.stands:
            return shorter
    return whole


def apart_proof(trials: Trials, pairs: Sequence[Pair], clean: Callable[[], Sequence[Pair]], target: int) -> Proof | None:
    """Two words apart, the best of those `pairs` that do by PROVED_MARGIN more than either of their words twice: class words,
    whose effects add up, do not, however much they turn. Controls: `clean` pairs, asked for if they are needed, and the words
    twice.
    """

    def twice(pair: Pair, part: int) -> float:
        return max(trials.rate(apart((token, token)), target, part)[0] for token in pair)

    apart = cache(Apart)  # one object for each pair: what is run is known by it
    worth = [pair for pair in pairs if trials.rate(apart(pair), target, SCREEN)[0] >= WORTH_A_CONTROL / 2]
    worth = [pair for pair in worth if trials.rate(apart(pair), target, 0)[0] - twice(pair, 0) >= PROVED_MARGIN]
    found = trials.best([(apart(pair), 0) for pair in worth], target)
    if max((best.chosen_by for best in found.values()), default=0.0) < WORTH_A_CONTROL:
        return None
    best, rate, control, samples = trials.settle(found, [trials.best([(apart(p), 0) for p in clean()], target)], target)
    assert isinstance(best.candidate, Apart)
    alone = twice(best.candidate.ids, 1)
    if rate - alone < PROVED_MARGIN:
        return None
    return Proof(best.candidate.kind, target, rate, max(control, alone), samples, 0, tokens=best.candidate.ids)
