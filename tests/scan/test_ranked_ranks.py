"""Several processes rank the samples of one set as one process does, prove the same trigger, and go on after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from proof import test_images
from rank import test_by_reference
from rank.test_passes import CLEAN, SUSPECT, Counting, mlp
from rank.test_resuming import Dies, scanned
from scan.test_ranks import free_port

import naa_fast
from naa_fast.errors import NaaError
from naa_fast.measurement import Measurement
from naa_fast.result import Audit

SCRIPT = """
import json, shutil, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from scan import test_ranked_ranks as here
from naa_fast.scan.ranks import joined

torch.set_num_threads(1)
folder = Path(sys.argv[2])
with joined() as ranks:
    found = {
        "proved": here.told(here.proving(loader=True)),
        "by a reference": here.told(here.by_reference(folder / f"clean{ranks.rank}.naa.safetensors")),
    }
    for which in ("clean", "suspect"):
        here.killed(folder / which, which)
        if ranks.rank == 0:
            shutil.copytree(folder / which, folder / f"{which} for one")
        found[f"killed: {which}"] = here.resumed(folder / which)
    found["killed: one"] = here.resumed(folder / "one")
print(json.dumps(found))
"""


def proving(loader: bool) -> Audit:
    """The scan of a planted patch, sets as they are or in loaders."""
    from torch.utils.data import DataLoader, TensorDataset

    suspect, _ = test_images.with_trigger(test_images.HELD, "patch", 60)
    sets = test_images.CLEAN, suspect
    torch.manual_seed(0)
    given: Any = [DataLoader(TensorDataset(x), 32) for x in sets] if loader else sets
    return naa_fast.scan(test_images.Quadrants("patch"), *given, batch_size=32, chunk_size=96, repair=False)


def by_reference(path: Path) -> Audit:
    """The scan against a clean measurement that was made in the same way."""
    model = test_by_reference.Counting()
    options: dict[str, Any] = {"batch_size": 32, "chunk_size": 96}
    naa_fast.measure(model, test_by_reference.CLEAN, reference=True, **options).save(path)
    return naa_fast.scan(model, Measurement.load(path), test_by_reference.SUSPECT, **options)


def killed(folder: Path, which: str) -> None:
    """A scan of which one set cannot be read to its end."""
    sets = Dies(CLEAN, 250 if which == "clean" else 1000), Dies(SUSPECT, 200 if which == "suspect" else 1000)
    with pytest.raises(NaaError):
        scanned(Counting(mlp()), sets, folder)


def resumed(folder: Path) -> dict[str, Any]:
    """What it tells when it goes on, and how many samples this process ran again."""
    model = Counting(mlp())
    found = scanned(model, (Dies(CLEAN, 1000), Dies(SUSPECT, 1000)), folder, resume=True)
    return {**told(found), "ran": model.samples}


def told(audit: Audit) -> dict[str, Any]:
    ranking = audit.ranking
    assert ranking is not None, audit.verdict.gaps
    directions = audit.judgement.evidence.directions
    return {
        "outcome": audit.verdict.outcome,
        "gaps": [*audit.verdict.gaps],
        "proof": [[p.kind, p.target, p.rate, p.control] for p in audit.proof if p.stands],
        "top": [row.sample for row in ranking.top[:10]],
        "triggered": 0 if ranking.triggered is None else int(ranking.triggered.sum()),
        "directions": sorted([one.layer, one.kind] for one in directions),
        "scores": ranking.scores.tolist(),
    }


def require_same(found: dict[str, Any], want: dict[str, Any]) -> None:
    assert {**found, "scores": []} == {**want, "scores": []}
    assert np.allclose(found["scores"], want["scores"], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranked")
    killed(folder / "one", "suspect")
    return folder


@pytest.fixture(scope="module")
def both(place: Path) -> list[dict[str, Any]]:
    """What each of two ranks tells of its scans."""
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[1]), str(place)]
    processes = [
        subprocess.Popen(command, env={**common, "RANK": r, "LOCAL_RANK": r}, stdout=subprocess.PIPE, text=True) for r in "01"
    ]
    return [json.loads(process.communicate(timeout=280)[0]) for process in processes]


def test_two_processes_give_the_scores_and_the_proof_of_one(both: list[dict[str, Any]]) -> None:
    want = told(proving(loader=False))
    assert (want["outcome"], want["triggered"]) == ("fail", 60)
    for found in both:
        require_same(found["proved"], want)


def test_a_reference_made_by_two_processes_ranks_as_that_of_one(both: list[dict[str, Any]], tmp_path: Path) -> None:
    want = told(by_reference(tmp_path / "clean.naa.safetensors"))
    assert want["outcome"] == "pass"
    assert want["directions"]
    for found in both:
        require_same(found["by a reference"], want)


def test_processes_that_were_killed_while_they_ranked_go_on_to_the_same_scores(
    both: list[dict[str, Any]], place: Path, tmp_path: Path
) -> None:
    want = told(scanned(Counting(mlp()), (CLEAN, SUSPECT), tmp_path / "whole"))
    first = 50  # of the clean set, which each rank reads
    for name, left in (("clean", 100 + 210), ("suspect", 10), ("one", 10)):
        ran = [found[f"killed: {name}"].pop("ran") for found in both]
        assert sum(ran) == left + 2 * first
        for found in both:
            require_same(found[f"killed: {name}"], want)
    for name, left in (("clean", 100 + 210), ("suspect", 10)):
        alone = resumed(place / f"{name} for one")
        assert alone.pop("ran") == left
        require_same(alone, want)
