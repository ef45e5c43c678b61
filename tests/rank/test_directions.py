"""Directions: the sketch against brute force, what is planted is found where no neuron shows it, and chance stays chance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from report.examples import PROVENANCE, measured, noise
from safetensors import safe_open

import naa_fast
from naa_fast.accumulate import Views
from naa_fast.detect import directions as detect
from naa_fast.detect.directions import Direction, measure
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.findings import find_in_samples
from naa_fast.detect.judgement import judge
from naa_fast.rank import directions as module
from naa_fast.rank.directions import Covariance, Directions, Sketch, evenly, three
from naa_fast.records import fold_of
from naa_fast.reference import BUFFER, EXACT, ROWS
from naa_fast.report.folder import write_report
from naa_fast.report.machine import load_schema
from naa_fast.report.summary import full as summary

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0)


def matrix(rows: int, neurons: int, rank: int = 12) -> np.ndarray:
    """Correlated rows with a decaying spectrum and an offset."""
    strong = RANDOM.standard_normal((rows, rank)) * np.geomspace(20, 1, rank) @ RANDOM.standard_normal((rank, neurons))
    return (strong + RANDOM.standard_normal((rows, neurons)) + 7 * RANDOM.standard_normal(neurons)).astype(np.float32)


def sketch_of(x: np.ndarray, batch: int) -> Sketch:
    sketch = Sketch(x.shape[1], CPU)
    for i in range(0, len(x), batch):
        sketch.add(torch.from_numpy(x[i : i + batch]))
    return sketch


def holds_its_bound(sketch: Sketch, x: np.ndarray) -> None:
    """0 <= A'A - B'B <= lost <= |A - A_k|^2 / (ROWS - k), and mean, count and energy are those of the rows."""
    a = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    b = sketch.rows().double().numpy()
    values = np.linalg.eigvalsh(a.T @ a - b.T @ b)
    rounding = 1e-5 * np.linalg.norm(a, 2) ** 2
    assert values.min() > -rounding
    assert values.max() < sketch.lost + rounding
    singular = np.linalg.svd(a, compute_uv=False) ** 2
    for k in (0, 5, 12, 20, ROWS - 1):
        assert sketch.lost <= singular[k:].sum() / (ROWS - k) + rounding, k
    assert sketch.count == len(x)
    assert np.allclose(sketch.mean.numpy(), x.mean(0, dtype=np.float64), atol=1e-4)
    assert float(sketch.energy) == pytest.approx((a**2).sum(), rel=1e-4)


@pytest.mark.parametrize("neurons", [58, EXACT - 16, 300])
@pytest.mark.parametrize("batch", [1, 37, 500, 1000])
def test_the_sketch_keeps_the_bound_of_frequent_directions(neurons: int, batch: int) -> None:
    x = matrix(1000, neurons)
    sketch = sketch_of(x, batch)
    holds_its_bound(sketch, x)
    assert (sketch.lost == 0) == (neurons <= EXACT)
    assert len(sketch.rows()) <= max(BUFFER, neurons)


@pytest.mark.parametrize("neurons", [58, EXACT - 16, 300])
def test_merged_sketches_keep_it_too(neurons: int) -> None:
    x = matrix(900, neurons)
    x[400:] += 3  # parts of different means
    parts = [sketch_of(x[:400], 64), sketch_of(x[400:410], 64), sketch_of(x[410:], 100)]
    whole = Sketch(neurons, CPU)
    for part in parts:
        whole.merge(part)
    whole.merge(Sketch(neurons, CPU))
    holds_its_bound(whole, x)


def test_values_that_are_not_finite_do_no_harm() -> None:
    x = matrix(600, 200)
    x[::7, 3], x[5, :] = np.nan, np.inf
    sketch = sketch_of(x, 50)
    assert torch.isfinite(sketch.rows()).all()
    assert torch.isfinite(sketch.mean).all()
    assert torch.isfinite(three(sketch, sketch_of(matrix(600, 200), 50))).all()


def test_powers_of_the_covariance_are_those_of_the_matrix() -> None:
    x = matrix(4000, 40)
    covariance = Covariance.of(sketch_of(x, 256))
    full = np.cov(x.T.astype(np.float64))
    full += module.RIDGE * np.trace(full) / 40 * np.eye(40)
    vector = RANDOM.standard_normal(40)
    assert np.allclose(covariance.power(torch.from_numpy(vector), -1.0), np.linalg.solve(full, vector), rtol=1e-3, atol=1e-6)
    wide = Covariance.of(sketch_of(matrix(400, 300), 64))
    there = wide.power(torch.from_numpy(RANDOM.standard_normal(300)), 0.5)
    assert torch.allclose(wide.power(wide.power(there, -0.5), 0.5), there)


# Effects


def scan(clean: np.ndarray, suspect: np.ndarray, batch: int = 100) -> tuple[Direction, ...]:
    found = Directions({"a": clean.shape[1]}, (len(clean), len(suspect)))
    half = fold_of(np.arange(len(clean))) % 2
    even, odd, every = np.flatnonzero(half == 0), np.flatnonzero(half == 1), np.arange(len(suspect))
    for which, rows, items, side in ((0, clean, even, 0), (0, clean, odd, 1), (1, suspect, every, None)):
        for i in range(0, len(items), batch):
            part = items[i : i + batch]
            found.add(which, Views.of({"a": torch.from_numpy(rows[part])}), part, side)
    return measure(found.projected())


def planted(
    random: np.random.Generator, neurons: int, samples: int, share: float, far: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clean and suspect rows of one correlated Gaussian, and the direction along which a share of the suspects is moved."""
    loadings = 3 * random.standard_normal((8, neurons))

    def draw() -> np.ndarray:
        return random.standard_normal((samples, 8)) @ loadings + random.standard_normal((samples, neurons))

    clean, suspect, direction = draw(), draw(), random.standard_normal(neurons)
    basis = np.linalg.qr(loadings.T)[0]
    direction -= basis @ (basis.T @ direction)
    direction /= np.linalg.norm(direction)
    suspect[random.random(samples) < share] += far * direction
    return clean.astype(np.float32), suspect.astype(np.float32), direction


@pytest.mark.parametrize("neurons", [96, 384])
def test_a_direction_is_found_that_no_coordinate_shows(neurons: int) -> None:
    clean, suspect, direction = planted(np.random.default_rng(1), neurons, 1000, 1.0, 6.0)
    z = np.abs(suspect.mean(0) - clean.mean(0)) / clean.std(0)
    assert z.max() < 0.5
    best = scan(clean, suspect)[0]
    assert best.kind == "whitened"
    assert best.stands
    assert best.effect > 4
    assert best.beyond > 0.9
    assert abs(float(best.vector @ direction)) > 0.8
    assert best.neurons[0][0] == np.abs(best.vector).argmax()


@pytest.mark.parametrize(("share", "far", "samples"), [(0.05, 8.0, 4000), (0.02, 14.0, 4000)])
def test_a_few_in_a_hundred_are_found_by_what_varies_in_suspects_alone(share: float, far: float, samples: int) -> None:
    found = 0
    for seed in range(5):
        clean, suspect, direction = planted(np.random.default_rng(seed), 96, samples, share, far)
        spread = next(one for one in scan(clean, suspect) if one.kind == "spread")
        found += spread.stands and abs(float(spread.vector @ direction)) > 0.7
    assert found >= 4


@pytest.mark.parametrize("neurons", [16, 160])
def test_chance_alone_is_called_a_direction_as_rarely_as_is_said(neurons: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heavy-tailed and skewed: of 300 scans 3 are expected at one in 100; 10 have a chance below 0.001."""
    monkeypatch.setattr(detect, "PERMUTATIONS", 99)
    random = np.random.default_rng(neurons)
    alarms = 0
    for _ in range(300):
        loadings = 3 * random.standard_normal((4, neurons))
        clean, suspect = (
            (random.standard_t(3, (n, 4)) @ loadings + random.standard_exponential((n, neurons))).astype(np.float32)
            for n in (200, 160)
        )
        alarms += any(one.stands for one in scan(clean, suspect))
    assert alarms < 10


def test_batches_change_no_more_than_rounding_where_the_scatter_is_exact() -> None:
    clean, suspect, _ = planted(np.random.default_rng(2), 40, 600, 1.0, 3.0)
    one, other = ({d.kind: d for d in scan(clean, suspect, batch)} for batch in (600, 7))
    for kind in detect.KINDS:
        assert one[kind].effect == pytest.approx(other[kind].effect, rel=1e-3)
        assert one[kind].statistic == pytest.approx(other[kind].statistic, rel=1e-3)


def test_work_and_memory_are_bounded_for_large_sets_and_wide_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    share = evenly(np.arange(100_000), 0.01)
    assert 990 <= share.sum() <= 1010
    assert all(10 <= n <= 30 for n in share.reshape(50, 2000).sum(1))
    monkeypatch.setattr(module, "WIDEST", 50)
    monkeypatch.setattr(module, "SKETCHED", 100)
    monkeypatch.setattr(module, "HELD", 80)
    clean, suspect, _ = planted(np.random.default_rng(2), 120, 2000, 1.0, 40.0)
    best = scan(clean, suspect)[0]
    assert best.vector.shape == (30,)
    assert best.step == 4
    assert best.stands
    assert best.neurons[0][0] == 4 * np.abs(best.vector).argmax()


def test_too_few_samples_make_no_direction() -> None:
    clean, suspect, _ = planted(np.random.default_rng(2), 20, 200, 1.0, 9.0)
    assert scan(clean, suspect[:24]) == ()
    assert scan(clean[:20], suspect) == ()


def test_layers_that_nothing_moves_in_are_no_evidence() -> None:
    assert not any(one.stands for one in scan(np.ones((200, 5), np.float32), np.ones((200, 5), np.float32)))


# In the evidence, the verdict and the report

FOUND = Direction("a\x1b[2J", "whitened", 2.5, 2.7, 0.9, 0.4, 30.0, 4.0, ((3, 0.9), (1, -0.2)), np.eye(8)[3])


def test_a_direction_is_a_shift_and_never_a_fail() -> None:
    clean, suspect = (measured({"a": noise(seed, 200, 8)}, f"{seed}") for seed in (1, 2))
    evidence = Evidence(directions=(FOUND, replace(FOUND, kind="spread", statistic=9.0), replace(FOUND, statistic=1.0)))
    [finding] = find_in_samples(evidence)
    assert (finding.level, finding.value, finding.limit) == ("shift", 30.0, 4.0)
    assert "suspects lie 2.50 clean standard deviations out, 40 % of them beyond" in finding.statement
    assert judge(clean, suspect, evidence=evidence).verdict.outcome == "warn"
    by_chance = Evidence(directions=(replace(FOUND, statistic=1.0),))
    assert judge(clean, suspect, evidence=by_chance, accept_unranked=True).verdict.outcome == "pass"


def test_the_report_has_directions_and_their_vectors(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="the schema is checked with jsonschema (the dev extra)")
    clean, suspect = (measured({"a": noise(seed, 200, 8)}, f"{seed}") for seed in (1, 2))
    judgement = judge(clean, suspect, evidence=Evidence(directions=(FOUND,)))
    write_report(judgement, tmp_path, PROVENANCE)
    report = json.loads((tmp_path / "report.json").read_text())
    jsonschema.validate(report, load_schema())
    assert report["directions"][0]["neurons"] == [{"neuron": 3, "weight": 0.9}, {"neuron": 1, "weight": -0.2}]
    with safe_open(tmp_path / "directions.safetensors", "np") as file:
        assert file.get_tensor("t0").tolist() == np.eye(8)[3].tolist()
        assert json.loads(file.metadata()["directions"]) == [{"layer": "a\x1b[2J", "kind": "whitened", "step": 1}]
    line = summary(judgement)
    assert "Strongest direction: whitened in a\\x1b[2J, 2.5 clean standard deviations" in line
    assert "more than chance" in line


def test_a_scan_fills_them_in(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, suspect, _ = planted(np.random.default_rng(3), 64, 600, 1.0, 6.0)

    class Emit(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    audit = naa_fast.scan(Emit(), torch.from_numpy(clean), torch.from_numpy(suspect), layers="inner", proof=False)
    best = audit.judgement.evidence.directions[0]
    assert best.stands
    assert best.effect == pytest.approx(scan(clean, suspect, 256)[0].effect, rel=1e-3)
    assert audit.verdict.outcome == "warn" or "backdoor-like" in {finding.level for finding in audit.verdict.findings}

    def fails(self: Directions) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr(Directions, "projected", fails)
    audit = naa_fast.scan(Emit(), torch.from_numpy(clean), torch.from_numpy(suspect), layers="inner", proof=False)
    assert audit.ranking is not None
    assert any(
        "directions (along which directions the sets differ) did not run: the attempt ended with" in gap
        for gap in audit.verdict.gaps
    )
