"""What trackers get: plain finite numbers under plain names."""

from __future__ import annotations

import re
from math import isfinite

import torch
from torch import nn

import naa_fast


def test_scalars_are_finite_numbers_under_plain_names() -> None:
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    model.add_module("odd \u202ename<b>", nn.Identity())
    audit = naa_fast.scan(model, x, x[:200] + torch.tensor([5.0, 0, 0, 0]), layers="*", backend="reference")
    scalars = audit.scalars()
    assert all(isinstance(value, float) and isfinite(value) for value in scalars.values())
    assert all(re.fullmatch(r"[A-Za-z0-9_./-]+", name) for name in scalars)
    assert (scalars["clean/samples"], scalars["suspect/samples"], scalars["clean/skipped"]) == (400, 200, 0)
    assert scalars["score"] == audit.verdict.score
    assert audit.verdict.z == max(value for name, value in scalars.items() if name.startswith("z/"))
    assert scalars["abnormal"] == sum(value for name, value in scalars.items() if name.startswith("abnormal/")) > 0
    assert abs(sum(value for name, value in scalars.items() if name.startswith("time/")) - 1) < 1e-6
    assert audit.times is not None
    assert audit.times.words().startswith("time: ")
    nothing = naa_fast.measure(model, torch.randn(3, 4), layers="0")
    alone = naa_fast.compare(nothing, naa_fast.measure(model, torch.randn(3, 4), layers="0")).scalars()
    assert "p_value" not in alone
    assert not [name for name in alone if name.startswith("time/")]
