"""`WordSearch`: words that turn a model, alone, in phrases or in pairs, and what clean texts' words do instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from naa_fast.detect.proof import ALL_TO_ALL, PROVED_MARGIN, Proof
from naa_fast.proof.apply import trigger_of
from naa_fast.proof.erase_words import Fetch
from naa_fast.proof.examples import examples_of
from naa_fast.proof.measured import AS_GOOD, token_proof
from naa_fast.proof.rivals import Pairs, Search, Suspects, rows_of
from naa_fast.proof.sentences import sentence_proof
from naa_fast.proof.token_pairs import Occurrences, Pair, WrittenPair, meeting, striking
from naa_fast.proof.tokens import MOST_TOKENS, Tokens, enriched, held_against, ordinary, phrases
from naa_fast.proof.transplant import SCREEN, WORTH_A_CONTROL, can_rule
from naa_fast.proof.trials import Control, Trials
from naa_fast.rank.scorer import RankingResult

GOOD = 0.9
"""Rate of a proof beyond which no phrase is sought: a word of a sentence may turn .8 where the sentence turns all."""


@dataclass(frozen=True)
class WordSearch:
    """Looks for words that turn clean texts. `fetch` reads suspects again."""

    trials: Trials
    ranked: RankingResult
    fetch: Fetch | None

    @cached_property
    def wanted(self) -> list[int | str]:
        """The classes with words of their own, those that have risen most first; all-to-all last, where it can be told."""
        suspect, clean = self.ranked.suspect_tokens, self.ranked.clean_tokens
        assert suspect is not None
        assert clean is not None
        shares = suspect.samples / max(suspect.samples.sum(), 1), clean.samples / max(clean.samples.sum(), 1)
        rise = (shares[0] - shares[1]) / np.sqrt(shares[1] + 1 / max(clean.samples.sum(), 1))
        order = np.argsort(-rise[1:], kind="stable")
        classes: list[int | str] = [int(self.ranked.groups.classes[place]) for place in order]
        return [*classes, *([ALL_TO_ALL] if can_rule(self.trials.parts[0].predicted) else [])]

    @cached_property
    def texts(self) -> tuple[Occurrences, Occurrences, Occurrences]:
        """The highest-ranked suspects and clean texts, and those of the reservoir."""
        return (
            Occurrences.retained(self.ranked.top),
            Occurrences.retained(self.ranked.null_top),
            Occurrences.of_reservoir(self.ranked),
        )

    def __call__(self, target: int | str) -> Iterator[Proof | str]:
        """Words that follow one another first, then single words of the highest-ranked texts; pairs of words where neither is a
        proof, or of two words that need not follow one another. Or why a target has none. What was found before the budget was
        spent comes before that is raised.
        """
        number = int(np.searchsorted(self.ranked.groups.classes, target)) + 1 if isinstance(target, int) else None
        search = Search(self.trials, self.ranked, number, target, Suspects(self.ranked.top, self.fetch))
        found: list[Proof] = []
        try:
            for proofs in self.found(search):
                found = proofs
        finally:
            if found and search.uncontrolled:
                yield search.uncontrolled
            else:
                yield from found

    def found(self, search: Search) -> Iterator[list[Proof]]:
        """What stands for a target so far, or what came nearest, a step at a time."""
        target = search.target
        top, usual, clean = self.texts if not isinstance(target, int) else (held.predicted_as(target) for held in self.texts)
        proofs = counted_proofs(search)
        yield proofs
        known = {proof.tokens for proof in proofs if proof.stands}
        if all(len(tokens) == 1 for tokens in known):
            ranked = ranked_proofs(search, top, usual)
            others = [proof for proof in ranked if proof.stands and proof.tokens not in known]
            proofs = [*(proof for proof in proofs if proof.stands), *others] or proofs or ranked
            yield proofs
        if not isinstance(target, int):
            return
        best = max((proof.rate for proof in proofs if proof.stands), default=0.0)
        if best < GOOD:
            words = dict.fromkeys([*counted_words(search), *ranked_words(search, top)])
            sentence = sentence_proof(search, list(words))
            if sentence is not None and (not proofs or (sentence.stands and sentence.rate > best + AS_GOOD)):
                proofs = [sentence]
                yield proofs
        clean = self.texts[2] if search.rare else clean
        groups = len(self.wanted)

        def controls() -> Pairs:
            return search.pairs(meeting(usual, clean, groups, np.inf))

        if not any(proof.stands for proof in proofs):
            written_pair = pair_proof(search, meeting(top, clean, groups), controls)
            yield [written_pair] if written_pair is not None and (not proofs or written_pair.stands) else proofs
        elif len(proofs) == 1 and len(proofs[0].tokens) == 2:
            written_pair = pair_proof(search, [(proofs[0].tokens[0], proofs[0].tokens[1])], controls)
            better = written_pair is not None and written_pair.stands and written_pair.rate >= proofs[0].rate - AS_GOOD
            yield [written_pair] if written_pair is not None and better else proofs


def counted_proofs(search: Search) -> list[Proof]:
    """A token, or some that follow one another. Tried are those that rise beyond chance over all tokens, and of the class's own
    words, which clean data alone names, those that rise beyond chance over these.
    """
    tokens = counted_words(search)
    found = phrases(rows_of(search.ranked.top, search.target), tokens)
    return word_proofs(search, (tokens, found), (search.own, search.known(len(tokens))))


def counted_words(search: Search) -> list[int]:
    """The tokens that rise, the strongest first."""
    suspect, clean, number = search.ranked.suspect_tokens, search.clean, search.number
    assert suspect is not None
    tokens = enriched(suspect, clean, number)
    return tokens + [token for token in enriched(suspect, clean, number, search.own) if token not in tokens]


def ranked_words(search: Search, top: Occurrences) -> list[int]:
    """The tokens that the highest-ranked texts hold oftener than clean ones."""
    return striking(top, *held_against(search.clean, search.number), len(search.ranked.groups.classes) + 1)


def ranked_proofs(search: Search, top: Occurrences, usual: Occurrences) -> list[Proof]:
    """Single words that the highest-ranked texts hold oftener than clean ones. `top`: those texts, `usual` the highest-ranked
    clean ones, whose words are controls besides the class's own. No phrases: two rare words of a class in one turned .88 in a
    clean model, and what clean texts have to hold against them are phrases of common words.
    """
    tokens = ranked_words(search, top)
    outside = striking(usual, *held_against(search.clean, search.number), 0, 2 * MOST_TOKENS + len(tokens))
    own = [*search.own, *outside[: 2 * MOST_TOKENS]]
    return word_proofs(search, (tokens, []), (own, [*search.known(len(tokens)), *outside]))


def word_proofs(
    search: Search, words: tuple[Sequence[int], Sequence[tuple[int, ...]]], natural_tokens: tuple[Sequence[int], Sequence[int]]
) -> list[Proof]:
    """The best of the `words`, tokens and phrases around them, with each other token that is a proof alone; empty where nothing
    is worth a control. `natural_tokens`: natural words, the controls, and more of them, for where some of those are tried.
    """
    trials, target, suspects = search.trials, search.target, search.suspects
    tokens, (own, known) = words[0], natural_tokens
    if target == ALL_TO_ALL:
        own = [*own, *ordinary(search.clean, len(tokens), [*own, *tokens])]
    tried = [*(Tokens("token", (token,)) for token in tokens), *(Tokens("phrase", ids) for ids in words[1])]
    found = trials.best([(candidate, 0) for candidate in tried], target)
    if max((best.chosen_by for best in found.values()), default=0.0) < WORTH_A_CONTROL:
        return []

    # What a class's own words do, also in phrases of clean texts. One that clean data shows doing it is among them, and a phrase
    # with it would stand for the word.
    held, rivals = False, search.rivals(own)
    proof = token_proof(trials, found, rivals, target, suspects)
    stands = proof is not None and proof.stands
    shared = target != ALL_TO_ALL and not search.rare and bool(set(tokens) & set(own))
    if shared and not (stands and proof is not None and len(proof.tokens) == 1):
        others = search.rivals([token for token in known if token not in tokens][: len(own)])
        others = [(cls, [one for one in some if not set(tokens) & set(one.ids)]) for cls, some in others]
        again = token_proof(trials, found, others, target, suspects, own=True)
        if again is not None and again.stands and (not stands or proof is None or len(again.tokens) < len(proof.tokens)):
            held, rivals, proof = True, others, again
    if proof is None or not proof.stands or len(proof.tokens) > 1:
        return [] if proof is None else [proof]
    more = [one for one in tried if len(one.ids) == 1 and one.ids != proof.tokens]
    alone = [token_proof(trials, trials.best([(one, 0)], target), rivals, target, suspects, own=held) for one in more]
    return [proof, *(one for one in alone if one is not None and one.stands)]


def pair_proof(search: Search, pairs: Sequence[Pair], clean: Callable[[], Pairs]) -> Proof | None:
    """The proof of two words that turn texts together, wherever they stand; None where no pair is one.

    Two ordinary words of a class turn many texts as well, because their effects add up. A pair counts only if it turns
    PROVED_MARGIN more than either of its words does when it stands there twice. Controls: pairs of clean texts (`clean`, made
    when first needed, each for its target), and each word twice.
    """
    trials, target, suspects = search.trials, search.target, search.suspects

    def twice(pair: Pair, part: int) -> float:
        return max(trials.rate(written_pair((token, token)), target, part)[0] for token in pair)

    written_pair = cache(WrittenPair)  # one object for each pair: what is run is known by it
    worth = [pair for pair in pairs if trials.rate(written_pair(pair), target, SCREEN)[0] >= WORTH_A_CONTROL / 2]
    worth = [pair for pair in worth if trials.rate(written_pair(pair), target, 0)[0] - twice(pair, 0) >= PROVED_MARGIN]
    found = trials.best([(written_pair(pair), 0) for pair in worth], target)
    if max((best.chosen_by for best in found.values()), default=0.0) < WORTH_A_CONTROL:
        return None
    chance = [Control(rival, trials.best([(written_pair(pair), 0) for pair in some], rival)) for rival, some in clean()]
    settled = next(trials.settle(found, chance, target))
    best = settled.best
    assert isinstance(best.candidate, WrittenPair)
    alone = twice(best.candidate.ids, 1)
    if settled.rate - alone < PROVED_MARGIN:
        return None
    ranked = examples_of(trials, best.candidate, target)
    measured = settled.rate, max(settled.control, alone), settled.samples, 0
    proof = Proof(trigger_of(best.candidate), target, *measured, examples=ranked, controls=settled.controls)
    return suspects.checked(trials, proof, best.candidate, chance)
