"""`image_proofs`: what continuous inputs share, tried on clean ones, and what clean groups share instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from naa_fast.detect.evidence import HARMLESS
from naa_fast.detect.proof import ALL_TO_ALL, PROVED_OWN_RATE, Proof
from naa_fast.proof.cuts import cuts
from naa_fast.proof.examples import examples_of
from naa_fast.proof.images import SIZES, CleanImages, Patch, candidates, harmless_share
from naa_fast.proof.purer import FEWEST, purer_groups
from naa_fast.proof.transplant import SCREEN, WORTH_A_CONTROL, Candidate
from naa_fast.proof.trials import Best, Trials, Tried
from naa_fast.records import Array

CONTROLS = 2
GOOD = 0.9
"""Rate of a proof beyond which nothing better is sought: a part of a trigger may stand as a proof, and be no use to repair."""
ALIKE = 0.05
"""Root mean square difference of two samples, over that of clean inputs about their mean, up to which one repeats the other."""
ONE_SOURCE = 0.7
"""Share of a class's choosing samples that makes it a source: a trigger may be meant to turn one class alone."""
SOURCES = 2
ONE_CLASS = 60
"""Clean samples of a class that choose and measure for it alone."""
OWN = 0.15
"""Most of the input that a patch may cover that clean samples hold too: of 8 x 8 digits 3 x 3 pixels turned .68 at most in clean
models, 4 x 4 turned .99, as they are the better part of a digit."""
SMALL = 0.02
"""Most of the input that a patch against one class may cover: with 4 % and more, or an offset, samples of one class of clean
models were seen to turn to a neighbouring class, which another draw of clean samples need not show."""

Rows = Sequence[tuple[int, Array]]
"""Predicted class and input of some samples."""


class Later:
    """What `make` makes of each of the groups, when it is first asked for."""

    def __init__(self, make: Callable[[Rows], Tried], groups: Sequence[Rows]) -> None:
        self._make = make
        self._groups = groups

    def __call__(self) -> list[Tried]:
        return self._made

    @cached_property
    def _made(self) -> list[Tried]:
        return [self._make(group) for group in self._groups]


def grouped(
    rows: Sequence[Array], clean: CleanImages, offset: bool, usual: Array | None, own: Array
) -> Iterator[tuple[Candidate, int]]:
    """Candidates of the first SIZES rows each, as far as there are rows, and of those of all rows that share what they share.

    `usual`: see `naa_fast.proof.images.offsets`; `own`: the clean inputs of the target's class.
    """
    whole = np.stack(rows) if rows else np.zeros((0, *clean.mean.shape), np.float32)
    for size in sorted({min(size, len(rows)) for size in SIZES}):
        if size >= FEWEST:
            for candidate in candidates(whole[:size], clean, offset and size >= SIZES[1], usual):
                yield candidate, size
    for purer in purer_groups(whole, clean, usual, own):
        for candidate in candidates(whole[purer], clean, offset, usual):
            yield candidate, len(purer)


@dataclass(frozen=True)
class Sought:
    """What the candidates for one target are made of: a `group` of suspects, and `clean_groups` that get the same chance.

    `own`: clean inputs of the target's class, of all-to-all all; `usual` their mean, None of all-to-all.
    """

    target: int | str
    group: Rows
    clean_groups: Sequence[Rows]
    own: Array
    usual: Array | None


def image_proofs(
    trials: Trials, suspects: Rows, unusual: Rows, wanted: Sequence[int | str], clean: CleanImages, predicted: Array
) -> Iterator[Proof]:
    """For each target what came nearest to a proof. `suspects`, `unusual`: the highest-ranked samples of the suspect set and of
    the clean one; `clean` inputs with the class `predicted` for each.
    """
    random = np.random.default_rng(0)
    for target in wanted:
        group = distinct([pair for pair in suspects if target in (pair[0], ALL_TO_ALL)], clean)
        own = np.flatnonzero(predicted == target) if target != ALL_TO_ALL else np.arange(len(clean.x))
        if len(group) < FEWEST:
            continue
        # Too few of the class have no offsets, where as many suspects have: then clean samples of any class get the same chance.
        like = own if len(own) >= SIZES[1] else np.arange(len(clean.x))
        groups = [[(int(predicted[i]), clean.x[i]) for i in random.permutation(like)[: len(group)]] for _ in range(CONTROLS)]
        groups.append([pair for pair in unusual if target in (pair[0], ALL_TO_ALL)][: len(group)])
        usual = clean.x[own].mean(0) if target != ALL_TO_ALL and len(own) else None
        yield from strongest(tried_for(trials, Sought(target, group, groups, clean.x[own], usual), clean))
        trials.forget()


def tried_for(trials: Trials, sought: Sought, clean: CleanImages) -> Iterator[Proof | None]:
    """What a group shares first; where that is no good proof, windows of single samples, and what clean samples hold too; then,
    where nothing stands, what a group shares against one class.
    """
    target, group = sought.target, sought.group
    whole = np.stack([row for _, row in group])  # few samples have too much of their own
    offset = harmless_share(whole, clean, sought.usual) < HARMLESS

    def shared(rows: Rows) -> Tried:
        return list(grouped([row for _, row in rows], clean, offset, sought.usual, sought.own))

    def cut(rows: Rows) -> Tried:
        return sorted(cuts(rows, clean, trials.transplant.margins), key=covered)  # of what is as good, the smallest

    tried, controls = shared(group), Later(shared, sought.clean_groups)
    found = [attempt(trials, tried, controls, target)]
    yield found[0]
    if not isinstance(target, int) or good(found):
        return
    windows = cut(group)
    found.append(attempt(trials, windows, Later(cut, sought.clean_groups), target))
    yield found[-1]
    if good(found):
        return
    found.append(held_by_clean(trials, [*tried, *windows], found, target))
    yield found[-1]
    if stands(found):
        return
    for source in sources(trials, small(tried), target):
        narrow = Later(lambda rows: small(shared(rows)), sought.clean_groups)
        proof = attempt(trials.of_class(source), small(tried), narrow, target)
        yield None if proof is None else replace(proof, source=source)


def strongest(found: Iterable[Proof | None]) -> list[Proof]:
    """The proof that turns most, alone, or all that was tried where none stands."""
    tried = [proof for proof in found if proof is not None]
    standing = [proof for proof in tried if proof.stands]
    return [max(standing, key=lambda proof: proof.rate)] if standing else tried


def distinct(rows: Rows, clean: CleanImages) -> Rows:
    """The rows without those that repeat an earlier one: black frames share all they have, and witness nothing for each other."""
    if len(rows) < FEWEST:
        return rows
    x = np.stack([row for _, row in rows]).reshape(len(rows), -1)
    x = x - clean.mean.reshape(1, -1)
    squares = (x**2).sum(1)
    near = squares[:, None] + squares[None] - 2 * x @ x.T < x.shape[1] * (ALIKE * clean.loudness) ** 2
    np.fill_diagonal(near, True)  # whatever rounding says
    first = near.argmax(1) == np.arange(len(rows))
    return [pair for pair, kept in zip(rows, first, strict=True) if kept]


def stands(found: Sequence[Proof | None]) -> bool:
    return any(proof is not None and proof.stands for proof in found)


def good(found: Sequence[Proof | None]) -> bool:
    """Whether a proof stands that a better reconstruction could hardly improve."""
    return any(proof is not None and proof.stands and proof.rate >= GOOD for proof in found)


def attempt(trials: Trials, tried: Tried, controls: Later, target: int | str) -> Proof | None:
    """The best of what is tried, measured; None where it turns too little to be worth a control."""
    found = trials.best(tried, target)
    if max((best.chosen_by for best in found.values()), default=0.0) < WORTH_A_CONTROL:
        return None
    best, rate, control, samples = trials.settle(found, [trials.best(one, target) for one in controls()], target)
    return replace(proof_of(best, target, rate, control, samples), examples=examples_of(trials, best.candidate, target))


def proof_of(best: Best, target: int | str, rate: float, control: float, samples: int, own: bool = False) -> Proof:
    candidate = best.candidate
    pattern, mask = (getattr(candidate, name, None) for name in ("pattern", "mask"))
    return Proof(f"{candidate.kind}, {candidate.budget}", target, rate, control, samples, best.group, pattern, mask, own=own)


def held_by_clean(trials: Trials, tried: Tried, tries: Sequence[Proof | None], target: int) -> Proof | None:
    """The patch that turns so many that it is a trigger though clean samples of the target hold it too; None if there is none."""
    patches = trials.best([pair for pair in tried if isinstance(pair[0], Patch) and pair[0].mask[0].mean() <= OWN], target)
    best = max(patches.values(), key=lambda best: best.chosen_by, default=None)
    if best is None or best.chosen_by < PROVED_OWN_RATE:
        return None
    rate, samples = trials.rate(best.candidate, target, 1)
    control = max((proof.control for proof in tries if proof is not None), default=0.0)
    proof = proof_of(best, target, rate, control, samples, own=True)
    return replace(proof, examples=examples_of(trials, best.candidate, target))


def covered(pair: tuple[Patch, int]) -> float:
    """How much of the input a patch covers."""
    return float(pair[0].mask.sum())


def small(tried: Tried) -> Tried:
    """The patches of SMALL and less."""
    return [
        (one, size)
        for one, size in tried
        if isinstance(one, Patch) and one.mask[0].sum() <= max(1, round(SMALL * one.mask[0].size))
    ]


def sources(trials: Trials, tried: Tried, target: int) -> list[int]:
    """Classes whose choosing samples some candidate turns although it leaves most others alone, the most often turned first."""
    before = trials.parts[0].predicted
    enough = {int(c) for c, n in zip(*np.unique(trials.bases.predicted, return_counts=True), strict=True) if n >= ONE_CLASS}
    most: dict[int, float] = {}
    for candidate, _ in tried:
        if not (trials.after(candidate, SCREEN) == target)[trials.parts[SCREEN].predicted != target].any():
            continue
        after = trials.after(candidate, 0)
        for source in np.unique(before[(before >= 0) & (before != target)]):
            own = before == source
            if own.sum() >= FEWEST and int(source) in enough:
                most[int(source)] = max(most.get(int(source), 0.0), float((after[own] == target).mean()))
    likely = [source for source, share in most.items() if share >= ONE_SOURCE]
    return sorted(likely, key=lambda source: -most[source])[:SOURCES]
