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
from naa_fast.cli.main import main
from naa_fast.errors import InputError, UsageError
from naa_fast.inputs.batches import Source
from naa_fast.inputs.opening import open_source
from naa_fast.rank import RankingPass
from naa_fast.rank.plan import in_units, planned
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
    assert plan.on_host["measurements"] > 2 * 600 * plan.neurons


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
