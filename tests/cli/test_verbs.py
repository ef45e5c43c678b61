"""The verbs end to end, on a small model with planted and with quiet data."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from naa_fast.cli import shared
from naa_fast.cli.main import main
from naa_fast.errors import EXIT_ERROR, EXIT_FINDING, EXIT_INCONCLUSIVE, EXIT_PASS, EXIT_UNSAFE, EXIT_USAGE, EXIT_WARN
from naa_fast.measurement import Measurement
from naa_fast.report.files import ALWAYS, CONFIG, VECTORS

CODE = """
import torch

class Emit(torch.nn.Module):
    def forward(self, x):
        return x

def build(wide=False):
    torch.manual_seed(0)
    first = torch.nn.Linear(8, 12 if wide else 8)
    return torch.nn.Sequential(first, Emit())

def identity():
    return torch.nn.Sequential(torch.nn.Identity(), Emit())

def fails():
    class Broken(torch.nn.Module):
        def forward(self, x):
            raise ValueError("bad shape")
    return torch.nn.Sequential(torch.nn.Linear(8, 8), Broken())
"""
PLANTED = [2, 3]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a model, a clean set, a quiet and a planted suspect set; the current one."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    (tmp_path / "net.py").write_text(CODE)
    np.savez(tmp_path / "clean.npz", x=random.standard_normal((600, 8), dtype=np.float32))
    np.save(tmp_path / "quiet.npy", random.standard_normal((600, 8), dtype=np.float32))
    planted = random.standard_normal((600, 8), dtype=np.float32)
    planted[:, PLANTED] += 9
    np.save(tmp_path / "planted.npy", planted)
    yield tmp_path
    sys.modules.pop("net", None)


def scan(*words: str, suspect: str = "quiet.npy", model: str = "net.py:identity") -> int:
    return main(["scan", "--model", model, "--clean", "clean.npz", "--suspect", suspect, "--device", "cpu", *words])


def measure(out: str, data: str = "clean.npz", *words: str, model: str = "net.py:build") -> int:
    return main(["measure", "--model", model, "--data", data, "--out", out, "--device", "cpu", *words])


def test_scan_finds_the_planted_neurons_and_writes_the_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scan("--layers", "1", "--fail-on", "shift", suspect="planted.npy") == EXIT_FINDING
    captured = capsys.readouterr()
    assert captured.out.startswith("WARN (exit code 1)"), "what the classes themselves are is no trigger"
    assert re.search(r"\nreport: naa-report/report\.html \(\d+ files in naa-report/\)\n$", captured.out)
    assert {path.name for path in (here / "naa-report").iterdir()} == {*ALWAYS, VECTORS, CONFIG, "page"}
    report = json.loads((here / "naa-report" / "report.json").read_text())
    assert report["outcome"] == "warn"
    (layer,) = report["layers"]
    assert layer["name"] == "1"
    assert sorted(row["neuron"] for row in layer["abnormal"]) == PLANTED


def test_scan_passes_quiet_data_with_code_0(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scan("--layers", "1", "--out", "some/where") == EXIT_PASS
    assert capsys.readouterr().out.startswith("PASS (exit code 0)")
    assert (here / "some" / "where" / "signature.png").is_file()
    assert not (here / "naa-report").exists()


def test_scan_of_too_few_samples_is_inconclusive_with_code_3(here: Path) -> None:
    np.save(here / "few.npy", np.zeros((4, 8), dtype=np.float32))
    np.save(here / "clean_few.npy", np.ones((4, 8), dtype=np.float32))
    words = ["scan", "--model", "net.py:identity", "--clean", "clean_few.npy", "--suspect", "few.npy", "--device", "cpu"]
    assert main([*words, "--layers", "1"]) == EXIT_INCONCLUSIVE


def test_json_is_the_report_byte_for_byte_and_alone_on_stdout(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scan("--layers", "1", "--json", "--threshold", "2.0", "--top-k", "3", suspect="planted.npy") == EXIT_WARN
    captured = capsys.readouterr()
    assert captured.out == (here / "naa-report" / "report.json").read_text()
    report = json.loads(captured.out)
    assert report["threshold"] == 2.0
    assert len(report["top"]) == 3
    assert captured.out.isascii(), "no name in it can move the cursor"
    assert re.fullmatch(r"report: naa-report/report\.html \(\d+ files in naa-report/\)\n", captured.err)


def test_a_single_file_needs_nothing_beside_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scan("--layers", "1", "--single-file", suspect="planted.npy") == EXIT_WARN
    assert "report: naa-report/report.html (9 files in naa-report/)" in capsys.readouterr().out
    assert not (here / "naa-report" / "page").exists()
    assert "<style>" in (here / "naa-report" / "report.html").read_text("utf-8")


def test_model_arguments_and_weights_reach_the_model(here: Path) -> None:
    torch.manual_seed(1)
    save_file(torch.nn.Sequential(torch.nn.Linear(8, 12)).state_dict(), here / "w.safetensors")
    assert measure("a.naa", "clean.npz", "--model-arg", "wide=true", "--weights", "w.safetensors") == EXIT_PASS
    assert measure("b.naa", "clean.npz", "--model-arg", "wide=true") == EXIT_PASS
    with_weights, without = Measurement.load(here / "a.naa"), Measurement.load(here / "b.naa")
    assert with_weights.layers["0"].channels == without.layers["0"].channels == 12
    assert with_weights.model != without.model


def test_measure_then_compare_is_the_scan(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure("parts/clean.naa.safetensors", model="net.py:identity") == EXIT_PASS
    assert capsys.readouterr().out == "parts/clean.naa.safetensors: 600 samples, 1 layer\n"
    assert measure("parts/planted.naa.safetensors", "planted.npy", model="net.py:identity") == EXIT_PASS
    words = ["compare", "parts/clean.naa.safetensors", "parts/planted.naa.safetensors", "--out", "compared"]
    assert main(words) == EXIT_INCONCLUSIVE, "a warn, and nothing was ranked"
    assert main([*words, "--accept-unranked"]) == EXIT_WARN
    assert scan("--histograms", suspect="planted.npy") == EXIT_WARN
    compared, scanned = (json.loads((here / name / "report.json").read_text()) for name in ("compared", "naa-report"))
    assert compared["layers"] == scanned["layers"]
    assert compared["top"] == scanned["top"]
    assert compared["z"] == scanned["z"]


def test_compare_and_merge_load_no_torch(here: Path) -> None:
    measure("a.naa.safetensors", model="net.py:identity")
    measure("b.naa.safetensors", "planted.npy", model="net.py:identity")
    code = """
import sys
from naa_fast.cli.main import main
class Refused:  # not None in sys.modules: SciPy takes what stands there for the module
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "numba", "cupy"):
            raise ImportError(f"{name} is not to be had here")
sys.meta_path.insert(0, Refused())
assert not {"torch", "numba", "cupy"} & set(sys.modules)
assert main(["compare", "a.naa.safetensors", "b.naa.safetensors", "--out", "r"]) == 3
assert main(["merge", "a.naa.safetensors", "b.naa.safetensors", "--out", "m.naa.safetensors"]) == 0
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert (here / "r" / "signature.png").is_file()


def test_merge_of_parts_is_the_whole(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.load(here / "clean.npz")["x"]
    for index, part in enumerate(np.split(x, [100, 250])):
        np.save(here / f"part{index}.npy", part)
        assert measure(f"part{index}.naa", f"part{index}.npy") == EXIT_PASS
    measure("whole.naa")
    capsys.readouterr()
    assert main(["merge", "part2.naa", "part0.naa", "part1.naa", "--out", "merged.naa"]) == EXIT_PASS
    assert capsys.readouterr().out == "merged.naa: 600 samples from 3 files, 1 layer\n"
    merged, whole = Measurement.load(here / "merged.naa"), Measurement.load(here / "whole.naa")
    assert np.allclose(merged.layers["0"].positions.mean, whole.layers["0"].positions.mean, rtol=1e-6)


def test_merging_what_does_not_belong_together_names_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure("a.naa")
    measure("b.naa", "quiet.npy", "--model-arg", "wide=true")
    assert main(["merge", "a.naa", "b.naa", "--out", "m.naa"]) == EXIT_ERROR
    text = capsys.readouterr().err
    assert "error: cannot merge: the model differs" in text
    assert "when b.naa was added" in text
    assert not (here / "m.naa").exists()


def test_the_same_part_twice_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure("a.naa")
    assert main(["merge", "a.naa", "a.naa", "--out", "m.naa"]) == EXIT_ERROR
    assert "the same data is in both measurements" in capsys.readouterr().err


def test_measure_says_what_was_skipped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image", reason="image folders need Pillow (the vision extra)")
    (here / "set").mkdir()
    for index in range(3):
        image.new("L", (8, 1), index).save(here / "set" / f"{index}.png")
    (here / "set" / "bad.png").write_bytes(b"nonsense")
    assert measure("a.naa", "set") == EXIT_PASS
    assert "a.naa: 3 samples, 1 skipped, 1 layer" in capsys.readouterr().out


# What goes wrong


def fails(capsys: pytest.CaptureFixture[str], code: int, found: int) -> str:
    captured = capsys.readouterr()
    assert (found, captured.out) == (code, "")
    assert "Traceback" not in captured.err
    return captured.err


def test_a_missing_set_is_named_before_the_model_is_built(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "net.py").write_text("raise SystemExit('built')")
    text = fails(capsys, EXIT_ERROR, scan(suspect="gone.npz"))
    assert "error: no such data: gone.npz" in text
    assert "built" not in text
    assert not (here / "naa-report").exists(), "a command that failed leaves nothing behind"


def test_unsafe_data_ends_with_code_5(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "data.pkl").write_bytes(b"")
    assert "error: refused to read data from data.pkl" in fails(capsys, EXIT_UNSAFE, scan(suspect="data.pkl"))


def test_unsafe_weights_end_with_code_5(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(torch.nn.Linear(2, 2), here / "w.pt")
    text = fails(capsys, EXIT_UNSAFE, scan("--weights", "w.pt"))
    assert "error: refused to load weights w.pt" in text
    assert "safetensors" in text


def test_a_forward_that_raises_names_layer_and_batch(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = fails(capsys, EXIT_ERROR, scan(model="net.py:fails"))
    assert "error: the model raised ValueError on batch 0" in text
    assert "in layer: 1" in text
    assert "message: bad shape" in text


def test_a_layer_that_matches_nothing_is_a_usage_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "error: no layer matches 'conv*'" in fails(capsys, EXIT_USAGE, scan("--layers", "conv*"))


def test_a_function_that_is_not_there_is_a_usage_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = fails(capsys, EXIT_USAGE, scan(model="net.py:make"))
    assert "it offers: Emit, build, identity, fails" in text


@pytest.mark.parametrize("words", [["merge", "bad.naa", "--out", "x"], ["compare", "bad.naa", "bad.naa"]])
def test_a_damaged_measurement_is_named(here: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    (here / "bad.naa").write_bytes(b"\x05\x00\x00\x00\x00\x00\x00\x00{}")
    text = fails(capsys, EXIT_ERROR, main(words))
    assert "error: not a measurement file" in text
    assert "bad.naa" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_lists_those_that_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["scan", "--model", "net.py:build", "--clean", "clean.npz", "--suspect", "quiet.npy", "--device", "cuda"]
    text = fails(capsys, EXIT_ERROR, main(words))
    assert "error: device 'cuda' cannot be had" in text
    assert "this machine offers: cpu" in text


# The device


@pytest.mark.parametrize(
    ("asked", "cuda", "placed", "expected"),
    [
        ("auto", False, "cpu", "auto"),
        ("auto", True, "cpu", "cuda"),
        ("auto", True, "meta", "auto"),  # stands for a model that placed itself
        ("cpu", True, "cpu", "cpu"),
    ],
)
def test_auto_takes_a_gpu_unless_the_model_placed_itself(
    here: Path, monkeypatch: pytest.MonkeyPatch, asked: str, cuda: bool, placed: str, expected: str
) -> None:
    (here / "net.py").write_text(f"import torch\ndef build(): return torch.nn.Linear(2, 2, device={placed!r})")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    options = {"weights": None, "dtype": None, "device_map": None, "unsafe_load": None, "weights_key": None}
    arguments = SimpleNamespace(model="net.py:build", model_arg=[], device=asked, **options)
    assert shared.model_of(arguments)[1] == expected  # type: ignore[arg-type]


# doctor and demo


def test_doctor_says_versions_devices_and_backends_with_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == EXIT_PASS
    text = capsys.readouterr().out
    assert f"torch         {torch.__version__.partition('+')[0]}" in text
    assert f"numpy         {np.__version__}" in text
    assert f"cpu: {os.cpu_count()} threads" in text
    for op in ("reduce", "fold", "compare"):
        assert f"cpu {op}: " in text
    assert "not cuda: the array is on cpu" in text
    assert "DOES NOT IMPORT" not in text
    assert "HAS NO" not in text


def test_doctor_works_without_torch_and_shows_a_broken_backend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from naa_fast import ops

    monkeypatch.setattr(ops, "missing", lambda module: f"{module} is not installed" if module != "numba" else None)
    monkeypatch.setitem(sys.modules, "naa_fast.kernels.cpu", None)
    assert main(["doctor"]) == EXIT_PASS
    text = capsys.readouterr().out
    assert "others unknown: torch is not installed" in text
    assert "numpy reduce: cpu (not cuda: the array is on cpu) DOES NOT IMPORT: ModuleNotFoundError" in text


def test_demo_is_given_its_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo itself takes seconds and is tested where it lives; here: the folder goes in, the code comes out."""
    given: list[Path] = []

    def run(out: Path) -> int:
        given.append(out)
        return 7

    monkeypatch.setitem(sys.modules, "naa_fast.demo", SimpleNamespace(run=run))
    monkeypatch.setattr("naa_fast.demo", sys.modules["naa_fast.demo"], raising=False)
    assert main(["demo", "--out", "shown"]) == 7
    assert main(["demo"]) == 7
    assert given == [Path("shown"), Path("naa-demo")]


def test_layers_are_left_out_by_exclude_on_every_verb_that_runs_the_model(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"0", "1"}
    assert measure("whole.naa.safetensors", "clean.npz", "--layers", "0", "1") == EXIT_PASS
    assert set(Measurement.load(here / "whole.naa.safetensors").layers) == whole
    assert measure("some.naa.safetensors", "clean.npz", "--layers", "0", "1", "--exclude", "1") == EXIT_PASS
    assert set(Measurement.load(here / "some.naa.safetensors").layers) == {"0"}
    scan("--layers", "0", "1", "--exclude", "0", "--no-ranking", "--json", "--out", "r")
    report = json.loads((here / "r" / "report.json").read_text())
    assert [layer["name"] for layer in report["layers"]] == ["1"]
    assert report["provenance"]["options"]["exclude"] == ["0"]
    assert "layers that were excluded: 0" in report["not_checked"]
    sets = ("--clean", "clean.npz", "--suspect", "planted.npy", "--device", "cpu")
    assert main(["rank", "--model", "net.py:build", *sets, "--layers", "0", "1", "--exclude", "1", "-k", "3"]) == EXIT_PASS
    capsys.readouterr()
    assert measure("none.naa.safetensors", "clean.npz", "--exclude", "2") == EXIT_USAGE
    assert "no layer matches '2', which is to be excluded" in capsys.readouterr().err


def test_options_for_texts_are_refused_where_no_set_is_of_texts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["scan", "--model", "net.py:identity", "--clean", "clean.npz", "--suspect", "planted.npy"]
    for option in (["--max-length", "5"], ["--tokenizer", "folder"], ["--skip-special"], ["--bucket"], ["--text-field", "x"]):
        assert main([*words, *option]) == EXIT_USAGE
        assert f"{option[0]} with clean.npz, planted.npy\n  it is for texts" in capsys.readouterr().err


def test_a_reference_of_another_model_costs_no_pass_over_the_suspects(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure("ref.naa.safetensors", "clean.npz", "--reference", model="net.py:build") == EXIT_PASS
    capsys.readouterr()
    words = ["scan", "--model", "net.py:build", "--model-arg", "wide=true", "--reference", "ref.naa.safetensors"]
    assert main([*words, "--suspect", "planted.npy"]) == EXIT_ERROR
    assert "the measurement given in place of a set is of another model\n  model: " in capsys.readouterr().err
    against = ["--against", "ref.naa.safetensors", "--model-arg", "wide=true"]
    assert measure("s.naa.safetensors", "planted.npy", *against, model="net.py:build") == EXIT_ERROR
    assert "is of another model" in capsys.readouterr().err


def test_two_whole_sets_are_merged_with_a_warning_and_parts_without(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure("clean.naa.safetensors") == measure("quiet.naa.safetensors", "quiet.npy") == EXIT_PASS
    assert measure("next.naa.safetensors", "quiet.npy", "--first-index", "600") == EXIT_PASS
    for other, told in (("quiet", True), ("next", False)):
        capsys.readouterr()
        assert main(["merge", "clean.naa.safetensors", f"{other}.naa.safetensors", "--out", "both.naa.safetensors"]) == EXIT_PASS
        assert ("several begin at the same item" in capsys.readouterr().err) == told
