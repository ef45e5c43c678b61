"""A set cut into shards: each measured by itself, joined in any order to the same bytes, and never with one missing unsaid."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naa_fast
from naa_fast.cli.main import main
from naa_fast.errors import InputError, StateMismatch, UsageError
from naa_fast.measurement import Measurement
from naa_fast.parts import Part

ITEMS = 301
MODEL = """
import torch
from torch import nn
def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a set, and its four shards."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "m.py").write_text(MODEL)
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((ITEMS, 12)).astype(np.float32))
    for number in range(1, 5):
        assert measure(folder, f"{number}.naa.safetensors", "--shard", f"{number}/4") == 0
    return folder


def measure(folder: Path, out: str, *more: str) -> int:
    words = ("--model", f"{folder / 'm.py'}:build", "--data", str(folder / "x.npy"), "--out", str(folder / out))
    return main(["measure", *words, "--backend", "reference", *more])


def merge(folder: Path, *names: str, out: str = "all.naa.safetensors", partial: bool = False) -> int:
    files = [str(folder / f"{name}.naa.safetensors") for name in names]
    return main(["merge", *files, "--out", str(folder / out), *(["--partial"] if partial else [])])


def test_every_order_of_the_shards_gives_the_same_bytes_and_every_sample_once(place: Path) -> None:
    contents = set()
    for order in permutations("1234"):
        assert merge(place, *order) == 0
        contents.add((place / "all.naa.safetensors").read_bytes())
    assert len(contents) == 1
    merged = Measurement.load(place / "all.naa.safetensors")
    assert (merged.samples, merged.missing()) == (ITEMS, [])
    assert [(part.start, part.stop) for part in merged.parts] == [(0, 75), (75, 150), (150, 225), (225, 301)]
    assert measure(place, "whole.naa.safetensors") == 0
    whole = Measurement.load(place / "whole.naa.safetensors")
    for name, record in whole.layers.items():
        assert np.array_equal(merged.layers[name].mean_folds.count, record.mean_folds.count)
        assert np.allclose(merged.layers[name].positions.mean, record.positions.mean, rtol=1e-6, atol=1e-7)


def test_a_gap_is_refused_unless_asked_for_and_then_the_report_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge(place, "4", "1", "3") == 2
    told = capsys.readouterr().err
    assert "1 of 4 shards are missing\n  shard 2/4 (items 75 to 149 of 301)\n" in told
    assert merge(place, "4", "1", "3", out="partial.naa.safetensors", partial=True) == 0
    assert "226 samples from 3 files, 2 layers, 1 shard missing" in capsys.readouterr().out
    files = [str(place / f"{name}.naa.safetensors") for name in ("partial", "2")]
    main(["compare", *files, "--out", str(place / "report")])
    unseen = json.loads((place / "report" / "report.json").read_text())["not_checked"]
    assert "the clean set is partial: shard 2/4 (items 75 to 149 of 301) not in the measurement" in unseen
    assert any(text.startswith("the suspect set is partial: shard 1/4") for text in unseen)


def test_what_would_count_twice_or_leave_gaps_unseen_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure(place, "third.naa.safetensors", "--shard", "1/3") == 0
    assert measure(place, "other.naa.safetensors", "--shard", "2/4", "--model-arg", "seed=1") == 0
    assert measure(place, "whole.naa.safetensors") == 0
    for names, words in (
        (("1", "1"), "a shard is in both measurements and would count twice\n  when "),
        (("1", "third"), "these are shards of different cuts"),
        (("1", "whole"), "only one of the measurements is a shard"),
        (("1", "other"), "the model differs"),
    ):
        assert merge(place, *names) == 2
        assert words in capsys.readouterr().err
    # Cut in other batches the same items have another digest; their place tells.
    assert measure(place, "again.naa.safetensors", "--shard", "1/4", "--batch-size", "7") == 0
    assert merge(place, "1", "again") == 2
    assert "would count twice" in capsys.readouterr().err


def test_shards_that_are_none_are_refused(place: Path) -> None:
    for words in ("0/4", "5/4", "2", "a/b", "-1/4"):
        assert measure(place, "no.naa.safetensors", f"--shard={words}") == 4
    assert measure(place, "no.naa.safetensors", "--shard", "2/4", "--first-index", "7") == 4
    assert measure(place, "no.naa.safetensors", "--shard", "1/302") == 4
    with pytest.raises(UsageError, match="shard 5/4 is none"):
        Part.of(5, 4, 100)
    with pytest.raises(UsageError, match="100001 shards\n  expected at most 100000"):
        Part.of(1, 100_001, 10**9)
    import torch

    with pytest.raises(InputError, match="does not say how many samples it has"):
        naa_fast.measure(torch.nn.Identity(), iter([torch.zeros(3, 2)]), shard=(1, 2))


def test_a_file_that_claims_impossible_shards_is_damaged(place: Path) -> None:
    content = (place / "1.naa.safetensors").read_bytes()
    for before, after in ((b"[[1, 4, 301]]", b"[[9, 4, 301]]"), (b"[[1, 4, 301]]", b"[[1, 4, -01]]")):
        assert content.count(before) == 1
        with pytest.raises(InputError, match="not a measurement file, or a damaged one"):
            Measurement.from_bytes(content.replace(before, after))


def test_a_shard_of_images_names_what_it_left_out_by_its_place_in_the_whole(tmp_path: Path) -> None:
    from PIL import Image
    from torch import nn

    from naa_fast.scan.quarantine import Quarantine

    for index in range(10):
        Image.fromarray(np.full((8, 8), 20 * index, np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "7.png").write_bytes(b"broken")
    quarantine = Quarantine()
    measured = naa_fast.measure(nn.Conv2d(1, 2, 3), tmp_path, shard=(2, 2), quarantine=quarantine)
    assert [(bad.index, bad.file) for bad in quarantine.found] == [(7, "7.png")]
    assert (measured.samples, measured.skipped, measured.parts[0].start) == (4, 1, 5)


def test_shards_merge_in_memory_too() -> None:
    import torch

    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    a, b = (naa_fast.measure(torch.nn.Identity(), x, shard=(number, 2)) for number in (1, 2))
    assert a.merge(b).to_bytes() == b.merge(a).to_bytes()
    with pytest.raises(StateMismatch, match="would count twice"):
        a.merge(a)


def test_shards_of_different_sets_of_one_length_are_refused_and_both_sets_are_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = np.load(place / "x.npy")
    other[200, 3] += 1  # far from the items of shard 1
    np.save(place / "y.npy", other)
    assert measure(place, "foreign.naa.safetensors", "--shard", "2/4", "--data", str(place / "y.npy")) == 0
    capsys.readouterr()
    assert merge(place, "1", "foreign") == 2
    told = capsys.readouterr().err
    assert "cannot merge: these are shards of different sets\n" in told
    assert f"cut from {place / 'x.npy'} (digest " in told
    assert f"cut from {place / 'y.npy'} (digest " in told


def test_copies_of_a_set_are_one_set_wherever_they_lie(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "copy.npy").write_bytes((place / "x.npy").read_bytes())
    assert measure(place, "copied.naa.safetensors", "--shard", "2/4", "--data", str(tmp_path / "copy.npy")) == 0
    assert merge(place, "1", "copied", "3", "4", out="mixed.naa.safetensors") == 0
    assert "not known" not in capsys.readouterr().err
    assert not Measurement.load(place / "mixed.naa.safetensors").provenance["gaps"]


def test_shards_that_do_not_know_their_set_join_with_a_gap(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = Measurement.load(place / "2.naa.safetensors")
    told = {key: words for key, words in old.provenance.items() if key != "cut_from"}
    replace(old, provenance=told).save(place / "old.naa.safetensors")
    for order in (("1", "old"), ("old", "1")):
        assert merge(place, *order, out="doubted.naa.safetensors", partial=True) == 0
        assert "not known whether the merged shards are of one set" in capsys.readouterr().err
    [gap] = Measurement.load(place / "doubted.naa.safetensors").provenance["gaps"]
    assert gap.startswith("whether the merged shards are of one set")


def identities(folder: Path, changed: bool) -> dict[str, str]:
    """Of a set in every form, the same but for one value."""
    import torch
    from PIL import Image
    from safetensors.numpy import save_file

    from naa_fast.inputs.batches import ArraySource
    from naa_fast.inputs.identity import identity_of
    from naa_fast.inputs.opening import open_source
    from naa_fast.inputs.text import TextOptions, TextSource

    folder.mkdir()
    x = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    x[31, 2] += changed
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x=x)
    save_file({"x": x}, folder / "x.safetensors")
    (folder / "pictures").mkdir()
    for index in range(5):
        Image.fromarray(np.full((8, 8), 20 * index + (changed and index == 3), np.uint8)).save(folder / f"pictures/{index}.bmp")
    with tarfile.open(folder / "x.tar", "w") as archive:
        for path in sorted((folder / "pictures").iterdir()):
            info = tarfile.TarInfo(path.name)
            info.size = path.stat().st_size
            archive.addfile(info, io.BytesIO(path.read_bytes()))
    files = [folder / name for name in ("x.npy", "x.npz", "x.safetensors", "pictures", "x.tar")]
    sources: list[Any] = [open_source(path, 4) for path in files]
    sources += [open_source(x, 4), open_source(torch.from_numpy(x), 4), open_source(torch.from_numpy(x).bfloat16(), 4)]
    sources.append(TextSource("texts", ["one", "two" + "!" * changed], 4, TextOptions(None)))
    assert isinstance(sources[0], ArraySource)
    return {f"{place} {type(one).__name__}": identity_of(one) for place, one in enumerate(sources)}


def test_every_kind_of_set_tells_itself_from_one_that_differs_in_a_value(tmp_path: Path) -> None:
    one, same, other = (identities(tmp_path / name, changed) for name, changed in (("a", False), ("b", False), ("c", True)))
    assert one == same
    assert all(one.values())
    assert not [name for name in one if one[name] == other[name]]


def test_a_loader_does_not_know_which_set_it_is_and_a_large_file_is_read_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from naa_fast.inputs import identity
    from naa_fast.inputs.opening import open_source

    assert identity.identity_of(open_source([np.zeros((2, 3))], 4)) == ""
    monkeypatch.setattr(identity, "BYTES", 2 * identity.BLOCK)
    x = np.zeros((1000, 1000), np.float32)
    np.save(tmp_path / "x.npy", x)
    path = open_source(tmp_path / "x.npy", 4)
    before = identity.identity_of(path), identity.identity_of(open_source(x, 4))
    x[-1, -1] = 1
    np.save(tmp_path / "x.npy", x)
    assert identity.identity_of(path) != before[0]
    assert identity.identity_of(open_source(x, 4)) != before[1]
    assert (tmp_path / "x.npy").stat().st_size > 2 * identity.BLOCK
    (tmp_path / "x.npy").unlink()
    assert identity.identity_of(path) == ""
