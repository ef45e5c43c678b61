"""Files that would run code if they were unpickled: refused with exit code 5, and nothing runs."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from inputs.marker import Marker, test_the_marker_works  # noqa: F401  the marker's own test is collected here
from safetensors.torch import save_file

from naa_fast.cli.main import main
from naa_fast.errors import EXIT_UNSAFE, ModelError, UnsafeInput, UsageError
from naa_fast.inputs.opening import open_source
from naa_fast.inputs.weights import read_weights


def objects(marker: Path) -> np.ndarray:
    array = np.empty(3, dtype=object)
    array[:] = [Marker(marker)] * 3
    return array


@pytest.mark.parametrize("kind", ["x.npy", "x.npz", "mask.npz", "y.npz"])
def test_an_array_of_objects_is_refused_unread(tmp_path: Path, kind: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / kind
    if kind == "x.npy":
        np.save(path, objects(marker), allow_pickle=True)
    else:
        name = kind.partition(".")[0]
        np.savez(path, **{"x": np.zeros((3, 2)), name: objects(marker)})  # type: ignore[arg-type]
    with pytest.raises(UnsafeInput) as caught:
        list(open_source(path, 2).batches())
    assert not marker.exists()
    assert caught.value.exit_code == EXIT_UNSAFE
    text = str(caught.value)
    assert f"refused to read {kind.partition('.')[0]} of {path}" in text
    assert "array of Python objects" in text
    assert "numpy.savez('data.npz', x=array" in text


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pt", ".PTH", ".joblib"])
def test_a_pickle_as_data_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / f"data{suffix}"
    path.write_bytes(pickle.dumps(Marker(marker)))
    with pytest.raises(UnsafeInput) as caught:
        open_source(path, 2)
    assert not marker.exists()
    assert f"refused to read data from {path}" in str(caught.value)
    assert f"a {suffix.lower()} file is a pickle" in str(caught.value)
    assert "numpy.savez" in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".th", ".pth.tar"])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_a_full_pickle_as_weights_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, form: str
) -> None:
    marker, path = tmp_path / "ran", tmp_path / f"weights{suffix}"
    payload = {"weight": torch.zeros(2), "extra": Marker(marker)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # an environment must not open the door
    with pytest.raises(UnsafeInput) as caught:
        read_weights(path)
    assert not marker.exists()
    assert caught.value.exit_code == EXIT_UNSAFE
    text = str(caught.value)
    assert f"refused to load weights {path}" in text
    assert "safetensors.torch.save_file" in text
    assert "it asks for " in text
    assert "which could run code" in text
    assert "weights_only" not in text, "torch's own message advises to turn the protection off"


def test_the_refusal_names_what_the_file_asks_for(tmp_path: Path) -> None:
    torch.save({"extra": Marker(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(UnsafeInput, match=r"it asks for (posix|nt)\.mkdir, which could run code"):
        read_weights(tmp_path / "w.pt")


def test_a_pt_file_of_something_else_is_refused_without_advice_to_trust_it(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"garbage" * 100)
    with pytest.raises(UnsafeInput, match="it is a full pickle, or not a torch file") as caught:
        read_weights(tmp_path / "w.pt")
    assert "weights_only" not in str(caught.value)


def test_a_whole_pickled_model_is_refused_and_its_class_named(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(UnsafeInput, match=r"it asks for torch\.nn\.modules\.linear\.Linear"):
        read_weights(tmp_path / "model.pt")


def test_a_torchscript_archive_is_refused_by_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"weights/{name}", b"")
    with pytest.raises(UnsafeInput, match="TorchScript archive: a program") as caught:
        read_weights(path)
    assert "safetensors.torch.save_file" in str(caught.value)


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".pkl", ".onnx", ""])
def test_weights_of_another_kind_are_refused_unread(tmp_path: Path, suffix: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps(Marker(marker)))
    with pytest.raises(UnsafeInput) as caught:
        read_weights(path)
    assert not marker.exists()
    assert f"files ending in '{suffix}' are not known to be free of code" in str(caught.value)
    assert "expected .safetensors, or .pt, .pth or .bin" in str(caught.value)


def test_a_torch_too_old_to_be_trusted_reads_no_pickle_but_still_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "w.pt")
    save_file({"weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    with pytest.raises(UnsafeInput, match=r"torch 2\.9\.1\+cu128 has known holes") as caught:
        read_weights(tmp_path / "w.pt")
    assert "install torch 2.10 or newer" in str(caught.value)
    assert set(read_weights(tmp_path / "w.safetensors")) == {"weight"}
    monkeypatch.setattr(torch, "__version__", "2.10.0a0")
    assert set(read_weights(tmp_path / "w.pt")) == {"weight"}


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    write_claiming_npz(path, claimed_bytes=2 << 30)
    with pytest.raises(UnsafeInput, match="refused to unpack x of") as caught:
        open_source(path, 1)
    assert "more than 1000 times as much" in str(caught.value)
    assert "save it uncompressed with numpy.savez" in str(caught.value)


def test_an_archive_that_lies_about_its_packed_size_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    write_claiming_npz(path, claimed_bytes=2 << 30, claimed_packed=1 << 30)
    with pytest.raises(UnsafeInput, match="refused to unpack x of"):
        open_source(path, 1)


def test_a_large_claim_under_the_limits_is_no_bomb_but_a_damaged_file(tmp_path: Path) -> None:
    from naa_fast.errors import InputError

    path = tmp_path / "short.npz"
    write_claiming_npz(path, claimed_bytes=1 << 20)
    with pytest.raises(InputError, match=r"is damaged, or not a \.npz file"):
        list(open_source(path, 1).batches())


def write_claiming_npz(path: Path, claimed_bytes: int, claimed_packed: int | None = None) -> None:
    """A small archive whose directory, and whose npy header, announce `claimed_bytes` of values."""
    rows = claimed_bytes // 1024
    header = {"descr": "|u1", "fortran_order": False, "shape": (rows, 1024)}
    text = (json.dumps(header).replace("false", "False").replace("[", "(").replace("]", ")") + "\n").encode()
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content + bytes(4096))
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = (len(content) + rows * 1024).to_bytes(4, "little")
    if claimed_packed is not None:
        raw[entry + 20 : entry + 24] = claimed_packed.to_bytes(4, "little")
    path.write_bytes(raw)


def digest_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_an_opt_in_opens_the_very_file_it_names_and_no_other(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "w.pt"
    torch.save({"state_dict": {"weight": torch.ones(2)}, "extra": Marker(marker)}, path)
    with pytest.raises(UnsafeInput, match="--unsafe-load sha256:HASH, the hash that sha256sum prints"):
        read_weights(path)
    trusted = digest_of(path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UnsafeInput, match="refused to unpickle") as caught:
        read_weights(path, trusted)
    assert f"its hash is {digest_of(path)}\n  --unsafe-load names {trusted}: it is another file" in str(caught.value)
    assert not marker.exists()
    path.write_bytes(path.read_bytes()[:-1])
    assert read_weights(path, trusted)["weight"].tolist() == [1.0, 1.0]
    assert marker.exists(), "with the opt-in its code runs: that is what it is for"


@pytest.mark.parametrize("name", ["m.pt", "m.ckpt", "m.pth.tar", "m.th", "m"])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"model": model, "epoch": 3}])
def test_an_opt_in_reads_a_whole_pickled_model(tmp_path: Path, name: str, wrap: Callable[[object], object]) -> None:
    torch.save(wrap(torch.nn.Linear(2, 2)), tmp_path / name)
    assert set(read_weights(tmp_path / name, digest_of(tmp_path / name))) == {"weight", "bias"}
    with pytest.raises(UnsafeInput, match=r"it asks for torch\.nn\.modules\.linear\.Linear"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("head", "words"),
    [(b"\x1f\x8b", "packed with gzip"), (b"\x89HDF\r\n\x1a\n", "an HDF5 file"), (b"\0" * 257 + b"ustar", "a tar archive")],
)
def test_what_is_no_file_of_torch_is_known_by_what_it_holds(tmp_path: Path, head: bytes, words: str) -> None:
    (tmp_path / "w.pth.tar").write_bytes(head + bytes(600))
    with pytest.raises(UnsafeInput, match=words):
        read_weights(tmp_path / "w.pth.tar")
    if "tar" not in words:
        with pytest.raises(UsageError, match=words):
            read_weights(tmp_path / "w.pth.tar", digest_of(tmp_path / "w.pth.tar"))


def test_an_exported_program_is_no_file_of_weights(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt2", "w") as archive:
        archive.writestr("w/models/model.json", "{}")
    with pytest.raises(UnsafeInput, match=r"it is a program of torch\.export, with the weights inside it: name it as the model"):
        read_weights(tmp_path / "w.pt2")


@pytest.mark.parametrize(
    ("name", "trusted", "words"),
    [
        ("w.pt", "yes", "is not of the form sha256:HASH"),
        ("w.pt", "sha256:" + "A" * 64, "64 hexadecimal digits in lower case"),
        ("w.pkl", "sha256:" + "a" * 64, "it is for .pt, .pth, .bin, .ckpt, .th, .tar files"),
    ],
)
def test_an_opt_in_of_another_form_is_a_usage_error(tmp_path: Path, name: str, trusted: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        read_weights(tmp_path / name, trusted)
    assert words in str(caught.value)


def test_a_trusted_pickle_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"garbage")
    with pytest.raises(ModelError, match="cannot be unpickled"):
        read_weights(tmp_path / "w.pt", digest_of(tmp_path / "w.pt"))


def test_an_oversized_safetensors_header_is_refused(tmp_path: Path) -> None:
    for size in (1 << 62, 200 << 20):  # beyond any file; beyond what the format allows
        (tmp_path / "w.safetensors").write_bytes(size.to_bytes(8, "little") + b'{"a":')
        with pytest.raises(ModelError, match=r"are damaged, or not a \.safetensors file"):
            read_weights(tmp_path / "w.safetensors")


def test_the_command_line_ends_with_5_and_the_marker_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("import torch\ndef build(): return torch.nn.Linear(2, 2)\n")
    np.save("good.npy", np.zeros((4, 2), np.float32))
    np.save("bad.npy", objects(tmp_path / "ran"), allow_pickle=True)
    torch.save({"x": Marker(tmp_path / "ran")}, "w.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), "script.pt")
    write_claiming_npz(Path("bomb.npz"), claimed_bytes=2 << 30)
    before = sorted(os.listdir())
    words = ["measure", "--device", "cpu", "--out", "o.naa.safetensors", "--model", "net.py:build"]
    for given, told in (
        ("--data bad.npy", "array of Python objects"),
        ("--data w.pt", "a .pt file is a pickle"),
        ("--data bomb.npz", "refused to unpack x"),
        ("--data good.npy --weights w.pt", "it is a full pickle"),
        ("--data good.npy --weights script.pt", "TorchScript archive: a program"),
    ):
        assert main([*words, *given.split()]) == EXIT_UNSAFE, given
        assert told in capsys.readouterr().err
    assert sorted(set(os.listdir()) - {"__pycache__"}) == before, "nothing ran, nothing was written"


def test_hostile_names_of_layers_and_files_stay_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["../../up", "\x1b[2Jclear", "\u202egpj.exe", "<script>alert(1)</script>", "a\nb"]
    Path("sub").mkdir()
    for index, name in enumerate(("clean", "suspect")):
        Path(f"sub/{name}").mkdir()
        x = torch.randn(300, 3, generator=torch.Generator().manual_seed(index)) + 9 * index
        save_file({layer: x + i for i, layer in enumerate(names)}, f"sub/{name}/part.safetensors")
        assert main(["measure", "--activations", f"sub/{name}", "--out", f"sub/{name}.naa.safetensors"]) == 0
    assert main(["compare", "sub/clean.naa.safetensors", "sub/suspect.naa.safetensors", "--out", "sub/report"]) == 1
    shown = capsys.readouterr()
    for stream in (shown.out, shown.err, Path("sub/report/summary.txt").read_text()):
        assert not set(stream) & {"\x1b", "\u202e"}
    assert "<script" not in Path("sub/report/signature.svg").read_text()
    assert os.listdir() == ["sub"], "no name led out of the folder"
