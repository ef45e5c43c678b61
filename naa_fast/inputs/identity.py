"""Which set a shard is of: a digest of what the set holds and not of where it lies, so that copies on several machines agree.

Cheap, as every shard asks for it of the whole set: beyond BYTES evenly spaced blocks stand for a file or an array. No proof
against forgery. The function that says it of any source is `identity_of`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.capture.fingerprint import DIGEST_BYTES, add_text

BYTES = 64 << 20
"""Most that is read of a file or an array; smaller ones are read whole."""
BLOCK = 64 << 10
FILES = 256
"""Files of a folder that are looked into, evenly spaced; of all of them name and size count."""
OF_EACH = 256 << 10


def identity_of(source: Any) -> str:
    """32 hexadecimal digits of what a set holds, or "" where it cannot tell: a loader, say, or a file that is gone."""
    told = getattr(source, "identity", None)
    try:
        return str(told()) if callable(told) else ""
    except (OSError, zipfile.BadZipFile, TypeError, RuntimeError, NotImplementedError):
        return ""


def identity_of_file(path: Path) -> str:
    """Of its size and bytes; of an .npz of the checksums of its arrays, as the times in it are no part of the set."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    if path.suffix.lower() == ".npz":
        with zipfile.ZipFile(path) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                add_text(digest, f"{info.filename} {info.file_size} {info.CRC}")
    else:
        add_file(digest, path, BYTES)
    return digest.hexdigest()


def identity_of_files(folder: Path, files: Iterable[Path]) -> str:
    """Of the names inside the folder and sizes of all, and of what some hold."""
    digest, listed = blake2b(digest_size=DIGEST_BYTES), list(files)
    for path in listed:
        size = path.stat().st_size if path.is_file() else -1
        add_text(digest, f"{path.relative_to(folder).as_posix()} {size}")
    readable = [path for path in listed if path.is_file()]
    for place in sorted(set(np.linspace(0, max(len(readable) - 1, 0), FILES).astype(int).tolist())) if readable else ():
        add_file(digest, readable[place], OF_EACH)
    return digest.hexdigest()


def identity_of_words(texts: Iterable[str]) -> str:
    """Of all of them: they are in memory."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for text in texts:
        add_text(digest, text)
    return digest.hexdigest()


def identity_of_array(values: Tensor | np.ndarray) -> str:
    """Of dtype, shape and rows of `[rows, ...]`, evenly spaced where they are more than BYTES; a tensor on a device is read there
    alone.
    """
    digest = blake2b(digest_size=DIGEST_BYTES)
    add_text(digest, f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}")
    row = max(1, int(np.prod(values.shape[1:])) * (values.element_size() if isinstance(values, Tensor) else values.itemsize))
    rows = np.unique(np.linspace(0, len(values) - 1, min(len(values), max(1, BYTES // row))).astype(np.int64))
    for some in np.array_split(rows, max(1, len(rows) * row // (8 << 20))):
        if isinstance(values, Tensor):
            part = values.detach()[torch.from_numpy(some).to(values.device)].cpu().contiguous()
            digest.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(np.ascontiguousarray(values[some]).tobytes())
    return digest.hexdigest()


def add_file(digest: blake2b, path: Path, most: int) -> None:
    size = path.stat().st_size
    add_text(digest, str(size))
    with path.open("rb") as file:
        if size <= most:
            while block := file.read(1 << 20):
                digest.update(block)
            return
        for start in np.linspace(0, size - BLOCK, most // BLOCK).astype(np.int64).tolist():
            file.seek(start)
            digest.update(file.read(BLOCK))
