"""Bad samples: named with their index, file and reason, counted once, and too many of them end the scan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import naa_fast
from naa_fast.cli.main import main
from naa_fast.errors import InputError, UsageError
from naa_fast.inputs.batches import Batch, Rejected, Source
from naa_fast.inputs.opening import open_source
from naa_fast.scan.loop import measure
from naa_fast.scan.options import RunOptions
from naa_fast.scan.quarantine import Limit, Quarantine, line

BROKEN = (3, 4, 17, 39)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images, four of which are none: two in the header, two in the body."""
    from PIL import Image

    place = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(40):
        path = place / f"{index:02d}.png"
        Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).save(path)
        if index in BROKEN:
            path.write_bytes(b"no image" if index % 2 else path.read_bytes()[:200])
    return place


def run(folder: Path, **options: Any) -> tuple[naa_fast.Measurement, list[Rejected]]:
    quarantine = Quarantine(None, options.pop("max_bad", None))
    source = open_source(folder, options.pop("batch_size", 5))
    beside = {name: options.pop(name) for name in ("progress", "first_index") if name in options}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
    measured = measure(model, source, RunOptions(**options), quarantine=quarantine, **beside)
    return measured, quarantine.found


@pytest.mark.parametrize("options", [{}, {"chunk_size": 7}, {"chunk_size": 2, "batch_size": 1}, {"prefetch": 0}])
def test_bad_items_are_named_with_index_file_and_reason(folder: Path, options: dict[str, int]) -> None:
    measured, found = run(folder, **options)
    assert (measured.samples, measured.skipped) == (36, 4)
    assert [(bad.index, bad.file) for bad in found] == [(index, f"{index:02d}.png") for index in BROKEN]
    assert all(bad.reason.startswith("cannot be decoded: ") and str(folder) not in bad.reason for bad in found)


def test_the_index_is_that_of_the_larger_set(folder: Path) -> None:
    _, found = run(folder, first_index=1000, chunk_size=10)
    assert [bad.index for bad in found] == [1000 + index for index in BROKEN]


def test_what_was_left_out_survives_an_interruption(folder: Path, tmp_path: Path) -> None:
    def crash(label: str, done: int, total: int | None) -> None:
        if done >= 20:
            raise RuntimeError("crash")

    options = {"chunk_size": 4, "checkpoint": tmp_path, "interval_s": 0}
    with pytest.raises(RuntimeError, match="crash"):
        run(folder, progress=crash, **options)
    _, found = run(folder, resume=True, **options)
    assert [bad.index for bad in found] == list(BROKEN)
    _, found = run(folder, resume=True, **options)  # finished: from the checkpoint alone
    assert [bad.index for bad in found] == list(BROKEN)


@pytest.mark.parametrize(("limit", "fits"), [("4", True), ("3", False), ("10%", True), ("9.9%", False), (0, False), (None, True)])
@pytest.mark.parametrize("chunk_size", [None, 7])
def test_more_than_allowed_ends_the_scan(folder: Path, limit: str | int | None, fits: bool, chunk_size: int | None) -> None:
    if fits:
        assert run(folder, max_bad=limit, chunk_size=chunk_size)[0].samples == 36
    else:
        with pytest.raises(InputError, match=r"\d items of .* cannot be used, more than the .* allowed\n  the first: item 3, 03"):
            run(folder, max_bad=limit, chunk_size=chunk_size)


def test_a_share_of_a_set_of_unknown_length_is_one_of_what_was_read(folder: Path) -> None:
    class Unknown(Source):
        name, samples = "stream", None

        def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
            return open_source(folder, 5).batches(start, stop)

    for limit, fits in (("10%", True), ("9%", False)):
        quarantine = Quarantine(None, limit)
        model = nn.Conv2d(1, 3, 3)
        if fits:
            assert measure(model, Unknown(), quarantine=quarantine).skipped == 4
        else:
            with pytest.raises(InputError, match="4 items of stream cannot be used, more than the 9 % allowed"):
                measure(model, Unknown(), quarantine=quarantine)


def test_what_was_measured_before_too_many_is_kept(folder: Path, tmp_path: Path) -> None:
    options = {"chunk_size": 4, "checkpoint": tmp_path}
    with pytest.raises(InputError, match="with a checkpoint, --resume goes on"):
        run(folder, max_bad=2, **options)
    told: list[int] = []
    measured, found = run(folder, resume=True, progress=lambda label, done, total: told.append(done), **options)
    assert (measured.samples, len(found)) == (36, 4)
    assert told[0] > 12  # sixteen items are finished, of which two are bad
    assert measured.to_bytes() == run(folder, chunk_size=4)[0].to_bytes()
    with pytest.raises(InputError, match="4 items of"):  # a finished scan, under a stricter limit
        run(folder, max_bad=2, resume=True, **options)


def test_a_limit_that_is_none_is_refused() -> None:
    assert Limit.of("0.1%").most(1000) == 1
    assert Limit.of("0.1 %").most(999) == 0
    assert Limit.of(7).most(10) == 7
    for words in ("-1", "1.5", "101%", "nan%", "1e3", ""):
        with pytest.raises(UsageError, match=r"is no limit on bad samples\n  expected a share of the set, as in 0\.1%"):
            Limit.of(words)


def test_a_hostile_name_stays_on_its_line_and_hides_nothing() -> None:
    name = 'a\n{"index": 9}\u202e\x1b[2J\udcff".png'
    text = line("", Rejected(1, name, "\u2028 broken"))
    assert text.isascii()
    assert text.count("\n") == 1
    assert json.loads(text) == {"index": 1, "file": name.replace("\udcff", "\ufffd"), "reason": "\u2028 broken"}


def test_a_list_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    quarantine = Quarantine(tmp_path / "file" / "quarantine.jsonl")
    quarantine.found.append(Rejected(0, None, "bad"))
    with pytest.raises(InputError, match=r"cannot write .*quarantine\.jsonl"):
        quarantine.write()


MODEL = """
import torch
from torch import nn
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
"""


def test_from_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.py").write_text(MODEL)
    model = ("--model", f"{tmp_path / 'm.py'}:build")
    report, single = tmp_path / "report", tmp_path / "a.naa.safetensors"
    main(["scan", *model, "--clean", str(folder), "--suspect", str(folder), "--out", str(report)])
    entries = [json.loads(text) for text in (report / "quarantine.jsonl").read_text().splitlines()]
    assert [(entry["set"], entry["index"]) for entry in entries] == [(s, i) for s in ("clean", "suspect") for i in BROKEN]
    assert f"8 items could not be used and left out: {report / 'quarantine.jsonl'}" in capsys.readouterr().err
    times = json.loads((report / "report.json").read_text())["provenance"]["times"]
    assert sum(times["shares"].values()) == pytest.approx(1, abs=1e-3)

    words = ["measure", *model, "--data", str(folder), "--out", str(single)]
    assert main([*words, "--max-bad", "5%"]) == 2
    listed = tmp_path / "a.quarantine.jsonl"
    told = capsys.readouterr().err
    assert "more than the 5 % allowed" in told
    assert f"all of them: {listed}" in told
    assert not single.exists()
    assert 3 <= len(listed.read_text().splitlines()) <= 4
    assert main([*words, "--max-bad", "4"]) == 0
    assert [json.loads(text)["index"] for text in listed.read_text().splitlines()] == list(BROKEN)
    np.save(tmp_path / "x.npy", np.zeros((4, 1, 8, 8), np.float32))
    assert main(["measure", *model, "--data", str(tmp_path / "x.npy"), "--out", str(single)]) == 0
    assert not listed.exists()  # it was another scan's
