"""`prove`: the strongest reconstruction for each target, measured on clean samples that chose nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from naa_fast.detect.proof import ALL_TO_ALL, Proof
from naa_fast.inputs.batches import Batch
from naa_fast.proof.harmless import harmless_changes
from naa_fast.proof.images import SIZES, CleanImages, candidates
from naa_fast.proof.tokens import LONGEST, MOST_TOKENS, Tokens, characteristic, enriched, phrases
from naa_fast.proof.transplant import Bases, Candidate, Transplant, moved_by_rule, rule_of, turned
from naa_fast.rank.groups import Groups
from naa_fast.rank.keep import Kept, concatenated, main_tensor
from naa_fast.rank.look import Look
from naa_fast.records import Array
from naa_fast.scan.loop import evaluating
from naa_fast.scan.placement import Placement

CHOOSING, MEASURING = 80, 320
"""Clean samples that choose the best of many candidates, and others that measure the one that was chosen."""
SCREENING = 24
SCREENED = 0.2
"""Most candidates do nothing: a few samples tell, and only what turns this share of them is put on all that choose."""
SCREEN = 2
TARGETS = 3
CONTROLS = 2
FEWEST = 5
"""Highest-ranked samples of one predicted class that make it a target."""
AMONG = 100
WORTH_A_CONTROL = 0.4
"""Share of the choosing part that a candidate must turn before clean groups are given the same chance: less proves nothing."""


@dataclass(frozen=True)
class Best:
    """The candidate of one budget that turned most of the choosing part."""

    candidate: Candidate
    chosen_by: float
    group: int


class Trials:
    """Candidates against bases in parts: 0 chooses, 1 measures, SCREEN is the first of those that choose."""

    def __init__(self, transplant: Transplant, bases: Bases) -> None:
        self.transplant = transplant
        size = len(bases.predicted)
        cut = min(CHOOSING, size // 2)
        self.parts = bases.part(0, cut), bases.part(cut, size), bases.part(0, min(SCREENING, cut))

    def rate(self, candidate: Candidate, target: int | str, part: int) -> tuple[float, int]:
        """Share of samples turned to the target, or for all-to-all to where the choosing part says their class goes."""
        before = self.parts[part].predicted
        after = self.transplant.predictions(self.parts[part], candidate)
        if isinstance(target, int):
            return turned(before, after, target)
        choosing = self.parts[SCREEN if part == SCREEN else 0].predicted
        rule = rule_of(choosing, self.transplant.predictions(self.parts[0], candidate) if part == 1 else after)
        return moved_by_rule(before, after, rule)

    def best(self, tried: Iterable[tuple[Candidate, int]], target: int | str) -> dict[tuple[str, str], Best]:
        """Of candidates with the sizes of the groups they came from, the best of each kind and budget."""
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
    ) -> tuple[Best, float, float, int] | None:
        """The budget with the widest margin over its controls: its best, then rate, control and samples on the measuring part."""
        if not found:
            return None

        def margin(key: tuple[str, str]) -> float:
            control = max((c[key].chosen_by for c in controls if key in c), default=0.0)
            return round(found[key].chosen_by - control, 1)  # of what is as good, the first: the smallest patch

        key = max(found, key=margin)
        rate, samples = self.rate(found[key].candidate, target, 1)
        control = max((self.rate(c[key].candidate, target, 1)[0] for c in controls if key in c), default=0.0)
        return found[key], rate, control, samples


def prove(model: nn.Module, seen: Look, device: str | torch.device = "auto") -> tuple[list[Proof], int, str]:
    """What came nearest to a proof for each target, strongest first; how many samples were run for it; and, if nothing could be
    tried, why.

    For each target the candidates come from the highest-ranked suspect samples predicted as it; the controls are the same
    number of candidates from clean samples predicted as it, put on the same bases. Cost: at most about `(1 + CONTROLS) x 30 x
    CHOOSING` samples through the model for each of TARGETS + 1 targets.
    """
    transplant = Transplant(model, Placement.of(model, device))
    bases = spread(Bases(seen.drawn), CHOOSING + MEASURING)
    if not len(bases.predicted) or (bases.predicted < 0).all():
        return [], 0, "the model gives no class scores"
    trials = Trials(transplant, bases)
    with evaluating(model):
        if seen.suspect_tokens is not None and seen.clean_tokens is not None:
            proofs = list(token_proofs(trials, seen, seen.groups))
        elif any(kept.row is not None and kept.row.is_floating_point() for kept in seen.top):
            proofs = list(image_proofs(trials, seen))
        else:
            return [], 0, "the inputs are neither continuous values nor token ids, or too large to keep"
    return sorted(proofs, key=lambda proof: (not proof.stands, -proof.margin)), transplant.forwards, ""


def spread(bases: Bases, most: int) -> Bases:
    """At most `most` of the bases, from every batch alike, in as few batches as their shapes allow."""
    total = len(bases.predicted)
    parts = [Bases([pair]).part(0, max(1, round(pair[0].size * most / max(total, most)))) for pair in bases.batches]
    joined: list[tuple[Batch, Array]] = []
    for batch, predicted in (pair for part in parts for pair in part.batches):
        whole = concatenated(joined[-1][0], batch) if joined else None
        if whole is None:
            joined.append((batch, predicted))
        else:
            joined[-1] = (whole, np.concatenate([joined[-1][1], predicted]))
    return Bases(joined).part(0, most)


def targets(top: Sequence[Kept], null_predicted: Array) -> list[int]:
    """Predicted classes that are over-represented among the highest-ranked samples."""
    held = np.array([kept.predicted for kept in top[:AMONG]])
    found = [int(c) for c in np.unique(held[held >= 0]) if (held == c).sum() >= FEWEST]
    usual = {c: float((null_predicted == c).mean()) for c in found}
    return sorted(found, key=lambda c: (held == c).sum() / (len(held) * usual[c] + 1), reverse=True)[:TARGETS]


def grouped(rows: Sequence[Array], clean: CleanImages) -> Iterator[tuple[Candidate, int]]:
    """Candidates of the first SIZES rows each, as far as there are rows."""
    sizes = sorted({min(size, len(rows)) for size in SIZES})
    for size in sizes:
        if size >= FEWEST:
            for candidate in candidates(np.stack(rows[:size]), clean):
                yield candidate, size


def image_proofs(trials: Trials, seen: Look) -> Iterator[Proof]:
    drawn = [(main_tensor(batch).cpu().float().numpy(), predicted) for batch, predicted in seen.drawn]
    shape = drawn[0][0].shape[1:]
    drawn = [(x, predicted) for x, predicted in drawn if x.shape[1:] == shape]
    x, predicted = np.concatenate([d[0] for d in drawn]), np.concatenate([d[1] for d in drawn])
    clean = CleanImages.of(x)
    rows, unusual = (
        [(kept.predicted, kept.row.float().numpy()) for kept in top if kept.row is not None and kept.row.shape == shape]
        for top in (seen.top, seen.null_top)
    )
    wanted: list[int | str] = [*targets(seen.top, seen.null_predicted), ALL_TO_ALL]
    random = np.random.default_rng(0)
    for target in wanted:
        group = [row for cls, row in rows if target in (cls, ALL_TO_ALL)]
        found = trials.best(grouped(group, clean), target)
        if max((best.chosen_by for best in found.values()), default=0.0) < WORTH_A_CONTROL:
            continue
        own = np.flatnonzero(predicted == target) if target != ALL_TO_ALL else np.arange(len(x))
        clean_groups = [[x[i] for i in random.permutation(own)[: len(group)]] for _ in range(CONTROLS)]
        clean_groups.append([row for cls, row in unusual if target in (cls, ALL_TO_ALL)][: len(group)])
        controls = [trials.best(grouped(rows, clean), target) for rows in clean_groups]
        settled = trials.settle(found, controls, target)
        if settled is None:
            continue
        best, rate, control, samples = settled
        control = max(control, *(trials.rate(change, target, 1)[0] for change in harmless_changes(clean)))
        candidate = best.candidate
        kind = f"{candidate.kind}, {candidate.budget}"
        yield Proof(
            kind,
            target,
            rate,
            control,
            samples,
            best.group,
            getattr(candidate, "pattern", None),
            getattr(candidate, "mask", None),
        )


def token_proofs(trials: Trials, seen: Look, groups: Groups) -> Iterator[Proof]:
    assert seen.suspect_tokens is not None
    assert seen.clean_tokens is not None
    wanted: list[tuple[int | None, int | str]] = [(number, int(cls)) for number, cls in enumerate(groups.classes, 1)]
    for number, target in [*wanted, (None, ALL_TO_ALL)]:
        tokens = enriched(seen.suspect_tokens, seen.clean_tokens, number)
        rows = [kept.row.numpy() for kept in seen.top if kept.row is not None and target in (kept.predicted, ALL_TO_ALL)]
        tried = [Tokens("token", (token,)) for token in tokens]
        tried += [Tokens("phrase", ids) for ids in phrases(rows, tokens)]
        found = trials.best(((candidate, 0) for candidate in tried), target)
        if max((best.chosen_by for best in found.values()), default=0.0) < WORTH_A_CONTROL:
            continue
        # The strongest words of the class in clean data, but for those on trial: a trigger that clean data holds marks its
        # target as well.
        own = [token for token in characteristic(seen.clean_tokens, number, 2 * MOST_TOKENS) if token not in tokens][:MOST_TOKENS]
        natural = [Tokens("token", (token,)) for token in own]
        natural += [Tokens("phrase", tuple(own[:length])) for length in range(2, LONGEST + 1)]
        controls = [trials.best(((candidate, 0) for candidate in natural), target)]
        settled = trials.settle(found, controls, target)
        if settled is None:
            continue
        best, rate, control, samples = settled
        assert isinstance(best.candidate, Tokens)
        yield Proof(best.candidate.kind, target, rate, control, samples, 0, tokens=best.candidate.ids)
