"""Models spread over ranks: shards of neurons are gathered side by side, and what cannot be gathered is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scan.test_ranks import free_port
from torch import nn

import naa_fast
from naa_fast.measurement import Measurement

SCRIPT = """
import os, sys
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from naa_fast.errors import CaptureError
from naa_fast.inputs.opening import open_source
from naa_fast.scan.loop import measure
from naa_fast.scan.options import RunOptions
from naa_fast.scan.ranks import joined

torch.set_num_threads(1)
x = torch.randn(330, 12, generator=torch.Generator().manual_seed(1))

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 6))

def spread(how):
    network, mesh = model(), init_device_mesh("cpu", (2,))
    if how == "fsdp":
        fully_shard(network, mesh=mesh)
    else:
        column = ColwiseParallel(use_local_output=how == "local")
        parallelize_module(network, mesh, {"0": column, "2": RowwiseParallel()})
    return network

def scan(network):
    return measure(network, open_source(x, 20), RunOptions(chunk_size=100, backend="reference"))

if __name__ == "__main__":
    with joined(timeout_s=20) as ranks:
        for how in ("gathered", "fsdp"):
            found = scan(spread(how))
            if ranks.rank == 0:
                found.save(os.path.join(sys.argv[1], how))
        try:
            scan(spread("local"))
        except CaptureError as error:
            print(error, flush=True)
            os._exit(2)
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """Where two ranks left their measurements; exit code and words of rank 0."""
    folder = tmp_path_factory.mktemp("spread")
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    ranks = [subprocess.Popen(command, env={**common, "RANK": r}, stdout=subprocess.PIPE, text=True) for r in "01"]
    try:
        words, _ = ranks[0].communicate(timeout=120)
        return folder, ranks[0].returncode, words
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


@pytest.mark.parametrize("how", ["gathered", "fsdp"])
def test_a_spread_model_gives_the_measurement_of_the_whole(how: str, job: tuple[Path, int, str]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 6))
    x = torch.randn(330, 12, generator=torch.Generator().manual_seed(1))
    alone = naa_fast.measure(model, x, batch_size=20, chunk_size=100, backend="reference")
    found = Measurement.load(job[0] / how)
    assert (found.samples, found.model, list(found.layers)) == (330, alone.model, ["0", "1", "2"])
    for name, record in alone.layers.items():
        mine = found.layers[name]
        assert np.array_equal(mine.positions.count, record.positions.count)
        assert np.allclose(mine.positions.mean, record.positions.mean, rtol=1e-5, atol=1e-6)
        assert np.allclose(mine.positions.m2, record.positions.m2, rtol=1e-5)
    assert np.array_equal(found.predictions, alone.predictions)


def test_a_share_of_the_neurons_is_not_taken_for_all_of_them(job: tuple[Path, int, str]) -> None:
    _, code, words = job
    assert code == 2
    assert "layer 0 gives other values on each rank\n" in words
    assert "use_local_output=False" in words
