"""The one-command GPU check goes its whole way without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cuda_on_host import host, nvrtc

from benchmarks import gpu_bandwidth, gpu_check, gpu_scan

needs_shim = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))


@needs_shim
def test_a_dry_run_writes_every_kind_of_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["memcheck", "bandwidth", "copies", "scan_copies", "scan_cost"]
    assert gpu_check.main(["--dry-run", "--out", str(tmp_path), "--only", *wanted]) == 0
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert report["dry_run"] is True
    assert report["device"] == {"name": "none: dry run"}
    assert {"date", "versions", "cpu"} <= set(report["conditions"])
    cases = {entry["case"] for entry in report["bandwidth"]["rows"]}
    assert cases == {
        f"{what} {how}" for what in ("read", "reduce", "reduce + fold") for how in ("[N,D]", "[B,T,D]", "NCHW", "channels_last")
    }
    assert report["bandwidth"]["measured"] is False
    assert set(report["bandwidth"]["lowest_share"]) == {
        f"reduce + fold {how} {dtype}"
        for how in ("[N,D]", "[B,T,D]", "NCHW", "channels_last")
        for dtype in ("float32", "bfloat16")
    }
    assert report["copies"]["proved"] is False
    assert report["scan_copies"]["bytes_a_sample"].keys() == report["scan_copies"]["budget"].keys() == {"statistics", "ranking"}
    costs = {(entry["case"], entry["variant"]) for entry in report["scan_cost"]["rows"]}
    assert {(case, "statistics and ranking") for case in gpu_scan.BUDGETS} <= costs
    assert all(entry["said_bytes_a_neuron"] > 600 for entry in report["scan_cost"]["memory"])
    assert report["scan_copies"]["measured"] is report["scan_cost"]["measured"] is False
    said = capsys.readouterr().out
    assert all(word in said for word in wanted)


@needs_shim
def test_the_shapes_for_the_sanitizer_are_read_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--dry-run", "--small-shapes"]) == 0
    assert capsys.readouterr().out == "22 tensors read\n"


def test_a_part_that_fails_leaves_the_others_their_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError("the device fell off the bus")

    monkeypatch.setattr(gpu_check, "parts", lambda device: {"copies": broken, "end_to_end": lambda: {"right": True, "rows": []}})
    assert gpu_check.main(["--dry-run", "--out", str(tmp_path)]) == 1
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert report["copies"]["said"] == "RuntimeError: the device fell off the bus"
    assert report["end_to_end"]["right"] is True


def test_a_wrong_kernel_is_not_timed() -> None:
    class Lazy:
        """A runtime that launches nothing."""

        def slots(self, kernel: object) -> int:
            return 4

        def launch(self, kernel: object, grid: int, words: object) -> None: ...

    with pytest.raises(gpu_bandwidth.WrongAnswer, match=r"\[6, 4, 5\] torch.float32, neuron 0: mean and m2"):
        gpu_bandwidth.check(torch.ones(6, 4, 5), Lazy())


def test_without_a_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a device is here")
    assert gpu_check.main(["--out", "nowhere"]) == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err


@pytest.mark.skipif(nvrtc.library_path() is None, reason="no NVRTC: pip install nvidia-cuda-nvrtc")
def test_the_plain_read_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "source", lambda op: gpu_bandwidth.READ)
    for arch in (75, 90, 120):
        (used,) = nvrtc.compiled("read", "float32", arch)[1]
        assert used.spilled == used.stack == 0
