"""A model goes one way through the package while a set is measured (CONTRIBUTING.md, The house)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import torch
from torch import nn

import naa_fast
from naa_fast.inputs.opening import open_source
from naa_fast.scan.loop import measure

HOME = str(Path(naa_fast.__file__).parent)


def test_the_pass_that_measures_hands_the_model_to_scan_and_capture_alone() -> None:
    model, folders = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), set[str]()
    source = open_source([(torch.randn(5, 4), torch.arange(5) % 3)], 5)

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(HOME):
            given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            if any(frame.f_locals.get(name) is model for name in given):
                folders.add(Path(code.co_filename).relative_to(HOME).parts[0])

    sys.setprofile(note)
    try:
        measure(model, source)
    finally:
        sys.setprofile(None)
    assert folders == {"scan", "capture"}
