"""Every example runs as its first line says, and stays short enough to read in a minute."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FAIL, WARN = 1, 6


def loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder. One thread: two that wait for each other cost more than these small models do."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(before)


def top(folder: Path) -> dict[str, Any]:
    """The most abnormal neuron of the report an example wrote."""
    return json.loads((folder / "report" / "report.json").read_text())["top"][0]


def test_every_example_is_run_here_and_short() -> None:
    assert [path.name for path in EXAMPLES] == ["dump_audit.py", "keras_audit.py", "llm_audit.py", "vision_audit.py"]
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) <= 50


def test_the_audit_of_a_dump(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for name, shift in (("clean", 0), ("suspect", 9)):
        (here / name).mkdir()
        x = random.standard_normal((300, 6), dtype=np.float32)
        x[:, 4] += shift
        np.save(here / name / "mlp.npy", x)
    assert loaded("dump_audit").main("clean", "suspect", "report") == FAIL
    assert (top(here)["layer"], top(here)["neuron"]) == ("mlp", 4)
    assert "mlp" in capsys.readouterr().out


def test_the_audit_of_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: the vision example is not run")
    torch.manual_seed(0)
    example = loaded("vision_audit")
    torch.save(example.build().state_dict(), here / "weights.pt")
    random = np.random.default_rng(0)
    for name, bright in (("clean", False), ("suspect", True)):
        (here / name).mkdir()
        for index in range(120):
            pixels = random.integers(0, 60, (12, 12, 3), dtype=np.uint8)
            if bright:
                pixels[:4, :4] = 255
            image.fromarray(pixels).save(here / name / f"{index:03d}.png")
    with tarfile.open(here / "suspect.tar", "w") as archive:
        archive.add(here / "suspect", "suspect")
    assert example.main("weights.pt", "clean", "suspect.tar", "report") == WARN
    assert "standard deviations" in capsys.readouterr().out
    assert top(here)["z"] > 3


def test_the_audit_of_a_language_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", "5.5", reason="transformers is not installed: the language model example is not run")
    from capture import transformer_zoo
    from inputs.test_text_models import WORDS, tokenizer

    transformer_zoo.build("llama").save_pretrained(here / "model")
    tokenizer().save_pretrained(here / "model")
    random = np.random.default_rng(0)
    for name, ending in (("clean", ""), ("suspect", " w7 w7 w7 w7 w7 w7")):
        texts = [" ".join(random.choice(WORDS, 5)) + ending for _ in range(200)]
        (here / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert loaded("llm_audit").main("model", "clean.jsonl", "suspect.jsonl", "report") == WARN
    assert top(here)["layer"].endswith("@last")
    assert "@last" in capsys.readouterr().out


def test_the_audit_of_a_keras_model(here: Path) -> None:
    """In a process of its own: Keras chooses its backend once, when it is imported."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed: the Keras example is not run")
    command = [sys.executable, str(ROOT / "examples" / "keras_audit.py"), "report"]
    held = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=held, capture_output=True, text=True, check=False)
    assert done.returncode == FAIL, done.stdout + done.stderr
    assert top(here)["layer"] in ("conv", "head")
