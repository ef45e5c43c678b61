"""Whoever calls a function with an array reads in its docstring which shape it has: `x` `[samples, channels]`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHAPED = (
    "accumulate",
    "anomalies",
    "audit",
    "capture",
    "cli",
    "detect",
    "files",
    "histograms",
    "inputs",
    "invert",
    "measurement",
    "parts",
    "proof",
    "rank",
    "records",
    "reference",
    "repair",
    "report",
    "result",
    "scan",
)
"""Where all of them say it. Elsewhere some do not yet: whoever has added the last gives the folder's name here."""
ARRAYS = {"Array", "Tensor", "np.ndarray", "None"}


def takes_array(function: ast.FunctionDef) -> bool:
    """Whether a parameter is an array or tensor, and not a container of some."""
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    kinds = [set(ast.unparse(x.annotation).split(" | ")) for x in arguments if x.annotation is not None]
    return any(kind <= ARRAYS and kind != {"None"} for kind in kinds)


def public(tree: ast.Module | ast.ClassDef) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Functions and methods by names without an underscore in front, with their docstrings; of `__init__` and of stubs those of
    the class too.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for function, text in public(node):
                stub = ast.unparse(function.body[-1]) == "..."  # of a protocol, whose docstring speaks for all
                yield function, text + (ast.get_docstring(node) or "") * (stub or function.name == "__init__")
        if isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            yield node, ast.get_docstring(node) or ""


def silent(text: str) -> list[str]:
    """The public functions of a module that take an array and say no shape."""
    return [f.name for f, told in public(ast.parse(text)) if takes_array(f) and not re.search(r"\[[^\]]*\]", told)]


PACKAGE = ROOT / "naa_fast"
FILES = [path for name in SHAPED for path in (*sorted(PACKAGE.glob(f"{name}.py")), *sorted((PACKAGE / name).glob("*.py")))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_say_the_shapes_of_arrays_they_take(path: Path) -> None:
    assert silent(path.read_text()) == []


def test_a_function_without_a_word_on_shapes_is_seen() -> None:
    shaped = '    """Of `x` `[samples]`."""\n'
    assert silent(f"def f(x: Array | None) -> None:\n{shaped}\ndef g(x: int, *, y: Tensor) -> None: ...\n") == ["g"]
    methods = "    def __init__(self, x: np.ndarray) -> None: pass\n    def h(self, x: Array) -> None: pass\n"
    assert silent(f"class C:\n{shaped}{methods}") == ["h"]
    assert silent("def _private(x: Array) -> None: ...\ndef of_many(x: list[Array], y: None) -> None: ...\n") == []
