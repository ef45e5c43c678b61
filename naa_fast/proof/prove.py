"""`prove`: the strongest reconstruction for each target, measured on clean samples that chose nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from naa_fast.detect.evidence import HARMLESS
from naa_fast.detect.proof import ALL_TO_ALL, PROVED_OWN_RATE, Proof
from naa_fast.inputs.batches import Batch
from naa_fast.proof.cuts import cuts
from naa_fast.proof.images import SIZES, CleanImages, Patch, candidates, harmless_share
from naa_fast.proof.texts import token_proofs
from naa_fast.proof.transplant import SCREEN, WORTH_A_CONTROL, Bases, Candidate, Transplant, moved_by_rule, rule_of, turned
from naa_fast.rank.keep import Kept, main_tensor
from naa_fast.rank.look import Look
from naa_fast.records import Array
from naa_fast.scan.loop import evaluating
from naa_fast.scan.placement import Placement

CHOOSING, MEASURING = 80, 320
"""Clean samples that choose the best of many candidates, and others that measure the one that was chosen."""
SCREENING = 24
SCREENED = 0.2
"""Most candidates do nothing: a few samples tell, and only what turns this share of them is put on all that choose."""
TARGETS = 3
CONTROLS = 2
FEWEST = 5
"""Highest-ranked samples of one predicted class that make it a target."""
ALIKE = 0.05
"""Root mean square difference of two samples, over that of clean inputs about their mean, up to which one repeats the other."""
AMONG = 100


ONE_SOURCE = 0.7
"""Share of a class's choosing samples that makes it a source: a trigger may be meant to turn one class alone."""
SOURCES = 2
ONE_CLASS = 60
"""Clean samples of a class that choose and measure for it alone."""
SMALL = 0.02
"""Most of the input that a patch against one class may cover: with 4 % and more, or an offset, samples of one class of clean
models were seen to turn to a neighbouring class, which another draw of clean samples need not show."""

Rows = Sequence[tuple[int, Array]]
"""Predicted class and input of some samples."""
Tried = Sequence[tuple[Candidate, int]]
"""Candidates with the sizes of the groups they came from."""
CleanInputs = tuple[CleanImages, Array]
"""Clean continuous inputs, and the class predicted for each."""


@dataclass(frozen=True)
class Best:
    """The candidate of one budget that turned most of the choosing part."""

    candidate: Candidate
    chosen_by: float
    group: int


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


class Trials:
    """Candidates against bases in parts: 0 chooses, 1 measures, SCREEN is the first of those that choose."""

    def __init__(self, transplant: Transplant, bases: Bases, chose: Array | None = None) -> None:
        """`chose` int64: numbers of bases that have had a part in choosing, and so may not measure."""
        self.transplant = transplant
        self.bases = bases
        order = in_turns(bases.predicted)
        cut = min(CHOOSING, len(order) // 2)
        if chose is not None:
            order = np.concatenate([order[np.isin(order, chose)], order[~np.isin(order, chose)]])
            cut = max(cut, min(len(chose), len(order)))
        self.chose = order[:cut]
        chosen = order[:cut], order[cut : cut + MEASURING], order[: min(SCREENING, cut)]
        self.parts = tuple(bases.of(rows) for rows in chosen)
        self._after: dict[tuple[int, int], tuple[Candidate, Array]] = {}

    def of_class(self, source: int) -> Trials:
        """The same on samples of one predicted class; those that chose the class choose again."""
        own = np.flatnonzero(self.bases.predicted == source)
        return Trials(self.transplant, self.bases.of(own), np.flatnonzero(np.isin(own, self.chose)))

    def after(self, candidate: Candidate, part: int) -> Array:
        """Predicted class of a part's samples with the candidate on them, int64; run once."""
        key = id(candidate), part
        if key not in self._after:
            self._after[key] = candidate, self.transplant.predictions(self.parts[part], candidate)  # held: its id stays its own
        return self._after[key][1]

    def rate(self, candidate: Candidate, target: int | str, part: int) -> tuple[float, int]:
        """Share of samples turned to the target, or for all-to-all to where the choosing part says their class goes."""
        before = self.parts[part].predicted
        after = self.after(candidate, part)
        if isinstance(target, int):
            return turned(before, after, target)
        choosing = self.parts[SCREEN if part == SCREEN else 0].predicted
        rule = rule_of(choosing, self.after(candidate, 0) if part == 1 else after)
        return moved_by_rule(before, after, rule)

    def best(self, tried: Tried, target: int | str) -> dict[tuple[str, str], Best]:
        """The best candidate of each kind and budget."""
        found: dict[tuple[str, str], Best] = {}
        for candidate, group in tried:
            share, _ = self.rate(candidate, target, SCREEN)
            if share >= SCREENED:
                share, _ = self.rate(candidate, target, 0)
            key = (candidate.kind, candidate.budget)
            if key not in found or share > found[key].chosen_by:
                found[key] = Best(candidate, share, group)
        return found

    def settle(
        self, found: dict[tuple[str, str], Best], controls: Sequence[dict[tuple[str, str], Best]], target: int | str
    ) -> tuple[Best, float, float, int]:
        """The budget with the widest margin over its controls: its best, then rate, control and samples on the measuring part."""

        def margin(key: tuple[str, str]) -> float:
            control = max((c[key].chosen_by for c in controls if key in c), default=0.0)
            return round(found[key].chosen_by - control, 1)  # of what is as good, the first: the smallest patch

        key = max(found, key=margin)
        rate, samples = self.rate(found[key].candidate, target, 1)
        control = max((self.rate(c[key].candidate, target, 1)[0] for c in controls if key in c), default=0.0)
        return found[key], rate, control, samples


def prove(
    model: nn.Module, seen: Look, images: CleanInputs | None, device: str | torch.device = "auto"
) -> tuple[list[Proof], int, str]:
    """What came nearest to a proof for each target, strongest first; how many samples were run for it; and, if nothing could be
    tried, why.

    `images`: see `clean_images`. For each target the candidates come from the highest-ranked suspect samples predicted as it; the
    controls are the same number of candidates from clean samples predicted as it, put on the same bases. Cost: some
    ten thousand samples through the model, 100,000 at most; the report tells how many.
    """
    drawn = alike(seen.drawn)
    bases = Bases(drawn)
    if not len(bases.predicted) or (bases.predicted < 0).all():
        return [], 0, "the model gives no class scores"
    transplant = Transplant(model, Placement.of(model, device), seen.largest, drawn[0][0])
    trials = Trials(transplant, bases)
    with evaluating(model):
        if seen.suspect_tokens is not None and seen.clean_tokens is not None:
            proofs = list(token_proofs(trials, seen))
        elif images is not None and any(kept.row is not None and kept.row.is_floating_point() for kept in seen.top):
            proofs = list(image_proofs(trials, seen, *images))
        else:
            return [], 0, "the inputs are neither continuous values nor token ids, or too large to keep"
    return sorted(proofs, key=lambda proof: (not proof.stands, -proof.margin)), transplant.forwards, ""


def alike(drawn: Sequence[tuple[Batch, Array]]) -> list[tuple[Batch, Array]]:
    """The batches whose inputs have the commonest shape; of token ids all, since texts have no one length."""
    if not drawn or not main_tensor(drawn[0][0]).is_floating_point():
        return list(drawn)
    shapes = [main_tensor(batch).shape[1:] for batch, _ in drawn]
    common = max(set(shapes), key=shapes.count)
    return [pair for pair, shape in zip(drawn, shapes, strict=True) if shape == common]


def in_turns(predicted: Array) -> Array:
    """Sample numbers with the predicted classes in turns, in an order that a fixed seed shuffles: sets come sorted by class."""
    shuffled = np.random.default_rng(0).permutation(len(predicted))
    seen: dict[int, int] = {}
    turn = np.zeros(len(predicted), np.int64)
    for i in shuffled:
        turn[i] = seen[int(predicted[i])] = seen.get(int(predicted[i]), -1) + 1
    return shuffled[np.argsort(turn[shuffled], kind="stable")]


def targets(top: Sequence[Kept], null_predicted: Array) -> list[int]:
    """Predicted classes that are over-represented among the highest-ranked samples."""
    held = np.array([kept.predicted for kept in top[:AMONG]])
    found = [int(c) for c in np.unique(held[held >= 0]) if (held == c).sum() >= FEWEST]
    usual = {c: float((null_predicted == c).mean()) for c in found}
    return sorted(found, key=lambda c: (held == c).sum() / (len(held) * usual[c] + 1), reverse=True)[:TARGETS]


def grouped(
    rows: Sequence[Array], clean: CleanImages, offset: bool, usual: Array | None = None
) -> Iterator[tuple[Candidate, int]]:
    """Candidates of the first SIZES rows each, as far as there are rows. `usual`: see `naa_fast.proof.images.offsets`."""
    sizes = sorted({min(size, len(rows)) for size in SIZES})
    for size in sizes:
        if size >= FEWEST:
            for candidate in candidates(np.stack(rows[:size]), clean, offset, usual):
                yield candidate, size


def clean_images(seen: Look) -> CleanInputs | None:
    """The clean inputs that were drawn and their predicted classes, as far as they are finite and of the commonest shape; None
    for inputs of another kind.
    """
    drawn = alike(seen.drawn)
    if not drawn or not main_tensor(drawn[0][0]).is_floating_point() or main_tensor(drawn[0][0]).ndim < 2:
        return None
    x = np.concatenate([main_tensor(batch).cpu().float().numpy() for batch, _ in drawn])
    finite = np.isfinite(x.reshape(len(x), -1)).all(1)
    predicted = np.concatenate([predicted for _, predicted in drawn])
    return (CleanImages.of(x[finite]), predicted[finite]) if finite.any() else None


def rows_like(clean: CleanImages, top: Sequence[Kept]) -> list[tuple[int, Array]]:
    """Predicted class and input of the kept samples that have the clean inputs' shape."""
    kept = [(one.predicted, one.row.float().numpy()) for one in top if one.row is not None]
    return [(predicted, row) for predicted, row in kept if row.shape == clean.x.shape[1:] and np.isfinite(row).all()]


def harmless_of(seen: Look, images: CleanInputs | None) -> float:
    """How much of what the highest-ranked samples share in their input a harmless change explains, 0 to 1; 0 where unknown."""
    if images is None:
        return 0.0
    rows = [row for _, row in rows_like(images[0], seen.top)]
    return harmless_share(np.stack(rows), images[0]) if rows else 0.0


def image_proofs(trials: Trials, seen: Look, clean: CleanImages, predicted: Array) -> Iterator[Proof]:
    """`clean` inputs with the class `predicted` for each.

    What a group shares first; where that is no proof, windows of single samples; then what a group shares against one class.
    """
    suspects, unusual = rows_like(clean, seen.top), rows_like(clean, seen.null_top)
    wanted: list[int | str] = [*targets(seen.top, seen.null_predicted), ALL_TO_ALL]
    random = np.random.default_rng(0)
    for target in wanted:
        group = distinct([pair for pair in suspects if target in (pair[0], ALL_TO_ALL)], clean)
        if len(group) < FEWEST:
            continue
        own = np.flatnonzero(predicted == target) if target != ALL_TO_ALL else np.arange(len(clean.x))
        clean_groups = [[(int(predicted[i]), clean.x[i]) for i in random.permutation(own)[: len(group)]] for _ in range(CONTROLS)]
        clean_groups.append([pair for pair in unusual if target in (pair[0], ALL_TO_ALL)][: len(group)])

        usual = clean.x[own].mean(0) if target != ALL_TO_ALL and len(own) else None
        whole = np.stack([row for _, row in group])  # few samples have too much of their own
        offset = harmless_share(whole, clean, usual) < HARMLESS

        def shared(rows: Rows, offset: bool = offset, usual: Array | None = usual) -> Tried:
            return list(grouped([row for _, row in rows], clean, offset, usual))

        def cut(rows: Rows) -> Tried:
            found = cuts(rows, clean, trials.transplant.margins)
            return sorted(found, key=covered)  # of what is as good, the smallest

        tried, controls = shared(group), Later(shared, clean_groups)
        found = [attempt(trials, tried, controls, target)]
        if isinstance(target, int) and not stands(found):
            windows = cut(group)
            found.append(attempt(trials, windows, Later(cut, clean_groups), target))
            if not stands(found):
                found.append(held_by_clean(trials, [*tried, *windows], found, target))
        if isinstance(target, int) and not stands(found):
            for source in sources(trials, small(tried), target):
                proof = attempt(
                    trials.of_class(source), small(tried), Later(lambda rows: small(shared(rows)), clean_groups), target
                )
                found.append(None if proof is None else replace(proof, source=source))
        yield from (proof for proof in found if proof is not None)


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


def attempt(trials: Trials, tried: Tried, controls: Later, target: int | str) -> Proof | None:
    """The best of what is tried, measured; None where it turns too little to be worth a control."""
    found = trials.best(tried, target)
    if max((best.chosen_by for best in found.values()), default=0.0) < WORTH_A_CONTROL:
        return None
    best, rate, control, samples = trials.settle(found, [trials.best(one, target) for one in controls()], target)
    return proof_of(best, target, rate, control, samples)


def proof_of(best: Best, target: int | str, rate: float, control: float, samples: int, own: bool = False) -> Proof:
    candidate = best.candidate
    pattern, mask = (getattr(candidate, name, None) for name in ("pattern", "mask"))
    return Proof(f"{candidate.kind}, {candidate.budget}", target, rate, control, samples, best.group, pattern, mask, own=own)


def held_by_clean(trials: Trials, tried: Tried, tries: Sequence[Proof | None], target: int) -> Proof | None:
    """The patch that turns so many that it is a trigger though clean samples of the target hold it too; None if there is none."""
    patches = trials.best([pair for pair in tried if isinstance(pair[0], Patch)], target)
    best = max(patches.values(), key=lambda best: best.chosen_by, default=None)
    if best is None or best.chosen_by < PROVED_OWN_RATE:
        return None
    rate, samples = trials.rate(best.candidate, target, 1)
    control = max((proof.control for proof in tries if proof is not None), default=0.0)
    return proof_of(best, target, rate, control, samples, own=True)


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
