"""`WordSearch`: words that turn a model, alone, in phrases or in pairs, and what clean texts' words do instead."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np

from naa_fast.detect.proof import ALL_TO_ALL, PROVED_MARGIN, Proof
from naa_fast.proof.apply import trigger_of
from naa_fast.proof.budget import BudgetSpent, ShareSpent
from naa_fast.proof.erase_words import Fetch
from naa_fast.proof.examples import examples_of
from naa_fast.proof.given import words_for
from naa_fast.proof.measured import AS_GOOD, token_proof, words_of
from naa_fast.proof.rivals import Pairs, Search, Suspects, rows_of
from naa_fast.proof.sentences import sentence_candidates, sentence_proof
from naa_fast.proof.token_pairs import Occurrences, Pair, WrittenPair, beside, meeting, striking
from naa_fast.proof.tokens import MOST_TOKENS, Tokens, enriched, held_against, ordinary, phrases
from naa_fast.proof.transplant import SCREEN, WORTH_A_CONTROL, can_rule
from naa_fast.proof.trials import Control, Settled, Trials
from naa_fast.rank.scorer import RankingResult

GOOD = 0.9
"""Rate of a proof beyond which no phrase is sought: a word of a sentence may turn .8 where the sentence turns all."""
LEAD = 0.1
"""By how much more of the screening samples a phrase must turn than any word to be tried before all words: a sentence has several
words that rise alike, and measuring each of them took all of a budget before its phrases were tried."""

Form = Callable[[list[Proof]], list[Proof]]
"""What stands so far, or came nearest, to the same with one form of trigger more."""


@dataclass(frozen=True)
class WordSearch:
    """Looks for words that turn clean texts. `fetch` reads suspects again; `given`: proofs of another audit."""

    trials: Trials
    ranked: RankingResult
    fetch: Fetch | None
    given: Sequence[Proof] = ()

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
    def suspects(self) -> Suspects:
        return Suspects(self.ranked.top, self.fetch)

    @cached_property
    def texts(self) -> tuple[Occurrences, Occurrences, Occurrences]:
        """The highest-ranked suspects and clean texts, and those of the reservoir."""
        return (
            Occurrences.retained(self.ranked.top),
            Occurrences.retained(self.ranked.null_top),
            Occurrences.of_reservoir(self.ranked),
        )

    def __call__(self, target: int | str) -> Iterator[Proof | str]:
        """What turns clean texts to a target, or why nothing can be had for it. What was found before the budget, or the target's
        share of it, was spent comes before that is raised; called again it goes on there.
        """
        number = int(np.searchsorted(self.ranked.groups.classes, target)) + 1 if isinstance(target, int) else None
        search = Search(self.trials, self.ranked, number, target, self.suspects, words_for(self.given, target))
        kept: list[Proof] = []
        try:
            for proofs in self.searched(search):
                kept = proofs
        finally:
            if kept and search.uncontrolled:
                yield search.uncontrolled
            else:
                yield from kept

    def searched(self, search: Search) -> Iterator[list[Proof]]:
        """What stands for a target so far, or what came nearest, a form of trigger at a time (`forms`). Each has an equal part of
        what those before it left of the budget; where nothing stands, ShareSpent at the end tells that one was cut short.
        """
        budget, proofs, cut = search.trials.transplant.budget, list[Proof](), None
        forms = self.forms(search)
        for number, form in enumerate(forms):
            try:
                with budget.share(len(forms) - number):
                    proofs = form(proofs)
            except ShareSpent as spent:
                cut = cut or spent
            yield proofs
        if cut is not None and not any(proof.stands for proof in proofs):
            raise cut

    def forms(self, search: Search) -> list[Form]:
        """Phrases, where the best of them leads in screening; words that rise, alone and in a row; words of the highest-ranked
        texts; phrases, where all these turn fewer than GOOD; words apart, where nothing stands or two words that need not follow
        one another.
        """
        top, usual, drawn = self.texts
        if not isinstance(search.target, int):
            return [partial(with_counted, search), partial(with_ranked, search, top, usual)]
        top, usual, clean = (occurrences.predicted_as(search.target) for occurrences in self.texts)
        words = list(dict.fromkeys([*counted_words(search), *ranked_words(search, top)]))
        phrases_first = partial(with_phrases, search, words, LEAD)
        phrases_then, apart = partial(with_phrases, search, words, None), (top, usual, drawn if search.rare else clean)
        return [
            phrases_first,
            partial(with_counted, search),
            partial(with_ranked, search, top, usual),
            phrases_then,
            partial(with_pairs, search, apart, len(self.wanted)),
        ]


def best_rate(proofs: Sequence[Proof]) -> float:
    return max((proof.rate for proof in proofs if proof.stands), default=0.0)


def with_counted(search: Search, proofs: list[Proof]) -> list[Proof]:
    """Where no phrase has done it, a token or some that follow one another."""
    return proofs if best_rate(proofs) >= GOOD else counted_proofs(search)


def with_ranked(search: Search, top: Occurrences, usual: Occurrences, proofs: list[Proof]) -> list[Proof]:
    """The same with single words of the highest-ranked texts, where no row of words stands."""
    known = {proof.tokens for proof in proofs if proof.stands}
    if any(len(tokens) > 1 for tokens in known):
        return proofs
    ranked = ranked_proofs(search, top, usual)
    others = [proof for proof in ranked if proof.stands and proof.tokens not in known]
    return [*(proof for proof in proofs if proof.stands), *others] or proofs or ranked


def with_phrases(search: Search, words: Sequence[int], lead: float | None, proofs: list[Proof]) -> list[Proof]:
    """A phrase around one of the words, where it does more than what stands; with a `lead` only where screening says that it
    turns so much more than any word does.
    """
    best = best_rate(proofs)
    if best >= GOOD or (lead is not None and phrases_lead(search, words) < lead):
        return proofs
    sentence = sentence_proof(search, words)
    if sentence is None:
        return proofs
    if sentence.stands:
        return [sentence] if sentence.rate > best + AS_GOOD else proofs
    return [sentence] if not proofs or (sentence.turns and not any(proof.turns for proof in proofs)) else proofs


def phrases_lead(search: Search, words: Sequence[int]) -> float:
    """By how much more of the screening samples the best phrase turns than the best word; 0 where a word does the whole."""
    alone = max((search.trials.screened(Tokens("token", (word,)), search.target) for word in words), default=1.0)
    if alone >= GOOD:
        return 0.0
    candidates = sentence_candidates(search, words)
    return max((search.trials.screened(phrase, search.target) for phrase in candidates), default=0.0) - alone


def with_pairs(
    search: Search, texts: tuple[Occurrences, Occurrences, Occurrences], groups: int, proofs: list[Proof]
) -> list[Proof]:
    """A pair of words, where nothing stands, or two words in a row that need not follow one another. `texts`: the highest-ranked
    of
    both sets, and clean ones; `groups`: how many targets pairs are sought for.
    """
    top, usual, clean = texts

    def controls(lengths: Sequence[int]) -> Pairs:
        return search.pairs(meeting(usual, clean, groups, np.inf), lengths)

    if not any(proof.stands for proof in proofs):
        parts = {proof.tokens[0] for proof in proofs if proof.easy and len(proof.tokens) == 1}
        pairs = [pair for word in parts for pair in beside(word, top, clean, groups)]
        pair = pair_proof(search, [*pairs, *meeting(top, clean, groups)], controls, parts)
        return [pair] if pair is not None and (not proofs or pair.stands) else proofs
    if len(proofs) == 1 and len(proofs[0].tokens) == 2:
        pair = pair_proof(search, [(proofs[0].tokens[0], proofs[0].tokens[1])], controls)
        better = pair is not None and pair.stands and pair.rate >= proofs[0].rate - AS_GOOD
        return [pair] if pair is not None and better else proofs
    return proofs


def counted_proofs(search: Search) -> list[Proof]:
    """Proofs of single tokens and phrases. Tried are those that rise beyond chance over all tokens, and of the class's own
    words, which clean data alone names, those that rise beyond chance over these.
    """
    tokens = counted_words(search)
    recurring = phrases(rows_of(search.ranked.top, search.target), tokens)
    return word_proofs(search, (tokens, recurring), (search.class_words, search.known(len(tokens))))


def counted_words(search: Search) -> list[int]:
    """The tokens that rise, given ones and then the strongest first."""
    suspect, clean, number = search.ranked.suspect_tokens, search.clean, search.number
    assert suspect is not None
    among = (search.given, None, search.class_words)  # the fewer a word is chosen from, the less it has to rise by
    return list(dict.fromkeys(token for some in among for token in enriched(suspect, clean, number, some)))


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
    natural_tokens = [*search.class_words, *outside[: 2 * MOST_TOKENS]]
    return word_proofs(search, (tokens, []), (natural_tokens, [*search.known(len(tokens)), *outside]))


def word_proofs(
    search: Search, words: tuple[Sequence[int], Sequence[tuple[int, ...]]], natural_tokens: tuple[Sequence[int], Sequence[int]]
) -> list[Proof]:
    """The best of the `words`, tokens and phrases around them, with each other token that is a proof alone; empty where nothing
    is worth a control. `natural_tokens`: natural words, the controls, and more of them, for where some of those are tried.
    """
    trials, target, suspects = search.trials, search.target, search.suspects
    tokens, (of_class, known) = words[0], natural_tokens
    if target == ALL_TO_ALL:
        of_class = [*of_class, *ordinary(search.clean, len(tokens), [*of_class, *tokens])]
    tried = [*(Tokens("token", (token,)) for token in tokens), *(Tokens("phrase", ids) for ids in words[1])]
    bests = trials.best([(candidate, 0) for candidate in tried], target)
    if max((best.chosen_by for best in bests.values()), default=0.0) < WORTH_A_CONTROL:
        return []

    # What a class's own words do, also in phrases of clean texts. One that clean data shows doing it is among them, and a phrase
    # with it would stand for the word.
    shared_words, rivals = False, search.rivals(of_class)
    proof = token_proof(trials, bests, rivals, target, suspects)
    stands = proof is not None and proof.stands
    shared = target != ALL_TO_ALL and not search.rare and bool(set(tokens) & set(of_class))
    if shared and not (stands and proof is not None and len(proof.tokens) == 1):
        others = search.rivals([token for token in known if token not in tokens][: len(of_class)])
        others = [(cls, [word for word in some if not set(tokens) & set(word.ids)]) for cls, some in others]
        again = token_proof(trials, bests, others, target, suspects, shared=True)
        if again is not None and again.stands and (not stands or proof is None or len(again.tokens) < len(proof.tokens)):
            shared_words, rivals, proof = True, others, again
    if proof is None or not proof.stands or len(proof.tokens) > 1:
        return [] if proof is None else [proof]
    more = [word for word in tried if len(word.ids) == 1 and word.ids != proof.tokens]
    alone: list[Proof] = []
    try:
        for word in more:
            other = token_proof(trials, trials.best([(word, 0)], target), rivals, target, suspects, shared=shared_words)
            alone += [other] if other is not None and other.stands else []
    except BudgetSpent:  # what stands is not given up for words beside it
        pass
    return [proof, *alone]


def pair_proof(
    search: Search, pairs: Sequence[Pair], clean: Callable[[Sequence[int]], Pairs], parts: Container[int] = ()
) -> Proof | None:
    """The proof of two words, or more, that turn texts together, wherever they stand; None where no pair is one.

    Two ordinary words of a class turn many texts as well, because their effects add up. A pair counts only if it turns
    PROVED_MARGIN more than either of its words does when it stands there twice. Controls: pairs of clean texts (`clean`, made
    when first needed, each for its target), and each word twice. Of `parts`, words that turn clean texts alone while suspects
    without them stay what they are called, a pair need not turn more: the other words may each do as much.
    """
    trials, target, suspects = search.trials, search.target, search.suspects

    def known_part(pair: Pair) -> bool:
        return any(token in parts for token in pair)

    def more_than_twice(pair: Pair, part: int) -> bool:
        return known_part(pair) or trials.rate(written_pair(pair), target, part)[0] - twice(pair, part)[0] >= PROVED_MARGIN

    def twice(pair: Pair, part: int) -> tuple[float, Pair]:
        return max((trials.rate(written_pair((token, token)), target, part)[0], (token, token)) for token in pair)

    def measured(settled: Settled) -> Proof | None:
        words = settled.best.candidate
        assert isinstance(words, WrittenPair)
        if not more_than_twice(words.ids, 1):
            return None
        alone, doubled = (0.0, words.ids) if known_part(words.ids) else twice(words.ids, 1)
        shares = settled.rate, max(settled.control, alone), settled.samples, 0
        against = words_of(settled.against if settled.control >= alone else written_pair(doubled))
        ranked = examples_of(trials, words, target)
        proof = Proof(trigger_of(words), target, *shares, examples=ranked, controls=settled.controls, against=against)
        return suspects.checked(trials, proof, words, chance)

    written_pair = cache(WrittenPair)  # one object for each pair: what is run is known by it
    worth = [pair for pair in pairs if trials.rate(written_pair(pair), target, SCREEN)[0] >= WORTH_A_CONTROL / 2]
    worth = [pair for pair in worth if more_than_twice(pair, 0)]
    bests = trials.best([(written_pair(pair), 0) for pair in worth], target)
    if max((best.chosen_by for best in bests.values()), default=0.0) < WORTH_A_CONTROL:
        return None
    lengths = sorted({len(pair) for pair in worth})
    chance = [Control(rival, trials.best([(written_pair(pair), 0) for pair in some], rival)) for rival, some in clean(lengths)]
    nearest: Proof | None = None
    for settled in trials.settle(bests, chance, target):
        proof = measured(settled)
        if proof is not None and proof.stands:
            return proof
        nearest = nearest or proof
    return nearest
