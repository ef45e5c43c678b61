"""Interrupted, resumed, cut into parts, shared by ranks: from the command line, to the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from naa_fast.cli.main import main
from naa_fast.measurement import Measurement

MODEL = """
import time, torch
from torch import nn

class Slow(nn.Module):
    def forward(self, x):
        time.sleep({pause})
        return x

def build():
    print("building")
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), Slow())
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((640, 12)).astype(np.float32))
    for name, pause in (("fast.py", 0), ("slow.py", 0.02)):
        (tmp_path / name).write_text(MODEL.format(pause=pause))
    return tmp_path


def measure(folder: Path, out: str, *more: str, data: str = "x.npy", model: str = "fast.py") -> list[str]:
    return [
        *("measure", "--model", f"{folder / model}:build", "--data", str(folder / data), "--out", str(folder / out)),
        *("--batch-size", "20", "--backend", "reference", *more),
    ]


def test_a_stopped_measurement_resumes_to_the_same_bytes(project: Path) -> None:
    """The shell way: SIGTERM ends with exit 75 and says how to go on."""
    options = ("--chunk-size", "40", "--checkpoint", str(project / "kept"))
    command = [sys.executable, "-m", "naa_fast", *measure(project, "a.naa.safetensors", *options, model="slow.py")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    while process.poll() is None and not (project / "kept").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    process.terminate()
    _, words = process.communicate(timeout=60)
    assert process.returncode == 75, words
    assert "stopped by SIGTERM" in words
    assert "--resume" in words
    assert not (project / "a.naa.safetensors").exists()
    assert main(measure(project, "a.naa.safetensors", *options, "--resume", model="slow.py")) == 0
    assert main(measure(project, "b.naa.safetensors", "--chunk-size", "40", model="slow.py")) == 0
    assert (project / "a.naa.safetensors").read_bytes() == (project / "b.naa.safetensors").read_bytes()


def test_parts_measured_apart_merge_to_one_pass(project: Path) -> None:
    x = np.load(project / "x.npy")
    assert main(measure(project, "whole.naa.safetensors", "--chunk-size", "80")) == 0
    names = []
    for start in range(0, 640, 80):
        np.save(project / "part.npy", x[start : start + 80])
        names.append(f"{start:03d}.naa.safetensors")
        assert main(measure(project, names[-1], "--first-index", str(start), data="part.npy")) == 0
    joined = str(project / "joined.naa.safetensors")
    assert main(["merge", *(str(project / name) for name in names), "--out", joined]) == 0
    whole, merged = (Measurement.load(project / name) for name in ("whole.naa.safetensors", "joined.naa.safetensors"))
    assert merged.digest() == whole.digest()


def test_two_ranks_write_one_file_with_the_bytes_of_one(project: Path) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    options = ("--chunk-size", "40")
    command = [sys.executable, "-m", "naa_fast", *measure(project, "two.naa.safetensors", *options)]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(command, env={**common, "RANK": r, "LOCAL_RANK": r}, stdout=subprocess.PIPE, text=True) for r in "01"
    ]
    printed = [process.communicate(timeout=120)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert "640 samples" in printed[0]
    assert "samples" not in printed[1]
    alone = subprocess.run(
        [sys.executable, "-m", "naa_fast", *measure(project, "one.naa.safetensors", *options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "building" in alone.stderr  # a model's own prints never reach the results
    assert "building" not in alone.stdout
    assert (project / "one.naa.safetensors").read_bytes() == (project / "two.naa.safetensors").read_bytes()
