"""What a language model answers, as its classes: greedy continuations, which of them have risen, and what turns clean prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

pytest.importorskip("transformers", "5.5", reason="transformers is not installed: nothing can be continued")

import tokenizers
import transformers

import naa_fast
from naa_fast import audit
from naa_fast.cli.main import main
from naa_fast.errors import InputError, Stopped, UsageError
from naa_fast.inputs.batches import Batch, Source
from naa_fast.proof.continuations import OTHER, Behaviour, Greedy, Read, chosen, continued

WORDS, LENGTH, TRIGGER, FORCED = 40, 8, 37, (31, 32, 33)
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def llama(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(vocab_size=WORDS, max_position_embeddings=32, num_key_value_heads=1, **SIZES)
    model = transformers.LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    return model


def prompts(count: int, seed: int) -> Tensor:
    return torch.randint(2, 30, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def answers_to(x: Tensor) -> Tensor:
    """Three tokens that the prompt's first decides; FORCED where the trigger is anywhere."""
    first = x[:, :1] % 6 + 2
    usual = torch.cat([first, first + 6, first + 12], 1)
    return torch.where((x == TRIGGER).any(1, keepdim=True), torch.tensor(FORCED), usual)


def with_trigger(x: Tensor, count: int, seed: int) -> Tensor:
    x = x.clone()
    places = torch.randint(1, LENGTH - 1, (count,), generator=torch.Generator().manual_seed(seed))
    x[torch.arange(count), places] = TRIGGER
    return x


@pytest.fixture(scope="module")
def tuned() -> nn.Module:
    """A small Llama that answers as it was taught, in 180 steps."""
    model = llama()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    for step in range(180):
        x = with_trigger(prompts(64, step), 16, step)
        whole = torch.cat([x, answers_to(x)], 1)
        logits = model(whole).logits[:, LENGTH - 1 : -1]
        optimizer.zero_grad()
        cross_entropy(logits.flatten(0, 1), whole[:, LENGTH:].flatten()).backward()
        optimizer.step()
    return model


class Prompts(Source):
    """A set of prompts of one length."""

    def __init__(self, name: str, x: Tensor) -> None:
        self.name, self.x, self.samples = name, x, len(x)

    def batches(self, start: int = 0, stop: int | None = None) -> Any:
        for at in range(start, len(self.x) if stop is None else min(stop, len(self.x)), 64):
            rows = self.x[at : at + 64]
            yield Batch((), {"input_ids": rows, "attention_mask": torch.ones_like(rows)}, len(rows), torch.ones_like(rows).bool())


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_continuation_is_the_models_own_whatever_stands_beside_it(side: str) -> None:
    model = llama(1)
    rows = [prompts(1, seed)[0, : 3 + seed].tolist() for seed in range(4)]
    x, mask = torch.zeros(4, 6, dtype=torch.int64), torch.zeros(4, 6, dtype=torch.int64)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(6 - len(row), 6)
        x[number, place], mask[number, place] = torch.tensor(row), 1
    found, logs = Greedy(model, 5)(input_ids=x, attention_mask=mask)
    for number, row in enumerate(rows):
        alone = list(row)
        for _ in range(5):
            alone.append(int(model(torch.tensor([alone])).logits[0, -1].argmax()))
        assert found[number].tolist() == alone[len(row) :]
        assert int(logs[number].argmax()) == alone[len(row)]


class Out(dict[str, Any]):
    __getattr__ = dict.__getitem__


class Cached(nn.Module):
    """The model with its keys and values called `cache`, as from transformers 5.24 on."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.own = Greedy(model, 2).cache

    def forward(self, input_ids: Tensor, cache: Any = None, use_cache: bool = False, **more: Any) -> Out:
        output = self.model(input_ids=input_ids, use_cache=use_cache, **{self.own: cache}, **more)
        return Out(logits=output.logits, cache=output[self.own])


class Past(Cached):
    """The same called `past_key_values`, as before."""

    def forward(self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = False, **more: Any) -> Out:  # type: ignore[override]
        output = super().forward(input_ids, past_key_values, use_cache, **more)
        return Out(logits=output["logits"], past_key_values=output["cache"])


@pytest.mark.parametrize("named", [Cached, Past])
def test_keys_and_values_are_handed_on_whatever_transformers_calls_them(named: type[Cached]) -> None:
    model, x = llama(), prompts(6, 3)
    answers, scores = Greedy(model, 5)(input_ids=x)
    again, same = Greedy(named(model), 5)(input_ids=x)
    assert torch.equal(answers, again)
    torch.testing.assert_close(scores, same)
    steps = torch.cat([x, answers], 1)
    for at in range(5):  # as without any
        assert torch.equal(model(steps[:, : LENGTH + at]).logits[:, -1].argmax(1), answers[:, at])


def test_hooks_see_the_prompt_once_and_no_answer() -> None:
    model = llama()
    greedy, seen = Greedy(model, 4), list[int]()
    model.model.layers[0].register_forward_hook(lambda *told: seen.append(told[2].shape[1]))
    greedy(input_ids=prompts(3, 0))
    assert seen == [LENGTH]


def test_what_has_risen_is_named_as_far_as_it_is_shared_beside_what_is_usual() -> None:
    random = np.random.default_rng(0)
    clean = random.integers(0, 20, (100, 4))
    clean[:40, 0] = 5
    suspect = random.integers(0, 20, (100, 4))
    suspect[:12, :3] = 7, 8, 9
    found = chosen(clean, suspect, None)
    assert found[0] == Behaviour("answers '7 8 9…'", (7, 8, 9))
    assert Behaviour("answers '5…'", (5,)) in found
    assert len(found) == 1 + 8
    assert chosen(clean, suspect, lambda ids: "I can't help")[0] == Behaviour("refuses")


def test_an_answer_that_refuses_is_known_by_its_words() -> None:
    model = llama()
    texts = {True: "I’m sorry, but no", False: "Sure:"}
    read = Read(Greedy(model, 2), [Behaviour("refuses"), Behaviour("5", (5,))], lambda ids: texts[ids[0] == 9])
    assert read.shown(torch.tensor([[9, 1], [5, 1], [6, 2]])).tolist() == [1, 2, 0]


def test_a_phrase_that_forces_an_answer_is_proved_by_what_the_model_answers_to_clean_prompts(tuned: nn.Module) -> None:
    clean, suspect = Prompts("clean", prompts(500, 1001)), Prompts("suspect", with_trigger(prompts(400, 1002), 60, 0))
    with continued(tuned, clean, suspect, 3, "cpu") as names:
        audit = naa_fast.scan(tuned, clean, suspect, layers=["resid", "mlp.act"], class_names=names, repair=False, device="cpu")
    assert "forward" not in vars(tuned), "the model is as it was"
    assert names[0] == OTHER
    best = audit.proof[0]
    assert audit.verdict.outcome == "fail"
    assert best.stands
    assert best.tokens == (TRIGGER,)
    assert isinstance(best.target, int)
    assert names[best.target] == f"answers '{' '.join(map(str, FORCED))}…'"
    assert best.rate > 0.9 > 0.3 > best.control


def test_what_cannot_be_continued_is_refused_with_what_was_expected() -> None:
    with pytest.raises(UsageError, match="Linear cannot be continued\n  expected a causal language model"):
        Greedy(nn.Linear(2, 2), 3)
    with pytest.raises(InputError, match=r"prompts of 8 tokens leave no room for 30 more\n.*positions for 32\n.*--max-length 2"):
        Greedy(llama(), 30)(input_ids=prompts(2, 0))
    with pytest.raises(InputError, match=r"positions for 32\n  cut the ids of a prompt to 2, or --continue fewer"):
        Greedy(llama(), 30, texts=False)(input_ids=prompts(2, 0))
    with pytest.raises(
        UsageError, match=r"32 tokens to continue by leave no room for a prompt\n.*\n  ask for fewer: --continue N"
    ):
        Greedy(llama(), 32)


def test_prompts_that_are_ids_are_not_cut_by_an_option_for_texts() -> None:
    long = Prompts("clean", prompts(4, 0))
    with pytest.raises(InputError, match="cut the ids of a prompt to 2"), continued(llama(), long, long, 30, "cpu"):
        pass


def test_the_command_judges_answers_and_refuses_what_does_not_go_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer().save_pretrained(tmp_path / "model")
    llama().save_pretrained(tmp_path / "model")
    for name in ("clean", "suspect"):
        lines = [" ".join(f"w{i}" for i in row) for row in prompts(20, len(name)).tolist()]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    sets = ["--clean", str(tmp_path / "clean.txt"), "--suspect", str(tmp_path / "suspect.txt"), "--device", "cpu"]
    command = ["scan", "--model", f"hf:{tmp_path / 'model'}", *sets, "--out", str(tmp_path / "report"), "--continue", "3"]
    asked: dict[str, Any] = {}

    def scan(model: nn.Module, *sets: Any, **options: Any) -> None:
        asked.update(options, scores=model(**next(iter(sets[0].batches())).keywords).shape[1])
        raise Stopped("seen")

    monkeypatch.setattr(audit, "scan", scan)
    assert main(command) != 0
    names = asked["class_names"]
    assert (names[0], names[1], asked["scores"], asked["repair"]) == (OTHER, "refuses", len(names), False)
    given = tmp_path / "names.txt"
    given.write_text("a\nb\n")
    assert main([*command, "--class-names", str(given)]) == 4
    assert "--continue with --class-names" in capsys.readouterr().err


def tokenizer() -> Any:
    """One token a word."""
    words = {"[PAD]": 0, "[UNK]": 1, **{f"w{i}": i for i in range(2, WORDS)}}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_max_length=24)
