"""`Search`: the controls of a word search: words of clean texts with the same chance of turning the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

from naa_fast.detect.proof import ALL_TO_ALL, Erasure, Proof
from naa_fast.proof.chances import FEWEST_OTHERS, OTHERS
from naa_fast.proof.erase_words import Fetch, Words, words_erased
from naa_fast.proof.token_pairs import Pair, WrittenPair
from naa_fast.proof.tokens import MOST_TOKENS, Tokens, characteristic, natural, ordinary, phrases, rare
from naa_fast.proof.trials import Control, Trials
from naa_fast.rank.retained import Retained
from naa_fast.rank.scorer import RankingResult
from naa_fast.rank.tokens import TokenCounts
from naa_fast.records import Array

OWN_PAIRS = 5
"""Words of a class whose pairs are controls of a token pair: ten pairs, more than are tried."""
LEAST_OTHER = 8
"""Clean samples that a class needs to stand for a rare target: what marks it has to be in FEWEST of them."""

Rival = tuple[int | str, Sequence[Tokens]]
"""A target, and words of clean texts that are tried for it."""
Pairs = Sequence[tuple[int | str, Sequence[Pair]]]
"""The same of token pairs."""


@dataclass(frozen=True)
class Suspects:
    """The highest-ranked suspect texts, and how to read them again."""

    top: Sequence[Retained]
    fetch: Fetch | None
    known: dict[tuple[object, ...], Erasure | None] = field(default_factory=dict)

    def checked(self, trials: Trials, proof: Proof, words: Words, controls: Sequence[Control]) -> Proof:
        """The proof with what taking its words out of the suspects does, if it turns clean samples. `controls`: the best of what
        clean texts have instead.
        """
        if not proof.turns:
            return proof
        same = [control.bests.get((words.kind, words.budget)) for control in controls if control.target == proof.target]
        natural_words = [best.candidate for best in same if best is not None and isinstance(best.candidate, Tokens | WrittenPair)]
        key = words, proof.target, *natural_words
        if key not in self.known:
            self.known[key] = words_erased(trials, words, natural_words, proof.target, self.top, self.fetch)
        return replace(proof, erasure=self.known[key])


@dataclass(frozen=True)
class Search:
    """The `trials` of one `target`, whose texts are counted under `number` (None: all of them), and the `suspects` that may hold
    its trigger. `given`: token ids of triggers from outside that turn to it.
    """

    trials: Trials
    ranked: RankingResult
    number: int | None
    target: int | str
    suspects: Suspects
    given: Sequence[int] = ()

    @property
    def clean(self) -> TokenCounts:
        assert self.ranked.clean_tokens is not None
        return self.ranked.clean_tokens

    @property
    def rare(self) -> bool:
        """Whether clean data has too few samples of the target to know its words."""
        return rare(self.clean, self.number)

    @cached_property
    def class_words(self) -> list[int]:
        """The words of the class in clean data."""
        return characteristic(self.clean, self.number)

    def known(self, more: int) -> list[int]:
        """The same, and so many more of them."""
        return characteristic(self.clean, self.number, MOST_TOKENS + more)

    @cached_property
    def others(self) -> list[tuple[int, int]]:
        """Number and class of those that stand for a rare target: with the most clean samples, OTHERS at most."""
        able = [(number, int(cls)) for number, cls in enumerate(self.ranked.groups.classes, 1) if number != self.number]
        able = [other for other in able if self.clean.samples[other[0]] >= LEAST_OTHER]
        return sorted(able, key=lambda other: -int(self.clean.samples[other[0]]))[:OTHERS]

    @property
    def uncontrolled(self) -> str:
        """Why nothing has the same chance as a word of this target; empty where something has."""
        if not self.rare or len(self.others) >= FEWEST_OTHERS:
            return ""
        samples = int(self.clean.samples[self.number or 0])
        return (
            f"a word that turns to class {self.target}: clean data has {samples} samples of it, "
            f"and no {FEWEST_OTHERS} other classes with {LEAST_OTHER}, so there is no control with the same chance"
        )

    def rivals(self, words_of_class: Sequence[int]) -> list[Rival]:
        """What is tried instead, for which target: `words_of_class`, alone and in phrases of clean texts. Of a rare target what
        any word does, and for each of the `others` what its own words do.
        """
        if not self.rare:
            return [(self.target, self._natural(words_of_class, self.target))]
        words = [*words_of_class, *ordinary(self.clean, MOST_TOKENS, words_of_class)]
        known = [(cls, characteristic(self.clean, number)) for number, cls in self.others]
        return [(self.target, natural(words)), *((cls, self._natural(tokens, cls)) for cls, tokens in known)]

    def pairs(self, usual: Sequence[Pair], lengths: Sequence[int] = (2,)) -> Pairs:
        """The same of so many words apart as `lengths` says; `usual`: pairs that meet in the highest-ranked clean texts of the
        target.
        """

        def own(number: int | None) -> list[Pair]:
            words = characteristic(self.clean, number, max(OWN_PAIRS, *lengths))
            return [some for many in lengths for some in combinations(words[: max(OWN_PAIRS, many)], many)]

        others = self.others if self.rare else []
        return [(self.target, [*own(self.number), *usual]), *((cls, own(number)) for number, cls in others)]

    def _natural(self, tokens: Sequence[int], target: int | str) -> list[Tokens]:
        return natural(tokens) + [Tokens("phrase", ids) for ids in phrases(rows_of(self.ranked.null_top, target), list(tokens))]


def rows_of(top: Sequence[Retained], target: int | str) -> list[Array]:
    """The retained texts of samples predicted as the target. Int64 `[positions]` each."""
    return [sample.row.numpy() for sample in top if sample.row is not None and target in (sample.predicted, ALL_TO_ALL)]
