"""Texts in files of lines and records, `.txt`, `.jsonl` and `.csv`, with the labels beside them."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from naa_fast.errors import InputError, UsageError

SHOWN = 10
LABELS = ("label", "labels")
"""Fields that hold the class of a text, where a file has one; the first of them counts."""
MESSAGES = "messages"
"""The field of a conversation."""
DELIMITERS = (",", ";", "\t", "|")
LONGEST_FIELD = 2**31 - 1
"""Characters of a CSV field: the file is read whole in any case. Python's own limit of 131,072 is one of the process."""
_csv_limit = threading.Lock()


class Texts(list[str]):
    """Texts in the order of their file. `labels`: the name or number of each one's class, None where it has none, all of
    them None where the file has no such field; `reading`: what a person should know of how they were read.
    """

    def __init__(
        self, texts: Iterable[str] = (), labels: Sequence[str | None] | None = None, reading: tuple[str, ...] = ()
    ) -> None:
        super().__init__(texts)
        self.labels: list[str | None] = [None] * len(self) if labels is None else list(labels)
        self.reading = reading


class Chat(str):
    """A conversation as JSON, a list of messages: the tokenizer's chat template makes a text of it."""

    @property
    def messages(self) -> list[dict[str, str]]:
        messages: list[dict[str, str]] = json.loads(self)
        return messages


class Duplicate(ValueError):
    """A name that stands twice in one record."""


def read_lines(path: Path, field: str | None) -> Texts:
    """Each line of a `.txt` file."""
    if field is not None:
        raise UsageError(f"--text-field {field} with {path}", "a .txt file has no fields: each line is a text", "leave it out")
    with path.open(encoding="utf-8-sig", newline="\n") as file:  # by line feeds alone, as wc -l counts
        return Texts(line.rstrip("\r\n") for line in file)


def read_jsonl(path: Path, field: str | None) -> Texts:
    """The field `field` ("text" if None) of each object of a `.jsonl` file; empty lines are no objects."""
    texts, labels = [], []
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"line {number} of {path}"
            try:
                record = json.loads(line, object_pairs_hook=distinct)
            except Duplicate as error:
                raise InputError(
                    f"{where} has two fields {str(error)!r}", "which of them is meant is not said", "rename one"
                ) from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where} is not JSON", str(error), "expected one object a line") from None
            if not isinstance(record, dict):
                raise InputError(f"{where} is a {type(record).__name__}", "expected an object with the text in one of its fields")
            texts.append(text_of(record, field, where))
            labels.append(label_of(record, field))
    return Texts(texts, labels)


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises Duplicate where a name stands twice: Python would take the last, other readers the first."""
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise Duplicate(next(name for name in names if names.count(name) > 1))
    return record


def read_csv(path: Path, field: str | None) -> Texts:
    """The column `field` ("text" if None) of a `.csv` file with a header, between commas, semicolons, tabs or bars."""
    name = "text" if field is None else field
    delimiter = delimiter_of(path, name)
    with path.open(encoding="utf-8-sig", newline="") as file, long_fields():
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            require_single(header, name, path)
            texts, labels = [], []
            for row in reader:
                if row:  # an empty line is no record
                    record = record_of(row, header, f"line {reader.line_num} of {path}")
                    texts.append(text_of(record, field, f"line {reader.line_num} of {path}"))
                    labels.append(label_of(record, field))
        except csv.Error as error:
            raise InputError(
                f"line {reader.line_num} of {path} is not CSV", str(error), "expected commas, and quotes around line breaks"
            ) from None
    words = {";": "semicolons", "\t": "tabs", "|": "bars"}
    reading = (f"{path}: its columns stand between {words[delimiter]}",) if delimiter in words else ()
    return Texts(texts, labels, reading)


def delimiter_of(path: Path, name: str) -> str:
    """What stands between the columns: the first of DELIMITERS by which the header has the column `name`, else a comma."""
    with path.open(encoding="utf-8-sig", newline="") as file, long_fields():
        for delimiter in DELIMITERS:
            file.seek(0)
            try:
                if name in next(csv.reader(file, delimiter=delimiter, strict=True), []):
                    return delimiter
            except csv.Error:  # told where the file is read
                continue
    return DELIMITERS[0]


@contextmanager
def long_fields() -> Iterator[None]:
    """Let CSV fields be of any length inside, as long as the process allowed before afterwards.

    Python's limit is one of the process, so one reader at a time is inside. Not to be held over a `yield`: a generator that is
    left waiting would keep every other reader out.
    """
    with _csv_limit:
        before = csv.field_size_limit(LONGEST_FIELD)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def require_single(header: Sequence[str], name: str, path: Path) -> None:
    """Raise InputError where one of the columns that are read stands in the header twice."""
    for column in (name, *LABELS):
        if list(header).count(column) > 1:
            raise InputError(
                f"{path} has {list(header).count(column)} columns {column!r}",
                "which of them is meant is not said",
                "rename the others",
            )


def record_of(row: list[str], header: list[str], where: str) -> dict[str, str]:
    """A row under its header. Raises InputError where they are not of one length: what is beyond would be lost."""
    if len(row) != len(header):
        raise InputError(
            f"{where} has {len(row)} field{'s' * (len(row) != 1)}",
            f"the header has {len(header)}",
            "put quotes around a text that holds what stands between columns",
        )
    return dict(zip(header, row, strict=True))


def text_of(record: dict[str, Any], field: str | None, where: str) -> str:
    """The text in one record. `field` None means "text", or without one "messages": the turns of a conversation (`Chat`)."""
    name = "text" if field is None else field
    if field is None and name not in record and isinstance(record.get(MESSAGES), list):
        name = MESSAGES
    if name not in record:
        listed = ", ".join(repr(key) for key in list(record)[:SHOWN]) or "none"
        raise InputError(f"{where} has no field {name!r}", f"fields found: {listed}", "name the one to scan with --text-field")
    value = record[name]
    if isinstance(value, list):
        return chat_of(value, name, where)
    if not isinstance(value, str):
        raise InputError(f"{where} holds no text", f"field {name!r} is a {type(value).__name__}", "expected a string")
    return value


def chat_of(value: list[Any], name: str, where: str) -> Chat:
    """The messages of a record. Raises InputError for what is no list of turns in text."""
    turns = [isinstance(turn, dict) and all(isinstance(turn.get(part), str) for part in ("role", "content")) for turn in value]
    if not value or not all(turns):
        what = f"entry {turns.index(False)} of field {name!r} is none" if value else f"field {name!r} is empty"
        raise InputError(
            f"{where} holds no conversation", what, 'expected [{"role": "user", "content": "..."}, ...], all of it text'
        )
    return Chat(json.dumps(value))


def label_of(record: dict[str, Any], field: str | None) -> str | None:
    """The class of one record, as text; None where it says none, in another field than that of the text."""
    return label_text(next((record[name] for name in LABELS if name in record and name != field), None))


def label_text(value: Any) -> str | None:
    """A class by name or number as text; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int) and str(value) else None
