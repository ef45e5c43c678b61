"""Result files: two are compared, one is drawn; and the verb that measures on a user's machine."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import compare_runs, plots
from benchmarks.common import write
from naa_fast.cli import bench
from naa_fast.errors import BackendUnavailable


def entry(case: str, median: float, **more: Any) -> dict[str, Any]:
    times = {"median_ms": median, "p20_ms": median * 0.95, "p80_ms": median * 1.05}
    return {"case": case, "dtype": "float32", "shape": [4, 2], **times, **more}


def files(tmp_path: Path, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, rows in zip(paths, (before, after), strict=True):
        write(path, rows, threads=2)
    return [str(path) for path in paths]


def compared(paths: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    before, after = paths
    return compare_runs.compared(before, after, limit=1.1)


def test_a_regression_is_named_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [entry("a", 1.0), entry("b", 1.0), entry("c", 1.0), entry("gone", 1.0)]
    after = [entry("a", 2.0), entry("b", 1.04), entry("c", 0.5), entry("none", 1.0) | {"median_ms": None}]
    assert compare_runs.main(files(tmp_path, before, after)) == 1
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line[:2] in ("a ", "b ", "c ")}
    assert "2.000  slower" in lines["a"]
    assert "within noise" in lines["b"]
    assert "0.500  faster" in lines["c"]
    assert "gone float32 4x2" in out
    assert "1 of 3 rows are slower by more than 1.1" in out


def test_variants_are_rows_of_their_own_and_ratios_within_a_run_are_shown(tmp_path: Path) -> None:
    before = [entry("a", 1.0, variant="alone"), entry("a", 9.0, variant="ours", overhead=0.5)]
    after = [entry("a", 1.0, variant="alone"), entry("a", 9.0, variant="ours", overhead=0.25)]
    rows, _ = compared(files(tmp_path, before, after))
    assert [row["regression"] for row in rows] == [False, False]
    assert rows[1]["note"] == "within noise; overhead 0.5 → 0.25"


def test_other_conditions_are_pointed_out(tmp_path: Path) -> None:
    paths = files(tmp_path, [entry("a", 1.0)], [entry("a", 1.0)])
    content = json.loads(Path(paths[1]).read_text())
    content["conditions"]["cpu"] = "another"
    Path(paths[1]).write_text(json.dumps(content))
    _, remarks = compared(paths)
    assert any(remark.startswith("conditions differ: cpu: ") and remark.endswith(" / another") for remark in remarks)


ROWS: dict[str, list[dict[str, Any]]] = {
    "bandwidth": [entry("[N,D]", 1.0, share_of_read=0.6), entry("NCHW", 1.0, share_of_read=0.5)],
    "rivals": [
        entry("[N,D]", 1.0, rival="naa-fast", status="ok", times_ours=1.0),
        entry("[N,D]", 9.0, rival="other", status="wrong: trap", times_ours=9.0),
        entry("[N,D]", 9.0, rival="absent", status="not installed", times_ours=None),
    ],
    "overheads": [entry("net", 1.0, variant="alone", overhead=0.0), entry("net", 1.1, variant="ours", overhead=0.1)],
    "scale": [
        entry("s", 1.0, samples=10, total_s=1.0, resident_MB=300.0),
        entry("s", 1.0, samples=100, total_s=10.0, resident_MB=300.0),
        entry("n", 1.0, neurons=256),
    ],
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_of_result_is_drawn_into_a_small_file(kind: str, tmp_path: Path) -> None:
    source = tmp_path / f"{kind}.json"
    write(source, ROWS[kind])
    assert plots.main([str(source), "--out", str(tmp_path / "figures")]) == 0
    figure = tmp_path / "figures" / f"{kind}.png"
    assert 1000 < figure.stat().st_size < 100_000


def test_rows_of_no_known_kind_are_not_drawn(tmp_path: Path) -> None:
    write(tmp_path / "odd.json", [entry("a", 1.0)])
    assert plots.draw(tmp_path / "odd.json", tmp_path) is None


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add(parser.add_subparsers(), [])
    return parser.parse_args(["bench", *words])


def test_the_bench_verb_prints_a_line_a_case_and_the_forward(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    assert bench.run(arguments("--device", "cpu", "--megabytes", "1")) == 0
    out = capsys.readouterr().out
    for layout, dtype in bench.CASES:
        assert f"{layout:14s}{dtype:9s}" in out
    assert "of read" in out
    assert "a forward with every convolution hooked" in out


def test_the_bench_verb_prints_json_with_conditions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "CASES", bench.CASES[:2])
    assert bench.run(arguments("--device", "cpu", "--megabytes", "1", "--json")) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["conditions"]["threads"] == torch.get_num_threads()
    assert {"case", "dtype", "shape", "median_ms", "share_of_read", "ratio_to_torch_var_mean"} <= set(content["rows"][0])
    assert content["rows"][-1]["overhead"] > -1


def test_a_kernel_that_answers_wrongly_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench.Kernel.positions
    monkeypatch.setattr(bench.Kernel, "positions", lambda self: (right(self)[0] + 0.01, right(self)[1]))
    with pytest.raises(bench.WrongAnswer, match=r"\[N,D\] float32: neuron 0 is off by 0\.0"):
        bench.kernel_row("[N,D]", "float32", 1 << 16, torch.device("cpu"), 1.0)


def test_no_more_than_a_minute_is_spent_and_what_is_left_out_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 10_000, 15))  # every look at the clock is 15 seconds later
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    assert bench.run(arguments("--device", "cpu", "--megabytes", "1")) == 0
    captured = capsys.readouterr()
    assert "left out, 40 s had gone: " in captured.err
    assert captured.err.rstrip().endswith("channels_last float32; fewer --megabytes take less")
    assert "a forward with every convolution hooked" in captured.out


def test_slow_rivals_are_timed_once_on_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SLOW", 0.0)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    row = bench.kernel_row("NCHW", "float32", 1 << 20, torch.device("cpu"), 1.0)
    assert all(row[f"ratio_to_{name}"] > 0 for name in ("torch_mean", "torch_var_mean", "numpy_mean"))


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["text", "json"])
def test_more_than_all_of_the_read_is_explained(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "CASES", bench.CASES[:1])
    monkeypatch.setattr(bench, "ROUNDS", 1)
    row = bench.kernel_row

    def faster(*given: Any) -> dict[str, Any]:
        return {**row(*given), "share_of_read": 1.2, "faster_than_read": True}

    monkeypatch.setattr(bench, "kernel_row", faster)
    assert bench.run(arguments("--device", "cpu", "--megabytes", "1", *words)) == 0
    out = capsys.readouterr().out
    if words:
        assert json.loads(out)["conditions"]["note"] == bench.FASTER
    else:
        assert "= 120%* of read" in out
        assert out.rstrip().endswith(bench.FASTER)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(BackendUnavailable, match="device 'cuda' cannot be had"):
        bench.run(arguments("--device", "cuda"))
