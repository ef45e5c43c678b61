"""What is public has an example in its docstring, and the examples run."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import naa_fast
import naa_fast.repair
from naa_fast import audit, errors, measurement, result
from naa_fast.detect import arrays, evidence
from naa_fast.repair import change

MODULES = (audit, arrays, change, errors, evidence, measurement, result, importlib.import_module("naa_fast.invert"))
WITHOUT_EXAMPLE = {"zero", "samples", "skipped", "require_same_subject", "to_bytes", "from_bytes", "digest"}
"""Of Measurement: what merging, saving and comparing are made of."""


def public() -> Iterator[tuple[str, Any]]:
    """The names of the front door, and the methods of its two classes."""
    yield from ((f"naa_fast.{name}", thing) for name, thing in vars(audit).items() if name in ("scan", "measure", "compare"))
    yield "naa_fast.detect", arrays.detect
    yield "naa_fast.invert", naa_fast.invert
    yield "naa_fast.NaaError", errors.NaaError
    yield "naa_fast.repair.applied", change.applied
    yield "Ranking.to_frame", evidence.Ranking.to_frame
    for cls in (result.Audit, measurement.Measurement):
        yield cls.__name__, cls
        for name, member in vars(cls).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if inspect.isfunction(function) and not name.startswith("_") and name not in WITHOUT_EXAMPLE:
                yield f"{cls.__name__}.{name}", function


@pytest.mark.parametrize(("name", "thing"), list(public()), ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_public_has_an_example(name: str, thing: Any) -> None:
    assert ">>>" in (thing.__doc__ or ""), f"{name} shows nobody how it is called"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an example may take as given: a model, two sets of which one is shifted, their audit, and a folder."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    clean, suspect = torch.randn(500, 4), torch.randn(400, 4)
    suspect[:, 3] += 3
    found = naa_fast.scan(model, clean, suspect)
    names = {"naa_fast": naa_fast, "np": np, "torch": torch, "model": model, "clean": clean, "suspect": suspect}
    return {**names, "audit": found, "folder": tmp_path_factory.mktemp("examples")}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_examples_run(module: Any, story: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of pandas where it is installed."""
    if importlib.util.find_spec("pandas") is not None:
        monkeypatch.setitem(doctest.OPTIONFLAGS_BY_NAME, "SKIP", 0)
    tests = [test for test in doctest.DocTestFinder().find(module, module.__name__, extraglobs=story) if test.examples]
    assert tests
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for test in tests:
        test.globs = {**story, "__name__": module.__name__}
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_the_story_of_the_examples_is_that_of_scan() -> None:
    """A reader who copies scan's example has what the others take as given."""
    text = inspect.getdoc(audit.scan) or ""
    own = Path(__file__).read_text("utf-8")
    for line in ("torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))", "suspect[:, 3] += 3"):
        assert line in text
        assert line in own
    assert sys.modules["naa_fast"] is naa_fast
