"""Text through Hugging Face models: masks that leave no trace of the padding, and folders that cannot run code."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

transformers = pytest.importorskip(
    "transformers", "5.5", reason="transformers is not installed: text and hf: models are untested"
)
tokenizers = pytest.importorskip("tokenizers")

from inputs.marker import Marker  # noqa: E402
from tolerances import assert_record  # noqa: E402

from naa_fast import audit  # noqa: E402
from naa_fast.cli.main import main  # noqa: E402
from naa_fast.errors import EXIT_PASS, EXIT_UNSAFE, InputError, ModelError, NaaError, UnsafeInput, UsageError  # noqa: E402
from naa_fast.inputs.opening import open_source  # noqa: E402
from naa_fast.inputs.pretrained import load_pretrained, load_tokenizer  # noqa: E402
from naa_fast.inputs.text import TextOptions, TextSource, wants_positions  # noqa: E402

WORDS = [f"w{i}" for i in range(40)]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
RANDOM = np.random.default_rng(5)
TEXTS = [" ".join(RANDOM.choice(WORDS, size)) for size in RANDOM.integers(1, 14, 41)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads waiting for each other cost more than these small models do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tokenizer() -> Any:
    """A word is a token; `<s>` before and `</s>` after every text."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=32, **names)


def model(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=44, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2
        )
        return transformers.GPT2LMHeadModel(config).eval()
    if kind == "bert":
        config = transformers.BertConfig(vocab_size=44, max_position_embeddings=64, **SIZES)
        return transformers.BertForSequenceClassification(config).eval()
    config = transformers.LlamaConfig(vocab_size=44, num_key_value_heads=2, max_position_embeddings=64, **SIZES)
    return transformers.LlamaForCausalLM(config).eval()


LAYERS = {
    "llama": ["model.layers.1", "model.layers.0.mlp.act_fn"],
    "gpt2": ["transformer.h.1", "transformer.h.0.mlp.act"],
    "bert": ["bert.encoder.layer.1", "bert.encoder.layer.0.intermediate"],
}


def brute_force(net: Any, layers: list[str], skip_special: bool) -> dict[str, np.ndarray]:
    """Activations `[tokens, neurons]` in float64, one unpadded text at a time."""
    kept: dict[str, list[np.ndarray]] = {name: [] for name in layers}

    def keep(name: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            x = (output if isinstance(output, torch.Tensor) else output[0])[0].detach().double().numpy()
            kept[name].append(x[1:-1] if skip_special else x)

        return hook

    handles = [net.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    with torch.no_grad():
        for text in TEXTS:
            net(input_ids=torch.tensor([tokenizer()(text)["input_ids"]]))
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(parts) for name, parts in kept.items()}


@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("skip_special", [False, True])
def test_statistics_depend_on_neither_padding_side_nor_batch_composition(kind: str, skip_special: bool) -> None:
    net = model(kind)
    expected = brute_force(net, LAYERS[kind], skip_special)
    for side, batch_size in (("right", 7), ("left", 5), ("left", 41)):
        options = TextOptions(tokenizer(), padding_side=side, skip_special=skip_special, position_ids=wants_positions(net))
        measured = audit.measure(net, TextSource("texts", TEXTS, batch_size, options), layers=LAYERS[kind], backend="reference")
        assert measured.samples == len(TEXTS)
        for name, x in expected.items():
            found = measured.layers[name].positions
            where = f"{name}, {side}, batches of {batch_size}"
            scale = np.abs(x).max()
            assert (found.count == len(x)).all(), where
            np.testing.assert_allclose(found.mean, x.mean(0), atol=1e-6 * scale, rtol=1e-5, err_msg=where)
            np.testing.assert_allclose(found.m2, len(x) * x.var(0), rtol=1e-4, atol=1e-6 * scale**2, err_msg=where)
            np.testing.assert_allclose(found.maximum, x.max(0), atol=4e-6 * scale, rtol=1e-5, err_msg=where)


def ids_of(source: TextSource) -> torch.Tensor:
    return torch.cat([batch.keywords["input_ids"].flatten() for batch in source.batches()])


@pytest.mark.parametrize(("batch_size", "chunk_size"), [(16, None), (64, 150), (7, 1000)])
def test_batches_of_like_length_change_nothing_but_the_padding(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, chunk_size: int | None
) -> None:
    monkeypatch.setattr("naa_fast.inputs.text.WINDOW", 256)
    random = np.random.default_rng(8)
    texts = [" ".join(random.choice(WORDS, size)) if size else "" for size in random.geometric(0.15, 500).clip(0, 29) - 1]
    net, layers = model("llama"), ["model.embed_tokens", "model.layers.1"]

    def source(bucket: bool) -> TextSource:
        return TextSource("texts", texts, batch_size, TextOptions(tokenizer(), bucket=bucket))

    plain, sorted_ = (audit.measure(net, source(b), layers=layers, chunk_size=chunk_size, first_index=5) for b in (False, True))
    assert (plain.samples, plain.skipped) == (sorted_.samples, sorted_.skipped)
    exact, near = (sorted_.layers[name] for name in layers)
    record = plain.layers[layers[0]]  # an embedding of a token does not depend on what stands beside it
    assert_record(exact, record, "float32")
    for view in ("positions", "sample_mean", "sample_max"):
        assert (getattr(exact, view).count == getattr(record, view).count).all()
    assert (exact.positions.minimum == record.positions.minimum).all()
    assert (exact.sample_max.maximum == record.sample_max.maximum).all()
    record = plain.layers[layers[1]]
    assert (near.mean_folds.count == record.mean_folds.count).all()
    np.testing.assert_allclose(near.mean_folds.mean, record.mean_folds.mean, atol=1e-5)
    np.testing.assert_allclose(near.positions.variance, record.positions.variance, rtol=1e-4)
    assert torch.equal(ids_of(source(True).in_order()), ids_of(source(False))), "a ranking goes by places"
    assert not torch.equal(ids_of(source(True)), ids_of(source(False)))
    widths = [sum(b.keywords["input_ids"].numel() for b in source(bucket).batches()) for bucket in (False, True)]
    assert widths[1] < 0.9 * widths[0] or batch_size == 64, "less padding"


def test_a_special_token_written_in_a_text_still_counts() -> None:
    [batch] = TextSource("texts", ["w1 </s> w2"], 4, TextOptions(tokenizer(), skip_special=True)).batches()
    assert batch.keywords["input_ids"].tolist() == [[1, 5, 2, 6, 2]]
    assert batch.mask is not None
    assert batch.mask.tolist() == [[False, True, True, True, False]]


def test_ranges_of_a_set_are_the_set_and_blank_texts_are_counted_as_skipped() -> None:
    source = TextSource("texts", ["w1", " ", "w2 w3", "", ""], 2, TextOptions(tokenizer()))
    whole = list(source.batches())
    parts = [*source.batches(0, 3), *source.batches(3, 9)]
    for batches in (whole, parts):
        assert (sum(b.size for b in batches), sum(b.skipped for b in batches)) == (2, 3)


def test_the_three_text_formats_hold_the_same_samples(tmp_path: Path) -> None:
    texts = ["w1 w2", 'w3 "w4", w5', "w6 w7"]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"label": "\x1b[31m\u202e", "text": t}) + "\n" for t in texts))
    quoted = [t.replace('"', '""') for t in texts]
    (tmp_path / "a.csv").write_text("label,text\n" + "".join(f'1,"{t}"\n' for t in quoted))
    for name in ("a.txt", "a.jsonl", "a.csv"):
        source = open_source(tmp_path / name, 2, TextOptions(tokenizer()))
        assert isinstance(source, TextSource)
        assert list(source.texts) == texts


@pytest.mark.parametrize(
    ("name", "content", "field", "words"),
    [
        ("a.txt", b"", None, ["has no text", "expected at least two samples"]),
        ("a.txt", b"w1\n\xff", None, ["is not UTF-8", "byte 3", "save it as UTF-8"]),
        ("a.txt", b"w1", "body", ["a .txt file has no fields", "leave it out"]),
        ("a.jsonl", b"{", None, ["line 1 of", "is not JSON", "one object a line"]),
        ("a.jsonl", b"[1]", None, ["is a list", "expected an object"]),
        ("a.jsonl", b'{"\\u202e\\u001b": 1}', None, ["no field 'text'", r"'\u202e\x1b'", "--text-field"]),
        ("a.jsonl", b'{"text": 5}', None, ["holds no text", "is a int", "expected a string"]),
        ("a.csv", b'text\n"w1', None, ["is not CSV", "expected commas"]),
        ("a.csv", b"a,b\n1,2\n", "c", ["no field 'c'", "fields found: 'a', 'b'"]),
    ],
)
def test_a_text_file_that_cannot_be_used_says_why(
    tmp_path: Path, name: str, content: bytes, field: str | None, words: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(NaaError) as caught:
        open_source(path, 2, TextOptions(tokenizer(), field))
    for word in words:
        assert word in str(caught.value)


def test_text_that_cannot_become_tokens_names_the_sample(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w1")
    for text, words in (("\ud800", "cannot be tokenised"), ("w1 " * 40, "has 42 tokens\n  expected at most 32")):
        with pytest.raises(InputError, match="sample 1 of texts") as caught:
            list(TextSource("texts", ["w1", text], 2, TextOptions(tokenizer())).batches())
        assert words in str(caught.value)
    [batch] = TextSource("texts", ["w1 " * 40], 2, TextOptions(tokenizer(), max_length=5)).batches()
    assert batch.keywords["input_ids"].shape == (1, 5)
    with pytest.raises(InputError, match="needs the tokenizer of the model"):
        open_source(tmp_path / "a.txt", 2)
    with pytest.raises(UsageError, match="padding side is 'top'"):
        TextOptions(tokenizer(), padding_side="top")
    with pytest.raises(UsageError, match="max length is 0"):
        TextOptions(tokenizer(), max_length=0)
    with pytest.raises(UsageError, match="takes no position_ids"):
        wants_positions(torch.nn.Linear(2, 2))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved Llama with its tokenizer; every attempt to reach the network fails."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was touched")

    place = tmp_path / "llama"
    model("llama").save_pretrained(place)
    tokenizer().save_pretrained(place)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    return place


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scan_takes_a_folder_and_text_from_the_command_line(folder: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS))
    words = f"measure --model hf:{folder} --dtype {dtype} --data data.jsonl --text-field prompt --skip-special --device cpu"
    for side in ("right", "left"):
        assert main([*words.split(), "--padding-side", side, "--out", f"{side}.naa.safetensors"]) == EXIT_PASS
    assert "41 samples" in capsys.readouterr().out


def test_a_folder_gives_its_model_back(folder: Path) -> None:
    assert type(load_pretrained(str(folder))).__name__ == "LlamaForCausalLM"
    assert load_pretrained(str(folder), "encoder", "float16").dtype == torch.float16
    assert len(load_tokenizer(str(folder))) == 44


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_folder_that_brings_code_is_refused_unrun(folder: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = json.loads((folder / file).read_text())
    (folder / "evil.py").write_text("import os; os.mkdir('ran')")
    (folder / file).write_text(json.dumps({**settings, "nested": {"auto_map": {"AutoModelForCausalLM": "evil.Net"}}}))
    Path("data.txt").write_text("w1\nw2\n")
    words = f"measure --model hf:{folder} --data data.txt --out out.naa.safetensors"
    assert main(words.split()) == EXIT_UNSAFE
    shown = capsys.readouterr().err
    assert f"{file} has an auto_map: it asks to run Python code" in shown
    assert "--model FILE.py:FUNCTION" in shown
    assert not Path("ran").exists()


def test_a_folder_that_names_foreign_kernels_is_refused(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "attn_implementation": "evil/kernel"}))
    with pytest.raises(UnsafeInput, match="sets attn_implementation to 'evil/kernel': compiled code would be fetched"):
        load_pretrained(str(folder))


def test_pickled_weights_are_refused_unread(folder: Path) -> None:
    torch.save({"x": Marker(folder / "ran")}, folder / "pytorch_model.bin")
    load_pretrained(str(folder))  # the .safetensors beside it is what is read
    assert not (folder / "ran").exists()
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsafeInput, match=r"weights are pickles or unknown formats: pytorch_model\.bin") as caught:
        load_pretrained(str(folder))
    assert "model.save_pretrained(folder), which writes .safetensors" in str(caught.value)
    assert not (folder / "ran").exists()
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"no weights in .*\n  files found: .*\n  expected model.safetensors"):
        load_pretrained(str(folder))


def test_what_cannot_be_loaded_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(kind: type[NaaError], name: str, task: str = "auto", dtype: str | None = None) -> str:
        with pytest.raises(kind) as caught:
            load_pretrained(name, task, dtype)
        return str(caught.value)

    assert "no weights for a part of the model" in message(ModelError, str(folder), "sequence-classification")
    assert "--hf-task is 'poetry'" in message(UsageError, str(folder), "poetry")
    assert "--dtype is 'int3'" in message(UsageError, str(folder), dtype="int3")
    assert "no such model folder: ./missing" in message(ModelError, "./missing")
    (folder / "config.json").write_text(json.dumps({"architectures": None}))
    assert "config.json does not tell the task" in message(ModelError, str(folder))
    (folder / "config.json").write_text("{")
    assert "config.json is damaged, or not JSON" in message(ModelError, str(folder))
    (folder / "config.json").unlink()
    assert "no config.json in" in message(ModelError, str(folder))
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(__version__="5.4.1"))
    assert "transformers 5.4.1 has known holes" in message(UnsafeInput, str(folder))
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'naa-fast[hf]'" in message(ModelError, str(folder))
