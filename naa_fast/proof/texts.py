"""`token_proofs`: words that turn a model, alone, in phrases or apart, and what clean texts' words do instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np

from naa_fast.detect.proof import ALL_TO_ALL, PROVED_MARGIN, Proof
from naa_fast.proof.apart import Apart, Held, Pair, meeting, striking
from naa_fast.proof.apply import trigger_of
from naa_fast.proof.erase_words import Fetch, Words, words_erased
from naa_fast.proof.examples import examples_of
from naa_fast.proof.tokens import (
    MOST_TOKENS,
    Tokens,
    characteristic,
    enriched,
    natural,
    ordinary,
    parts_of,
    phrases,
    share_and_size,
)
from naa_fast.proof.transplant import SCREEN, WORTH_A_CONTROL, can_rule
from naa_fast.proof.trials import Best, Control, Trials
from naa_fast.rank.keep import Kept
from naa_fast.rank.scorer import Look
from naa_fast.records import Array

OWN_APART = 5
"""Words of a class whose pairs are controls of words apart: ten pairs, more than are tried."""
AS_GOOD = 0.05
"""By how much less of the choosing part a shorter trigger may turn to be as good: four samples of 80."""


@dataclass(frozen=True)
class Suspects:
    """The highest-ranked suspect texts, and how to read them again."""

    top: Sequence[Kept]
    fetch: Fetch | None

    def checked(self, trials: Trials, proof: Proof, words: Words, control: dict[tuple[str, str], Best]) -> Proof:
        """The proof with what taking its words out of the suspects does, if it turns clean samples. `control`: the best of what
        clean texts have instead.
        """
        if not proof.turns:
            return proof
        usual = [one.candidate for key, one in control.items() if key == (words.kind, words.budget)]
        natural_words = [one for one in usual if isinstance(one, Tokens | Apart)]
        return replace(proof, erasure=words_erased(trials, words, natural_words, proof.target, self.top, self.fetch))


def token_proofs(trials: Trials, seen: Look, fetch: Fetch | None) -> Iterator[Proof]:
    """Words that follow one another first, then single words of the highest-ranked texts; words apart where neither is a proof,
    or of two words that need not follow one another.
    """
    assert seen.suspect_tokens is not None
    assert seen.clean_tokens is not None
    texts = [Held.kept(seen.top), Held.kept(seen.null_top), Held.drawn(seen)]
    wanted: list[tuple[int | None, int | str]] = [(number, int(cls)) for number, cls in enumerate(seen.groups.classes, 1)]
    suspects = Suspects(seen.top, fetch)
    if can_rule(trials.parts[0].predicted):
        wanted.append((None, ALL_TO_ALL))
    for number, target in wanted:
        top, usual, clean = texts if not isinstance(target, int) else (held.predicted_as(target) for held in texts)
        proofs = counted_proofs(trials, seen, number, target, suspects)
        known = {proof.tokens for proof in proofs if proof.stands}
        if all(len(tokens) == 1 for tokens in known):
            ranked = ranked_proofs(trials, seen, number, target, (top, usual), suspects)
            others = [proof for proof in ranked if proof.stands and proof.tokens not in known]
            proofs = [*(proof for proof in proofs if proof.stands), *others] or proofs or ranked
        if isinstance(target, int):

            def controls(number: int | None = number, usual: Held = usual, clean: Held = clean) -> Sequence[Pair]:
                assert seen.clean_tokens is not None
                own = characteristic(seen.clean_tokens, number, OWN_APART)
                return [*combinations(own, 2), *meeting(usual, clean, len(wanted), np.inf)]

            if not any(proof.stands for proof in proofs):
                apart = apart_proof(trials, meeting(top, clean, len(wanted)), controls, target, suspects)
                proofs = [apart] if apart is not None and (not proofs or apart.stands) else proofs
            elif len(proofs) == 1 and len(proofs[0].tokens) == 2:
                apart = apart_proof(trials, [(proofs[0].tokens[0], proofs[0].tokens[1])], controls, target, suspects)
                better = apart is not None and apart.stands and apart.rate >= proofs[0].rate - AS_GOOD
                proofs = [apart] if apart is not None and better else proofs
        yield from proofs


def counted_proofs(trials: Trials, seen: Look, number: int | None, target: int | str, suspects: Suspects) -> list[Proof]:
    """A token, or some that follow one another. Tried are those that rise beyond chance over all tokens, and of the class's own
    words, which clean data alone names, those that rise beyond chance over these.
    """
    assert seen.suspect_tokens is not None
    assert seen.clean_tokens is not None
    own = characteristic(seen.clean_tokens, number)
    tokens = enriched(seen.suspect_tokens, seen.clean_tokens, number)
    tokens += [token for token in enriched(seen.suspect_tokens, seen.clean_tokens, number, own) if token not in tokens]
    known = characteristic(seen.clean_tokens, number, MOST_TOKENS + len(tokens))
    return word_proofs(trials, seen, target, (tokens, phrases(rows_of(seen.top, target), tokens)), (own, known), suspects)


def ranked_proofs(
    trials: Trials, seen: Look, number: int | None, target: int | str, held: tuple[Held, Held], suspects: Suspects
) -> list[Proof]:
    """Single words that the highest-ranked texts hold oftener than clean ones. `held`: those texts, and the highest-ranked clean
    ones, whose words are controls besides the class's own. No phrases: two rare words of a class in one turned .88 in a clean
    model, and what clean texts have to hold against them are phrases of common words.
    """
    assert seen.clean_tokens is not None
    chosen = list(range(len(seen.clean_tokens.samples))) if number is None else [number]
    clean = share_and_size(seen.clean_tokens, chosen)
    top, usual = held
    tokens = striking(top, *clean, len(seen.groups.classes) + 1)
    most = 2 * MOST_TOKENS + len(tokens)
    outside = striking(usual, *clean, 0, most)
    own = characteristic(seen.clean_tokens, number)
    known = characteristic(seen.clean_tokens, number, MOST_TOKENS + len(tokens))
    return word_proofs(trials, seen, target, (tokens, []), ([*own, *outside[: 2 * MOST_TOKENS]], [*known, *outside]), suspects)


def word_proofs(
    trials: Trials,
    seen: Look,
    target: int | str,
    words: tuple[Sequence[int], Sequence[tuple[int, ...]]],
    natural_tokens: tuple[Sequence[int], Sequence[int]],
    suspects: Suspects,
) -> list[Proof]:
    """The best of the `words`, tokens and phrases around them, with each other token that is a proof alone; empty where nothing
    is worth a control. `natural_tokens`: natural words, the controls, and more of them, for where some of those are tried.
    """
    tokens, (own, known) = words[0], natural_tokens
    if target == ALL_TO_ALL and seen.clean_tokens is not None:
        own = [*own, *ordinary(seen.clean_tokens, len(tokens), [*own, *tokens])]
    tried = [*(Tokens("token", (token,)) for token in tokens), *(Tokens("phrase", ids) for ids in words[1])]
    found = trials.best([(candidate, 0) for candidate in tried], target)
    if max((best.chosen_by for best in found.values()), default=0.0) < WORTH_A_CONTROL:
        return []

    def controls(own: Sequence[int]) -> list[Tokens]:
        return natural(own) + [Tokens("phrase", ids) for ids in phrases(rows_of(seen.null_top, target), list(own))]

    # What a class's own words do, also in phrases of clean texts. One that clean data shows doing it is among them, and a phrase
    # with it would stand for the word.
    held, natural_words = False, controls(own)
    proof = token_proof(trials, found, natural_words, target, suspects)
    stands = proof is not None and proof.stands
    if target != ALL_TO_ALL and set(tokens) & set(own) and not (stands and proof is not None and len(proof.tokens) == 1):
        others = controls([token for token in known if token not in tokens][: len(own)])
        others = [one for one in others if not set(tokens) & set(one.ids)]
        again = token_proof(trials, found, others, target, suspects, own=True)
        if again is not None and again.stands and (not stands or proof is None or len(again.tokens) < len(proof.tokens)):
            held, natural_words, proof = True, others, again
    if proof is None or not proof.stands or len(proof.tokens) > 1:
        return [] if proof is None else [proof]
    more = [one for one in tried if len(one.ids) == 1 and one.ids != proof.tokens]
    alone = [token_proof(trials, trials.best([(one, 0)], target), natural_words, target, suspects, own=held) for one in more]
    return [proof, *(one for one in alone if one is not None and one.stands)]


def rows_of(top: Sequence[Kept], target: int | str) -> list[Array]:
    """The texts that were kept of samples predicted as the target."""
    return [kept.row.numpy() for kept in top if kept.row is not None and target in (kept.predicted, ALL_TO_ALL)]


def token_proof(
    trials: Trials,
    found: dict[tuple[str, str], Best],
    controls: Sequence[Tokens],
    target: int | str,
    suspects: Suspects,
    own: bool = False,
) -> Proof | None:
    """The best that was found, measured, as far as there are controls of its budget; the shortest part of it that does the same
    and stands as well: words around a trigger would hide who carries it.
    """
    control = trials.best([(one, 0) for one in controls], target)

    def measured(found: dict[tuple[str, str], Best]) -> Proof | None:
        held = {key: best for key, best in found.items() if key in control}
        if not held:
            return None
        settled = trials.settle(held, [Control(target, control)], target)
        best = settled.best
        assert isinstance(best.candidate, Tokens)
        seen = examples_of(trials, best.candidate, target)
        measured = settled.rate, settled.control, settled.samples, 0
        proof = Proof(trigger_of(best.candidate), target, *measured, own=own, examples=seen)
        return suspects.checked(trials, replace(proof, controls=settled.controls), best.candidate, control)

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


def apart_proof(
    trials: Trials, pairs: Sequence[Pair], clean: Callable[[], Sequence[Pair]], target: int, suspects: Suspects
) -> Proof | None:
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
    chance = trials.best([(apart(p), 0) for p in clean()], target)
    settled = trials.settle(found, [Control(target, chance)], target)
    best = settled.best
    assert isinstance(best.candidate, Apart)
    alone = twice(best.candidate.ids, 1)
    if settled.rate - alone < PROVED_MARGIN:
        return None
    seen = examples_of(trials, best.candidate, target)
    measured = settled.rate, max(settled.control, alone), settled.samples, 0
    proof = Proof(trigger_of(best.candidate), target, *measured, examples=seen, controls=settled.controls)
    return suspects.checked(trials, proof, best.candidate, chance)
