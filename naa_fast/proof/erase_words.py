"""`words_erased`: whether suspect texts that hold a trigger's words get another prediction without them; see
`naa_fast.proof.erase`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from naa_fast.detect.proof import ALL_TO_ALL, Erasure
from naa_fast.proof.apply import holds, holds_all
from naa_fast.proof.erase import CLAIMED, ELSEWHERE, ENOUGH, more_than_elsewhere
from naa_fast.proof.token_pairs import WrittenPair
from naa_fast.proof.tokens import Tokens, inner_places, own_places
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
    are taken out; None where no text can be read again.

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
    price = (1 + times) * len(claimed.predicted) + sum(len(known.predicted) for _, known in controls)
    trials.transplant.budget.require(price)
    turned = back(claimed, words)
    instead = np.stack([back(claimed, words, seed) for seed in range(times)], 1)
    shares = [float(instead.mean()), *(float(back(known, other).mean()) for other, known in controls)]
    return Erasure(len(turned), float(turned.mean()), max(shares), more_than_elsewhere(turned, instead))


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
