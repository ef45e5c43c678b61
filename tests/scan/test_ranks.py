"""Several processes give the measurement of one, bit for bit, and resume with another number of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
from naa_fast.inputs.opening import open_source
from naa_fast.scan.loop import measure
from naa_fast.scan.options import RunOptions
from naa_fast.scan.ranks import joined

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(12, 20), nn.ReLU())
x = torch.randn(330, 12, generator=torch.Generator().manual_seed(1))
folder, form, crash = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def progress(label, done, total):
    if crash and done >= crash:
        raise SystemExit(9)

data = x if form == "tensor" else (part for part in x.split(20))
with joined() as ranks:
    options = RunOptions(chunk_size=40, checkpoint=folder, resume=crash == 0, interval_s=0, backend="reference")
    result = measure(model, open_source(data, 20), options, progress=progress)
    print(result.digest(), result.samples, flush=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(ranks: int, folder: Path, form: str = "tensor", crash: int = 0) -> list[tuple[int, list[str]]]:
    """Exit code and printed words of each rank."""
    common = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", SCRIPT, str(folder), form, str(crash)]
    processes = [
        subprocess.Popen(command, env={**common, "RANK": str(r), "LOCAL_RANK": str(r)}, stdout=subprocess.PIPE, text=True)
        for r in range(ranks)
    ]
    return [(process.wait(timeout=120), process.stdout.read().split()) for process in processes if process.stdout]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    [(code, words)] = run(1, tmp_path_factory.mktemp("alone"))
    assert code == 0
    assert words[1] == "330"
    return words


@pytest.mark.parametrize(("ranks", "form"), [(2, "tensor"), (3, "iterator")])
def test_ranks_share_the_work_and_return_the_same_bytes(ranks: int, form: str, tmp_path: Path, alone: list[str]) -> None:
    assert run(ranks, tmp_path, form) == [(0, alone)] * ranks


def test_an_interrupted_job_resumes_with_another_number_of_ranks(tmp_path: Path, alone: list[str]) -> None:
    crashed = run(2, tmp_path, crash=70)
    assert all(code != 0 for code, _ in crashed)
    kept = list(tmp_path.iterdir())
    assert kept
    for ranks in (1, 3):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        for path in kept:
            (folder / path.name).write_bytes(path.read_bytes())
        assert run(ranks, folder) == [(0, alone)] * ranks


FAILING = """
import os, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from naa_fast.errors import NaaError
from naa_fast.inputs.opening import open_source
from naa_fast.scan.loop import measure
from naa_fast.scan.options import RunOptions
from naa_fast.scan.ranks import joined

torch.set_num_threads(1)
torch.manual_seed(0)
how = sys.argv[2]

class Fails(nn.Module):
    def forward(self, x):
        if os.environ["RANK"] == "1" and x[0, 0] >= 3 * 40:
            if how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "hang":
                time.sleep(60)
            raise ValueError("rank 1 has had enough")
        return x

x = torch.arange(330.)[:, None] + torch.zeros(12)
with joined(timeout_s=4) as ranks:
    try:
        model = nn.Sequential(Fails(), nn.Linear(12, 20))
        measure(model, open_source(x, 20), RunOptions(chunk_size=40, checkpoint=Path(sys.argv[1]), backend="reference"))
    except NaaError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(2)
"""


TOLD = {
    "raise": "RankLost: rank 1 failed: the model raised ValueError on batch 2\n  in layer: 0",
    "die": "RankLost: rank 0 lost touch with another rank",
    "hang": "RankLost: rank 0 lost touch with another rank",
}


def test_a_rank_that_fails_ends_the_job_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    """Three jobs at once: one waits for nothing but a rank that does not answer."""
    jobs: dict[str, list[subprocess.Popen[str]]] = {}
    try:
        for how in TOLD:
            common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
            command = [sys.executable, "-c", FAILING, str(tmp_path / how), how]
            jobs[how] = [subprocess.Popen(command, env={**common, "RANK": r}, stdout=subprocess.PIPE, text=True) for r in "01"]
        for how, (first, second) in jobs.items():
            words, _ = first.communicate(timeout=60)
            assert first.returncode == 2
            assert words.startswith(TOLD[how])
            if how == "raise":
                assert "message: rank 1 has had enough" in words
                assert second.communicate(timeout=60)[0].startswith("ModelError: the model raised ValueError on batch 2")
                assert second.returncode == 2
    finally:
        for rank in (rank for ranks in jobs.values() for rank in ranks):
            rank.kill()
            rank.wait()
    from naa_fast.scan.checkpoint import read

    for how in TOLD:
        header, measurement, _ = read(max((tmp_path / how).glob("*.naa")))
        assert (header["next_chunk"], measurement.samples) == (2, 80)  # the first round; of the second nothing
