"""`words_erased`: whether suspect texts that hold a trigger's words get another prediction without them; see
`naa_fast.proof.erase`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from naa_fast.detect.proof import ALL_TO_ALL, Erasure
from naa_fast.detect.trigger import Tokens as Around
from naa_fast.proof.apply import holds, holds_all
from naa_fast.proof.budget import BudgetSpent
from naa_fast.proof.erase import CLAIMED, ELSEWHERE, ENOUGH, more_than_elsewhere
from naa_fast.proof.token_pairs import WrittenPair
from naa_fast.proof.tokens import Tokens, inner_places, own_places, shared_around
from naa_fast.proof.transplant import PredictedSamples
from naa_fast.proof.trials import Trials
from naa_fast.rank.retained import Retained, main_tensor
from naa_fast.records import Array

Fetch = Callable[[Array], PredictedSamples | None]
"""Numbers of suspect samples, ascending -> those samples as they were read; None where none can be read again."""
MANY, FEWER = 16, 5
"""Of so many texts fewer others are taken out instead: the exact test has enough of them then."""
FILL = 4096
"""Clean tokens that stand in for those that are taken out."""
Words = Tokens | WrittenPair


@dataclass(frozen=True)
class WithoutWords:
    """Writes clean tokens over every place where a text holds the words, or with a `seed` over as many others at random places of
    its own.
    """

    words: Words
    fill: Array
    seed: int | None = None
    kind: str = "erased"
    budget: str = ""

    def put_on(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Token ids int64 `[samples, positions]` with other tokens in place of the words; `valid` bool of that shape."""
        out, random = x.clone(), np.random.default_rng(0 if self.seed is None else self.seed + 1)
        counted = own_places(x, valid).cpu().numpy()
        for row, marks in enumerate(places(x, self.words)):
            where = np.flatnonzero(marks)
            if self.seed is not None:
                free = inner_places(counted[row] & ~marks, len(where))
                where = random.permutation(free)[: len(where)]
            if len(where):
                out[row, torch.from_numpy(where).to(x.device)] = torch.from_numpy(random.choice(self.fill, len(where))).to(
                    x.device, x.dtype
                )
        return out


def places(x: Tensor, words: Words) -> Array:
    """Where texts `[samples, positions]` hold the words: bool; of words that follow one another, where they do."""
    ids = x.cpu().numpy()
    if isinstance(words, WrittenPair):
        return np.isin(ids, words.ids)
    inside, length = np.zeros(ids.shape, bool), len(words.ids)
    for start in range(ids.shape[1] - length + 1):
        match = (ids[:, start : start + length] == np.array(words.ids)).all(1)
        inside[match, start : start + length] = True
    return inside


def held_in(x: Tensor, words: Words) -> Array:
    """Which texts hold the words, bool `[samples]`."""
    return holds_all(x, words.ids) if isinstance(words, WrittenPair) else holds(x, words.ids)


def words_erased(
    trials: Trials, words: Words, usual: Sequence[Words], target: int | str, top: Sequence[Retained], fetch: Fetch | None
) -> Erasure | None:
    """How many suspect texts, of those that hold the words and are predicted as the target, get another prediction once the words
    are taken out; None where no text can be read again. Where too few do, and the words stand in a longer row that most of these
    texts share (`shared_around`), the same of that: what is left of a name may turn a text as well.

    Compared with (a) ELSEWHERE times (FEWER of MANY texts) as many other words of the same texts taken out (exact, see
    `erase.more_than_elsewhere`),
    and (b) in the share alone, the strongest of the class's own words (`usual`) taken out of the clean texts of the target that
    hold them, where these are ENOUGH: they are too few for a test. Clean texts with the trigger's own words are no control:
    they may be turned as well.
    """
    if fetch is None:
        return None
    numbers = [
        sample.sample
        for sample in top
        if sample.row is not None and target in (sample.predicted, ALL_TO_ALL) and held_in(sample.row[None], words)[0]
    ]
    if not numbers:
        return Erasure(0, 0.0, 0.0, 1.0)
    claimed = fetch(np.sort(np.array(numbers[:CLAIMED])))
    if claimed is None:
        return None
    fill = clean_tokens(trials.clean, words)

    def back(samples: PredictedSamples, other: Words, seed: int | None = None) -> Array:
        before, after = samples.predicted, trials.transplant.predictions(samples, WithoutWords(other, fill, seed))
        return np.asarray((after >= 0) & (after != before))

    times = ELSEWHERE if len(claimed.predicted) < MANY else FEWER
    controls = [(other, clean_with(trials.clean, other, target)) for other in usual]
    controls = [(other, known) for other, known in controls if len(known.predicted) >= ENOUGH]
    of_controls = sum(len(known.predicted) for _, known in controls)

    def taken_out(out: Words, more: int) -> Erasure:
        trials.transplant.budget.require((1 + times) * len(claimed.predicted) + more)
        turned = back(claimed, out)
        instead = np.stack([back(claimed, out, seed) for seed in range(times)], 1)
        shares = [float(instead.mean()), *(float(back(known, other).mean()) for other, known in controls)]
        return Erasure(len(turned), float(turned.mean()), max(shares), more_than_elsewhere(turned, instead))

    alone = taken_out(words, of_controls)
    longer = None if alone.shared or isinstance(words, WrittenPair) else shared_around(own_words(claimed), words.ids)
    if longer is None:
        return alone
    try:
        whole = taken_out(Tokens("phrase", longer), 0)  # what the controls come to is known
    except BudgetSpent:
        return alone
    whole = replace(whole, p_value=min(1.0, 2 * whole.p_value), around=Around(longer))  # the second that was tried
    return whole if whole.shared else alone


def own_words(samples: PredictedSamples) -> list[Array]:
    """The token ids of the samples without padding and the tokenizer's marks: int64 `[tokens]` each."""
    rows = []
    for batch, _ in samples.batches:
        x = main_tensor(batch)
        for ids, counted in zip(x.cpu().numpy(), own_places(x, batch.mask).cpu().numpy(), strict=True):
            rows.append(ids[inner_places(counted, 1)].astype(np.int64))
    return rows


def clean_with(clean: PredictedSamples, words: Words, target: int | str) -> PredictedSamples:
    """The clean samples of the target that hold the words, twice CLAIMED at most."""
    holding = [
        held_in(main_tensor(batch), words) & ((predicted == target) | (target == ALL_TO_ALL))
        for batch, predicted in clean.batches
    ]
    return clean.of(np.flatnonzero(np.concatenate(holding))[: 2 * CLAIMED])


def clean_tokens(clean: PredictedSamples, words: Words) -> Array:
    """Tokens as clean texts have them, FILL at most, without the words. Int64 `[tokens]`."""
    tokens: list[Array] = []
    for batch, _ in clean.batches:
        x = main_tensor(batch)
        ids = x[own_places(x, batch.mask) & (x >= 0)].cpu().numpy()
        tokens.append(ids[~np.isin(ids, words.ids)])
        if sum(map(len, tokens)) >= FILL:
            break
    whole = np.concatenate(tokens)[:FILL]
    return whole if len(whole) else np.ones(1, np.int64)
