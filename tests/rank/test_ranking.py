"""The second look equals a brute-force computation on stored activations, and finds what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from capture.models import hook_count, mlp
from scan.test_scan import outputs_of

import naa_fast
from naa_fast.inputs.opening import open_source
from naa_fast.rank import RankingPass
from naa_fast.rank.anomaly import AnomalyScale, fair
from naa_fast.rank.reference import FLOOR, PRIOR, SHRINKAGE
from naa_fast.records import fold_of
from naa_fast.scan.loop import measure

CLEAN = torch.randn(256, 12, generator=torch.Generator().manual_seed(0))
SUSPECT = torch.randn(90, 12, generator=torch.Generator().manual_seed(1))


def test_scores_equal_brute_force_on_stored_activations() -> None:
    torch.manual_seed(0)
    model = mlp()
    sets = open_source(CLEAN, 50), open_source(SUSPECT, 32)
    ranking = RankingPass(model, *sets)
    clean_measured = measure(model, sets[0], observer=ranking.clean)
    ranking.calibrate(clean_measured)
    seen = ranking.result(clean_measured, measure(model, sets[1], observer=ranking.suspect))
    assert seen is not None
    assert hook_count(model) == 0
    with torch.no_grad():
        called = [model(x).argmax(1).numpy() for x in (CLEAN, SUSPECT)]
    assert np.array_equal(seen.predicted, called[1])
    groups = [seen.groups.of(c) for c in called]
    fit = fold_of(np.arange(256)) % 2 == 0
    said: dict[str, list[np.ndarray]] = {"null": [], "suspect": []}
    for name in seen.layers:
        clean, suspect = outputs_of(model, name, CLEAN), outputs_of(model, name, SUSPECT)
        own, group = clean[fit], groups[0][fit]
        overall, within = own.mean(0), 0.0
        means = np.tile(overall, (seen.groups.count, 1))
        for g in np.unique(group):
            rows = own[group == g]
            means[g] = (rows.sum(0) + PRIOR * overall) / (len(rows) + PRIOR)
            within = within + ((rows - rows.mean(0)) ** 2).sum(0)
        deviation = np.sqrt(within / (fit.sum() - len(np.unique(group))))
        deviation = np.maximum(deviation, FLOOR * np.sort(deviation)[(len(deviation) - 1) // 2])

        residuals = np.concatenate([own[group == g] - own[group == g].mean(0) for g in np.unique(group)])
        covariance = residuals.T @ residuals / (fit.sum() - len(np.unique(group)))
        width = np.sqrt(np.diag(covariance))
        width = np.maximum(width, FLOOR * np.sort(width)[(len(width) - 1) // 2])
        shrunk = (1 - SHRINKAGE) * covariance / np.outer(width, width) + SHRINKAGE * np.eye(len(width))
        precision = np.linalg.inv(shrunk) / np.outer(width, width)

        def layer_says(x: np.ndarray, g: np.ndarray) -> np.ndarray:
            excess = np.maximum(np.abs((x - means[g]) / deviation) - 3, 0).sum(1)  # noqa: B023
            apart = x[:, None] - means[None]  # noqa: B023
            distance = np.einsum("ngi,ij,ngj->ng", apart, precision, apart)  # noqa: B023
            own = distance[np.arange(len(x)), g]
            distance[:, [one for one in range(seen.groups.count) if one not in group]] = np.inf  # noqa: B023
            distance[np.arange(len(x)), g] = np.inf
            return np.stack([excess, own, own - distance.min(1)], 1)

        said["null"].append(layer_says(clean[~fit], groups[0][~fit]))
        said["suspect"].append(layer_says(suspect, groups[1]))
    null, found = (np.stack(one, 1) for one in said.values())
    anomaly = AnomalyScale(null, groups[0][~fit], seen.groups.count)
    assert np.allclose(seen.scores, anomaly.of(found, groups[1]), rtol=1e-3, atol=1e-3)
    assert np.allclose(seen.null_scores, fair(null, groups[0][~fit], seen.groups.count), rtol=1e-3, atol=1e-3)
    assert [kept.sample for kept in seen.top[:5]] == np.argsort(-seen.scores, kind="stable")[:5].tolist()


def test_a_neuron_that_lights_up_is_named_with_its_layer() -> None:
    suspect = SUSPECT.clone()
    suspect[17] *= 40
    audit = naa_fast.scan(mlp(), CLEAN, suspect, proof=False)
    assert audit.ranking is not None
    first = audit.ranking.top[0]
    assert first.sample == 17
    layer, neuron, z = first.deviating[0]
    assert abs(z) > 10
    assert neuron < audit.layers[layer].neurons


def test_batch_size_changes_no_score() -> None:
    model = mlp()
    whole, parts = (naa_fast.scan(model, CLEAN, SUSPECT, batch_size=b, proof=False).ranking for b in (256, 19))
    assert whole is not None
    assert parts is not None
    assert np.allclose(whole.scores, parts.scores, rtol=1e-4, atol=1e-4)


def seeded() -> torch.nn.Module:
    torch.manual_seed(0)
    return mlp()


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.x)


class Walks:
    """An iterable that says nothing of its order."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.x.split(32))


STREAMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "generator": lambda x: iter(x.split(32)),
    "iterable": Walks,
    "streaming loader": lambda x: torch.utils.data.DataLoader(Stream(x), batch_size=32),
    "loader": lambda x: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=32),
}


@pytest.mark.parametrize("form", STREAMS)
def test_the_form_of_a_set_changes_no_score(form: str) -> None:
    want = naa_fast.scan(seeded(), list(CLEAN.split(32)), list(SUSPECT.split(32)), proof=False).ranking
    streamed = naa_fast.scan(seeded(), STREAMS[form](CLEAN), STREAMS[form](SUSPECT), proof=False).ranking
    assert want is not None
    assert streamed is not None
    assert np.array_equal(streamed.scores, want.scores)
    assert np.array_equal(streamed.null_scores, want.null_scores)


def test_a_loader_that_shuffles_is_ranked_by_its_reading_order() -> None:
    suspect = SUSPECT.clone()
    suspect[17] *= 40
    shuffled = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(suspect), batch_size=30, shuffle=True)
    torch.manual_seed(5)
    read = torch.cat([x for (x,) in shuffled])
    model = seeded()
    torch.manual_seed(5)
    audit = naa_fast.scan(model, CLEAN, shuffled, proof=False)
    assert audit.ranking is not None
    assert torch.equal(read[audit.ranking.top[0].sample], suspect[17])


def test_a_stream_too_large_to_hold_calibrates_by_a_fair_share(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = naa_fast.scan(mlp(), iter(CLEAN.split(8)), iter(SUSPECT.split(8)), proof=False)
    monkeypatch.setattr("naa_fast.rank.passes.HELD_BYTES", 20_000)
    thinned = naa_fast.scan(mlp(), iter(CLEAN.split(8)), iter(SUSPECT.split(8)), proof=False)
    assert whole.ranking is not None
    assert thinned.ranking is not None
    assert len(whole.ranking.null_scores) == 128
    assert 16 <= len(thinned.ranking.null_scores) < 128
    assert any("a fair share of the clean set" in line for line in thinned.verdict.not_checked)


def test_too_few_clean_samples_are_no_pass() -> None:
    audit = naa_fast.scan(mlp(), CLEAN[:40], CLEAN[40:80])
    assert any("at least 64 are needed" in gap for gap in audit.verdict.gaps)
    assert audit.verdict.outcome != "pass"
    assert not any("no histograms" in gap for gap in audit.verdict.gaps)  # tails need no ranking, and are kept without one


def test_a_ranking_that_fails_loses_nothing_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naa_fast.rank.passes.HELD_BYTES", 0)  # the half that is scored has to be run once more

    class Tires(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) == len(CLEAN) // 2:
                raise RuntimeError("tired")
            return self.inner(x)

    audit = naa_fast.scan(Tires(), CLEAN, SUSPECT, batch_size=256)
    assert audit.layers
    assert any("the attempt ended with the model raised RuntimeError" in gap for gap in audit.verdict.gaps)
    assert audit.verdict.outcome != "pass", "what was not looked at is no pass"
