"""`prove`: the strongest reconstruction for each target, measured on clean samples that chose nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from math import ceil

import numpy as np

from naa_fast.detect.axes import channels_first
from naa_fast.detect.enrichment import hypergeometric_tail
from naa_fast.detect.evidence import highest_first
from naa_fast.detect.proof import ALL_TO_ALL, Proof
from naa_fast.detect.trigger import Tokens
from naa_fast.errors import Stopped
from naa_fast.inputs.batches import Batch
from naa_fast.proof.budget import Budget, BudgetSpent, ShareSpent
from naa_fast.proof.chances import Pool
from naa_fast.proof.erase_words import Fetch
from naa_fast.proof.given import given_first, misfit, untold
from naa_fast.proof.images import CleanImages, harmless_share
from naa_fast.proof.matched_filter import FEWEST
from naa_fast.proof.pictures import ImageSearch, Limit
from naa_fast.proof.texts import WordSearch
from naa_fast.proof.transplant import UNRULED, PredictedSamples, Transplant, can_rule
from naa_fast.proof.trials import Trials
from naa_fast.rank.retained import Retained, main_tensor
from naa_fast.rank.scorer import RankingResult
from naa_fast.records import Array
from naa_fast.scan.loop import evaluating
from naa_fast.scan.placement import Placement
from naa_fast.scan.stopping import StoppableProgress
from naa_fast.scan.work import Work

TARGETS = 3
NAMED = 5
"""Targets that were not searched that are named."""
AMONG = 100
ORDINARY, CUTS = 0.1, (1.0, 1 / 3, 0.1, 0.03)
"""Chance from which a class is no oftener among suspects, and the shares of both sets, the highest-ranked, that are asked."""
LARGEST = 1e15
"""Of an input's values: the squares of a million as large still add up in float32."""

NEITHER = "the inputs are neither continuous values nor token ids, or too large to keep"

NONE_KEPT = "no input of the highest-ranked samples was kept: they are too large, or were measured without --retain"

CleanInputs = tuple[CleanImages, Array]
"""Clean continuous inputs, and the class predicted for each."""


@dataclass(frozen=True)
class Proved:
    """What came nearest to a proof for each target, strongest first; how many samples ran for it; why some, or all, targets could
    not be tried (`notes`); whether any could (`tried`); what the search does not look for (`limits`).
    """

    proofs: tuple[Proof, ...] = ()
    forwards: int = 0
    notes: tuple[str, ...] = ()
    tried: bool = True
    limits: tuple[str, ...] = ()


def prove(work: Work, ranked: RankingResult, images: CleanInputs | None, fetch: Fetch, budget: Budget) -> Proved:
    """For each likely target the trigger that turns most clean samples to it, of those read off the highest-ranked suspects,
    beside controls with the same chance; what was measured until `work.watch` or the `budget` ended it.

    `images`: see `clean_images`. `fetch` reads suspect samples again, to take words out of their texts. For each target the
    candidates come from the highest-ranked suspect samples predicted as it; the controls are the same number of candidates from
    clean samples (`chances`), put on the same samples; what turns these is taken out of the suspects again (`erased`). Cost: the
    `budget` at most; the report tells how many. The likeliest targets come first; once a proof stands, no other target is begun
    with more than half of it spent. `work.triggers`: proofs of another audit, whose triggers say where to look first
    (`naa_fast.proof.given`).
    """
    drawn, given = alike(ranked.reservoir), work.triggers
    clean = PredictedSamples(drawn)
    if not len(clean.predicted) or (clean.predicted < 0).all():
        return Proved(notes=("the model gives no class scores",), tried=False)
    last = images is not None and images[0].last
    place, tell = Placement.of(work.model, work.device), shown_by(work.watch, budget)
    transplant = Transplant(work.model, place, ranked.largest, drawn[0][0], last, work.scores, tell, budget)
    trials = Trials(transplant, clean)
    called: list[int] | None = None
    misfits = [misfit(proof, work.classes, None if images is None else images[0].mean.shape) for proof in given]
    given = [proof for proof, why in zip(given, misfits, strict=True) if not why]
    unsearched, outcomes, left = [without_inputs(ranked.top), *misfits], dict[int | str, list[Proof | str]](), list[int | str]()
    with evaluating(work.model):
        try:
            if ranked.suspect_tokens is not None and ranked.clean_tokens is not None:
                words = WordSearch(trials, ranked, fetch, given)
                left += words.wanted
                search_in_turns(words, left, outcomes, transplant.budget)
            elif images is not None and any(sample.row is not None and sample.row.is_floating_point() for sample in ranked.top):
                rows, usual = (rows_like(images[0], top) for top in (ranked.top, ranked.null_top))
                unsearched.append(left_aside(len(rows), ranked.top))
                called = [predicted for predicted, _ in rows]
                left += given_first(given, targets(ranked.top, ranked.null_predicted), called)
                left += [ALL_TO_ALL] if can_rule(trials.parts[0].predicted) else []
                search = ImageSearch(trials, rows, Pool(usual, *images), partial(ordinary, ranked), given)
                search_in_turns(search, left, outcomes, transplant.budget, search.turning)
            else:
                kept = any(sample.row is not None for sample in ranked.top)
                return Proved(notes=(NEITHER if kept else NONE_KEPT,), tried=False)
        except Stopped as stop:  # what was measured until then stays
            unsearched.append(stop.headline)
        except BudgetSpent as spent:
            unsearched.append(
                f"{spent.headline} before {in_classes(left)} {'was' if len(left) == 1 else 'were'} searched: --budget N"
            )
    every = list(chain.from_iterable(outcomes.values()))
    proofs = sorted(
        (outcome for outcome in every if isinstance(outcome, Proof)), key=lambda proof: (not proof.stands, -proof.margin)
    )
    told = [outcome for outcome in every if isinstance(outcome, str)]
    notes = tuple(filter(None, (*(reason for reason in told if not isinstance(reason, Limit)), *unsearched)))
    if images is not None:
        proofs = [as_taken(proof, images[0]) for proof in proofs]
    limits = [] if can_rule(trials.parts[0].predicted) else [UNRULED]
    limits += [reason for reason in told if isinstance(reason, Limit)]
    return Proved(tuple(proofs), transplant.forwards, notes, limits=(*limits, *untold(given, proofs, called)))


def shown_by(watch: StoppableProgress | None, budget: Budget) -> Callable[[int], None] | None:
    """Shows how many samples of the budget ran."""
    if watch is None:
        return None
    watch("proving", 0, budget.most)
    return lambda forwards: watch("proving", forwards, budget.most)


def search_in_turns(
    search: Callable[[int | str], Iterable[Proof | str]],
    left: list[int | str],
    outcomes: dict[int | str, list[Proof | str]],
    budget: Budget,
    turning: Callable[[int | str], bool] = lambda target: False,
) -> None:
    """Enter in `outcomes` what the search of each target gives, of those that are `left`, the likeliest first; one that was
    searched is left no more. Each has half of what may still run, the last all of it, and so has one for which something is
    `turning` clean samples: it does not wait for those that show nothing. One that has not ended with that goes on in the next
    round, and once no half is enough for anything, the first takes what there is. Raises BudgetSpent.
    """
    while left:
        before = budget.spent
        for target in list(left):
            every = chain.from_iterable(outcomes.values())
            if budget.halfway and any(isinstance(outcome, Proof) and outcome.stands for outcome in every):
                raise BudgetSpent(f"half of the budget of {budget.most:,} samples is spent, and the rest is left for a repair,")
            for among in (2, 1) if len(left) > 1 else (1,):
                outcomes[target] = []
                try:
                    with budget.share(among):
                        for outcome in search(target):
                            outcomes[target].append(outcome)
                except ShareSpent:
                    if not turning(target):
                        break
                    continue
                left.remove(target)
                break
        budget.fair = budget.spent > before
    budget.fair = True


def in_classes(targets: Sequence[int | str]) -> str:
    """`class 3`, `all-to-all`, `classes 1, 2, 3 and 29 others`."""
    if len(targets) == 1:
        return f"class {targets[0]}" if isinstance(targets[0], int) else str(targets[0])
    more = f" and {len(targets) - NAMED} others" if len(targets) > NAMED else ""
    return f"classes {', '.join(map(str, targets[:NAMED]))}{more}"


def without_inputs(top: Sequence[Retained]) -> str:
    """How many of the highest-ranked samples have no input, of which one that ranks lower has; empty where none. A set that is
    scanned retains the highest alone, so that these are of parts that were measured elsewhere and kept none.
    """
    rows = [sample.row is not None for sample in top]
    last = max((place for place, row in enumerate(rows) if row), default=-1)
    missing = rows[: last + 1].count(False)
    if not missing:
        return ""
    return f"of {missing} of the {len(rows)} highest-ranked samples no input was kept: measure every part with --retain"


def left_aside(alike: int, top: Sequence[Retained]) -> str:
    """Why not all of the highest-ranked samples were searched, of which `alike` are like clean ones; empty where they were."""
    retained = sum(sample.row is not None for sample in top)
    if alike < retained:
        return (
            f"{retained - alike} of the {retained} highest-ranked samples have another shape than most clean ones, "
            f"or are not finite or beyond {LARGEST:g}"
        )
    return "" if retained >= min(FEWEST, len(top)) else f"inputs are too large to keep {FEWEST} of the highest-ranked samples"


def as_taken(proof: Proof, clean: CleanImages) -> Proof:
    """The proof with its trigger in the axes of the model's own inputs."""
    return proof if isinstance(proof.trigger, Tokens) else replace(proof, trigger=proof.trigger.mapped(clean.as_taken))


def alike(drawn: Sequence[tuple[Batch, Array]]) -> list[tuple[Batch, Array]]:
    """The batches whose inputs have the commonest shape; of token ids all, since texts have no one length. Classes int64
    `[samples of the batch]`.
    """
    if not drawn or not main_tensor(drawn[0][0]).is_floating_point():
        return list(drawn)
    shapes = [main_tensor(batch).shape[1:] for batch, _ in drawn]
    common = max(set(shapes), key=shapes.count)
    return [pair for pair, shape in zip(drawn, shapes, strict=True) if shape == common]


def targets(top: Sequence[Retained], null_predicted: Array) -> list[int]:
    """Predicted classes that are over-represented among the highest-ranked samples. `null_predicted` int64 `[clean samples]`."""
    called = np.array([sample.predicted for sample in top[:AMONG]])
    classes = [int(c) for c in np.unique(called[called >= 0]) if (called == c).sum() >= FEWEST]
    usual = {c: float((null_predicted == c).mean()) for c in classes}
    return sorted(classes, key=lambda c: (called == c).sum() / (len(called) * usual[c] + 1), reverse=True)[:TARGETS]


def ordinary(ranked: RankingResult, target: int) -> bool:
    """Whether suspects are called `target` no oftener than clean samples are: neither all of them nor those of the highest 33, 10
    and 3 % of both sets (Fisher's exact test, one-sided, each at ORDINARY).
    """
    sets = (ranked.scores, ranked.predicted), (ranked.null_scores, ranked.null_predicted)
    called = [predicted[highest_first(scores)] == target for scores, predicted in sets]

    def usual(share: float) -> bool:
        high, low = (marks[: ceil(share * len(marks))] for marks in called)
        return hypergeometric_tail(int(high.sum()), len(high), int(low.sum()), len(low)) >= ORDINARY

    return all(map(usual, CUTS))


def clean_images(ranked: RankingResult) -> CleanInputs | None:
    """The clean inputs of the reservoir and their predicted classes, as far as they are `in_range` and of the commonest shape;
    None for inputs of another kind.
    """
    drawn = alike(ranked.reservoir)
    if not drawn or not main_tensor(drawn[0][0]).is_floating_point() or main_tensor(drawn[0][0]).ndim < 2:
        return None
    x = np.concatenate([main_tensor(batch).cpu().float().numpy() for batch, _ in drawn])
    usable = in_range(x)
    predicted = np.concatenate([predicted for _, predicted in drawn])
    return (CleanImages.of(x[usable]), predicted[usable]) if usable.any() else None


def in_range(x: Array) -> Array:
    """Which samples are finite and no larger than LARGEST, bool `[samples]`."""
    return np.asarray((np.abs(x.reshape(len(x), -1)) <= LARGEST).all(1))


def rows_like(clean: CleanImages, top: Sequence[Retained]) -> list[tuple[int, Array]]:
    """Predicted class and input of the retained samples that have the clean inputs' shape, with their axes. Float32 `[...]`, the
    shape of one of these.
    """
    rows = [(sample.predicted, channels_first(sample.row.float().numpy())) for sample in top if sample.row is not None]
    return [(predicted, row) for predicted, row in rows if row.shape == clean.x.shape[1:] and in_range(row[None])[0]]


def harmless_of(ranked: RankingResult, images: CleanInputs | None) -> float:
    """How much of what the highest-ranked samples share in their input a harmless change explains, 0 to 1; 0 where unknown."""
    if images is None:
        return 0.0
    rows = [row for _, row in rows_like(images[0], ranked.top)]
    return harmless_share(np.stack(rows), images[0]) if rows else 0.0
