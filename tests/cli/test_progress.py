"""Progress: one line that renews itself on a terminal, a line every 30 seconds elsewhere, and honest numbers in both."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from naa_fast.cli.main import main
from naa_fast.cli.progress import JsonProgress
from naa_fast.scan.progress import Progress, clock, line, shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def run(stream: io.StringIO, batches: int, seconds_each: float, total: int | None = None) -> list[str]:
    now = Clock()
    with Progress(stream, now) as progress:
        for index in range(batches):
            now.seconds += seconds_each
            progress("clean.npz", 100 * (index + 1), total)
    return stream.getvalue().splitlines()


def test_on_a_terminal_one_line_renews_itself_and_ends() -> None:
    stream = Terminal()
    run(stream, 10, 1.0, 1000)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text.count("\r") == 10
    final = text.split("\r")[-1].rstrip()
    assert final == "clean.npz  1,000 of 1,000 samples (100 %)  100 samples/s"
    assert "  500 of 1,000 samples (50 %)  100 samples/s  ETA 0:05" in text.split("\r")[5]


def test_a_terminal_is_not_flooded() -> None:
    stream = Terminal()
    run(stream, 1000, 0.001)
    assert stream.getvalue().count("\r") == pytest.approx(10, abs=2)


def test_the_last_batch_is_always_shown_on_a_terminal() -> None:
    stream = Terminal()
    run(stream, 7, 0.001, 700)
    assert "700 of 700 samples (100 %)" in stream.getvalue()


def test_a_shorter_line_leaves_nothing_of_a_longer_one() -> None:
    now, stream = Clock(), Terminal()
    with Progress(stream, now) as progress:
        progress("clean.npz", 10, 100_000_000)
        now.seconds += 1000
        progress("clean.npz", 100_000_000, 100_000_000)
        now.seconds += 1
        progress("clean.npz", 100_000_000, None)
    shown = stream.getvalue().rstrip("\n").split("\r")[1:]
    assert [len(text) for text in shown] == sorted(len(text) for text in shown)


def test_elsewhere_a_line_every_thirty_seconds() -> None:
    stream = io.StringIO()
    lines = run(stream, 100, 1.0, 10_000)
    assert "\r" not in stream.getvalue()
    assert len(lines) == 3
    assert lines[0] == "clean.npz  3,000 of 10,000 samples (30 %)  100 samples/s  ETA 1:10"


def test_a_short_run_elsewhere_says_nothing() -> None:
    assert run(io.StringIO(), 20, 1.0) == []


def test_the_first_batch_does_not_spoil_the_rate() -> None:
    now, stream = Clock(), Terminal()
    with Progress(stream, now) as progress:
        now.seconds += 60  # compiling kernels
        progress("a", 100, None)
        assert "samples/s" not in stream.getvalue()
        now.seconds += 1
        progress("a", 200, None)
    assert "200 samples  100 samples/s" in stream.getvalue()


def test_a_second_set_starts_a_line_and_a_count_of_its_own() -> None:
    now, stream = Clock(), Terminal()
    with Progress(stream, now) as progress:
        for label, step in (("clean", 1.0), ("suspect", 2.0), ("suspect", 4.0)):  # the third is told by its smaller count
            for done in (100, 200):
                now.seconds += step
                progress(label, done, 200)
    lines = [text.rsplit("\r", 1)[-1].rstrip() for text in stream.getvalue().rstrip("\n").split("\n")]
    assert lines == [
        "clean  200 of 200 samples (100 %)  100 samples/s",
        "suspect  200 of 200 samples (100 %)  50 samples/s",
        "suspect  200 of 200 samples (100 %)  25 samples/s",
    ]


def test_an_error_starts_on_a_line_of_its_own() -> None:
    now, stream = Clock(), Terminal()

    def fail() -> None:
        with Progress(stream, now) as progress:
            now.seconds += 1
            progress("a", 1, None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stream.getvalue() == "\ra  1 sample\n"


def test_a_hostile_or_endless_name_does_not_reach_the_terminal() -> None:
    text = line("\x1b[2J" + "x" * 500 + "/end.npz", 1, None, None)
    assert "\x1b" not in text
    assert len(text) < 60
    assert "end.npz" in text


def test_slow_rates_keep_their_digits() -> None:
    assert "0.25 samples/s  ETA 6:40" in line("a", 0, 100, 0.25)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (7325, "2:02:05")])
def test_times(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_as_json_every_line_is_an_object_with_the_numbers_a_machine_needs() -> None:
    now, stream = Clock(), io.StringIO()
    bad = 0
    with JsonProgress(lambda: bad, stream, now) as progress:
        for label in ("clean\x1b[2J.npz", "suspect"):
            for index in range(100):
                now.seconds += 1.0
                bad += 1
                progress(label, 100 * (index + 1), 10_000)
    entries = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert [entry["samples"] for entry in entries] == [100, 3100, 6100, 9100, 10_000] * 2
    assert "\x1b" not in stream.getvalue()
    assert entries[1] == {**entries[1], "event": "progress", "total": 10_000, "rate": 100.0, "eta_s": 69.0, "skipped": 31}
    assert (entries[0]["rate"], entries[0]["eta_s"]) == (None, None)
    assert all(entry["rss_mb"] is None or entry["rss_mb"] > 1 for entry in entries)
    assert entries[-1]["skipped"] == 200


def test_as_json_the_last_line_has_exit_code_and_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.py").write_text("from torch import nn\ndef build():\n    print('hello')\n    return nn.Linear(4, 3)\n")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((400, 4)).astype(np.float32))
    data, log = str(tmp_path / "x.npy"), ("--log", "json", "--backend", "reference")
    model = ("--model", f"{tmp_path / 'm.py'}:build")

    def last(*words: str) -> tuple[int, dict[str, object]]:
        code = main([*words, *log])
        lines = capsys.readouterr().err.splitlines()
        entries = [json.loads(text) for text in lines if text != "hello"]  # the model's own prints are its own
        assert any(entry["event"] in ("progress", "note") for entry in entries)
        return code, entries[-1]

    out = str(tmp_path / "a.naa.safetensors")
    assert last("measure", *model, "--data", data, "--out", out) == (0, {"event": "end", "exit_code": 0, "outcome": "done"})
    words = ("scan", *model, "--clean", data, "--suspect", data, "--out", str(tmp_path / "report"))
    end = {"event": "end", "exit_code": 3, "outcome": "inconclusive", "decision": "inconclusive"}
    assert last(*words) == (3, end)
    missing = ("measure", *model, "--data", str(tmp_path / "none.npy"), "--out", out)
    assert last(*missing) == (2, {"event": "end", "exit_code": 2, "outcome": "error"})


class Notebook(io.StringIO):
    """What ipykernel gives as stderr: no terminal, and yet a line can be written over."""


Notebook.__module__ = "ipykernel.iostream"


def test_in_a_notebook_one_line_renews_itself_too() -> None:
    stream = Notebook()
    run(stream, 10, 1.0, 1000)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 10


def test_progress_may_be_true_false_or_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    given = []

    @shown
    def work(x: int, *, progress: object = None) -> int:
        """Doubles."""
        given.append(progress)
        if callable(progress):
            progress("set", x, None)
        return 2 * x

    assert work(3, progress=True) == 6
    assert stream.getvalue() == "\rset  3 samples\n"  # the line is ended
    own = lambda *_: None  # noqa: E731
    assert [work(1, progress=False), work(1), work(1, progress=own)] == [2, 2, 2]
    assert isinstance(given[0], Progress)
    assert given[1:] == [None, None, own]
    assert (work.__doc__, work.__name__) == ("Doubles.", "work")
