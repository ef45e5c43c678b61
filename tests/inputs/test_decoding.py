"""Images decoded by worker processes are those that one thread decodes, and what kills a worker is left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inputs.fatal import Fatal
from torch import nn

PIL = pytest.importorskip("PIL.Image", reason="image folders need Pillow (the vision extra)")

import naa_fast  # noqa: E402
from naa_fast.errors import InputError, UsageError  # noqa: E402
from naa_fast.inputs import decoding  # noqa: E402
from naa_fast.inputs.decoding import DIED, Decoders  # noqa: E402
from naa_fast.inputs.opening import open_source  # noqa: E402
from naa_fast.inputs.preprocessing import ImageOptions  # noqa: E402
from naa_fast.scan.quarantine import Quarantine  # noqa: E402
from naa_fast.scan.times import Times  # noqa: E402


def test_workers_give_the_same_batches_and_leave_out_the_same_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(41):
        PIL.fromarray(random.integers(0, 255, (9, 7, 3), np.uint8)).save(tmp_path / f"{index:02}.png")
    (tmp_path / "30.png").write_bytes((tmp_path / "30.png").read_bytes()[:60])  # its header is whole
    found = []
    for workers in (0, 2):
        source: Any = open_source(tmp_path, 4, images=ImageOptions(workers=workers))
        found.append([*source.batches(0, 33), *source.batches(33)])
        assert "by 2 processes" in source.feeding or not workers
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.arguments[0], other.arguments[0])
        assert one.rejected == other.rejected
    assert [bad.index for batch in found[1] for bad in batch.rejected] == [30]
    quarantine = Quarantine()
    measured = naa_fast.measure(
        nn.Conv2d(3, 2, 3), tmp_path, quarantine=quarantine, images=ImageOptions(workers=1), batch_size=16
    )
    assert (measured.samples, measured.skipped) == (40, 1)


def test_what_kills_its_process_is_left_out_and_the_others_go_on() -> None:
    names = [f"{index}" for index in range(20)]
    names[5] = "fatal"
    found = [*Decoders(1).run(Fatal(), [Path(name) for name in names])]  # type: ignore[arg-type]
    assert found == [DIED if name == "fatal" else name for name in names]


def test_workers_that_cannot_be_started_are_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "prepare", os._exit)
    with pytest.raises(InputError, match="__main__"):
        [*Decoders(1).run(Fatal(), [Path("a")])]  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="workers is -1"):
        ImageOptions(workers=-1)
    assert not ImageOptions(workers=3).asked


def test_a_worker_loads_no_torch() -> None:
    code = "import sys, naa_fast.inputs.decoding; assert not {'torch', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_that_waits_for_its_data_is_told_by_whom() -> None:
    times = Times(waiting=3.0, forward=1.0, ours=1.0, total=5.0, feeding="images are decoded by one thread: --workers N")
    assert times.words().endswith("the model waits 60 % of the time: images are decoded by one thread: --workers N")
    assert times.summary()["limit"] == times.limit
    assert "limit" not in Times(waiting=0.1, forward=1.0, feeding="one thread").summary()
    assert Times(waiting=3.0, forward=1.0).limit == ""
