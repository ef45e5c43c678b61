"""Models spread over ranks: shards of neurons are gathered side by side, and what cannot be gathered is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scan.test_ranks import free_port

from naa_fast.measurement import Measurement

SCRIPT = """
import os, sys
import torch
from torch import nn
import torch.distributed as dist
from naa_fast.errors import CaptureError
from naa_fast.inputs.batches import open_source
from naa_fast.scan.loop import measure
from naa_fast.scan.ranks import joined

torch.set_num_threads(1)
torch.manual_seed(0)
how, out = sys.argv[1:]
model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 6))
x = torch.randn(330, 12, generator=torch.Generator().manual_seed(1))

with joined(timeout_s=20) as ranks:
    if how != "alone":
        from torch.distributed.device_mesh import init_device_mesh
        mesh = init_device_mesh("cpu", (2,))
    if how in ("gathered", "local"):
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
        column = ColwiseParallel(use_local_output=how == "local")
        parallelize_module(model, mesh, {"0": column, "2": RowwiseParallel()})
    if how == "fsdp":
        from torch.distributed.fsdp import fully_shard
        fully_shard(model, mesh=mesh)
    try:
        found = measure(model, open_source(x, 20), chunk_size=100, backend="reference")
    except CaptureError as error:
        print(error, flush=True)
        os._exit(2)
    if ranks.rank == 0:
        found.save(out)
"""


def run(how: str, out: Path) -> tuple[int, str]:
    """Exit code and words of rank 0."""
    count = 1 if how == "alone" else 2
    common = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", SCRIPT, how, str(out)]
    ranks = [subprocess.Popen(command, env={**common, "RANK": str(r)}, stdout=subprocess.PIPE, text=True) for r in range(count)]
    try:
        words, _ = ranks[0].communicate(timeout=120)
        return ranks[0].returncode, words
    finally:
        for rank in ranks:
            if how == "local":
                rank.kill()
            rank.wait(timeout=60)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    out = tmp_path_factory.mktemp("alone") / "alone.naa.safetensors"
    assert run("alone", out)[0] == 0
    return Measurement.load(out)


@pytest.mark.parametrize("how", ["gathered", "fsdp"])
def test_a_spread_model_gives_the_measurement_of_the_whole(how: str, tmp_path: Path, alone: Measurement) -> None:
    code, words = run(how, tmp_path / "out")
    assert code == 0, words
    found = Measurement.load(tmp_path / "out")
    assert (found.samples, found.model, list(found.layers)) == (330, alone.model, ["0", "1", "2"])
    for name, record in alone.layers.items():
        mine = found.layers[name]
        assert np.array_equal(mine.positions.count, record.positions.count)
        assert np.allclose(mine.positions.mean, record.positions.mean, rtol=1e-5, atol=1e-6)
        assert np.allclose(mine.positions.m2, record.positions.m2, rtol=1e-5)
    assert np.array_equal(found.predictions, alone.predictions)


def test_a_share_of_the_neurons_is_not_taken_for_all_of_them(tmp_path: Path) -> None:
    code, words = run("local", tmp_path / "out")
    assert code == 2
    assert "layer 0 gives other values on each rank\n" in words
    assert "use_local_output=False" in words
