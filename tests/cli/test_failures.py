"""However a command fails, a person reads lines, a script reads the code, and a terminal obeys nothing in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from naa_fast.cli import doctor
from naa_fast.cli.main import main
from naa_fast.cli.shared import emit
from naa_fast.errors import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    EXIT_UNSAFE,
    ModelError,
    NaaError,
    Stopped,
    UnsafeInput,
)
from naa_fast.rank.attempts import Attempts, Found

Fail = Callable[[BaseException], None]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Makes `naa-fast doctor` raise."""

    def install(error: BaseException) -> None:
        def run(_: object) -> int:
            raise error

        monkeypatch.setattr(doctor, "run", run)

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [(ModelError("no model", "found none"), EXIT_ERROR), (UnsafeInput("a", "b"), EXIT_UNSAFE), (Stopped("a", "b"), EXIT_STOPPED)],
)
def test_an_error_is_its_lines_and_its_code(
    failing: Fail, capsys: pytest.CaptureFixture[str], error: NaaError, code: int
) -> None:
    failing(error)
    assert main(["doctor"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {error.headline}\n  {error.details[0]}\n"


def test_an_error_nobody_foresaw_is_one_line_and_a_hint(failing: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    failing(ZeroDivisionError("division by zero\nsecond line"))
    assert main(["doctor"]) == EXIT_ERROR
    expected = "error: ZeroDivisionError: division by zero\n  this was not foreseen; --debug shows where it happened\n"
    assert capsys.readouterr().err == expected


def test_an_error_without_words_still_has_a_name(failing: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    failing(AssertionError())
    assert main(["doctor"]) == EXIT_ERROR
    assert "error: AssertionError: no message" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_a_step_that_failed_while_the_scan_went_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object) -> int:
        Attempts().check("proof", lambda: Found(1 // 0), 0)
        return 0

    monkeypatch.setattr(doctor, "run", run)
    for words, shown in ((["doctor"], False), (["doctor", "--debug"], True), (["doctor"], False)):
        assert main(words) == 0
        text = capsys.readouterr().err
        assert ("a step failed" in text and "in <lambda>" in text and "ZeroDivisionError" in text) is shown


@pytest.mark.parametrize("words", [["doctor", "--debug"], ["--debug", "doctor"]])
@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), ModelError("oh")])
def test_debug_shows_the_traceback_wherever_it_is_said(
    failing: Fail, capsys: pytest.CaptureFixture[str], words: list[str], error: Exception
) -> None:
    failing(error)
    assert main(words) == EXIT_ERROR
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert "in run" in text
    assert "--debug shows" not in text


def test_an_interrupt_is_130(failing: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    failing(KeyboardInterrupt())
    assert main(["doctor"]) == EXIT_INTERRUPTED == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_hostile_text_reaches_the_terminal_as_codes(failing: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    failing(ModelError("layer \x1b[2Jevil", "name\nerror: forged line", "\u202egnp.exe"))
    main(["doctor", "--debug"])
    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[2Jevil" in text
    assert not any(line.startswith("error: forged") for line in text.partition("error: layer")[2].splitlines())


def test_a_long_path_is_not_shortened(failing: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["folder"] * 100)
    failing(ModelError(f"no such file: {path}"))
    main(["doctor"])
    assert path in capsys.readouterr().err


def test_a_name_the_terminal_cannot_encode_is_no_second_failure(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "naa_fast", "compare", "größe-\udcff.naa", "b", "--out", str(tmp_path / "o")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    found = subprocess.run(words, capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert found.returncode == EXIT_ERROR
    assert b"error: cannot read measurement gr" in found.stderr
    assert b"Traceback" not in found.stderr
    assert b"Unicode" not in found.stderr


def closed_pipe(code: str, cwd: Path) -> tuple[int, str]:
    """Run Python code with a stdout nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        found = subprocess.run(
            [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=cwd, check=False
        )
    finally:
        os.close(writer)
    return found.returncode, found.stderr


@pytest.mark.parametrize("words", [["--help"], ["scan", "--help"], ["--version"]], ids=" ".join)
def test_help_into_a_closed_pipe_is_silent(tmp_path: Path, words: list[str]) -> None:
    assert closed_pipe(f"import sys; from naa_fast.cli.main import main; sys.exit(main({words!r}))", tmp_path) == (0, "")


def test_a_reader_that_has_gone_does_not_change_the_verdicts_code(tmp_path: Path) -> None:
    code = """
import sys
from naa_fast.cli import doctor
from naa_fast.cli.main import main
from naa_fast.cli.shared import emit
def run(_):
    emit("x" * 100_000)
    emit("and more")
    return 3
doctor.run = run
sys.exit(main(["doctor"]))
"""
    assert closed_pipe(code, tmp_path) == (3, "")


def test_results_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    emit("σ = 1")
    assert capsys.readouterr() == ("σ = 1\n", "")


def test_run_as_a_module_the_current_directory_hides_no_library(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong module')")
    found = subprocess.run(
        [sys.executable, "-m", "naa_fast", "merge", "gone.naa", "--out", "x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert "the wrong module" not in found.stderr
    assert (found.returncode, found.stderr.splitlines()[0]) == (EXIT_ERROR, "error: cannot read measurement gone.naa")
