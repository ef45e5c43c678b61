"""What lies in a model's folder is audited or named: LoRA adapters are merged, a second set of weights must be the same one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

transformers: Any = pytest.importorskip("transformers", "5.5", reason="transformers is not installed: hf: models are untested")

from naa_fast.capture.loaded import told_of  # noqa: E402
from naa_fast.errors import ModelError  # noqa: E402
from naa_fast.inputs.pretrained import load_pretrained  # noqa: E402

Q, C = "model.layers.0.self_attn.q_proj", "transformer.h.0.attn.c_attn"
LORA = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 6,
    "target_modules": ["q_proj"],
    "bias": "none",
    "megatron_core": "megatron.core",
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bases")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    torch.manual_seed(0)
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=16))
    models = {"llama": transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=30, **sizes)), "gpt2": gpt2}
    for name, model in models.items():
        model.save_pretrained(place / name)
    return {name: place / name for name in models}


@pytest.fixture
def folder(bases: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def copied(kind: str) -> Path:
        place = tmp_path / kind
        place.mkdir()
        for path in bases[kind].iterdir():
            (place / path.name).write_bytes(path.read_bytes())
        return place

    return copied


def product(out: int, rank: int, into: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(out)
    return {"A": torch.randn(rank, into, generator=generator), "B": torch.randn(out, rank, generator=generator)}


def adapt(
    place: Path, module: str, pair: dict[str, torch.Tensor], more: dict[str, torch.Tensor] | None = None, **config: Any
) -> None:
    place.mkdir(exist_ok=True)
    tensors = {f"base_model.model.{module}.lora_{side}.weight": value for side, value in pair.items()}
    save_file(
        {**tensors, **{f"base_model.model.{name}": value for name, value in (more or {}).items()}},
        place / "adapter_model.safetensors",
    )
    (place / "adapter_config.json").write_text(json.dumps({**LORA, "base_model_name_or_path": "elsewhere/base", **config}))


def weights(place: Path, task: str = "auto") -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load_pretrained(str(place), task).state_dict().items()}


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({}, 3.0),
        ({"use_rslora": True}, 6 / sqrt(2)),
        ({"lora_alpha": 5.0}, 2.5),
        ({"r": 8, "rank_pattern": {"self_attn.q_proj": 2}, "alpha_pattern": {"q_proj": 1, "v_proj": 9}}, 0.5),
        ({"alpha_pattern": {"proj": 1}}, 3.0),  # a name is whole parts of names
    ],
)
def test_a_lora_is_merged_as_its_paper_says(
    bases: dict[str, Path], folder: Callable[[str], Path], config: dict[str, Any], scaling: float
) -> None:
    place, pair, head = folder("llama"), product(8, 2, 8), torch.randn(30, 8)
    adapt(place, Q, pair, {"lm_head.modules_to_save.weight": head}, **config)
    base, merged = weights(bases["llama"]), weights(place)
    assert torch.allclose(merged.pop(f"{Q}.weight"), base.pop(f"{Q}.weight") + scaling * pair["B"] @ pair["A"], atol=1e-5)
    assert torch.equal(merged.pop("lm_head.weight"), head)
    base.pop("lm_head.weight")
    assert all(torch.equal(value, base[name]) for name, value in merged.items())
    [told] = [line for line in told_of(load_pretrained(str(place))).reading if "adapter" in line]
    assert told == f"the LoRA adapter in {place} is merged into 1 modules, and 1 tensors replaced"


def test_a_layer_that_keeps_its_weights_the_other_way_round_and_an_adapter_alone(bases: dict[str, Path], tmp_path: Path) -> None:
    pair = product(24, 2, 8)
    adapt(tmp_path / "adapter", C, pair, base_model_name_or_path=str(bases["gpt2"]), task_type="CAUSAL_LM")
    base, merged = weights(bases["gpt2"]), weights(tmp_path / "adapter")
    assert torch.allclose(merged[f"{C}.weight"], base[f"{C}.weight"] + 3 * (pair["B"] @ pair["A"]).T, atol=1e-5)


def test_a_head_that_the_adapter_brings_is_no_missing_part(bases: dict[str, Path], tmp_path: Path) -> None:
    score = torch.randn(5, 8)
    where = {"base_model_name_or_path": str(bases["llama"]), "task_type": "SEQ_CLS"}
    adapt(tmp_path / "adapter", Q, product(8, 2, 8), {"score.weight": score}, **where)
    model = load_pretrained(str(tmp_path / "adapter"))
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert torch.equal(model.get_parameter("score.weight"), score)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "of the kind 'IA3'"),
        ({"peft_type": None, "architecture": "pfeiffer"}, "of the kind None"),
        ({"use_dora": True}, "it asks for use_dora"),
        (
            {"layer_replication": [[0, 1]], "alora_invocation_tokens": [3]},
            "it asks for alora_invocation_tokens, layer_replication",
        ),
        ({"anything_new": 1}, "it asks for anything_new"),
        ({"init_lora_weights": "pissa"}, "it changes the base as 'pissa' does"),
        ({"rank_pattern": {"(a|b)+$": 3}}, "its rank_pattern has the expression"),
        ({"r": 3}, "is of rank 2, the configuration says 3"),
        ({"lora_alpha": "6"}, "its r and lora_alpha are 2 and '6'"),
        ({"alpha_pattern": {"q_proj": "x"}}, "and alpha 'x'"),
    ],
)
def test_any_other_adapter_is_refused_by_name(folder: Callable[[str], Path], config: dict[str, Any], words: str) -> None:
    place = folder("llama")
    adapt(place, Q, product(8, 2, 8), **config)
    with pytest.raises(ModelError) as caught:
        load_pretrained(str(place))
    assert f"the adapter in {place} cannot be audited" in str(caught.value)
    assert words in str(caught.value)
    assert "model.merge_and_unload()" in str(caught.value)
    assert "move it out of the folder, if it is not deployed" in str(caught.value)


@pytest.mark.parametrize(
    ("module", "pair", "more", "words"),
    [
        ("model.layers.7.self_attn.q_proj", product(8, 2, 8), {}, "have no place in the model"),
        (Q, product(9, 2, 8), {}, "have no place in the model, or do not fit it"),
        (Q, {"A": torch.zeros(2, 8)}, {}, "have no place in the model, or do not fit it"),
        (Q, product(8, 2, 8), {"extra.weight": torch.zeros(3)}, "its tensor 'extra.weight' has no place in the model"),
        (Q, product(8, 2, 8), {f"{Q}.lora_magnitude_vector": torch.zeros(8)}, "lora_magnitude_vector' has no place"),
    ],
)
def test_a_tensor_without_a_place_is_refused(
    folder: Callable[[str], Path], module: str, pair: dict[str, torch.Tensor], more: dict[str, torch.Tensor], words: str
) -> None:
    place = folder("llama")
    adapt(place, module, pair, more)
    with pytest.raises(ModelError) as caught:
        load_pretrained(str(place))
    assert words in str(caught.value)


def test_weights_that_another_part_shares_are_not_changed_with_it(folder: Callable[[str], Path]) -> None:
    place = folder("gpt2")  # its head is its embedding
    adapt(place, "lm_head", product(30, 2, 8))
    with pytest.raises(ModelError, match="'lm_head' shares its weights with another part of the model"):
        load_pretrained(str(place))


def test_half_an_adapter_and_one_without_its_base_are_named(
    folder: Callable[[str], Path], bases: dict[str, Path], tmp_path: Path
) -> None:
    place = folder("llama")
    adapt(place, Q, product(8, 2, 8))
    for name, missing in (
        ("adapter_config.json", "adapter_config.json"),
        ("adapter_model.safetensors", "adapter_model.safetensors or"),
    ):
        content = (place / name).read_bytes()
        (place / name).unlink()
        with pytest.raises(ModelError, match=rf"holds half an adapter\n  {missing}.* is missing beside"):
            load_pretrained(str(place))
        (place / name).write_bytes(content)
    adapt(tmp_path / "alone", Q, product(8, 2, 8))
    for base in ("elsewhere/base", str(tmp_path / "alone")):
        adapt(tmp_path / "alone", Q, product(8, 2, 8), base_model_name_or_path=base)
        with pytest.raises(ModelError, match="holds an adapter alone") as caught:
            load_pretrained(str(tmp_path / "alone"))
        assert f"its base is {base!r}, which is no folder of a model here" in str(caught.value)
    adapt(tmp_path / "alone", Q, product(8, 2, 8), base_model_name_or_path=str(place))
    with pytest.raises(ModelError, match="holds an adapter of an adapter"):
        load_pretrained(str(tmp_path / "alone"))
    (place / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json is damaged, or not JSON"):
        load_pretrained(str(place))


def test_a_second_set_of_weights_is_the_same_or_refused_or_named(folder: Callable[[str], Path]) -> None:
    place = folder("gpt2")
    state = dict(load_pretrained(str(place)).state_dict())
    old = {**state, "transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16)}  # a buffer that older files hold
    torch.save(old, place / "pytorch_model.bin")
    save_file({name: value.half() for name, value in state.items() if name != "lm_head.weight"}, place / "model.fp16.safetensors")
    torch.save({"layers.0.wq.weight": torch.zeros(2)}, place / "consolidated.00.pth")
    torch.save({"lr": 1}, place / "optimizer.pt")
    (place / "tf_model.h5").write_bytes(b"")
    (place / "2_Dense").mkdir()
    save_file({"x": torch.zeros(1)}, place / "2_Dense" / "model.safetensors")
    told = told_of(load_pretrained(str(place)))
    for name in ("pytorch_model.bin", "model.fp16.safetensors"):
        assert f"{place / name} holds the weights that were loaded" in told.reading
    left_out = "\n".join(told.left_out)
    for words in ("consolidated.00.pth, other weights, under names of their own", "tf_model.h5", "2_Dense/model.safetensors"):
        assert words in left_out
    assert "optimizer" not in left_out
    old["transformer.ln_f.weight"] = old["transformer.ln_f.weight"] + 1
    torch.save(old, place / "pytorch_model.bin")
    with pytest.raises(ModelError) as caught:
        load_pretrained(str(place))
    assert "holds two sets of weights that are not the same\n  model.safetensors is what is loaded" in str(caught.value)
    assert "pytorch_model.bin differs in 1 tensors: transformer.ln_f.weight" in str(caught.value)
    assert "move the one that is not deployed out of the folder" in str(caught.value)


def test_shards_that_no_index_names_are_a_second_set(folder: Callable[[str], Path]) -> None:
    place = folder("llama")
    state = load_pretrained(str(place)).state_dict()
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: state[name] for name in own}, place / file, metadata={"format": "pt"})
    (place / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    assert told_of(load_pretrained(str(place))).left_out == ()
    save_file({names[0]: state[names[0]] + 1}, place / "c.safetensors")
    with pytest.raises(
        ModelError, match=r"a\.safetensors, b\.safetensors is what is loaded\n  c\.safetensors differs in 1 tensors"
    ):
        load_pretrained(str(place))


def test_settings_that_steer_what_is_generated_are_named(folder: Callable[[str], Path]) -> None:
    place = folder("llama")
    (place / "chat_template.jinja").write_text("{{ messages }}")
    told = told_of(load_pretrained(str(place)))
    assert any("generation_config.json: how text is generated is no part of a forward" in line for line in told.reading)
    alone = "is applied to conversations alone: other texts are read as they are"
    assert any("the chat template" in line and line.endswith(alone) for line in told.reading)
    (place / "generation_config.json").write_text(json.dumps({"forced_bos_token_id": 7, "guidance_scale": 1.0}))
    assert any("it sets forced_bos_token_id" in line for line in told_of(load_pretrained(str(place))).left_out)
