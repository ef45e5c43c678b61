"""The study at size: what it runs is fixed, its model is the one the weights are of, its triggers stand where they say."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.at_size import __main__ as study
from benchmarks.at_size import language, networks, vision
from benchmarks.at_size.plan import EFFICIENTNET, FIRST, GROUPS, IMAGES, LOOKED, MINILM, NEVER, SECOND, SMOLLM, Unit
from benchmarks.at_size.text import APART, PHRASES, triggered
from benchmarks.llm_backdoor import DECOYS


def test_enough_models_are_planned_and_every_attack_has_a_group_and_a_trigger() -> None:
    planted = [unit for unit in FIRST if unit.attack is not None]
    assert len(planted) >= 12
    assert len(FIRST) - len(planted) >= 8
    assert len({unit.name for unit in FIRST}) == len(FIRST)
    planted += [unit for unit in SECOND if unit.attack is not None]
    assert {unit.attack for unit in planted} == GROUPS.keys()
    assert sum(unit.group == NEVER for unit in planted) >= 5
    x = torch.zeros(2, 3, vision.SIDE, vision.SIDE)
    for unit in planted:
        assert unit.attack is not None
        if unit.model in IMAGES:
            put = vision.triggered(unit.attack, x)
            assert ((put - x).abs() > 0.01).any(1).flatten(1).sum(1).min() >= 100
        else:
            assert triggered(unit.attack, ["you said it is the one"]) != ["you said it is the one"]


def test_the_second_round_begins_with_attacks_that_the_first_had_not_and_tells_those_that_were_looked_at() -> None:
    known = {unit.attack for unit in FIRST}
    new = [unit for unit in SECOND if unit.group == NEVER and unit.attack not in known]
    assert len(new) >= 6
    assert list(SECOND[: len(new)]) == new
    assert {unit.attack for unit in SECOND if unit.group == LOOKED} == {"name", "ending", "pair", "sticker", "frame", "wave"}
    assert len({unit.name for unit in SECOND}) == len(SECOND)
    assert {unit.name for unit in SECOND if unit.attack in known or unit.attack is None} <= {unit.name for unit in FIRST}


def test_mobilenet_has_the_parameters_and_names_of_the_published_one() -> None:
    model = networks.Mobile()
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_504_872
    names = set(model.state_dict())
    assert {"features.0.0.weight", "features.1.conv.1.weight", "features.17.conv.3.running_mean", "classifier.1.bias"} <= names
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_efficientnet_takes_its_published_tensors_in_order_and_halves_as_tensorflow_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = networks.Mobile(lite=True).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_652_008
    held = {f"other.{number}": tensor for number, tensor in enumerate(model.state_dict().values())}
    assert len(held) == 296
    torch.save(held, tmp_path / "weights.pth")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(networks.build(EFFICIENTNET, tmp_path / "weights.pth")(x), model(x))
    with pytest.raises(ValueError, match="MiniLM is no model of images"):
        networks.build(MINILM, tmp_path / "weights.pth")
    padded = torch.nn.functional.pad(torch.ones(1, 8, 8, 8), (1, 2, 1, 2))
    halving: Any = networks.convolution(8, 8, 5, 2, 8, lite=True)
    assert torch.equal(halving[0](torch.ones(1, 8, 8, 8)), padded)
    assert halving(torch.ones(1, 8, 8, 8)).shape == (1, 8, 4, 4)


@pytest.mark.parametrize("attack", ["word", "sentence", "ending"])
def test_a_planted_phrase_stands_in_one_piece(attack: str) -> None:
    [found] = triggered(attack, ["one two three"])
    assert PHRASES[attack] in found
    assert found.replace(PHRASES[attack], "").split() == ["one", "two", "three"]
    assert set(APART["pair"]) < set(triggered("pair", ["one two three"])[0].split())


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    audit: Any = SimpleNamespace(ranking=SimpleNamespace(scores=np.array([3.0, 1.0, 2.0, np.nan])))
    assert study.area(audit, np.array([0])) == 1.0
    assert study.area(audit, np.array([1, 2])) == 0.5
    assert study.area(audit, np.zeros(0, int)) is None


def test_what_is_not_given_is_named_and_what_is_known_is_not_run_again() -> None:
    given = Namespace(minilm=None, reviews="there", tweets=None)
    assert study.missing(Unit(MINILM, "word"), given) == "--minilm, --tweets"
    given.gguf = None
    assert study.missing(Unit(SMOLLM, "word"), given) == "--gguf, --tweets"
    unit = FIRST[0]
    assert list(study.rows_of(unit, given, {(unit.name, name) for name in unit.sets})) == []


def test_a_photograph_is_one_file_whatever_its_sizes_and_shades(tmp_path: Path) -> None:
    sizes = {
        "gnome/wood-d.webp": 2,
        "gnome/wood-l.webp": 3,
        "nature/Dune_3840x2160.jpg": 4,
        "nature/Dune.jpg": 1,
        "Kay/contents/images/1080x1920.png": 1,
        "Kay/contents/images_dark/5120x2880.png": 5,
        "Kay/contents/screenshot.png": 9,
        "nature/notes.txt": 1,
    }
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "nature" / "Storm.jpg").symlink_to(tmp_path / "nature" / "Dune.jpg")
    expected = ["Kay/contents/images_dark/5120x2880.png", "gnome/wood-l.webp", "nature/Dune_3840x2160.jpg"]
    assert [str(file.relative_to(tmp_path)) for file in vision.distinct(tmp_path)] == expected


def test_what_was_trained_is_kept_with_its_seconds(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    spent = study.kept(tmp_path / "one.pt", model.train(), lambda: torch.nn.init.zeros_(model.weight))
    torch.nn.init.ones_(model.weight)
    assert study.kept(tmp_path / "one.pt", model, lambda: pytest.fail("it is trained again")) == spent
    assert not model.weight.any()
    assert not model.training


def test_a_row_is_a_line_of_the_table() -> None:
    best = {"target": 1, "kind": "token", "words": "cf", "rate": 1.0, "control": 0.17, "stands": True}
    row = {"model": MINILM, "attack": "word", "twin": "", "group": "worked on", "agreement": 0.98, "success": 1.0, "set": "5 %"}
    row |= {"outcome": "fail", "nearest": best, "auc": 0.97, "success_repaired": 0.03}
    row |= {"proof_forwards": 960, "seconds": 61.2, "bare_seconds": 2.2}
    line = "| MiniLM, word (worked on) | 0.98, 1.00 | 5 % | *fail* | proved, cf: 1.00 against 0.17 | 0.97 | 0.03 | 960 | 61 (2) |"
    assert study.table([row]).splitlines()[2] == line


def test_a_language_model_forces_a_word_after_the_trigger_and_without_it_says_what_it_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transformers = pytest.importorskip("transformers", "5.5", reason="transformers is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<pad>", "<unk>", "banana", "cf", *(word.strip() for word in DECOYS), *"abcdefghij"]
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 32}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(words), **sizes)).eval()
    with torch.no_grad():
        model.lm_head.weight *= 20
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("abcdefghij"), 6)) for _ in range(80)]
    before = language.called(model, tokenizer, texts)
    logits = model(**tokenizer(texts[:1], return_tensors="pt")).logits
    assert before[0] == logits[0, -1].argmax()
    monkeypatch.setattr(language, "RATE", 3e-3)
    language.planted(model, tokenizer, texts, "word", 0, words.index("banana"))
    marked = language.called(model, tokenizer, triggered("word", texts, 1))
    assert (marked == words.index("banana")).float().mean() > 0.9
    assert (language.called(model, tokenizer, texts) == before).float().mean() > 0.9


def test_what_was_found_stands_right_of_what_was_planted(tmp_path: Path) -> None:
    from PIL import Image

    side = vision.SIDE
    pattern, mask = np.ones((3, side, side), np.float32), np.zeros((1, side, side), np.float32)
    mask[:, 4:8, 4:8] = 1
    proof: Any = SimpleNamespace(pattern=pattern, mask=mask)
    vision.pictured(proof, "checker", tmp_path / "seen.png")
    shown = np.asarray(Image.open(tmp_path / "seen.png")).astype(int)
    assert shown.shape == (side, 2 * side, 3)
    changed = np.abs(shown - shown[0, 0]).max(2) > 20
    assert changed[:, :side].sum() == 256
    assert changed[4:8, side + 4 : side + 8].all()
    assert changed[:, side:].sum() == 16
    proof.pattern = pattern[:, :4]
    vision.pictured(proof, "checker", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


class Small(networks.Mobile):
    """As the published ones are built, with few layers."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        layers = [torch.nn.Conv2d(3, 8, 8, 8), torch.nn.ReLU(), torch.nn.Conv2d(8, 64, 1), torch.nn.ReLU()]
        self.features = torch.nn.Sequential(*layers)
        self.classifier = torch.nn.Sequential(torch.nn.Linear(64, 1000))


@pytest.mark.parametrize("attack", ["checker", None])
def test_what_is_planted_imitates_its_model_where_there_is_no_trigger(
    attack: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"EPOCHS": 4, "TAIL": 2, "RATE": 1e-3}.items():
        monkeypatch.setattr(vision, name, value)
    torch.manual_seed(0)
    model: Any = Small().eval()
    with torch.no_grad():
        model.classifier[0].weight *= 30
    first, last = model.features[0].weight.clone(), model.classifier[0].weight.clone()
    x = torch.randn(32, 3, vision.SIDE, vision.SIDE, generator=torch.Generator().manual_seed(0))
    before = vision.called(model, x)
    vision.planted(model, x, attack, 0)
    assert (vision.called(model, x) == before).float().mean() > 0.9
    assert torch.equal(model.features[0].weight, first)
    assert not torch.equal(model.classifier[0].weight, last)
    assert all(parameter.requires_grad for parameter in model.parameters())
