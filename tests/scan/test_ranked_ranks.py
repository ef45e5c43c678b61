"""Several processes rank the samples of one set as one process does, and prove the same trigger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank.test_by_reference import CLEAN, Counting
from scan.test_ranks import free_port

import naa_fast

SCRIPT = """
import json, sys
import torch
from torch.utils.data import DataLoader, TensorDataset
sys.path.insert(0, sys.argv[1])
from proof.test_images import CLEAN, HELD, Quadrants, with_trigger
import naa_fast
from naa_fast.scan.ranks import joined

torch.set_num_threads(1)
torch.manual_seed(0)
form = sys.argv[2]
suspect, _ = with_trigger(HELD, "patch", 60)
put = {"tensor": lambda x: x, "loader": lambda x: DataLoader(TensorDataset(x), 32)}[form]
with joined() as ranks:
    audit = naa_fast.scan(Quadrants("patch"), put(CLEAN), put(suspect), batch_size=32, chunk_size=96, repair=False)
    ranking = audit.ranking
    print(json.dumps({
        "outcome": audit.verdict.outcome, "gaps": audit.verdict.gaps,
        "proof": [[p.kind, p.target, p.rate, p.control] for p in audit.proof if p.stands],
        "scores": [] if ranking is None else ranking.scores.tolist(),
        "top": [] if ranking is None else [row.sample for row in ranking.top[:10]],
        "triggered": 0 if ranking is None else int(ranking.triggered.sum()),
    }))
"""


def run(ranks: int, form: str) -> list[dict[str, Any]]:
    """What each rank tells of its scan."""
    common = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[1]), form]
    processes = [
        subprocess.Popen(command, env={**common, "RANK": str(r), "LOCAL_RANK": str(r)}, stdout=subprocess.PIPE, text=True)
        for r in range(ranks)
    ]
    return [json.loads(process.communicate(timeout=240)[0]) for process in processes]


def test_two_processes_give_the_scores_and_the_proof_of_one() -> None:
    [alone] = run(1, "tensor")
    assert alone["outcome"] == "fail"
    assert alone["triggered"] == 60
    for told in run(2, "loader"):
        assert {**told, "scores": []} == {**alone, "scores": []}
        assert np.allclose(told["scores"], alone["scores"], rtol=1e-4, atol=1e-4)


AGAINST = """
import json, sys
import torch
sys.path.insert(0, sys.argv[1])
from rank.test_by_reference import SUSPECT, Counting
import naa_fast
from naa_fast.scan.ranks import joined

torch.set_num_threads(1)
with joined() as ranks:
    audit = naa_fast.scan(Counting(), sys.argv[2], SUSPECT, batch_size=32, chunk_size=96)
    print(json.dumps({
        "outcome": audit.verdict.outcome, "directions": len(audit.judgement.evidence.directions),
        "scores": [] if audit.ranking is None else audit.ranking.scores.tolist(),
    }))
"""


def test_two_processes_rank_by_a_reference_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SCRIPT", AGAINST)
    file = tmp_path / "clean.naa.safetensors"
    naa_fast.measure(Counting(), CLEAN, reference=True).save(file)
    [alone] = run(1, str(file))
    first, second = run(2, str(file))
    assert first["outcome"] == second["outcome"] == alone["outcome"] == "pass"
    assert first["directions"] == alone["directions"] > 0
    assert np.allclose(first["scores"], alone["scores"], rtol=1e-6)
