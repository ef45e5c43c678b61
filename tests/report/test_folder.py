"""The report folder: complete, whole, inside itself, and the same made without torch in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from report.examples import classic

from naa_fast.errors import InputError, UsageError
from naa_fast.measurement import Measurement
from naa_fast.report import folder as folder_module
from naa_fast.report.folder import write_report

PAGE = ["page/report.css", "report.html"]
FILES = [
    "clean.naa.safetensors",
    "suspect.naa.safetensors",
    "signature.png",
    "signature.svg",
    "summary.txt",
    *PAGE,
    "evidence.safetensors",
    "report.json",
]
GIVEN = {"options": {"threshold": 2.0}, "seed": 0}

ALONE = """
import sys
from pathlib import Path
from naa_fast.detect.judgement import judge
from naa_fast.measurement import Measurement
from naa_fast.report.folder import write_report
source, target = map(Path, sys.argv[1:])
clean, suspect = (Measurement.load(source / f"{name}.naa.safetensors") for name in ("clean", "suspect"))
write_report(judge(clean, suspect, 2.0), target, {"options": {"threshold": 2.0}, "seed": 0})
print(sorted({"torch", "numba", "cupy", "matplotlib.pyplot"} & sys.modules.keys()))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "a" / "report"
    written = write_report(classic(), folder, GIVEN)
    assert written == [folder / name for name in FILES]
    return folder


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_folder_holds_these_files_and_nothing_else(report: Path) -> None:
    assert files_in(report) == sorted(FILES)
    assert all((report / name).stat().st_size > 100 for name in FILES)
    assert "FAIL" in (report / "summary.txt").read_text("utf-8")


def test_the_measurements_in_it_are_those_that_were_judged(report: Path) -> None:
    judgement = classic()
    assert Measurement.load(report / "clean.naa.safetensors").to_bytes() == judgement.clean.to_bytes()
    assert Measurement.load(report / "suspect.naa.safetensors").to_bytes() == judgement.suspect.to_bytes()


def test_another_process_makes_the_same_bytes_without_torch(report: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE, str(report), str(tmp_path / "again")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (report / name).read_bytes(), name


OF_A_PAGE = ["samples-2.html", "sample-17.png", "trigger-1.png", "place-1.png", "example-1-6-with.png", "example-1-6-without.png"]


@pytest.mark.parametrize("single", [False, True])
def test_an_older_report_is_replaced_and_its_neighbours_are_left(tmp_path: Path, single: bool) -> None:
    (tmp_path / "page").mkdir()
    for name in [*FILES, *(f"page/{name}" for name in OF_A_PAGE)]:
        (tmp_path / name).write_text("old")
    mine = ["notes.txt", "page/sample-1.png.bak", "page/my-sample-1.png"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    write_report(classic(), tmp_path, {}, single)
    written = [name for name in FILES if not (single and name == "page/report.css")]
    assert files_in(tmp_path) == sorted([*written, *mine])
    assert all((tmp_path / name).read_bytes() != b"old" for name in written)
    assert all((tmp_path / name).read_text() == "mine" for name in mine)


def test_a_page_in_one_file_leaves_no_empty_folder_behind(tmp_path: Path) -> None:
    write_report(classic(), tmp_path, {})
    written = write_report(classic(), tmp_path, {}, single_file=True)
    assert tmp_path / "page" / "report.css" not in written
    assert not (tmp_path / "page").exists()


def test_a_planted_link_in_place_of_the_page_folder_is_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "report"
    outside.mkdir()
    (outside / "report.css").write_text("precious")
    folder.mkdir()
    (folder / "page").symlink_to(outside)
    write_report(classic(), folder, {})
    assert [path.name for path in outside.iterdir()] == ["report.css"]
    assert (outside / "report.css").read_text() == "precious"
    assert not (folder / "page").is_symlink()


def test_a_file_where_the_page_folder_goes_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("mine")
    with pytest.raises(UsageError, match="page is not a folder"):
        write_report(classic(), tmp_path, {})
    assert (tmp_path / "page").read_text() == "mine"


def test_a_planted_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "precious", tmp_path / "report"
    outside.write_text("precious")
    (folder / "page").mkdir(parents=True)
    for name in FILES:
        (folder / name).symlink_to(outside)
    write_report(classic(), folder, {})
    assert outside.read_text() == "precious"
    assert not any((folder / name).is_symlink() for name in FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "report"]


@pytest.mark.parametrize("kind", ["file", "under a file", "dangling link"])
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there"
    if kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_text("mine")
    with pytest.raises(UsageError, match="is not a folder") as caught:
        write_report(classic(), path / "deeper" if kind == "under a file" else path, {})
    assert str(path) in str(caught.value)
    assert "choose another with --out" in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_cannot_be_made_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot make the report folder") as caught:
        write_report(classic(), tmp_path / ("x" * 300), {})
    assert "File name too long" in str(caught.value)
    with pytest.raises(InputError, match="cannot make the report folder"):
        write_report(classic(), tmp_path / "a\0b", {})


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "signature.svg").mkdir()
    with pytest.raises(InputError, match=r"cannot write signature.svg of the report") as caught:
        write_report(classic(), tmp_path, {})
    assert f"folder: {tmp_path}: Is a directory" in str(caught.value)
    assert "expected a folder this user may write to" in str(caught.value)
    assert not (tmp_path / "report.json").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_nothing_is_written_when_the_chart_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("no font")

    monkeypatch.setattr(folder_module, "chart_bytes", broken)
    (tmp_path / "report.json").write_text("old")
    with pytest.raises(RuntimeError, match="no font"):
        write_report(classic(), tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
