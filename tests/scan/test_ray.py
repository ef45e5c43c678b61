"""Ray Data: blocks measured by actors join to the measurement of one pass, whoever took which."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import naa_fast
from naa_fast.errors import InputError, NaaError, UsageError

ROWS = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU())


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'naa-fast[ray]'")
    pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'naa-fast[ray]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_actors_give_the_bytes_of_one_pass(ray: Any) -> None:
    found = []
    for actors, blocks in ((2, 4),):
        data = ray.data.from_numpy(ROWS).repartition(blocks)
        found.append(naa_fast.ray_measure(data, model, batch_size=25, backend="reference", actors=actors))
    one = naa_fast.measure(model(), torch.from_numpy(ROWS), batch_size=25, chunk_size=75, backend="reference")
    assert [measured.to_bytes() for measured in found] == [one.to_bytes()]
    with pytest.raises(NaaError, match="no layer matches 'conv'"):
        naa_fast.ray_measure(data, model, layers="conv")
    with pytest.raises(InputError, match="no column 'x'\n  found: data"):
        naa_fast.ray_measure(data, model, column="x")
    with pytest.raises(UsageError, match="0 actors"):
        naa_fast.ray_measure(data, model, actors=0)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs Ray, which is not installed\n  pip install 'naa-fast\[ray\]'"):
        naa_fast.ray_measure(None, model)
