"""Text in Arrow's formats: `.parquet` files, and folders of the Hugging Face `datasets` library (`hf-data:FOLDER`)."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from naa_fast.errors import InputError, NaaError, UnsafeInput
from naa_fast.inputs.lines import LABELS, Texts, label_text

FIRST_SAFE = (14, 0, 1)
ROWS = 256  # at a time: a column of one long text repeated takes no room in the file and much in memory
MAX_UNPACK_RATIO = 1000
MAX_UNPACK_BYTES = 1 << 30
SHOWN = 10


def read_parquet(path: Path, field: str | None) -> Texts:
    """The texts in the column `field` ("text" if None) of a file, with those of a column of labels; no other is read.

    Raises:
        InputError: a damaged file, no such column or two, a column of something else, a missing text, bytes that are not UTF-8,
            or pyarrow is not installed.
        UnsafeInput: text over 1 GiB that takes less than a thousandth of it in the file, or a pyarrow with known holes.
    """
    parquet = library("pyarrow.parquet")
    with reading(path), parquet.ParquetFile(path) as file:
        column, label = text_column(file.schema_arrow, field, str(path)), label_column(file.schema_arrow, field)
        batches = file.iter_batches(ROWS, columns=[column, *([label] if label else [])], use_threads=False)
        return texts_of(batches, column, label, path)


def read_dataset(folder: Path, field: str | None) -> Texts:
    """The texts of a dataset written by `Dataset.save_to_disk`, or of a folder's `.parquet` files in order of their names.

    Raises as `read_parquet`, and InputError for a folder of several splits, UnsafeInput for files outside the folder.
    """
    if not folder.is_dir():
        raise InputError(f"no such dataset folder: {folder}", "expected hf-data:FOLDER", "as written by Dataset.save_to_disk")
    splits = json_of(folder / "dataset_dict.json")
    if splits is not None:
        names = splits.get("splits") if isinstance(splits, dict) else None
        listed = ", ".join(repr(name) for name in names[:SHOWN]) if isinstance(names, list) else "unknown"
        raise InputError(f"{folder} holds several splits", f"found: {listed}", f"name one: hf-data:{folder}/SPLIT")
    state = json_of(folder / "state.json")
    if state is None:
        files = [inside(folder, path) for path in sorted(folder.glob("*.parquet"))]
        if not files:
            raise InputError(
                f"no dataset in {folder}", "neither state.json nor .parquet files", "expected what Dataset.save_to_disk writes"
            )
        return joined(read_parquet(path, field) for path in files)
    named = state.get("_data_files") if isinstance(state, dict) else None
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in named] if isinstance(named, list) else [None]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{folder / 'state.json'} names no data files", "expected them under _data_files", "save it again")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(
            f"{folder} is a selection of rows of a larger dataset",
            "its rows are listed in a file of their own",
            "write them out with dataset.flatten_indices().save_to_disk(...)",
        )
    return joined(read_arrow(inside(folder, folder / str(name)), field) for name in names)


def joined(parts: Iterable[Texts]) -> Texts:
    """The texts of several files, in order."""
    whole = Texts()
    for part in parts:
        whole.extend(part)
        whole.labels.extend(part.labels)
    return whole


def read_arrow(path: Path, field: str | None) -> Texts:
    """The texts of one `.arrow` file (a stream)."""
    pa = library("pyarrow")
    with reading(path), path.open("rb") as file, pa.ipc.open_stream(file) as stream:
        column, label = text_column(stream.schema, field, str(path)), label_column(stream.schema, field)
        rows = (batch.slice(i, ROWS) for batch in stream for i in range(0, batch.num_rows, ROWS))
        return texts_of(rows, column, label, path)


def texts_of(batches: Iterable[Any], column: str, label: str | None, path: Path) -> Texts:
    """The column as strings; stops before it has unpacked far more than the file holds."""
    texts: list[str] = []
    labels: list[str | None] = []
    packed, unpacked = max(1, path.stat().st_size), 0
    for batch in batches:
        for value in batch.column(column):
            text = as_text(value.as_py(), len(texts), column, path)
            unpacked += len(text)
            texts.append(text)
            if unpacked > MAX_UNPACK_BYTES and unpacked > MAX_UNPACK_RATIO * packed:  # a dictionary holds a long text once
                raise UnsafeInput(
                    f"refused to unpack {path}",
                    f"{packed} bytes unpack to more than {unpacked}, more than {MAX_UNPACK_RATIO} times as much",
                    "if that is what it holds, save it uncompressed",
                )
        labels += [None] * batch.num_rows if label is None else [label_text(value.as_py()) for value in batch.column(label)]
    return Texts(texts, labels)


def as_text(value: Any, row: int, column: str, path: Path) -> str:
    """One value of a column of text. Raises InputError where there is none, or bytes that are not UTF-8."""
    if value is None:
        raise InputError(f"row {row} of {path} has no text", f"column {column!r} is empty there", "leave it out")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"row {row} of {path} is not UTF-8", f"column {column!r}, byte {error.start}: {error.reason}", "save it as text"
            ) from None
    return str(value)


def text_column(schema: Any, field: str | None, where: str) -> str:
    """The column to read, which must be text: strings or UTF-8 bytes of any form, also by a dictionary."""
    name = "text" if field is None else field
    if schema.names.count(name) > 1:
        raise InputError(
            f"{where} has {schema.names.count(name)} columns {name!r}", "which of them is meant is not said", "rename the others"
        )
    if name not in schema.names:
        listed = ", ".join(repr(key) for key in schema.names[:SHOWN]) or "none"
        raise InputError(f"{where} has no column {name!r}", f"columns found: {listed}", "name the one to scan with --text-field")
    kind = schema.field(name).type
    if not is_text_type(kind):
        raise InputError(f"{where} holds no text", f"column {name!r} is {kind}", "expected strings")
    return name


def is_text_type(kind: Any) -> bool:
    """Whether values of an Arrow type are texts, or bytes that may be."""
    types = library("pyarrow").types
    if types.is_dictionary(kind):
        return is_text_type(kind.value_type)
    forms = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    checks = (getattr(types, f"is_{form}", None) for form in forms)  # older versions know fewer
    return any(check is not None and check(kind) for check in checks)


def label_column(schema: Any, field: str | None) -> str | None:
    """The column that says each text's class, if there is one beside that of the text."""
    return next((name for name in LABELS if schema.names.count(name) == 1 and name != field), None)


def inside(folder: Path, path: Path) -> Path:
    """`path` if it is a file in `folder` itself, also after its links are followed."""
    root = folder.resolve()
    if path.parent != folder or path.resolve().parent != root:
        raise UnsafeInput(
            f"refused to read {str(path)!r}", f"it leads out of {folder}", "expected data files in the dataset's own folder"
        )
    if not path.is_file():
        raise InputError(f"{path} is missing", f"{folder} names it as a data file", "copy the dataset again")
    return path


def json_of(path: Path) -> Any:
    """The content of a JSON file, None if there is none."""
    if not path.is_file():
        return None
    inside(path.parent, path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} is damaged, or not JSON", str(error).splitlines()[0], "copy it again") from error


def library(name: str) -> Any:
    """pyarrow, or a part of it."""
    try:
        base, module = importlib.import_module("pyarrow"), importlib.import_module(name)
    except ImportError:
        raise InputError(
            "parquet files and dataset folders need pyarrow, which is not installed",
            "pip install 'naa-fast[parquet]'",
            "or save the texts as .jsonl",
        ) from None
    version = tuple(int(part) for part in re.findall(r"\d+", base.__version__)[:3])
    if version < FIRST_SAFE:
        raise UnsafeInput(
            f"pyarrow {base.__version__} has a known hole through which a file can run code",
            f"expected {'.'.join(map(str, FIRST_SAFE))} or newer",
            "pip install -U 'naa-fast[parquet]'",
        )
    return module


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file in whatever Arrow raises on a damaged one."""
    try:
        yield
    except NaaError:
        raise
    except Exception as error:  # a hostile file reaches many decoders
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is damaged, or not an Arrow file", first, "copy or save it again") from error
