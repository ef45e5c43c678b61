"""The front door: real functions that `help` and a type checker see, in the package as it is built and installed.

The Python of README.md and docs/ is checked against the wheel's own types, block by block.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

import naa_fast
from naa_fast import audit
from naa_fast.detect import arrays

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GIVEN = """\
from collections.abc import Iterable
from pathlib import Path
from typing import Any
import numpy as np
import torch
import naa_fast
from naa_fast import Audit, Measurement

model: torch.nn.Module
clean: torch.Tensor
suspect: torch.Tensor
clean_loader: Iterable[tuple[torch.Tensor, torch.Tensor]]
suspect_loader: Iterable[tuple[torch.Tensor, torch.Tensor]]
clean_array: np.ndarray[Any, Any]
test_array: np.ndarray[Any, Any]
clean_measured: Measurement
suspect_measured: Measurement
audit: Audit
dataset: Any
writer: Any
mlflow: Any
wandb: Any
def build_model() -> torch.nn.Module:
    return model
"""
"""What a page's code may take as given."""
CONFIGURATION = """\
[mypy]
allow_redefinition = True
[mypy-torch.*]
follow_imports = skip
[mypy-matplotlib.*,pandas.*]
ignore_missing_imports = True
"""
"""torch's own types take most of the time and say nothing of ours."""
REFUSED = """\
naa_fast.scan(model, clean)
naa_fast.scan(model, clean, suspect, layer="conv1")
naa_fast.scan(model, clean, suspect).outcome
naa_fast.measure(model, clean, shard=3)
naa_fast.compare(clean_measured, 3)
naa_fast.detect(clean_array, test_array, limit=3.0)
naa_fast.repair.apply(model, None)
naa_fast.audits
"""


def run(command: list[str], installed: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command where the installed package is the one that is found."""
    env = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def blocks() -> dict[str, str]:
    """Each block of Python on a page, under a name that says where it stands."""
    named = {}
    for page in PAGES:
        text = page.read_text("utf-8")
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M):
            named[f"{page.stem.replace('-', '_')}_{text[: block.start()].count(chr(10)) + 2}"] = block[1]
    return named


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as a wheel brings it."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("naa_fast", "kernels"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-compile",
        "--target",
        str(site),
        str(source),
    ]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture(scope="module")
def complaints(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, str]]]:
    """What mypy says of each block, and of REFUSED: line and words."""
    folder = tmp_path_factory.mktemp("code")
    above = GIVEN.count("\n")
    for name, code in {**blocks(), "refused": REFUSED}.items():
        (folder / f"{name}.py").write_text(GIVEN + code, "utf-8")
    (folder / "mypy.ini").write_text(CONFIGURATION, "utf-8")
    files = [f"{name}.py" for name in (*blocks(), "refused")]
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", *files]
    done = run(command, installed, cwd=folder)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    told: dict[str, list[tuple[int, str]]] = {name: [] for name in (*blocks(), "refused")}
    for file, line, words in re.findall(r"^(\w+)\.py:(\d+): error: (.*)$", done.stdout, re.M):
        told[file].append((int(line) - above, words))
    return told


def test_the_typed_package_is_what_is_installed(installed: Path) -> None:
    code = "import naa_fast, sys; print(naa_fast.__file__, 'torch' in sys.modules, naa_fast.scan.__module__)"
    done = run([sys.executable, "-P", "-c", code], installed)
    assert done.stdout.split() == [str(installed / "naa_fast" / "__init__.py"), "False", "naa_fast.audit"]
    assert (installed / "naa_fast" / "py.typed").exists()


@pytest.mark.parametrize("name", blocks())
def test_a_type_checker_agrees_with_the_code_on_the_pages(complaints: dict[str, list[tuple[int, str]]], name: str) -> None:
    assert complaints[name] == []


def test_a_type_checker_refuses_what_the_front_door_does_not_offer(complaints: dict[str, list[tuple[int, str]]]) -> None:
    assert sorted({line for line, _ in complaints["refused"]}) == list(range(1, REFUSED.count("\n") + 1)), complaints["refused"]


def test_the_verbs_are_functions_with_signatures() -> None:
    verbs: dict[str, object] = {"scan": audit.scan, "measure": audit.measure, "compare": audit.compare, "detect": arrays.detect}
    for name, function in verbs.items():
        verb = getattr(naa_fast, name)
        assert verb is function
        assert isinstance(verb, FunctionType)
        assert ">>>" in (inspect.getdoc(verb) or "")
    assert list(inspect.signature(naa_fast.scan).parameters)[:4] == ["model", "clean", "suspect", "layers"]


def test_the_folders_of_the_same_names_stay_within_reach() -> None:
    from naa_fast.detect import tails
    from naa_fast.scan import Quarantine

    assert naa_fast.Quarantine is Quarantine
    assert tails.__name__ == "naa_fast.detect.tails"
    assert isinstance(naa_fast.scan, FunctionType)


def test_what_is_not_offered_is_refused_with_what_is() -> None:
    with pytest.raises(AttributeError, match="module 'naa_fast' has no attribute 'audits'; it offers: Audit, Measurement"):
        getattr(naa_fast, "audits")  # noqa: B009
    assert set(dir(naa_fast)) == set(naa_fast.__all__)
    for name in naa_fast.__all__:
        assert getattr(naa_fast, name) is not None
