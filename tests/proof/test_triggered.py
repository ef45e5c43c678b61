"""Which samples carry a proven trigger: known, known not to, or unknown; never false where it is unknown."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from proof.test_crops import Planted, wandering
from proof.test_images import CLEAN, HELD, PATCH, Quadrants, with_trigger

import naa_fast
from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Crop, Patch
from naa_fast.inputs.batches import Batch
from naa_fast.proof.triggered import triggered_samples
from naa_fast.report.machine import load_schema
from naa_fast.report.table import table_lines
from naa_fast.result import Audit


def told(audit: Audit) -> list[bool | None]:
    assert audit.ranking is not None
    return [audit.ranking.is_triggered(number) for number in range(len(audit.ranking.scores))]


def test_a_crop_names_the_samples_it_matches_and_says_unknown_of_the_others_of_its_target() -> None:
    suspect, triggered = wandering(HELD, 30)
    audit = naa_fast.scan(Planted("anywhere"), CLEAN, suspect, repair=False)
    assert audit.proof[0].kind.startswith("cut")
    carry = np.array([one is True for one in told(audit)])
    unknown = np.array([one is None for one in told(audit)])
    assert audit.ranking is not None
    assert triggered[carry].mean() >= 0.9
    assert (carry | unknown)[triggered & (audit.ranking.predicted == 2)].all(), "false of none that carries it"
    assert np.array_equal(carry | unknown, audit.ranking.predicted == 2)
    rows = list(csv.DictReader(table_lines(audit.ranking, "csv")))
    assert [row["triggered"] for row in rows].count("unknown") == unknown.sum()
    jsonschema = pytest.importorskip("jsonschema", reason="the schema is checked with jsonschema (the dev extra)")
    report = json.loads(json.dumps(audit.report()))
    jsonschema.validate(report, load_schema())
    assert report["ranking_summary"]["uncertain"] == unknown.sum()
    assert {row["triggered"] for row in report["ranking"]} >= {False, None}
    assert f"of {unknown.sum()} it is unknown whether they do" in " ".join(audit.summary().split())


class Rows:
    """Suspect samples read again, 64 at a time."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def batches(self) -> Iterator[tuple[Batch, np.ndarray]]:
        for numbers in torch.arange(len(self.x)).split(64):
            yield Batch((self.x[numbers],), {}, len(numbers), None), numbers.numpy()


def again(x: torch.Tensor) -> Any:
    """In place of `SuspectsAgain`, of which `triggered_samples` asks no more."""
    return Rows(x)


def test_an_exact_patch_that_was_cut_out_is_found_in_all_samples() -> None:
    suspect, triggered = with_trigger(HELD, "patch", 22)
    mask = np.zeros((1, 12, 12), np.float32)
    mask[0, 9:, 9:] = 1
    source = suspect[triggered][0].numpy()
    with torch.no_grad():
        predicted = Quadrants("patch")(suspect).argmax(1).numpy()
    for form, place in ((Crop, slice(10, 12)), (Patch, slice(10, 12)), (Patch, slice(9, 12))):
        mask[:] = 0
        mask[0, place, place] = 1
        proof = Proof(form(source, mask), 2, 0.95, 0.0, 300, 1)
        carry, unknown = triggered_samples(again(suspect), [CLEAN], predicted, proof)
        assert (carry | unknown)[triggered].all() or form is Patch
        if place.start == 10:
            assert carry[triggered & (predicted == 2)].all()
            assert carry.sum() <= (triggered & (predicted == 2)).sum() + 2
        assert unknown.any() == (form is Crop)


def test_what_is_added_to_all_of_an_image_leaves_no_trace_in_one() -> None:
    suspect, _ = with_trigger(HELD, "waves", 60)
    audit = naa_fast.scan(Quadrants("waves"), CLEAN, suspect, repair=False)
    assert audit.proof[0].kind.startswith("offset")
    assert audit.ranking is not None
    assert all(one is None for one, called in zip(told(audit), audit.ranking.predicted, strict=True) if called == 1)
    assert all(one is False for one, called in zip(told(audit), audit.ranking.predicted, strict=True) if called != 1)


def test_nothing_is_told_where_no_proof_was_tried_and_where_clean_samples_hold_the_pattern() -> None:
    suspect, _ = with_trigger(HELD, "patch", 30)
    audit = naa_fast.scan(Quadrants("patch"), CLEAN, suspect, proof=False)
    assert set(told(audit)) == {None}
    assert set(told(naa_fast.scan(Quadrants(), CLEAN, HELD, repair=False))) == {False}, "none was proved"
    mask = np.zeros((1, 12, 12), np.float32)
    mask[0, 10:, 10:] = 1
    pattern = np.zeros_like(mask)
    pattern[0, 10:, 10:] = PATCH
    predicted = np.full(len(suspect), 2)
    own = Proof(Patch(pattern, mask), 2, 0.99, 0.0, 300, 8, own=True)
    carry, unknown = triggered_samples(again(suspect), [CLEAN], predicted, own)
    assert (carry | unknown).all()
    _, other = triggered_samples(
        again(nothing_like(suspect)), [CLEAN], predicted, Proof(Patch(pattern, mask), 2, 0.9, 0.0, 300, 8)
    )
    assert other.all(), "inputs of another shape"


def nothing_like(x: torch.Tensor) -> torch.Tensor:
    return x[..., :11]
