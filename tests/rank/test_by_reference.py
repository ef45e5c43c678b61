"""Suspects are ranked by a clean set that was measured before, as by the set itself; references of its parts merge."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from invert.planted import Planted, pictures
from proof import test_images as images
from proof.test_images import Quadrants
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import nn

import naa_fast
from naa_fast.accumulate import Views
from naa_fast.cli.main import main
from naa_fast.errors import InputError, StateMismatch, UsageError
from naa_fast.measurement import FORMAT, HEADER_KEY, WITH_REFERENCE, Measurement
from naa_fast.rank.directions import Directions
from naa_fast.rank.reference import Reference as Sums
from naa_fast.rank.saved import arrays_of, layers_of, sums_of
from naa_fast.records import BINS
from naa_fast.reference import CALIBRATION, HELD, LayerReference, Reference, chosen

RANDOM = torch.Generator().manual_seed(0)
CLEAN, SUSPECT = torch.randn(1200, 12, generator=RANDOM), torch.randn(400, 12, generator=RANDOM)


class Counting(nn.Module):
    """Counts the samples it is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 300), nn.ReLU(), nn.Linear(300, 5))
        self.samples = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.samples += len(x)
        return self.inner(x)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "clean.naa.safetensors"
    naa_fast.measure(Counting(), CLEAN, reference=True).save(path)
    return path


def test_suspects_are_ranked_as_by_the_clean_set_in_one_forward_each(measured: Path) -> None:
    whole = naa_fast.scan(Counting(), CLEAN, SUSPECT, proof=False)
    model = Counting()
    found = naa_fast.scan(model, measured, SUSPECT)
    assert model.samples == len(SUSPECT)
    assert found.ranking is not None
    assert whole.ranking is not None
    assert np.allclose(found.ranking.scores, whole.ranking.scores, rtol=1e-3, atol=1e-3)
    assert np.allclose(found.ranking.null_scores, whole.ranking.null_scores, rtol=1e-3, atol=1e-3)
    assert [row.sample for row in found.ranking.rows(20)] == [row.sample for row in whole.ranking.rows(20)]
    assert [row.deviating for row in found.ranking.rows(3)] == [row.deviating for row in whole.ranking.rows(3)]
    directions = [{(one.layer, one.kind): one.effect for one in audit.judgement.evidence.directions} for audit in (found, whole)]
    assert directions[0].keys() == directions[1].keys() != set()
    assert found.verdict.outcome == "pass", found.verdict.gaps


def test_what_lies_outside_asks_for_the_clean_set(measured: Path) -> None:
    suspect = SUSPECT.clone()
    suspect[::8] += 6
    found = naa_fast.scan(Counting(), Measurement.load(measured), suspect)
    assert found.verdict.outcome != "pass"
    assert any("proof" in gap and "--clean" in gap for gap in found.verdict.gaps)


def test_a_measurement_without_a_reference_ranks_nothing_and_says_how_to_make_one(tmp_path: Path) -> None:
    found = naa_fast.scan(Counting(), naa_fast.measure(Counting(), CLEAN), SUSPECT)
    assert found.verdict.outcome == "inconclusive"
    assert any("has no reference" in gap for gap in found.verdict.gaps)
    with_other = naa_fast.measure(Counting(), CLEAN[:600], layers="inner.1", reference=True)
    found = naa_fast.scan(Counting(), with_other, SUSPECT, layers="inner.1")
    assert found.ranking is not None
    other = replace(with_other, reference=with_other.reference and with_other.reference.without(("inner.1",)))
    found = naa_fast.scan(Counting(), other, SUSPECT, layers="inner.1")
    assert any("none of the chosen layers" in gap for gap in found.verdict.gaps)


def test_histograms_are_kept_where_no_ranking_looks_at_each_sample_and_on_request() -> None:
    def bins(**options: Any) -> set[int]:
        return {record.bins for record in naa_fast.measure(Counting(), CLEAN, **options).layers.values()}

    reference = naa_fast.measure(Counting(), CLEAN, reference=True)
    assert bins() == bins(reference=True, histograms=True) == bins(against=reference, histograms=True) == {BINS}
    assert bins(reference=True) == bins(against=reference) == bins(histograms=False) == {0}


def test_scored_suspects_are_ranked_by_compare_as_by_a_scan() -> None:
    reference = naa_fast.measure(Counting(), CLEAN, reference=True)
    odd = SUSPECT.clone()
    odd[::20] *= 6
    scored = naa_fast.measure(Counting(), odd, against=reference)
    compared, scanned = naa_fast.compare(reference, scored), naa_fast.scan(Counting(), reference, odd)
    assert compared.ranking is not None
    assert scanned.ranking is not None
    np.testing.assert_allclose(compared.ranking.scores, scanned.ranking.scores, rtol=1e-5)
    assert [sample.sample for sample in compared.ranking.top[:20]] == [sample.sample for sample in scanned.ranking.top[:20]]
    assert compared.ranking.top[0].deviating == scanned.ranking.top[0].deviating
    levels = [{(finding.level, finding.about) for finding in audit.verdict.findings} for audit in (compared, scanned)]
    assert levels[0]
    assert levels[0] <= levels[1]
    assert not any("histograms" in gap for gap in compared.verdict.gaps)
    assert any("proof" in gap for gap in compared.verdict.gaps)


def test_scores_by_another_clean_set_do_not_count() -> None:
    reference, other = (naa_fast.measure(Counting(), half, reference=True, histograms=True) for half in CLEAN.split(600))
    found = naa_fast.compare(other, naa_fast.measure(Counting(), SUSPECT, against=reference, histograms=True))
    assert found.ranking is None
    assert found.verdict.outcome == "inconclusive"
    assert any("another clean measurement" in gap for gap in found.verdict.gaps)


def test_without_scores_and_histograms_the_gap_says_how_to_have_them() -> None:
    reference = naa_fast.measure(Counting(), CLEAN, reference=True)
    found = naa_fast.compare(reference, naa_fast.measure(Counting(), SUSPECT))
    assert found.verdict.outcome == "inconclusive"
    assert any("--histograms" in gap and "--against" in gap for gap in found.verdict.gaps)


def test_the_file_is_of_format_3_only_with_a_reference_and_loads_to_the_same_bytes(measured: Path) -> None:
    content = measured.read_bytes()
    loaded = Measurement.load(measured)
    assert loaded.to_bytes() == content
    plain = naa_fast.measure(Counting(), CLEAN, histograms=False)
    assert replace(loaded, reference=None).to_bytes() == plain.to_bytes(), "and all else is as without it"
    formats = [
        json.loads(json.loads(c[8 : 8 + int.from_bytes(c[:8], "little")])["__metadata__"][HEADER_KEY])["format"]
        for c in (content, plain.to_bytes())
    ]
    assert formats == [WITH_REFERENCE, FORMAT]


def with_tensor(content: bytes, name: str, change: Any) -> bytes:
    tensors = load_tensors(content)
    tensors[name] = change(tensors[name])
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return bytes(save_tensors(tensors, header))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("r0.sums", lambda x: x[:, 1:].copy(), "sums"),
        ("r0.width", lambda x: 0 * x, "below 0"),
        ("r0.squares", lambda x: x + np.nan, "not finite"),
        ("r1.products", lambda x: x.astype(np.float32), "products"),
        ("r.said", lambda x: x[:, :1].copy(), "said"),
        ("r.predicted", lambda x: x - 9, "classes that there are not"),
        ("r0.held_items", lambda x: x[:-1].copy(), "held"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(measured: Path, name: str, change: Any, words: str) -> None:
    with pytest.raises(InputError) as raised:
        Measurement.from_bytes(with_tensor(measured.read_bytes(), name, change))
    assert words in str(raised.value)


@pytest.mark.parametrize("key", ["layers", "classes", "samples"])
def test_a_header_that_does_not_fit_is_refused(measured: Path, key: str) -> None:
    loaded = Measurement.load(measured).reference
    assert loaded is not None
    for value in (["a", "a"], -1, "x"):
        if not (key == "layers" and value == -1):
            with pytest.raises((ValueError, KeyError)):
                Reference.read({**loaded.header(), key: value}, loaded.tensors())
    few = loaded.tensors()
    few |= {
        "r1.count": few["r1.count"][:2],
        "r1.sums": few["r1.sums"][:2],
        "r1.folds": few["r1.folds"][:2],
        "r1.projected": few["r1.projected"][:2],
    }
    with pytest.raises(ValueError, match="different groups"):
        Reference.read(loaded.header(), few)


def test_its_bytes_do_not_grow_with_samples_and_hardly_with_classes() -> None:
    def held(classes: int, samples: int) -> int:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, classes))
        reference = naa_fast.measure(model, torch.randn(samples, 6), layers="1", reference=True).reference
        assert reference is not None
        return sum(array.nbytes for name, array in reference.tensors().items() if name.startswith("r0."))

    assert held(1000, 2000) == held(100, 2000) <= 64 * 3600 + (600 << 10)
    assert held(100, 4000) == held(100, 2000)


# Parts merge

FEATURES, GROUPS = 300, 3


def of(rows: np.ndarray, first: int, width_of: np.ndarray | None = None, features: int = FEATURES) -> Reference:
    """What is kept of some rows, as a part of a set that begins at item `first`."""
    x = torch.from_numpy(rows[:, :features])
    group = torch.from_numpy((np.abs(rows[:, 0] * 1000).astype(np.int64)) % GROUPS)
    sums = Sums(GROUPS, torch.from_numpy((rows if width_of is None else width_of)[:16, :features]))
    sums.add(x, group)
    items = first + np.arange(len(rows))
    directions = Directions({"a": features}, (1000, 1000))
    directions.add(0, Views.of({"a": x}), items)
    said = rows[:, :3].astype(np.float32)[:, None]
    return Reference(2, len(rows), layers_of(arrays_of({"a": sums}), directions), items, said, np.zeros(len(rows), np.int64))


def rows(samples: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((samples, FEATURES)) * np.geomspace(1, 9, FEATURES) + 10


def require_alike(a: Reference, b: Reference, exact: bool = True) -> None:
    assert np.array_equal(a.items, b.items)
    assert np.array_equal(a.said, b.said)
    assert a.samples == b.samples
    one, other = a.layers["a"], b.layers["a"]
    assert np.array_equal(one.held_items, other.held_items)
    assert np.array_equal(one.held, other.held)
    assert np.allclose(one.count, other.count)
    assert np.allclose(one.rows_count[:2], other.rows_count[:2], rtol=1e-3)
    assert np.allclose(one.rows_mean, other.rows_mean, rtol=1e-6)
    frozen = [sums_of(layer) for layer in (one, other)]
    for sums in frozen:
        sums.freeze()
    assert torch.allclose(frozen[0].mean, frozen[1].mean, rtol=1e-9)
    assert torch.allclose(frozen[0].deviation, frozen[1].deviation, rtol=1e-6)
    if exact:
        x, group = torch.from_numpy(rows(20, 9)[:, : len(one.pivot)]), torch.zeros(20, dtype=torch.int64)
        distances = [sums.deviation_of(x, group).distance for sums in frozen]
        assert torch.allclose(distances[0], distances[1], rtol=2e-3, atol=1e-2)


@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 299), min_size=1, max_size=3, unique=True),
    backwards=st.booleans(),
    features=st.sampled_from([40, FEATURES]),
)
def test_any_parts_merge_in_any_order_to_the_reference_of_the_whole(cuts: list[int], backwards: bool, features: int) -> None:
    whole = rows(300, 1)
    bounds = [0, *sorted(cuts), 300]
    parts = [of(whole[a:b], a, whole, features) for a, b in pairwise(bounds)]
    merged = reduce(Reference.merge, parts[::-1] if backwards else parts)
    require_alike(merged, of(whole, 0, None, features))


@pytest.mark.parametrize("features", [40, FEATURES])
def test_the_order_of_two_parts_of_other_widths_changes_no_more_than_rounding(features: int) -> None:
    a, b = of(rows(200, 2), 0, None, features), of(3 * rows(120, 3), 200, None, features)
    require_alike(a.merge(b), b.merge(a))
    assert a.merge(b).layers["a"].projected.sum() == (320 if features == 40 else 200), "sums of other widths do not add up"


def test_merging_is_bounded_and_associative_in_what_is_chosen() -> None:
    items = [np.arange(first, first + 3000) for first in (0, 3000, 9000)]
    values = [one * 2.0 for one in items]

    def both(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return chosen(CALIBRATION, (a[0], b[0]), (a[1], b[1]))

    a, b, c = zip(values, items, strict=True)
    one, other = both(both(a, b), c), both(a, both(b, c))
    assert np.array_equal(one[1], other[1])
    assert len(one[1]) == CALIBRATION
    assert np.array_equal(one[0], one[1] * 2.0)
    assert 0.3 < (one[1] < 3000).mean() < 0.37, "evenly"
    assert HELD < CALIBRATION


def test_references_of_other_models_do_not_merge() -> None:
    a = of(rows(80, 2), 0)
    with pytest.raises(StateMismatch, match="classes: 2 / 7"):
        a.merge(replace(a, classes=7))
    with pytest.raises(StateMismatch, match="b is in one of them alone"):
        a.merge(replace(a, layers={**a.layers, "b": a.layers["a"]}))
    with pytest.raises(StateMismatch, match="pivot: 300 / 40"):
        a.merge(of(rows(80, 2), 0, None, 40))


def test_shards_measured_with_a_reference_merge_to_one_that_ranks() -> None:
    parts = [naa_fast.measure(Counting(), CLEAN, shard=(number, 2), reference=True) for number in (1, 2)]
    merged = parts[0].merge(parts[1])
    assert merged.reference is not None
    assert merged.reference.samples == len(CLEAN)
    whole = naa_fast.scan(Counting(), CLEAN, SUSPECT, proof=False)
    found = naa_fast.scan(Counting(), merged, SUSPECT)
    assert found.ranking is not None
    assert whole.ranking is not None
    order = [np.argsort(np.argsort(audit.ranking.scores)) for audit in (found, whole) if audit.ranking is not None]
    assert np.asarray(np.corrcoef(np.stack(order)))[0, 1] > 0.95
    assert parts[0].merge(replace(parts[1], reference=None)).reference is None


def test_every_field_is_in_the_file() -> None:
    assert {f"r0.{one.name}" for one in fields(LayerReference)} <= of(rows(80, 2), 0).tensors().keys()


def test_the_commands_measure_once_and_scan_against_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.py").write_text(
        "import torch\ndef model():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))\n"
    )
    np.save(tmp_path / "clean.npy", CLEAN.numpy())
    np.save(tmp_path / "suspect.npy", SUSPECT.numpy())
    model, file = ["--model", f"{tmp_path / 'm.py'}:model"], str(tmp_path / "clean.naa.safetensors")
    assert main(["measure", *model, "--data", str(tmp_path / "clean.npy"), "--reference", "--out", file]) == 0
    (tmp_path / "clean.npy").unlink()
    scan = ["scan", *model, "--suspect", str(tmp_path / "suspect.npy"), "--out", str(tmp_path / "report")]
    assert main([*scan, "--reference", file]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["verdict"]["outcome"] == "pass"
    naa_fast.measure(Counting(), CLEAN).save(tmp_path / "plain.naa.safetensors")
    capsys.readouterr()
    assert (
        main([*scan[:-1], str(tmp_path / "other"), "--reference", str(tmp_path / "plain.naa.safetensors")])
        == UsageError.exit_code
    )
    assert "has no reference" in capsys.readouterr().err


@pytest.mark.parametrize("triggered", [0, 3])
def test_a_few_samples_that_lie_far_out_are_no_pass_without_the_clean_set(triggered: int) -> None:
    model = Quadrants("patch")
    clean = naa_fast.measure(model, images.CLEAN, reference=True)
    suspect, _ = images.with_trigger(images.HELD, "patch", triggered)
    [proof] = [check for check in naa_fast.scan(model, clean, suspect).verdict.checks if check.name == "proof"]
    assert proof.ran == (triggered == 0)
    assert proof.ran or "--clean" in proof.reason


def test_samples_beyond_every_clean_one_are_named_where_they_are_no_more_than_by_chance() -> None:
    clean = pictures(6, 960)
    reference, suspect = naa_fast.measure(Planted(), clean[:480], reference=True), clean[480:].clone()
    assert not any(
        "beyond every clean sample" in line for line in naa_fast.scan(Planted(), reference, suspect).verdict.not_checked
    )
    suspect = suspect[torch.randperm(480, generator=torch.Generator().manual_seed(2))][:400]
    suspect[0, 0, :2, :2] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = naa_fast.scan(Planted(), reference, suspect)
    assert found.verdict.outcome == "pass", "one sample of 400, not far beyond the clean ones"
    [line] = [line for line in found.verdict.not_checked if "beyond every clean sample" in line]
    assert "one of 1 suspect sample beyond every clean sample carries a trigger: 0; of clean suspects so many lie there" in line
