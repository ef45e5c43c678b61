"""Arrays in files: `.npy`, `.npz` and `.safetensors`, checked from their headers and read row by row. Nothing is unpickled."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open
from torch import Tensor

from naa_fast.errors import InputError, NaaError, UnsafeInput
from naa_fast.inputs.tensors import Column, require_numeric

NAMES = ("x", "mask", "y")
OTHER_LABELS = ("labels", "label")
"""What `y` is called as well."""
MAX_UNPACK_RATIO = 1000  # deflate reaches 1032 on a run of one byte
MAX_UNPACK_BYTES = 1 << 30
MAX_RANK = 64  # NumPy's own limit
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)
"""What zipfile and NumPy raise on a file that is truncated, altered, encrypted or packed by an unknown method."""


def open_columns(path: Path) -> dict[str, Column]:
    """The columns `x`, `mask` and `y` of a file, those it has; `x` always.

    Raises:
        InputError: a damaged file, no `x`, or an array that is not numeric.
        UnsafeInput: an array of Python objects, or one that unpacks to over 1 GiB and over 1,000 times what it takes in the file.
    """
    if path.suffix.lower() == ".safetensors":
        return safetensors_columns(path)
    if path.suffix.lower() == ".npy":
        with reading(path):
            return {"x": NpyColumn(path, "x", partial(path.open, "rb"), path.stat().st_size)}
    return npz_columns(path)


def npz_columns(path: Path) -> dict[str, Column]:
    with reading(path), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
        require_x(path, list(members))
        size = path.stat().st_size
        columns: dict[str, Column] = {}
        for name in (*NAMES, *OTHER_LABELS):
            if name in members and not (name in OTHER_LABELS and "y" in columns):
                info = members[name]
                # A directory entry may claim any compressed size; the file cannot hold more than itself.
                packed = max(1, min(info.compress_size, size))
                if info.file_size > MAX_UNPACK_BYTES and info.file_size > MAX_UNPACK_RATIO * packed:
                    raise UnsafeInput(
                        f"refused to unpack {name} of {path}",
                        f"{packed} bytes unpack to {info.file_size}, more than {MAX_UNPACK_RATIO} times as much",
                        "if that is what the array holds, save it uncompressed with numpy.savez",
                    )
                try:
                    column = NpyColumn(path, name, partial(Member, path, info.filename), info.file_size)
                except UnsafeInput:
                    if name in OTHER_LABELS:  # nobody asked for it
                        continue
                    raise
                columns["y" if name in OTHER_LABELS else name] = column
        return columns


class Member:
    """An opened file inside a zip archive that closes the archive with itself."""

    def __init__(self, path: Path, entry: str) -> None:
        self.archive = zipfile.ZipFile(path)
        try:
            self.file = self.archive.open(entry)
        except BaseException:
            self.archive.close()
            raise

    def __enter__(self) -> IO[bytes]:
        return self.file

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.archive.close()


class NpyColumn:
    """An array in npy format. Constant memory, except for column-first arrays inside an archive, which are read whole."""

    def __init__(self, path: Path, name: str, opened: Callable[[], Any], size: int) -> None:
        self.path = path
        self.name = name
        self.opened = opened
        with opened() as file:
            self.shape, self.column_first, self.numpy_dtype = read_header(file, f"{name} of {path}")
            self.offset = file.tell()
        self.dtype = str(self.numpy_dtype)
        announced = prod(self.shape) * self.numpy_dtype.itemsize
        if announced != size - self.offset:
            raise ValueError(f"{name} announces {announced} bytes of values and has {size - self.offset}")
        if name in ("x", "mask"):
            require_numeric(self.numpy_dtype, f"{name} of {path}")

    def read(self, rows: int, start: int, stop: int) -> Iterator[Tensor]:
        if self.column_first:
            whole = self.read_column_first()
            for first in range(start, stop, rows):
                yield self.tensor(np.array(whole[first : min(first + rows, stop)], order="C"))
            return
        with reading(self.path), self.opened() as file:
            width = self.shape[1:]
            file.seek(self.offset + start * prod(width) * self.numpy_dtype.itemsize)
            for first in range(start, stop, rows):
                count = min(rows, stop - first)
                values = self.values(file, count * prod(width))
                yield self.tensor(values.reshape(count, *width))

    def read_column_first(self) -> np.ndarray:
        if self.path.suffix.lower() == ".npy":
            return np.memmap(self.path, self.numpy_dtype, "r", self.offset, self.shape, "F")
        with reading(self.path), self.opened() as file:
            file.read(self.offset)
            return self.values(file, prod(self.shape)).reshape(self.shape, order="F")

    def values(self, file: IO[bytes], count: int) -> np.ndarray:
        buffer = bytearray(count * self.numpy_dtype.itemsize)  # writable, so that torch can share it
        got = file.readinto(buffer)  # type: ignore[attr-defined]
        if got != len(buffer):
            raise EOFError(f"{self.name} ends {len(buffer) - got} bytes early")
        return np.frombuffer(buffer, self.numpy_dtype)

    def tensor(self, values: np.ndarray) -> Tensor:
        """`values` `[...]` in this machine's byte order."""
        return torch.from_numpy(values.astype(self.numpy_dtype.newbyteorder("="), copy=False))


def read_header(file: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, column-first, dtype. Raises ValueError on a damaged header, UnsafeInput on an array of Python objects."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"npy format version {version[0]}.{version[1]} is unknown")
    # Version 3 differs from 2 only in the text encoding of field names, which no numeric dtype has.
    parse = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, column_first, dtype = parse(file)
    if dtype.hasobject:
        raise UnsafeInput(
            f"refused to read {what}",
            "it is an array of Python objects, stored as a pickle, and unpickling runs whatever code the file names",
            "where you trust the file, save it as numbers: numpy.savez('data.npz', x=array.astype('float32'))",
        )
    if len(shape) > MAX_RANK or any(isinstance(size, bool) or size < 0 for size in shape):
        raise ValueError(f"the header announces the shape {list(shape)[:MAX_RANK]}")
    return shape, column_first, dtype


def safetensors_columns(path: Path) -> dict[str, Column]:
    with reading(path), safe_open(str(path), framework="pt") as file:
        names = list(file.keys())
        require_x(path, names)
        label = next((name for name in ("y", *OTHER_LABELS) if name in names), "y")
        slices = {name: (key, file.get_slice(key)) for name, key in zip(NAMES, ("x", "mask", label), strict=True) if key in names}
        return {name: SafetensorsColumn(path, key, tuple(s.get_shape()), s.get_dtype()) for name, (key, s) in slices.items()}


@dataclass
class SafetensorsColumn:
    """A tensor in a safetensors file, of any dtype torch has."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self, rows: int, start: int, stop: int) -> Iterator[Tensor]:
        with reading(self.path), safe_open(str(self.path), framework="pt") as file:
            values = file.get_slice(self.name)
            for first in range(start, stop, rows):
                yield values[first : min(first + rows, stop)]


def require_x(path: Path, names: list[str]) -> None:
    if "x" not in names:
        listed = ", ".join(sorted(names)[:10]) or "none"
        raise InputError(
            f"{path} has no array x",
            f"arrays found: {listed}",
            "name the model's input x: numpy.savez('data.npz', x=array); mask and y are optional",
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file, and what to do, in whatever the readers raise on a damaged one."""
    try:
        yield
    except NaaError:
        raise
    except PermissionError as error:
        raise InputError(f"cannot read {path}", str(error.strerror), "check the permissions of the file") from error
    except (*DAMAGED, SafetensorError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} is damaged, or not a {path.suffix.lower()} file",
            first,
            "it may have been cut off while it was copied: copy or save it again",
        ) from error
