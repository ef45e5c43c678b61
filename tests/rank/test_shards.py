"""Suspects measured in shards against a clean measurement: the merged file ranks as one scan; tests/test_demo.py proves by it."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank.test_by_reference import CLEAN, SUSPECT, Counting, with_tensor

import naa_fast
from naa_fast.anomalies import AnomalyScores
from naa_fast.cli.main import main
from naa_fast.errors import InputError, StateMismatch, UsageError
from naa_fast.inputs.batches import Batch
from naa_fast.measurement import Measurement
from naa_fast.rank.handed import batch_of, retained
from naa_fast.rank.retained import Offered

SHARDS = 3


@pytest.fixture(scope="module")
def clean() -> Measurement:
    return naa_fast.measure(Counting(), CLEAN, reference=True)


@pytest.fixture(scope="module")
def parts(clean: Measurement) -> list[Measurement]:
    shards = [(number, SHARDS) for number in range(1, SHARDS + 1)]
    return [naa_fast.measure(Counting(), SUSPECT, against=clean, retain=True, shard=shard) for shard in shards]


def test_a_merged_ranking_is_that_of_the_whole_set(parts: list[Measurement]) -> None:
    whole = naa_fast.scan(Counting(), CLEAN, SUSPECT, proof=False)
    found = naa_fast.scan(Counting(), CLEAN, reduce(Measurement.merge, parts), proof=False)
    assert found.ranking is not None
    assert whole.ranking is not None
    assert np.allclose(found.ranking.scores, whole.ranking.scores, rtol=1e-3, atol=1e-3)
    assert [row.deviating for row in found.ranking.rows(3)] == [row.deviating for row in whole.ranking.rows(3)]
    assert found.verdict.outcome == whole.verdict.outcome


def test_every_order_of_the_shards_gives_the_same_scores_and_the_file_the_same_bytes(parts: list[Measurement]) -> None:
    contents = set()
    for one, other, last in permutations(parts):
        merged = one.merge(other).merge(last)
        assert merged.anomalies is not None
        found = merged.anomalies
        contents.add((found.items.tobytes(), found.scores.tobytes(), found.top_items.tobytes(), found.top_deviating.tobytes()))
    assert len(contents) == 1
    assert Measurement.from_bytes(merged.to_bytes()).to_bytes() == merged.to_bytes()
    assert len(found.items) == merged.samples


def test_what_was_ranked_by_something_else_or_twice_does_not_merge(parts: list[Measurement]) -> None:
    a, b = (part.anomalies for part in parts[:2])
    assert a is not None
    assert b is not None
    with pytest.raises(StateMismatch, match="--against the same clean measurement"):
        a.merge(replace(b, by="other"))
    with pytest.raises(StateMismatch, match="both score the same samples"):
        a.merge(a)
    assert parts[0].merge(replace(parts[1], anomalies=None)).anomalies is None


def test_inputs_are_in_the_file_only_where_they_were_asked_for(clean: Measurement, parts: list[Measurement]) -> None:
    plain, kept = naa_fast.measure(Counting(), SUSPECT, against=clean, shard=(2, SHARDS)).anomalies, parts[1].anomalies
    assert plain is not None
    assert kept is not None
    assert plain.retained == ()
    [one] = kept.retained
    assert np.array_equal(one.arrays[0], SUSPECT.numpy()[one.items])
    assert np.array_equal(plain.scores, kept.scores)
    with pytest.raises(UsageError, match="name the clean measurement"):
        naa_fast.measure(Counting(), SUSPECT, retain=True)
    with pytest.raises(UsageError, match="against is 5"):
        naa_fast.measure(Counting(), SUSPECT, against=5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="leave it out"):
        naa_fast.measure(Counting(), SUSPECT, against=clean, reference=True)


def test_suspects_without_scores_are_not_ranked_and_told_how(parts: list[Measurement], tmp_path: Path) -> None:
    plain = replace(parts[0], anomalies=None)
    found = naa_fast.scan(Counting(), CLEAN, plain)
    assert any("--against" in gap for gap in found.verdict.gaps)
    plain.save(tmp_path / "plain.naa.safetensors")
    words = ["--model", "naa_fast.demo:small_cnn", "--clean", str(tmp_path), "--out", str(tmp_path / "report")]
    assert main(["prove", str(tmp_path / "plain.naa.safetensors"), *words]) == UsageError.exit_code


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("a.items", lambda x: x[::-1].copy(), "ascending"),
        ("a.scores", lambda x: x.astype(np.float64), "scores"),
        ("a.predicted", lambda x: x - 9, "classes"),
        ("a.top_items", lambda x: x + 10_000, "not there"),
        ("a.top_deviating", lambda x: x + 99, "layers that there are not"),
        ("ai0.items", lambda x: x + 10_000, "not among the highest"),
        ("ai0.0", lambda x: x[:-1].copy(), "retained inputs"),
        ("a0.rows_mean", lambda x: x * np.nan, "not finite"),
    ],
)
def test_scores_that_do_not_fit_are_refused(parts: list[Measurement], name: str, change: Any, words: str) -> None:
    with pytest.raises(InputError) as raised:
        Measurement.from_bytes(with_tensor(parts[0].to_bytes(), name, change))
    assert words in str(raised.value)


def test_a_form_that_names_other_arrays_or_runs_deep_is_refused(parts: list[Measurement]) -> None:
    anomalies = parts[0].anomalies
    assert anomalies is not None
    for form in ('{"arguments": {"array": 7}}', "[" * 40 + "]" * 40, "[]", "{"):
        header = anomalies.header() | {"retained": [[form, 1]]}
        with pytest.raises(ValueError, match=r"retained inputs|Expecting"):
            AnomalyScores.read(header, anomalies.tensors())


def test_batches_of_every_form_come_back_as_they_were() -> None:
    half = torch.arange(6.0).reshape(2, 3).bfloat16()
    batch = Batch(
        (half, [torch.ones(2, 4), None]), {"ids": torch.tensor([[1], [2]]), "flag": True}, 2, torch.ones(2, dtype=torch.bool)
    )
    rows = np.arange(2)
    kept = retained(Offered(rows, rows * 1.0, rows, np.zeros((2, 0, 3)), batch))
    assert kept is not None
    found = batch_of(kept)
    assert torch.equal(found.arguments[0], half)
    assert torch.equal(found.arguments[1][0], torch.ones(2, 4))
    assert (found.arguments[1][1], found.keywords["flag"], found.size) == (None, True, 2)
    assert torch.equal(found.keywords["ids"], batch.keywords["ids"])
    assert found.mask is not None
    assert found.mask.all()
    own = Batch((half,), {"own": object()}, 2, None)
    assert retained(Offered(rows, rows * 1.0, rows, np.zeros((2, 0, 3)), own)) is None


def test_parts_without_inputs_leave_the_proof_in_part_and_another_clean_set_ranks_nothing(clean: Measurement) -> None:
    halves = [naa_fast.measure(Counting(), SUSPECT, against=clean, retain=kept, shard=(1 + kept, 2)) for kept in (False, True)]
    merged = halves[0].merge(halves[1])
    [proof] = [check for check in naa_fast.scan(Counting(), CLEAN, merged).verdict.checks if check.name == "proof"]
    assert not proof.ran
    assert "no input was kept: measure every part with --retain" in proof.reason
    [ranking] = [check for check in naa_fast.scan(Counting(), 1.1 * CLEAN, merged).verdict.checks if check.name == "ranking"]
    assert "scored by another clean set" in ranking.reason
