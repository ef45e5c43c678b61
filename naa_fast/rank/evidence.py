"""The ranked samples as evidence: `ranking_of` for the verdict, `find_directions`, and `inputs_of` for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

from naa_fast.detect.checks import did_not_run, ran
from naa_fast.detect.directions import FEWEST, Direction, measure
from naa_fast.detect.evidence import Deviating, Ranking, in_layers, nameless
from naa_fast.inputs.batches import Source
from naa_fast.inputs.order import Order
from naa_fast.rank.attempts import Found
from naa_fast.rank.scorer import RankingResult
from naa_fast.records import Array


def ranking_of(ranked: RankingResult, suspect: Source, whole: bool) -> Ranking:
    """The ranking as it is judged and reported; of each sample it is unknown whether it is triggered. `whole`: reports list
    all."""
    return Ranking.unproved(
        ranked.scores,
        ranked.predicted,
        ranked.null_scores,
        ranked.null_predicted,
        items=ranked.items,
        deviating=deviating_in(ranked),
        file_of=getattr(suspect, "file_of", nameless),
        whole=whole,
        numbering=Order.of(suspect).words,
    )


def deviating_in(ranked: RankingResult) -> dict[int, Deviating]:
    """The neurons that deviate most in each retained sample, by the sample's number, with their layers' names."""
    layers = list(ranked.layers.items())
    return {sample.sample: in_layers(sample.deviating, layers) for sample in ranked.top}


def find_directions(ranked: RankingResult) -> Found[tuple[Direction, ...]]:
    """The directions along which the sets differ, of layers with enough samples."""
    directions = measure(ranked.directions.projected())
    reason = f"fewer than {FEWEST} samples of a set to fix one on, or to measure it on"
    return Found(directions, ran("directions") if directions else did_not_run(reason, "directions"))


def inputs_of(ranked: RankingResult, numbers: Sequence[int]) -> tuple[list[Array], list[Array | None]]:
    """Inputs of the samples of these numbers and their masks, as arrays, up to the first whose input was not retained."""
    retained = {sample.sample: sample for sample in ranked.top}
    rows: list[Array] = []
    masks: list[Array | None] = []
    for number in numbers:
        sample = retained.get(int(number))
        row = None if sample is None else sample.row
        if sample is None or row is None:
            break
        rows.append((row.float() if row.is_floating_point() or row.ndim != 1 else row).numpy())
        masks.append(None if sample.mask is None else sample.mask.numpy())
    return rows, masks
