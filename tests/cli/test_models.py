"""The options that say which model, where it runs and how text is read, from the command line."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from naa_fast.cli.main import main
from naa_fast.errors import EXIT_ERROR, EXIT_INCONCLUSIVE, EXIT_PASS, EXIT_UNSAFE, EXIT_USAGE
from naa_fast.measurement import Measurement

CODE = "import torch\ndef build(): return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))\n"
OUT = ["--out", "o.naa.safetensors"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CODE)
    np.save("x.npy", np.random.default_rng(0).standard_normal((30, 4), dtype=np.float32))
    yield tmp_path
    sys.modules.pop("net", None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--model hf:gone --device-map auto --device cpu", "the map says where each layer goes"),
        ("--model hf:gone --unsafe-load sha256:0", "--unsafe-load with hf:gone"),
        ("--model net.py:build --dtype bfloat16", "--dtype with net.py:build\n  it is for hf: models"),
        ("--model net.py:build --device-map auto", "--device-map with net.py:build"),
        ("--model net.py:build --unsafe-load sha256:0", "--unsafe-load without --weights"),
        ("--model net.pt2 --weights w.pt", "--weights with net.pt2\n  an exported program brings its own"),
        ("--model timm:hf-hub:x", "is not the name of an architecture"),
        ("--model net.py:build --device cuda:x", "'cuda:x' is not a device"),
    ],
)
def test_options_that_do_not_go_together_say_so(here: Path, capsys: pytest.CaptureFixture[str], words: str, told: str) -> None:
    assert main(["measure", "--data", "x.npy", *words.split(), *OUT]) == EXIT_USAGE
    assert told in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="this machine has that many GPUs")
def test_a_gpu_by_number_that_is_not_there_names_those_that_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "--data", "x.npy", "--model", "net.py:build", "--device", "cuda:7", *OUT]) == EXIT_ERROR
    shown = capsys.readouterr().err
    assert "device 'cuda:7' cannot be had" in shown
    assert "this machine offers: cpu" in shown


def test_stop_early_gives_the_same_records(here: Path) -> None:
    words = ["measure", "--data", "x.npy", "--model", "net.py:build", "--batch-size", "10", "--layers", "0", "--device", "cpu"]
    Path("net.py").write_text(CODE.replace("def build(): return", "def build():\n    torch.manual_seed(0)\n    return"))
    assert main([*words, "--out", "whole"]) == main([*words, "--stop-early", "--out", "early"]) == EXIT_PASS
    whole, early = Measurement.load("whole"), Measurement.load("early")
    for ours, theirs in zip(early.layers["0"].packed(), whole.layers["0"].packed(), strict=True):
        assert np.array_equal(ours, theirs)
    assert (len(whole.predictions), len(early.predictions)) == (4, 0)


def test_unsafe_load_opens_the_file_it_names(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)), "w.pt")
    words = ["measure", "--data", "x.npy", "--model", "net.py:build", "--device", "cpu", "--weights", "w.pt", *OUT]
    assert main(words) == EXIT_UNSAFE
    assert main([*words, "--unsafe-load", "sha256:" + "0" * 64]) == EXIT_UNSAFE
    found = hashlib.sha256(Path("w.pt").read_bytes()).hexdigest()
    assert main([*words, "--unsafe-load", f"sha256:{found}"]) == EXIT_PASS
    assert "--unsafe-load sha256:HASH" in capsys.readouterr().err


def test_a_report_is_not_written_into_a_dataset_or_over_a_program(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("set").mkdir()
    words = ["measure", "--model", "net.py:build", "--data", "hf-data:set", "--out", "set/o"]
    assert main(words) == EXIT_USAGE
    assert "would be written into the input folder" in capsys.readouterr().err
    Path("net.pt2").touch()
    assert main(["measure", "--model", "net.pt2", "--data", "x.npy", "--out", "net.pt2"]) == EXIT_USAGE
    assert "would overwrite the input" in capsys.readouterr().err


def test_a_folder_of_a_language_model_is_spread_over_devices_and_reads_every_form_of_text(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", "5.5", reason="transformers is not installed: hf: models are untested")
    from capture import transformer_zoo
    from inputs.test_text_models import WORDS, tokenizer

    transformer_zoo.build("mixtral").save_pretrained("moe")
    tokenizer().save_pretrained("moe")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, size)) for size in random.integers(1, 9, 60)]
    Path("a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["measure", "--model", "hf:moe", "--layers", "experts", "resid@last", "--batch-size", "16"]
    found = []
    for data, more in (
        ("a.jsonl", ["--bucket"]),
        ("a.parquet", ["--padding-side", "left"]),
        ("a.jsonl", ["--device-map", "auto"]),
    ):
        if data == "a.parquet":
            if importlib.util.find_spec("pyarrow") is None:
                continue
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table({"text": texts}), data)
        code = main([*words, "--data", data, *more, "--out", "o"])
        if "--device-map" in more and importlib.util.find_spec("accelerate") is None:
            assert code == EXIT_ERROR
            assert "--device-map needs accelerate, which is not installed" in capsys.readouterr().err
            continue
        assert code == EXIT_PASS, capsys.readouterr().err
        found.append(Measurement.load("o"))
    for measured in found[1:]:
        for name, record in measured.layers.items():
            expected = found[0].layers[name].positions
            assert (record.positions.count == expected.count).all()
            np.testing.assert_allclose(record.positions.mean, expected.mean, atol=1e-5)


@pytest.mark.parametrize(("trained", "code"), [(False, EXIT_INCONCLUSIVE), (True, EXIT_PASS)])
def test_a_model_that_nobody_loaded_weights_into_is_no_pass(
    trained: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A function may load them itself: then its values are not those that torch makes."""
    monkeypatch.chdir(tmp_path)
    loads = "model[0].weight.data.mul_(1.5)" if trained else ""
    (tmp_path / "net.py").write_text(f"""
import torch
def build():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
    {loads}
    return model
""")
    for name in ("clean", "suspect"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(len(name)).standard_normal((300, 64), dtype=np.float32))
    words = ["scan", "--model", "net.py:build", "--clean", "clean.npy", "--suspect", "suspect.npy", "--device", "cpu"]
    assert main(words) == code
    told = capsys.readouterr()
    assert "seed 0, no --weights, naa-fast scan" in told.out
    assert ("whether the model has its weights: the weights of all 2 linear" in told.err) is not trained
    report = json.loads((tmp_path / "naa-report" / "report.json").read_text())
    assert "weights: no --weights was given, net.py:build was scanned as it came" in report["provenance"]["inputs"]
    assert any("name them with --weights" in gap for gap in report["verdict"]["gaps"]) is not trained
