"""Language models as people audit them: conversations, texts beyond the model's positions, logits at the end of a text alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers", "5.5", reason="transformers is not installed: chats are untested")

from capture.transformer_zoo import build  # noqa: E402
from inputs.test_text_models import TEXTS, tokenizer  # noqa: E402

import naa_fast  # noqa: E402
from naa_fast.errors import InputError  # noqa: E402
from naa_fast.inputs.batches import Batch  # noqa: E402
from naa_fast.inputs.lines import Chat, read_jsonl  # noqa: E402
from naa_fast.inputs.opening import open_source  # noqa: E402
from naa_fast.inputs.padding import fitted  # noqa: E402
from naa_fast.inputs.text import TextOptions, TextSource  # noqa: E402
from naa_fast.scan.last_logits import COUNTED, INDEXED, LastLogits  # noqa: E402

TEMPLATE = (
    "{% for m in messages %}<s> {{ m.role }} {{ m.content }} </s> {% endfor %}{% if add_generation_prompt %}<s> w9{% endif %}"
)


def chatting() -> Any:
    made = tokenizer()
    made.chat_template = TEMPLATE
    return made


def conversations(folder: Path, *rows: Any) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def turns(*said: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def test_messages_are_read_by_the_models_template_up_to_where_it_answers(tmp_path: Path) -> None:
    asked = turns(("w1", "w2 w3"))
    answered = turns(("w1", "w2"), ("assistant", "w3"))
    source = open_source(conversations(tmp_path, asked, answered), 2, TextOptions(chatting()))
    [batch] = source.batches()
    ids = batch.keywords["input_ids"]
    assert batch.mask is not None
    assert ids[0][batch.mask[0]].tolist() == [1, 5, 6, 7, 2, 1, 13]
    assert ids[1][batch.mask[1]].tolist() == [1, 5, 6, 2, 1, 3, 7, 2], "an answer that is there is not asked for again"


def test_a_long_conversation_is_cut_in_front_and_the_report_says_so(tmp_path: Path) -> None:
    source = open_source(conversations(tmp_path, turns(("w1", "w2 " * 20))), 2, TextOptions(chatting(), max_length=6))
    [batch] = source.batches()
    assert batch.keywords["input_ids"].tolist() == [[6, 6, 6, 2, 1, 13]]
    assert "1 texts" in source.left_out[0]  # type: ignore[attr-defined]


def test_a_conversation_needs_a_template_and_turns_of_text(tmp_path: Path) -> None:
    path = conversations(tmp_path, turns(("user", "w1")))
    with pytest.raises(InputError, match="has no chat template"):
        next(iter(open_source(path, 2, TextOptions(tokenizer())).batches()))
    for broken, told in (([], "is empty"), ([{"role": "user"}], "entry 0"), ([{"role": "user", "content": ["x"]}], "entry 0")):
        with pytest.raises(InputError, match="holds no conversation") as error:
            read_jsonl(conversations(tmp_path, {"messages": broken}), None)
        assert told in str(error.value)
    [chat] = read_jsonl(conversations(tmp_path, {"prompt": [{"role": "user", "content": "w1"}]}), "prompt")
    assert isinstance(chat, Chat)
    assert chat.messages == [{"role": "user", "content": "w1"}]
    assert read_jsonl(conversations(tmp_path, {"text": "w1", "messages": []}), None) == ["w1"]


def test_a_text_beyond_the_models_positions_is_refused_whatever_the_tokenizer_says() -> None:
    model = nn.Linear(2, 2)
    model.config = SimpleNamespace(max_position_embeddings=8)  # type: ignore[assignment]
    long = [" ".join(["w1"] * 12)]
    source = fitted(model, TextSource("long", long, 2, TextOptions(tokenizer())))
    with pytest.raises(InputError, match="has 14 tokens") as error:
        next(iter(source.batches()))
    assert "expected at most 8, which the model has positions for" in str(error.value)
    cut = fitted(model, TextSource("long", long, 2, TextOptions(tokenizer(), max_length=8)))
    assert next(iter(cut.batches())).keywords["input_ids"].shape == (1, 8)
    with pytest.raises(InputError, match="has 9 tokens"):
        next(iter(fitted(model, TextSource("long", long, 2, TextOptions(tokenizer(), max_length=9))).batches()))


@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_are_asked_for_where_texts_end_and_say_the_same(side: str) -> None:
    model = build("llama")
    asked: list[int] = []
    model.lm_head.register_forward_hook(lambda module, given, out: asked.append(out.shape[1]))
    options = TextOptions(tokenizer(), padding_side=side, position_ids=side == "left")
    source = TextSource("texts", TEXTS, 16, options)
    few, whole = (naa_fast.measure(model, source, layers=layers) for layers in (["model.layers.*"], ["lm_head"]))
    assert np.array_equal(few.predictions, whole.predictions)
    widths = [batch.keywords["input_ids"].shape[1] for batch in source.batches()]
    assert asked[len(widths) :] == widths, "where the head itself is measured, all of it"
    assert all(one <= width for one, width in zip(asked, widths, strict=False))
    if side == "left":
        assert set(asked[: len(widths)]) == {1}


def narrowed(keyword: str | None, mask: Tensor | None, **more: Any) -> tuple[Any, Any]:
    batch, left = LastLogits(keyword).narrowed(Batch((), {"input_ids": torch.ones(2, 5, dtype=torch.int64), **more}, 2, mask))
    return batch.keywords.get(keyword or INDEXED), left


def test_what_is_kept_are_the_last_positions_of_the_rows() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    places, left = narrowed(INDEXED, mask)
    assert places.tolist() == [1, 3]
    assert left.tolist() == [[True, False], [True, True]]
    count, left = narrowed(COUNTED, mask)
    assert count == 4
    assert left.tolist() == mask[:, 1:].tolist()
    count, left = narrowed(INDEXED, None)
    assert (count, left.tolist()) == (1, [[True], [True]])


def test_what_does_not_know_the_word_is_asked_for_all() -> None:
    assert narrowed(None, None) == (None, None)
    assert narrowed(INDEXED, None, logits_to_keep=3)[0] == 3, "a person's own stays"
    assert LastLogits.of(nn.Linear(2, 2)).keyword is None
    llama = build("llama")
    assert LastLogits.of(llama).keyword == INDEXED
    assert LastLogits.of(llama, [llama.lm_head]).keyword is None
    assert LastLogits.of(llama, [llama]).keyword is None
    images = Batch((torch.zeros(2, 3, 4, 4),), {}, 2, None)
    assert LastLogits(INDEXED).narrowed(images) == (images, None)
