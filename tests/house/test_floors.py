"""The house stands: imports go down only, the judging wing is torch-free, files stay readable, tools agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = [
    {"errors"},
    {"files"},
    {"records", "parts"},
    {"histograms", "reference"},
    {"anomalies"},
    {"measurement"},
    {"kernels"},
    {"ops"},
    {"accumulate", "detect"},
    {"capture", "report"},
    {"inputs"},
    {"scan"},
    {"rank"},
    {"proof"},
    {"repair"},
    {"result"},
    {"audit", "invert"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
NO_TORCH = ("detect", "report", "records", "histograms", "reference", "anomalies", "measurement", "parts", "errors", "files")


def source_files() -> list[Path]:
    files = [*(ROOT / "naa_fast").glob("*.py"), *(ROOT / "naa_fast").glob("[!k]*/**/*.py"), *(ROOT / "kernels").glob("**/*.py")]
    return sorted({f for f in files if "__pycache__" not in f.parts})


BENCHMARKS = sorted((ROOT / "benchmarks").glob("**/*.py"))


def module_of(path: Path) -> str:
    """The name a file is imported by."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return f"naa_fast.{name}" if name.startswith("kernels") else name


def place_of(path: Path) -> str:
    """The part of the house a file belongs to: its folder or module name under naa_fast, or kernels."""
    parts = path.relative_to(ROOT).parts
    return "kernels" if parts[0] == "kernels" else parts[1].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full names of every module a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} if node.module != "naa_fast" else {f"naa_fast.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    place = place_of(path)
    if place == "__init__":
        return  # the front door may open every room, lazily
    assert place in FLOOR_OF, f"{place} has no floor: give it one in FLOORS"
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package != "naa_fast":
            continue
        target = rest.partition(".")[0]
        if target == place:
            continue
        assert FLOOR_OF[target] < FLOOR_OF[place], f"{path.name} on floor {FLOOR_OF[place]} ({place}) imports {name}"


def needed(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules among those `known` that a file imports when it runs, anywhere in it, other than for types."""
    tree = ast.parse(path.read_text())
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for_types = {id(inner) for node in typing for part in node.body for inner in ast.walk(part)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` needs the module; `from package import name` the package.
            found |= {inner if (inner := f"{node.module}.{alias.name}") in known else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & known.keys()) - {module_of(path)}


def circles(files: list[Path]) -> list[str]:
    """Modules that need one another, also through others and inside functions."""
    known = {module_of(path): path for path in files}
    needs = {name: needed(path, known) for name, path in known.items()}
    while True:
        # What needs nothing that is left is in no circle, nor what nothing that is left needs.
        wanted = set[str]().union(*needs.values())
        left = {name: others & needs.keys() for name, others in needs.items() if name in wanted and others & needs.keys()}
        if left == needs:
            return sorted(left)
        needs = left


@pytest.mark.parametrize("files", [source_files(), BENCHMARKS], ids=["naa_fast", "benchmarks"])
def test_no_modules_need_one_another(files: list[Path]) -> None:
    assert circles(files) == []


def test_a_circle_inside_a_folder_is_seen_where_an_import_is_put_off_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    texts = {
        "a.py": "from room.b import f\n",
        "b.py": "def f() -> None:\n    from room import a\n",
        "c.py": "from typing import TYPE_CHECKING\nfrom room import a\nif TYPE_CHECKING:\n    from room import d\n",
        "d.py": "from room import c\n",
    }
    (tmp_path / "room").mkdir()
    for name, text in texts.items():
        (tmp_path / "room" / name).write_text(text)
    assert circles(sorted((tmp_path / "room").glob("*.py"))) == ["room.a", "room.b"]


@pytest.mark.parametrize("path", [p for p in source_files() if place_of(p) in NO_TORCH], ids=lambda p: p.stem)
def test_the_judging_wing_never_names_torch_cupy_or_numba(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imported(path)} & {"torch", "cupy", "numba"}


@pytest.mark.parametrize("module", ["naa_fast", "naa_fast.detect", "naa_fast.detect.judgement", "naa_fast.measurement"])
def test_importing_the_judging_wing_leaves_torch_unloaded(module: str) -> None:
    code = f"import sys, {module}; assert not {{'torch', 'numba', 'cupy'}} & set(sys.modules), 'loaded'"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("menu", sorted((ROOT / "naa_fast").glob("[!k]*/__init__.py")), ids=lambda menu: menu.parent.name)
def test_each_folder_names_its_files_in_a_line_each_and_where_to_start(menu: Path) -> None:
    text = ast.get_docstring(ast.parse(menu.read_text())) or ""
    files = sorted(path.name for path in menu.parent.glob("*.py") if path != menu)
    assert sorted(re.findall(r"^- (\w+\.py): \S", text, re.M)) == files, f"{menu} says `- file.py: what it is` of other files"
    start = re.search(r"^Start (?:with|at).*?(\w+\.py)", text, re.M | re.S)
    assert start is not None, f"{menu} says no `Start with ... in file.py`"
    assert start[1] in files


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join)
def test_the_tools_agree(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
