"""What a scan keeps is said before it starts, and it keeps no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rank.test_passes import CLEAN, IMAGES, SUSPECT, Counting, Holes, convolutions, mlp
from torch import Tensor, nn

import naa_fast
from naa_fast.accumulate import Views
from naa_fast.cli.main import main
from naa_fast.errors import InputError, UsageError
from naa_fast.inputs.batches import Source
from naa_fast.inputs.opening import open_source
from naa_fast.rank import RankingPass
from naa_fast.rank.directions import Directions, step_of, widest
from naa_fast.rank.plan import STATE, Shapes, in_units, of_ranking, planned
from naa_fast.scan import memory
from naa_fast.scan.loop import measure


def held_in(thing: object) -> int:
    """Bytes of all tensors an object holds, itself and in lists."""
    tensors = [
        one
        for value in vars(thing).values()
        for one in (value if isinstance(value, list) else [value])
        if isinstance(one, Tensor)
    ]
    return sum(tensor.nbytes for tensor in tensors)


def sets(name: str) -> tuple[nn.Module, Source, Source]:
    model, clean, suspect = (mlp(), CLEAN, SUSPECT) if name == "vectors" else (convolutions(), *IMAGES)
    return model, open_source(clean, 50), open_source(suspect, 50)


@pytest.mark.parametrize("name", ["vectors", "images"])
def test_the_plan_is_what_the_ranking_then_holds(name: str) -> None:
    model, clean, suspect = sets(name)
    counting = Counting(model)
    plan = planned(counting, clean, suspect)
    assert counting.samples == 1
    ranking = RankingPass(model, clean, suspect)
    measured = measure(model, clean, observer=ranking.clean)
    assert (plan.layers, plan.neurons) == (len(measured.layers), sum(one.channels for one in measured.layers.values()))
    assert plan.samples == (300, 210)
    assert plan.passes == (1, 1)
    assert ranking.scorer is not None
    [fitting] = ranking.scorer.fitting.values()
    views = sum(held[1].nbytes for held in ranking._held or [])
    assert 0.9 * views <= plan.on_device["clean samples' views"] <= 1.2 * views
    held = [held_in(fitting)]
    ranking.calibrate(measured)
    assert ranking.scorer.scoring is not None
    held += [held_in(one) for one in ranking.scorer.scoring.scorings.values()]
    assert 0.9 * max(held) <= plan.on_device["ranking"] <= 1.3 * max(held)
    assert plan.on_host["measurements"] == 2 * 600 * plan.neurons
    assert planned(model, clean, suspect, histograms=True).on_host["measurements"] > 2 * 1600 * plan.neurons


def test_by_a_reference_nothing_clean_is_read_and_without_ranking_little_is_kept() -> None:
    model, clean, suspect = sets("vectors")
    whole = planned(model, clean, suspect)
    plan = planned(model, naa_fast.measure(model, CLEAN, reference=True), suspect)
    assert plan.passes == (0, 1)
    assert plan.on_device["clean samples' views"] == 0
    assert "clean: none is read" in plan.lines()
    plain = planned(model, clean, suspect, ranking=False)
    assert plain.on_device.keys() == {"statistics", "histograms"}
    assert sum(plain.on_device.values()) < sum(whole.on_device.values())
    assert any(line.startswith("cpu: ") for line in whole.lines())


def test_a_set_whose_views_do_not_fit_takes_another_pass_of_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naa_fast.rank.plan.VIEW_BYTES", 1000)
    assert planned(*sets("vectors")).passes == (2, 1)


def test_a_set_that_can_be_read_only_once_cannot_be_planned() -> None:
    model, _, suspect = sets("vectors")
    with pytest.raises(InputError, match="can be read only once"):
        planned(model, open_source(iter([CLEAN]), 50), suspect)


def test_a_set_without_a_sample_cannot_be_planned() -> None:
    model, _, suspect = sets("vectors")
    with pytest.raises(InputError, match="gave no sample"):
        planned(model, Holes(CLEAN[:40], set(range(40))), suspect)


@pytest.mark.parametrize(("size", "words"), [(7, "7 B"), (1234, "1.23 kB"), (5_000_000_000, "5 GB"), (999_900, "1 MB")])
def test_bytes_are_said_in_units(size: int, words: str) -> None:
    assert in_units(size) == words


def test_the_command_says_it_and_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.py").write_text("import torch\ndef model():\n    return torch.nn.Linear(12, 3)\n")
    for name, x in (("clean", CLEAN), ("suspect", SUSPECT)):
        np.save(tmp_path / f"{name}.npy", x.numpy())
    command = ["scan", "--model", f"{tmp_path / 'm.py'}:model", "--out", str(tmp_path / "report"), "--dry-run"]
    assert main([*command, "--clean", str(tmp_path / "clean.npy"), "--suspect", str(tmp_path / "suspect.npy")]) == 0
    told = capsys.readouterr().out
    assert "1 layer, 3 neurons" in told
    assert "clean: 300 samples, 1 pass" in told
    assert "proof and repair run 80,000 samples at most: half of them for the likeliest target" in told
    assert not (tmp_path / "report" / "report.json").exists()
    sets = ["--clean", str(tmp_path / "clean.npy"), "--suspect", str(tmp_path / "suspect.npy")]
    monkeypatch.setattr(memory, "free_on_host", lambda: 1000)
    assert main([*command[:-1], *sets]) == UsageError.exit_code
    told = capsys.readouterr().err
    assert "will keep at most" in told
    assert ": 1 layers, 3 neurons, 300 clean samples and 210 suspect samples\n" in told
    assert "on the host, where 1 kB are free" in told
    assert "--no-ranking" in told


def test_a_device_that_is_too_small_is_told_by_name() -> None:
    plan = replace(planned(*sets("vectors")), device=torch.device("cuda:1"), passes=(2, 1))
    plan.require_room((None, None))
    plan.require_room((plan.needs[0], plan.needs[1]))
    with pytest.raises(UsageError, match=r"on cuda:1, where 5 B are free"):
        plan.require_room((5, plan.needs[1]))
    assert "300 clean samples in 2 passes and 210 suspect samples" in plan.line


def test_memory_is_read_from_the_system_and_from_its_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    assert memory.free_on_host() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    assert memory.free_on_host() == 4000 << 10
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500\n")
    assert memory.free_on_host() == 4000 << 10
    (tmp_path / "memory.max").write_text("1500\n")
    assert memory.free_on_host() == 1000


def bytes_a_neuron(layers: int) -> tuple[float, int]:
    """Of a decoder as wide as Llama-2-7B with so many blocks: its output and the inside of its MLP each, 32,000 next tokens."""
    shapes = Shapes()
    shapes.neurons = {f"{kind}{n}": wide for n in range(layers) for kind, wide in (("block", 4096), ("mlp", 11008))}
    shapes.features = {name: 2 * wide for name, wide in shapes.neurons.items()}
    shapes.classes, shapes.input_bytes = 32000, 4096
    # By a reference, or where the views of half the clean set do not fit, and none is held.
    on_device, _ = of_ranking(shapes, 10_000, 10_000, True)
    neurons = sum(shapes.neurons.values())
    return (STATE * neurons + sum(on_device.values())) / neurons, on_device["directions"]


def test_a_large_model_keeps_a_thousand_bytes_a_neuron_and_no_more_for_directions_however_deep_it_is() -> None:
    (_, shallow), (mid, deep), (large, deepest) = map(bytes_a_neuron, (8, 32, 80))
    assert max(shallow, deep, deepest) <= 130e6
    assert max(mid, large) <= 1000


@pytest.mark.parametrize("wide", [3, 40, 4096, 5000, 11008])
def test_who_knows_only_how_many_neurons_were_looked_at_takes_the_same(wide: int) -> None:
    for most in (1, 2, 64, 1024, 4096):
        step = step_of(wide, most)
        looked_at = len(range(0, wide, step))
        assert looked_at <= most
        assert looked_at == 1 or step_of(wide, looked_at) == step
    many = {f"l{n}": 4096 for n in range(200)}
    assert 1 << 14 <= sum(len(range(0, one, step_of(one, widest(many)))) for one in many.values()) <= 1 << 15


def test_directions_hold_what_was_planned_of_a_model_that_is_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naa_fast.rank.directions.MOST", 2048)
    views = {f"l{n}": torch.randn(64, 600, generator=torch.Generator().manual_seed(n)) for n in range(8)}
    directions = Directions(dict.fromkeys(views, 600), (600, 600))
    for start in range(0, 600, 64):
        for which in (0, 1):
            directions.add(which, Views.of(views), np.arange(start, start + 64))
    for which in (0, 1):
        directions._sketch(which)
    shapes = Shapes()
    shapes.neurons = shapes.features = dict.fromkeys(views, 600)
    shapes.input_bytes = 1
    held = sum(sketch._scatter.nbytes + sketch._rows.nbytes for side in directions._sketches for sketch in side.values())
    held += sum(rows.values.nbytes for side in directions._kept for rows in side)
    planned_bytes = of_ranking(shapes, 600, 600, False)[0]["directions"]
    waited = sum(len(range(0, 600, 4)) * 8 * 4 * 301 for _ in range(2))
    assert 0.8 * held <= planned_bytes - waited <= 1.2 * held
