"""`erased`: whether suspect samples that hold a proven trigger get another prediction once it is taken out of them.

A trigger that turns clean samples says something of the model. Of the suspects it says something only if taking it out of those
that hold it gives them another prediction, and taking as much out elsewhere, or out of clean samples, does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from naa_fast.detect.enrichment import hypergeometric_tail
from naa_fast.detect.proof import ALL_TO_ALL, Erasure
from naa_fast.proof.apply import anywhere, in_place, places_of
from naa_fast.proof.chances import Rows, Sought
from naa_fast.proof.crops import CUT
from naa_fast.proof.images import CleanImages, Offset, Patch
from naa_fast.proof.matched_filter import matched
from naa_fast.proof.transplant import Candidate, Transplant
from naa_fast.proof.triggered import limit_of
from naa_fast.records import Array

CLAIMED = 32
"""Suspects that the trigger is taken out of, at most."""
ELSEWHERE = 11
"""Like-sized places, or patterns, that are taken out of each of them instead: two samples alone can then be told from chance."""
ENOUGH = 10
"""Clean samples of the target that can be held against the suspects."""
NEAREST = 1024
"""Clean inputs that the pixels under a patch come from."""
SAME = 1e-5
"""Squared distance of an input from itself, over its length, up to which rounding takes it."""


@dataclass(frozen=True)
class Eraser:
    """Takes a candidate out of images: what lies under a patch becomes what the clean input that is nearest otherwise has there;
    of an offset as much is subtracted as each image holds of it, since more would leave the same pattern upside down.
    """

    candidate: Candidate
    clean: CleanImages

    def of(self, x: Array, shifts: Sequence[tuple[int, ...]] = ((),)) -> Iterator[Array]:
        """`x` without it, for each of the `shifts` that move the place, or the pattern, around the image first. `x` float32
        `[samples, ...]`, as what comes.
        """
        offset = isinstance(self.candidate, Offset)
        masks, amounts = (None, self.amounts(x)) if offset else (self.masks(x), None)
        for shift in shifts:
            if isinstance(self.candidate, Offset):
                held = amounts * rolled(self.candidate.pattern, shift)
                yield np.clip(x - held, self.clean.low, self.clean.high).astype(np.float32)
            else:
                assert masks is not None
                yield covered(x, rolled(masks, shift), self.clean)

    def amounts(self, x: Array) -> Array:
        """How much of an offset each image holds, in times of it: by a matched filter (see `Filter`), 0 and more. `x` float32
        `[samples, ...]`; `[samples, 1, ...]`, with as many axes.
        """
        assert isinstance(self.candidate, Offset)
        pattern = self.candidate.pattern
        wanted = matched(pattern, self.clean)
        scale = float((pattern * wanted).sum())
        held = (x - self.clean.mean).reshape(len(x), -1) @ wanted.ravel() / scale if scale > 0 else np.zeros(len(x))
        return np.maximum(held, 0.0).astype(np.float32).reshape(-1, *(1,) * (x.ndim - 1))

    def masks(self, x: Array) -> Array:
        """Where the patch lies in each of the images: a window that was cut out lies where it is matched best. `x` float32
        `[samples, channels, height, width]`; 0 to 1, of the same shape.
        """
        assert isinstance(self.candidate, Patch)
        pattern, mask = torch.from_numpy(self.candidate.pattern), torch.from_numpy(self.candidate.mask).bool()
        masks = np.repeat(self.candidate.mask[None], len(x), 0)
        if self.candidate.kind != CUT:
            return masks
        close, limit = in_place(pattern, mask), limit_of(in_place(pattern, mask)(torch.from_numpy(self.clean.x)))
        moved = places_of(pattern, mask)(torch.from_numpy(x))
        top, left = (int(axis[0]) for axis in np.nonzero(self.candidate.mask.max(0)))
        for image, at_its_place, (y, x_) in zip(masks, close(torch.from_numpy(x)) > limit, moved, strict=True):
            if not at_its_place:
                image[:] = np.roll(self.candidate.mask, (int(y) - top, int(x_) - left), (1, 2))
        return masks

    def carried(self, x: Array) -> Array:
        """Which images hold a patch more closely than clean ones do, bool; of an offset all: it leaves no trace in one. `x`
        float32 `[samples, ...]`; `[samples]`.
        """
        if not isinstance(self.candidate, Patch):
            return np.ones(len(x), bool)
        pattern, mask = torch.from_numpy(self.candidate.pattern), torch.from_numpy(self.candidate.mask).bool()
        ways = [in_place(pattern, mask), *([anywhere(pattern, mask)] if self.candidate.kind == CUT else [])]
        matches = [way(torch.from_numpy(x)) > limit_of(way(torch.from_numpy(self.clean.x))) for way in ways]
        return np.asarray(np.stack(matches).any(0))


def erased(
    transplant: Transplant,
    candidate: Candidate,
    sought: Sought,
    controls: Sequence[tuple[Candidate, Sought]],
    suspects: Rows,
    clean: CleanImages,
) -> Erasure:
    """How many suspects get another prediction once a candidate is taken out of them, beside what chance and controls give.
    `suspects`: all that are predicted as the target, the highest-ranked first; `controls`: what was read off clean groups
    instead.

    Claimed are those that hold a patch as no clean sample does, but not the one that a window was cut out of, which it was chosen
    to decide; of an offset those it was read off. Compared with (a) ELSEWHERE like-sized places in the same samples (exact: under
    chance each place is as likely to be the one that decides, so their number is a sum of independent draws), (b) clean samples
    of the target without the same (Fisher's exact test), and, of an offset, or where these are fewer than ENOUGH, (c) what was
    read off each clean group taken out of that group (Fisher): of offsets group by group, of patches all groups together, if they
    have ENOUGH samples that hold theirs. The largest p-value and the largest share of the three count.
    """
    eraser = Eraser(candidate, clean)
    rows = claimed(eraser, suspects)
    if not len(rows):
        return Erasure(0, 0.0, 0.0, 1.0)
    called = caller(transplant, sought.target)
    [back] = (called(rows, without) for without in eraser.of(rows))
    instead = np.stack([called(rows, without) for without in eraser.of(rows, shifts_of(candidate))], 1)
    comparisons = [(float(instead.mean()), more_than_elsewhere(back, instead))]
    known = sought.of_target[: 2 * CLAIMED]
    if len(known) >= ENOUGH:
        [usual] = (called(known, without) for without in eraser.of(known))
        comparisons.append((float(usual.mean()), fisher(back, usual)))
    if isinstance(candidate, Offset) or len(known) < ENOUGH:
        groups = (out_of_own(transplant, Eraser(other, clean), group) for other, group in controls)
        taken = [turned for turned in groups if len(turned)]
        if not isinstance(candidate, Offset):  # of a rare class a group is a handful, which one sample of a frail class outvotes
            taken = [np.concatenate(taken)] if sum(map(len, taken)) >= ENOUGH else []
        comparisons += [(float(usual.mean()), fisher(back, usual)) for usual in taken]
    shares, chances = zip(*comparisons, strict=True)
    return Erasure(len(rows), float(back.mean()), max(shares), max(chances))


def out_of_own(transplant: Transplant, eraser: Eraser, group: Sought) -> Array:
    """Which samples of a clean group that hold what was read off it, or some of it, get another prediction without it, bool
    `[samples]`. Of an offset all: few samples that it was read off tell little.
    """
    offset = isinstance(eraser.candidate, Offset) and len(group.group)
    like = np.stack([row for _, row in group.group[:CLAIMED]]) if offset else claimed(eraser, group.group)
    [without] = eraser.of(like) if len(like) else [like]
    return caller(transplant, group.target)(like, without)


def claimed(eraser: Eraser, rows: Rows) -> Array:
    """Inputs that carry the candidate, CLAIMED at most, the highest-ranked first. Float32 `[samples, ...]`."""
    candidate = eraser.candidate
    read: tuple[int, ...] = getattr(candidate, "read_off", ())
    if isinstance(candidate, Offset):
        chosen = [rows[number][1] for number in read[:CLAIMED] if number < len(rows)]
        return np.stack(chosen) if chosen else eraser.clean.x[:0]
    if not rows:
        return eraser.clean.x[:0]
    x = np.stack([row for _, row in rows])
    holds = eraser.carried(x)
    if len(read) == 1:
        holds[read[0]] = False
    return x[np.flatnonzero(holds)[:CLAIMED]]


def caller(transplant: Transplant, target: int | str) -> Callable[[Array, Array], Array]:
    """What says which inputs get another prediction after a change than before: bool. Of one target all were predicted as it
    before. Both float32 `[samples, ...]`, what comes `[samples]`.
    """

    def changed(before: Array, after: Array) -> Array:
        now = transplant.called(after)
        then = transplant.called(before) if target == ALL_TO_ALL else np.full(len(after), target)
        return np.asarray((now >= 0) & (now != then))

    return changed


def covered(x: Array, masks: Array, clean: CleanImages) -> Array:
    """The images with what lies under their masks from the clean input that is nearest in all other places, never itself. `x` and
    `masks` `[samples, channels, height, width]`, as what comes, float32.
    """
    reference = clean.x[:NEAREST]
    flat, known, free = x.reshape(len(x), -1), reference.reshape(len(reference), -1), 1 - masks.reshape(len(x), -1)
    distance = ((flat**2) * free).sum(1)[:, None] + free @ (known**2).T - 2 * (flat * free) @ known.T
    distance[distance <= SAME * ((flat**2) * free).sum(1)[:, None]] = np.inf
    nearest = reference[distance.argmin(1)]
    return np.asarray(np.where(masks > 0, nearest, x), np.float32)


def shifts_of(candidate: Candidate) -> list[tuple[int, ...]]:
    """Moves around the image, ELSEWHERE at most: of a mask those that leave it overlap itself least, in an order a seed fixes."""
    shape = (candidate.mask if isinstance(candidate, Patch) else candidate.pattern).shape  # type: ignore[attr-defined]
    axes = shape[1:] if len(shape) > 1 else shape
    random = np.random.default_rng(0)
    tries = [tuple(int(random.integers(0, length)) for length in axes) for _ in range(8 * ELSEWHERE)]
    tries = [shift for shift in dict.fromkeys(tries) if any(shift)]
    if isinstance(candidate, Patch):
        tries.sort(key=lambda shift: float((rolled(candidate.mask, shift) * candidate.mask).sum()))
    return tries[:ELSEWHERE]


def rolled(image: Array, shift: tuple[int, ...]) -> Array:
    """An image or its mask `[..., height, width]`, moved around its last axes."""
    return np.roll(image, shift, tuple(range(image.ndim - len(shift), image.ndim))) if shift else image


def more_than_elsewhere(back: Array, instead: Array) -> float:
    """P(as many of the samples turn back at the place that counts), if of those places of a sample that turn it back each is as
    likely to be that one: bool `[samples]` and `[samples, places]`. Exact: a sum of independent draws, one a sample.
    """
    chance = (instead.sum(1) + back) / (instead.shape[1] + 1)
    sums = np.ones(1)
    for p in chance:
        sums = np.convolve(sums, [1 - p, p])
    return float(min(1.0, sums[int(back.sum()) :].sum()))


def fisher(flips: Array, others: Array) -> float:
    """P(as many flips or more) by Fisher's exact test against the `others`, bool `[samples]` each."""
    return hypergeometric_tail(int(flips.sum()), len(flips), int(others.sum()), len(others))
