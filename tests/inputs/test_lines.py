"""Texts in records: read as they are whatever their length and their delimiter, and never one of two columns by chance."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from naa_fast.errors import InputError
from naa_fast.inputs.lines import read_csv, read_jsonl, read_lines

TEXTS = ["short", "long " * 30_000, 'with "quotes", commas; and\ttabs', "two\nlines", "ümläut \u202e"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_gives_its_texts_whatever_their_length_and_delimiter(tmp_path: Path, delimiter: str, encoding: str) -> None:
    before = csv.field_size_limit()
    with (tmp_path / "a.csv").open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([["label", "text"], *([i % 2, text] for i, text in enumerate(TEXTS))])
    texts = read_csv(tmp_path / "a.csv", None)
    assert texts == TEXTS
    assert texts.labels == ["0", "1", "0", "1", "0"]
    assert bool(texts.reading) == (delimiter != ","), "a delimiter that was guessed is said"
    assert csv.field_size_limit() == before, "the limit is the whole process's"


def test_jsonl_gives_the_same_texts_and_labels(tmp_path: Path) -> None:
    labels = ["a", 1, None, 2.0, [3]]
    lines = [json.dumps({"text": text, "label": label}) for text, label in zip(TEXTS, labels, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n\n".join(lines) + "\n", encoding="utf-8-sig")
    texts = read_jsonl(tmp_path / "a.jsonl", None)
    assert texts == TEXTS
    assert texts.labels == ["a", "1", None, "2", None]
    (tmp_path / "a.txt").write_text("one\r\ntwo", newline="")
    assert read_lines(tmp_path / "a.txt", None).labels == [None, None]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "text,id,text\na,1,b\n", ["has 2 columns 'text'", "which of them is meant", "rename the others"]),
        ("a.csv", "text;text\na;b\n", ["has 2 columns 'text'"]),
        ("a.csv", "text,label,label\na,1,2\n", ["has 2 columns 'label'"]),
        ("a.csv", "text\nhello, world\n", ["line 2 of", "has 2 fields", "the header has 1", "put quotes around"]),
        ("a.csv", "text,label\nhello\n", ["line 2 of", "has 1 field\n", "the header has 2"]),
        ("a.csv", "prompt;label\na;1\n", ["no field 'text'", "'prompt;label'"]),
        ("a.jsonl", '{"text": "a", "id": 1, "text": "b"}', ["line 1 of", "two fields 'text'", "rename one"]),
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}', ["line 2 of", "no field 'text'", "fields found: 'txt'"]),
        ("a.jsonl", '{"text": "a"}\n{"text": null}', ["line 2 of", "holds no text", "is a NoneType"]),
    ],
)
def test_a_record_that_says_two_things_or_too_little_is_refused_by_name(
    tmp_path: Path, name: str, content: str, words: list[str]
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        (read_csv if name == "a.csv" else read_jsonl)(tmp_path / name, None)
    for word in words:
        assert word in str(caught.value)


def test_columns_that_are_not_read_may_repeat(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,,\na,1,2\n")
    assert read_csv(tmp_path / "a.csv", None) == ["a"]
