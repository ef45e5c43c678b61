"""Where a command may write: never over what it reads, and nowhere that fails only after the work is done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from naa_fast.cli.main import main
from naa_fast.cli.outputs import FILES, check_file, check_folder, drop_previous, model_file, set_aside
from naa_fast.errors import EXIT_ERROR, EXIT_USAGE, UsageError


def refusal(tmp_path: Path, output: Path, *inputs: Path | None) -> str:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError) as caught:
        check_file(output, inputs)
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


def test_an_output_that_is_an_input_is_refused_with_both_names(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    data.write_bytes(b"precious")
    text = refusal(tmp_path, data, None, tmp_path / "other", data)
    assert f"--out: {data} would overwrite the input\n  input: {data}\n  choose another --out" in text


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_link_to_an_input_is_the_input(tmp_path: Path, link: object) -> None:
    data = tmp_path / "data.npz"
    data.write_bytes(b"precious")
    link(data, tmp_path / "alias")  # type: ignore[operator]
    assert "would overwrite the input" in refusal(tmp_path, tmp_path / "alias", data)
    assert "would overwrite the input" in refusal(tmp_path, data, tmp_path / "alias")


def test_the_same_file_by_another_spelling_is_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.npz").write_bytes(b"")
    assert "would overwrite" in refusal(tmp_path, Path("sub/../data.npz"), tmp_path / "data.npz")


def test_nothing_is_written_into_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert "would be written into the input folder" in refusal(tmp_path, tmp_path / "images" / "x.naa", tmp_path / "images")
    for folder in (tmp_path / "images", tmp_path / "images" / "report"):
        with pytest.raises(UsageError, match="would be written into the input folder"):
            check_folder(folder, [tmp_path / "images"])


@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_report_takes_the_place_of_an_input(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(UsageError, match="would overwrite the input"):
        check_folder(tmp_path, [tmp_path / name])
    check_folder(tmp_path, [tmp_path / "data.npz"])


def test_no_input_lies_where_the_pictures_of_the_page_go(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "sample-1.png").write_bytes(b"precious")
    with pytest.raises(UsageError, match="page is for the pictures of the report") as caught:
        check_folder(tmp_path, [tmp_path / "page" / "sample-1.png"])
    assert "choose another --out" in str(caught.value)
    with pytest.raises(UsageError, match="would be written into the input folder"):
        check_folder(tmp_path, [tmp_path / "page"])


def test_an_output_beside_the_inputs_is_fine_and_nothing_is_made_yet(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"")
    check_file(tmp_path / "new" / "deep" / "x.naa", [tmp_path / "data.npz", None])
    check_folder(tmp_path / "new" / "report", [tmp_path / "data.npz"])
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


def test_a_folder_where_a_file_is_wanted(tmp_path: Path) -> None:
    assert f"--out {tmp_path} is a folder\n  expected the name of a file" in refusal(tmp_path, tmp_path)


def test_a_file_where_a_folder_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UsageError, match="is in the way and is none") as caught:
            check_folder(folder)
        assert f"--out: {folder} cannot be a folder" in str(caught.value)


def test_a_dangling_link_where_a_folder_is_wanted(tmp_path: Path) -> None:
    os.symlink(tmp_path / "gone", tmp_path / "link")
    with pytest.raises(UsageError, match="is in the way and is none"):
        check_folder(tmp_path / "link")


def test_a_folder_this_user_may_not_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # a test that runs as root may write anywhere
    with pytest.raises(UsageError, match="cannot be written to") as caught:
        check_folder(tmp_path / "new")
    assert f"this user may not write in {tmp_path}" in str(caught.value)


def test_a_full_disk_is_noticed_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="cannot be written to") as caught:
        check_folder(tmp_path / "new")
    assert f"in {tmp_path}: No space left on device" in str(caught.value)
    assert "make room on its disk" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_a_file_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(UsageError, match=r"report\.json is a folder\n  a file of the report goes there"):
        check_folder(tmp_path)


def older_report(folder: Path) -> Path:
    (folder / "page").mkdir(parents=True)
    for name in ("report.json", "junit.xml", "page/report.css", "mine.txt", "page/mine.txt"):
        (folder / name).write_text("yesterday's")
    return folder


def test_an_older_report_is_moved_before_anything_large_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while it imports torch, a scan must not leave yesterday's verdict for a pipeline to read."""
    monkeypatch.chdir(tmp_path)
    folder = older_report(tmp_path / "naa-report")
    gone = "import sys; sys.modules['numpy'] = None; from naa_fast.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["scan", "--model", "m.py:f", "--clean", "c.npz", "--suspect", "s.npz"]
    done = subprocess.run([sys.executable, "-c", gone, *words], capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_ERROR
    assert "no new report was written; the older one is in naa-report/previous" in done.stderr
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {"mine.txt", "page/mine.txt", "previous/report.json", "previous/junit.xml", "previous/page/report.css"}
    assert main(words) == EXIT_ERROR  # a second failure changes nothing
    assert (folder / "previous" / "report.json").read_text() == "yesterday's"
    capsys.readouterr()


def test_of_an_older_report_that_was_moved_nothing_is_left_but_what_is_not_its_own(tmp_path: Path) -> None:
    folder = older_report(tmp_path)
    set_aside(folder)
    (folder / "previous" / "mine.txt").write_text("mine")
    drop_previous(folder)
    assert [path.name for path in (folder / "previous").iterdir()] == ["mine.txt"]
    set_aside(older_report(tmp_path / "other"))
    drop_previous(tmp_path / "other")
    assert not (tmp_path / "other" / "previous").exists()


def test_a_link_in_the_place_of_the_older_report_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "report.json").write_text("precious")
    folder = older_report(tmp_path / "r")
    (folder / "previous").symlink_to(tmp_path / "elsewhere")
    set_aside(folder)
    assert (tmp_path / "elsewhere" / "report.json").read_text() == "precious"
    assert not (folder / "previous").is_symlink()


def test_no_input_lies_among_an_older_report(tmp_path: Path) -> None:
    baseline = older_report(tmp_path / "previous") / "report.json"
    with pytest.raises(UsageError, match="previous is for an older report"):
        check_folder(tmp_path, [baseline])


def test_only_the_first_process_moves_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = older_report(tmp_path)
    monkeypatch.setenv("RANK", "1")
    set_aside(folder)
    assert (folder / "report.json").exists()


def test_the_model_file_is_an_input_too() -> None:
    assert model_file("dir/net.py:build") == Path("dir/net.py")
    assert model_file("package.net:build") is None


@pytest.mark.parametrize(
    "words",
    [
        ["measure", "--model", "m:f", "--data", "in.npz", "--out", "in.npz"],
        ["measure", "--model", "in.npz.py:f", "--data", "d", "--out", "in.npz.py"],
        ["measure", "--model", "m:f", "--data", "d", "--weights", "in.npz", "--out", "in.npz"],
        ["merge", "a", "in.npz", "--out", "in.npz"],
        ["compare", "naa-report/clean.naa.safetensors", "b"],
        ["compare", "a", "naa-report/clean.naa.safetensors"],
        ["scan", "--model", "m:f", "--clean", "naa-report", "--suspect", "d"],
        ["scan", "--model", "m:f", "--clean", "d", "--suspect", "naa-report"],
        ["scan", "--model", "m:f", "--clean", "c", "--suspect", "d", "--weights", "naa-report/clean.naa.safetensors"],
        ["scan", "--model", "m:f", "--clean", "c", "--suspect", "d", "--out", "in.npz"],
        ["rank", "--model", "m:f", "--clean", "c", "--suspect", "in.npz", "--out", "in.npz"],
        ["rank", "--model", "m:f", "--clean", "in.npz", "--suspect", "d", "--out", "in.npz"],
        ["rank", "--model", "m:f", "--clean", "c", "--suspect", "d", "--weights", "in.npz", "--out", "in.npz"],
        ["demo", "--out", "in.npz"],
    ],
    ids=lambda words: " ".join(words),
)
def test_every_verb_refuses_before_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.npz").write_bytes(b"precious")
    (tmp_path / "in.npz.py").write_bytes(b"precious")
    (tmp_path / "naa-report").mkdir()
    (tmp_path / "naa-report" / "clean.naa.safetensors").write_bytes(b"precious")
    assert main(words) == EXIT_USAGE
    assert "error: --out" in capsys.readouterr().err
    assert all(path.read_bytes() == b"precious" for path in tmp_path.rglob("*") if path.is_file())
