"""Text in parquet files and dataset folders: the same samples as in a text file, and nothing from outside the folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from naa_fast.errors import EXIT_UNSAFE, InputError, NaaError, UnsafeInput
from naa_fast.inputs import arrow
from naa_fast.inputs.opening import open_source
from naa_fast.inputs.text import TextOptions, TextSource

TEXTS = ["one two", "drei\nvier", "", "cinq \u202e"]


def test_without_pyarrow_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="need pyarrow, which is not installed") as caught:
        open_source(tmp_path / "a.parquet", 2, TextOptions(None))
    assert "pip install 'naa-fast[parquet]'" in str(caught.value)
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(__version__="14.0.0"))
    with pytest.raises(UnsafeInput, match=r"pyarrow 14\.0\.0 has a known hole"):
        arrow.library("pyarrow")


pa: Any = pytest.importorskip("pyarrow", "14.0.1", reason="pyarrow is not installed: parquet and dataset folders are untested")


def texts_in(path: str | Path, field: str | None = None) -> list[str]:
    source = open_source(path, 2, TextOptions(None, field))
    assert isinstance(source, TextSource)
    return list(source.texts)


def table(texts: list[Any] = TEXTS, name: str = "text", kind: Any = None) -> Any:
    return pa.table({"label": range(len(texts)), name: pa.array(texts, kind)})


def dataset(folder: Path, *shards: list[str]) -> Path:
    """What Dataset.save_to_disk writes."""
    folder.mkdir()
    names = [f"data-{index:05d}-of-{len(shards):05d}.arrow" for index in range(len(shards))]
    for name, texts in zip(names, shards, strict=True):
        content = table(texts)
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, content.schema) as stream:
            stream.write_table(content)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


FORMS = ["string", "large_string", "string_view", "binary", "large_binary", "binary_view"]


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_parquet_file_holds_its_texts(tmp_path: Path, form: str, dictionary: bool) -> None:
    from pyarrow import parquet

    if dictionary and form.endswith("_view"):
        pytest.skip("pyarrow makes no dictionary of views")
    column = pa.array([text.encode() for text in TEXTS] if "binary" in form else TEXTS, getattr(pa, form)())
    content = pa.table({"label": range(len(TEXTS)), "text": column.dictionary_encode() if dictionary else column})
    parquet.write_table(content, tmp_path / "a.parquet")
    assert texts_in(tmp_path / "a.parquet") == TEXTS
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, content.schema) as stream:
        stream.write_table(content)
    assert arrow.read_arrow(tmp_path / "a.arrow", None) == TEXTS
    assert arrow.read_arrow(tmp_path / "a.arrow", None).labels == ["0", "1", "2", "3"]


def test_a_parquet_column_of_another_name_is_read_and_may_not_repeat(tmp_path: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(table(name="prompt"), tmp_path / "b.parquet")
    assert texts_in(tmp_path / "b.parquet", "prompt") == TEXTS
    twice = pa.Table.from_arrays([pa.array(TEXTS), pa.array(TEXTS)], names=["text", "text"])
    parquet.write_table(twice, tmp_path / "c.parquet")
    assert "has 2 columns 'text'\n  which of them is meant is not said" in message(tmp_path / "c.parquet")


def test_a_dataset_folder_holds_the_texts_of_its_shards_in_order(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", TEXTS, ["last"])
    assert texts_in(f"hf-data:{folder}") == [*TEXTS, "last"]
    from pyarrow import parquet

    (tmp_path / "hub").mkdir()
    for index, texts in enumerate((["a"], ["b", "c"])):
        parquet.write_table(table(texts), tmp_path / "hub" / f"train-{index}.parquet")
    assert texts_in(f"hf-data:{tmp_path / 'hub'}") == ["a", "b", "c"]


def message(path: str | Path, kind: type[NaaError] = InputError, field: str | None = None) -> str:
    with pytest.raises(kind) as caught:
        texts_in(path, field)
    return str(caught.value)


def test_columns_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(table(name="\u202e\x1b"), path)
    assert r"has no column 'text'" in message(path)
    assert r"columns found: 'label', '\u202e\x1b'" in message(path)
    assert "column 'label' is int64\n  expected strings" in message(path, field="label")
    parquet.write_table(table([b"a", b"\xff"]), path)
    assert "row 1 of" in message(path)
    assert "is not UTF-8\n  column 'text', byte 0" in message(path)
    parquet.write_table(table(["a", None]), path)
    assert "row 1 of" in message(path)
    assert "column 'text' is empty there" in message(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "is damaged, or not an Arrow file" in message(path)


def test_folders_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    assert "no such dataset folder" in message(f"hf-data:{tmp_path / 'gone'}")
    assert "neither state.json nor .parquet files" in message(f"hf-data:{tmp_path}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "\\u001b[2J"]}')
    assert r"found: 'train', '\x1b[2J'" in message(f"hf-data:{tmp_path}")
    assert f"name one: hf-data:{tmp_path}/SPLIT" in message(f"hf-data:{tmp_path}")
    folder = dataset(tmp_path / "set", TEXTS)
    state = folder / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "gone.arrow"}]}))
    assert "gone.arrow is missing" in message(f"hf-data:{folder}")
    state.write_text(json.dumps({"_data_files": [{"filename": "a"}], "_indices_data_files": [{"filename": "b"}]}))
    assert "flatten_indices()" in message(f"hf-data:{folder}")
    for content in ("{", "[]", '{"_data_files": []}', '{"_data_files": [5]}'):
        state.write_text(content)
        assert "state.json" in message(f"hf-data:{folder}")


@pytest.mark.parametrize("name", ["../secret.arrow", "{folder}/../secret.arrow", "link.arrow"])
def test_a_dataset_cannot_reach_out_of_its_folder(tmp_path: Path, name: str) -> None:
    dataset(tmp_path / "other", ["secret"])
    secret = tmp_path / "secret.arrow"
    (tmp_path / "other" / "data-00000-of-00001.arrow").rename(secret)
    folder = dataset(tmp_path / "set", TEXTS)
    (folder / "link.arrow").symlink_to(secret)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name.format(folder=folder)}]}))
    text = message(f"hf-data:{folder}", UnsafeInput)
    assert "refused to read" in text
    assert f"it leads out of {folder}" in text
    assert UnsafeInput.exit_code == EXIT_UNSAFE


def test_a_linked_state_file_is_refused(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "set", TEXTS)
    (folder / "state.json").rename(tmp_path / "state.json")
    (folder / "state.json").symlink_to(tmp_path / "state.json")
    assert "it leads out of" in message(f"hf-data:{folder}", UnsafeInput)


def test_a_text_bomb_is_refused_while_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    path = tmp_path / "bomb.parquet"
    parquet.write_table(table(["x" * 10_000] * 3_000), path)
    monkeypatch.setattr(arrow, "MAX_UNPACK_BYTES", 1 << 22)
    assert "more than 1000 times as much" in message(path, UnsafeInput)
