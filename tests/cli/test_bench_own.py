"""What a scan of one's own model takes is told in figures that go together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from naa_fast.cli.bench_own import duration, lines_of
from naa_fast.cli.main import main
from naa_fast.errors import EXIT_ERROR, EXIT_PASS, UsageError


def test_the_figures_of_ones_own_model_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.py").write_text("import torch\ndef model():\n    return torch.nn.Linear(12, 3)\n")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((400, 12)).astype(np.float32))
    command = ["bench", "--model", f"{tmp_path / 'm.py'}:model", "--device", "cpu", "--samples", "300", "--batch-size", "64"]
    assert main([*command, "--data", str(tmp_path / "x.npy"), "--json"]) == EXIT_PASS
    row = json.loads(capsys.readouterr().out)
    assert (row["samples"], row["batch_size"]) == (300, 64)
    rates = row["samples_per_s"]
    assert rates.keys() == row["a_million_s"].keys() == {"reading", "bare", "measured", "scanned"}
    assert rates["measured"] <= rates["bare"]
    assert row["a_million_s"]["scanned"] == pytest.approx(1e6 / rates["scanned"], rel=0.05)
    assert row["host_MB"] > 50
    told = lines_of({**row, "limit": "the model waits", "device_MB": 12.0})
    assert told[-1].startswith("a million samples take ")
    assert "12 MB on the device" in told[-2]
    assert main(command) == UsageError.exit_code
    np.save(tmp_path / "few.npy", np.zeros((20, 12), np.float32))
    assert main([*command, "--data", str(tmp_path / "few.npy")]) == UsageError.exit_code
    assert "has 20 samples" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "words"), [(45, "45 s"), (720, "12 min"), (11520, "3.2 h")])
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_model_that_does_not_take_the_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.py").write_text("import torch\ndef model():\n    return torch.nn.Linear(12, 3)\n")
    np.save(tmp_path / "x.npy", np.zeros((400, 7), np.float32))
    assert main(["bench", "--model", f"{tmp_path / 'm.py'}:model", "--data", str(tmp_path / "x.npy")]) == EXIT_ERROR
    assert "the model raised RuntimeError on batch 0" in capsys.readouterr().err
