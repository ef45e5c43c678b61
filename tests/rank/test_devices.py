"""A model whose layers lie on several devices, as `device_map` puts them, ranks as it does on one.

The devices are pretended (pretended.py): in a process of its own, which knows them to its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from rank import test_devices
print(json.dumps(test_devices.compared()))
"""


def compared() -> dict[str, object]:
    """Scans of one model on the host, and of the same on two devices."""
    import numpy as np
    import torch
    from rank import pretended
    from torch import Tensor, nn

    import naa_fast

    places = pretended.registered()

    class Spread(nn.Module):
        def __init__(self, where: tuple[torch.device, ...]) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.wide, self.last = nn.Linear(12, 20), nn.Linear(20, 300), nn.Linear(300, 5)
            for layer, place in zip(self.children(), where, strict=False):
                for name, values in [*layer.named_parameters()]:
                    setattr(layer, name, nn.Parameter(pretended.on(values, place), requires_grad=False))

        def forward(self, x: Tensor) -> Tensor:
            for layer in (self.first, self.wide):
                x = torch.relu(layer(x.to(layer.weight.device)))
            scores: Tensor = self.last(x.to(self.last.weight.device))
            return scores

    random = torch.Generator().manual_seed(0)
    clean, suspect = torch.randn(400, 12, generator=random), torch.randn(260, 12, generator=random)
    suspect[:20] *= 3
    chosen = {"batch_size": 64, "backend": "portable", "repair": False, "proof": False, "prefetch": 0}
    want = naa_fast.scan(Spread(()), clean, suspect, **chosen)  # type: ignore[arg-type]
    with pretended.Made(), pretended.Devices():
        audit = naa_fast.scan(Spread((places[0], places[1], places[1])), clean, suspect, **chosen)  # type: ignore[arg-type]
    here, there = want.ranking, audit.ranking
    if here is None or there is None:
        return {"gaps": audit.verdict.gaps}
    apart = np.abs(here.scores - there.scores) / (np.abs(here.scores) + 1e-3)
    deviating = [[tuple(one[:2] for one in sample.deviating) for sample in ranking.rows(20)] for ranking in (here, there)]
    return {
        "apart": float(apart.max()),
        "predicted": bool(np.array_equal(here.predicted, there.predicted)),
        "top": [one.sample for one in here.rows(20)] == [one.sample for one in there.rows(20)],
        "deviating": deviating[0] == deviating[1],
        "layers": sorted({layer for sample in there.rows(260) for layer, *_ in sample.deviating}),
        "directions": len(audit.judgement.evidence.directions) == len(want.judgement.evidence.directions) > 0,
    }


def test_layers_on_two_devices_rank_together() -> None:
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("apart") == pytest.approx(0, abs=1e-4), found
    assert found == {"predicted": True, "top": True, "deviating": True, "layers": ["first", "last", "wide"], "directions": True}
