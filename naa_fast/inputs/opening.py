"""`open_source`: whatever a person calls their data, as a `Source` of batches, by what it is and what lies at a path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from naa_fast.errors import InputError, UnsafeInput, UsageError
from naa_fast.files import nearest_files
from naa_fast.inputs.arrays import open_columns
from naa_fast.inputs.batches import ArraySource, IterableSource, Source
from naa_fast.inputs.images import ImageFolder, ImageTar
from naa_fast.inputs.preprocessing import ImageOptions
from naa_fast.inputs.tensors import MemoryColumn, describe
from naa_fast.inputs.text import TextOptions, open_text

ARRAY_SUFFIXES = (".npz", ".npy", ".safetensors")
TEXT_SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
DATASET = "hf-data:"
UNSAFE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".dill")


def open_source(data: Any, batch_size: int, text: TextOptions | None = None, images: ImageOptions | None = None) -> Source:
    """`data` as a `Source`.

    A path: `.npz` or `.safetensors` (`x`, optional `mask`, optional `y`), `.npy`, a folder or `.tar` of images (`images` says how
    they are read, and `naa_fast.inputs.images.fit_images` suits them to the model), or, with `text` to say how, `.txt`, `.jsonl`,
    `.csv`, `.parquet` or `hf-data:FOLDER`. A tensor or array: cut into batches along its first axis. A DataLoader or any iterable
    of batches, each a tensor or array, a tuple or list whose first item is the input, or a dict of keyword arguments: taken as
    they come, `batch_size` does not apply. A `Source`: itself.
    Values keep their dtype. Files are checked from their headers here and read batch by batch later.

    Raises:
        UsageError: `batch_size` below 1.
        UnsafeInput: a file that only a pickle loader could read, or one that unpacks to far more than it holds.
        InputError: data that is missing, empty, damaged, of unknown kind, or not numeric.
    """
    if batch_size < 1:
        raise UsageError(f"batch size is {batch_size}", "expected 1 or more")
    if isinstance(data, str | Path):
        return open_path(Path(data), batch_size, text, images)
    if isinstance(data, Source):
        return data
    if isinstance(data, Tensor | np.ndarray):
        name = f"{'tensor' if isinstance(data, Tensor) else 'array'} {list(data.shape)}"
        return ArraySource(name, MemoryColumn(data), None, None, batch_size)
    if isinstance(data, Mapping):
        raise InputError(
            "the data is a dict", "expected an iterable of batches; a dict is one batch of keyword arguments", "pass [data]"
        )
    if isinstance(data, Dataset):
        raise InputError(
            f"the data is a {type(data).__name__}, which gives single samples",
            "expected batches",
            "wrap it: torch.utils.data.DataLoader(dataset, batch_size=...)",
        )
    if not isinstance(data, Iterable):
        raise InputError(
            f"the data is {describe(data)}",
            "expected a path, a tensor, an array, a DataLoader or an iterable of batches",
        )
    return IterableSource(data)


def open_path(path: Path, batch_size: int, text: TextOptions | None = None, images: ImageOptions | None = None) -> Source:
    """The source behind a path, chosen by what is there and by the ending of its name."""
    known = f"expected one of {', '.join(ARRAY_SUFFIXES + TEXT_SUFFIXES)}, a folder or .tar of images, or {DATASET}FOLDER"
    if str(path).startswith(DATASET):
        return open_text(place_of(path), batch_size, text)
    suffix = path.suffix.lower()
    if not path.exists():
        raise InputError(f"no such data: {path}", "the path does not exist", *nearest_files(path), known)
    if path.is_dir():
        return ImageFolder(path, batch_size, images)
    if suffix in UNSAFE_SUFFIXES:
        raise UnsafeInput(
            f"refused to read data from {path}",
            f"a {suffix} file is a pickle, and unpickling runs whatever code the file names",
            "where you trust the file, load it and save the array: numpy.savez('data.npz', x=array)",
        )
    if suffix == ".tar" and path.is_file():
        return ImageTar(path, batch_size, images)
    if suffix in TEXT_SUFFIXES and path.is_file():
        return open_text(path, batch_size, text)
    if suffix not in ARRAY_SUFFIXES or not path.is_file():
        what = f"unknown data format '{suffix}'" if path.is_file() else "not a regular file"
        raise InputError(f"cannot read data from {path}", what, known)
    columns = open_columns(path)
    return ArraySource(str(path), columns["x"], columns.get("mask"), columns.get("y"), batch_size)


def place_of(path: Path) -> Path:
    """The file or folder a path names, without the word for its kind in front."""
    return Path(str(path).removeprefix(DATASET))


def is_text(path: Path) -> bool:
    """Whether a path names text, which needs a tokenizer."""
    return str(path).startswith(DATASET) or (path.is_file() and path.suffix.lower() in TEXT_SUFFIXES)
