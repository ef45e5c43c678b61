"""Arrays in files: read row by row into what was saved, or refused with words."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from naa_fast.errors import InputError
from naa_fast.inputs.batches import Batch
from naa_fast.inputs.opening import open_source

X = np.random.default_rng(0).standard_normal((11, 3, 2)).astype(np.float32)


def save_npz(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


def save_packed(path: Path, **arrays: Any) -> None:
    np.savez_compressed(path, **arrays)


def save_npy(path: Path, x: np.ndarray) -> None:
    np.save(path, x)


def save_safetensors(path: Path, **arrays: Any) -> None:
    save_file({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, path)


FORMATS: dict[str, tuple[str, Callable[..., None]]] = {
    "npz": ("d.npz", save_npz),
    "npz compressed": ("d.npz", save_packed),
    "npy": ("d.npy", save_npy),
    "safetensors": ("d.safetensors", save_safetensors),
}
CARRYING_MASKS = [name for name in FORMATS if name != "npy"]


def batches(path: Path, batch_size: int = 4) -> list[Batch]:
    return list(open_source(path, batch_size).batches())


def read(path: Path, batch_size: int = 4) -> np.ndarray:
    return torch.cat([batch.arguments[0] for batch in batches(path, batch_size)]).numpy()


def message(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        batches(path)
    return str(caught.value)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("batch_size", [1, 4, 11, 500])
def test_every_format_gives_back_what_was_saved_in_batches_of_the_asked_size(tmp_path: Path, kind: str, batch_size: int) -> None:
    name, save = FORMATS[kind]
    save(tmp_path / name, x=X)
    source = open_source(str(tmp_path / name), batch_size)
    assert source.samples == 11
    assert source.name == str(tmp_path / name)
    found = list(source.batches())
    assert [batch.size for batch in found] == [min(batch_size, 11 - start) for start in range(0, 11, batch_size)]
    assert all(batch.size == len(batch.arguments[0]) and not batch.keywords and batch.mask is None for batch in found)
    assert np.array_equal(torch.cat([batch.arguments[0] for batch in found]).numpy(), X)
    assert np.array_equal(read(tmp_path / name), X), "a source can be read more than once"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "int32", "uint8", "bool", "complex64", ">f4", ">i2"])
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_values_and_dtype_survive_also_from_the_other_byte_order(tmp_path: Path, dtype: str, kind: str) -> None:
    values = (X * 3).astype(dtype)
    name, save = FORMATS[kind]
    save(tmp_path / name, x=values)
    found = read(tmp_path / name)
    assert found.dtype == values.dtype.newbyteorder("=")
    assert np.array_equal(found, values)


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), batch_size=st.integers(1, 7), packed=st.booleans())
def test_a_column_first_array_is_read_like_any_other(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], batch_size: int, packed: bool
) -> None:
    values = np.asfortranarray(np.arange(np.prod(shape)).reshape(shape))
    path = tmp_path_factory.mktemp("f") / ("d.npz" if packed else "d.npy")
    if packed:
        np.savez(path, x=values)
    else:
        np.save(path, values)
    assert np.array_equal(read(path, batch_size), values)


def test_bfloat16_comes_through_safetensors(tmp_path: Path) -> None:
    x = torch.arange(6, dtype=torch.bfloat16).reshape(3, 2)
    save_file({"x": x}, tmp_path / "d.safetensors")
    (batch,) = batches(tmp_path / "d.safetensors")
    assert batch.arguments[0].dtype == torch.bfloat16
    assert torch.equal(batch.arguments[0], x)


@pytest.mark.parametrize("kind", CARRYING_MASKS)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64"])
@pytest.mark.parametrize("shape", [(11,), (11, 5)])
def test_a_mask_travels_with_its_samples(tmp_path: Path, kind: str, dtype: str, shape: tuple[int, ...]) -> None:
    mask = (np.random.default_rng(1).random(shape) > 0.5).astype(dtype)
    name, save = FORMATS[kind]
    save(tmp_path / name, x=X, mask=mask, y=np.arange(11))
    found = [batch.mask for batch in batches(tmp_path / name)]
    assert all(part is not None and part.dtype == torch.bool for part in found)
    assert np.array_equal(torch.cat(found).numpy(), mask.astype(bool))  # type: ignore[arg-type]


def test_reading_takes_the_memory_of_a_batch_not_of_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.zeros((4000, 1000), dtype=np.float32))
    np.savez(tmp_path / "d.npz", x=np.zeros((4000, 1000), dtype=np.float32))
    for name in ("d.npy", "d.npz"):
        tracemalloc.start()
        for _ in open_source(tmp_path / name, 50).batches():
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000, f"{name}: {peak} bytes for a file of 16 MB read 200 kB at a time"


# What is refused


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    text = message(tmp_path / "gone.npz")
    assert f"no such data: {tmp_path / 'gone.npz'}" in text
    assert "the path does not exist" in text
    assert ".npz, .npy, .safetensors, .txt, .jsonl, .csv, .parquet, a folder or .tar of images, or hf-data:FOLDER" in text


def test_an_unknown_ending_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_text("1,2")
    text = message(tmp_path / "d.tsv")
    assert "unknown data format '.tsv'" in text
    assert (
        "expected one of .npz, .npy, .safetensors, .txt, .jsonl, .csv, .parquet, a folder or .tar of images, or hf-data:FOLDER"
        in text
    )


def test_something_that_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.npy")  # opening it would wait for ever
    assert "not a regular file" in message(tmp_path / "pipe.npy")


@pytest.mark.parametrize("kind", CARRYING_MASKS)
def test_a_file_without_x_names_what_it_has(tmp_path: Path, kind: str) -> None:
    name, save = FORMATS[kind]
    save(tmp_path / name, images=X, labels=np.arange(11))
    text = message(tmp_path / name)
    assert f"{tmp_path / name} has no array x" in text
    assert "arrays found: images, labels" in text
    assert "name the model's input x" in text


def test_an_empty_archive_says_it_found_none(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "d.npz", "w").close()
    assert "arrays found: none" in message(tmp_path / "d.npz")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("keep", [0, 5, 40, 100, -1])
def test_a_truncated_file_says_so(tmp_path: Path, kind: str, keep: int) -> None:
    name, save = FORMATS[kind]
    save(tmp_path / name, x=X)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:keep])
    text = message(tmp_path / name)
    assert f"{tmp_path / name} is damaged, or not a {(tmp_path / name).suffix} file" in text
    assert "copy or save it again" in text


def test_a_truncated_npy_gives_both_sizes(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", X)
    (tmp_path / "d.npy").write_bytes((tmp_path / "d.npy").read_bytes()[:-8])
    assert f"x announces {X.nbytes} bytes of values and has {X.nbytes - 8}" in message(tmp_path / "d.npy")


def test_values_after_the_end_are_not_silently_left_out(tmp_path: Path) -> None:
    with (tmp_path / "d.npy").open("wb") as file:
        np.save(file, X)
        np.save(file, X)
    assert "x announces" in message(tmp_path / "d.npy")


@pytest.mark.parametrize("save", [save_npz, save_packed])
def test_altered_values_in_an_archive_are_noticed(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "d.npz", x=X)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "d.npz").write_bytes(content)
    assert "is damaged, or not a .npz file" in message(tmp_path / "d.npz")


@pytest.mark.parametrize("shape", ["(-1, 4)", "(True, 4)", "(99999999999999, 9999999999)"])
def test_a_header_that_announces_nonsense_allocates_nothing(tmp_path: Path, shape: str) -> None:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(16)
    (tmp_path / "d.npy").write_bytes(content)
    assert "announces" in message(tmp_path / "d.npy")


def test_an_unknown_version_of_the_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY\x09\x00" + bytes(100))
    assert "npy format version 9.0 is unknown" in message(tmp_path / "d.npy")


@pytest.mark.parametrize("kind", FORMATS)
def test_zero_samples(tmp_path: Path, kind: str) -> None:
    name, save = FORMATS[kind]
    save(tmp_path / name, x=np.zeros((0, 3), dtype=np.float32))
    text = message(tmp_path / name)
    assert f"x of {tmp_path / name} has no samples" in text
    assert "its shape is [0, 3]" in text
    assert "expected at least two samples" in text


@pytest.mark.parametrize("kind", FORMATS)
def test_samples_without_values(tmp_path: Path, kind: str) -> None:
    name, save = FORMATS[kind]
    save(tmp_path / name, x=np.zeros((3, 0), dtype=np.float32))
    assert f"x of {tmp_path / name} has no values\n  its shape is [3, 0]" in message(tmp_path / name)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_single_number(tmp_path: Path, kind: str) -> None:
    name, save = FORMATS[kind]
    save(tmp_path / name, x=np.float32(3))
    text = message(tmp_path / name)
    assert f"x of {tmp_path / name} is a single number" in text
    assert "expected samples along the first axis" in text


@pytest.mark.parametrize("kind", CARRYING_MASKS)
@pytest.mark.parametrize("label", ["mask", "y"])
@pytest.mark.parametrize("shape", [(10,), ()])
def test_a_companion_of_another_length(tmp_path: Path, kind: str, label: str, shape: tuple[int, ...]) -> None:
    name, save = FORMATS[kind]
    save(tmp_path / name, x=X, **{label: np.ones(shape, dtype=np.int64)})
    text = message(tmp_path / name)
    assert f"{label} of {tmp_path / name} does not fit x" in text
    assert f"x has 11 samples, {label} has shape {list(shape)}" in text
    assert f"expected one row of {label} for every sample" in text


@pytest.mark.parametrize("kind", CARRYING_MASKS)
@pytest.mark.parametrize("mask", [np.ones(11, np.float32), np.ones((11, 2, 2), bool)], ids=["float", "3 axes"])
def test_a_mask_that_is_none(tmp_path: Path, kind: str, mask: np.ndarray) -> None:
    name, save = FORMATS[kind]
    save(tmp_path / name, x=X, mask=mask)
    text = message(tmp_path / name)
    assert f"mask of {tmp_path / name} is " in text
    assert "expected a mask of bool or of integers 0 and 1" in text


@pytest.mark.parametrize("kind", CARRYING_MASKS)
@pytest.mark.parametrize(("least", "most"), [(0, 2), (-1, 1)])
def test_a_mask_of_other_integers_names_their_range(tmp_path: Path, kind: str, least: int, most: int) -> None:
    name, save = FORMATS[kind]
    save(tmp_path / name, x=X, mask=np.array([0] * 9 + [least, most]))
    text = message(tmp_path / name)
    assert f"holds values from {least} to {most}" in text
    assert "expected a mask of bool" in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array(["a", "b"]), "holds text (<U1)"),
        (np.array([b"a", b"b"]), "holds text (|S1)"),
        (np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]), "holds records"),
        (np.zeros(2, dtype="M8[s]"), "holds dates"),
        (np.zeros(2, dtype="m8[s]"), "holds durations"),
        (np.zeros(2, dtype="V2"), "NumPy forgets types such as bfloat16"),
        (np.zeros(2, dtype=np.longdouble), "convert it to float64"),
    ],
    ids=["text", "bytes", "records", "dates", "durations", "raw", "long double"],
)
def test_values_that_are_no_numbers_are_named(tmp_path: Path, values: np.ndarray, words: str) -> None:
    if values.dtype == np.float64:
        pytest.skip("long double is double on this platform")
    np.save(tmp_path / "d.npy", values)
    text = message(tmp_path / "d.npy")
    assert words in text
    assert "expected " in text
    assert f"x of {tmp_path / 'd.npy'}" in text


def test_labels_may_be_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=np.array(["cat"] * 11))
    assert len(read(tmp_path / "d.npz")) == 11


def test_a_file_this_user_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "d.npy", X)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # a test that runs as root may read anything
    text = message(tmp_path / "d.npy")
    assert f"cannot read {tmp_path / 'd.npy'}\n  Permission denied" in text
    assert "check the permissions" in text
