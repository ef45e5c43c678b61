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
from benchmarks.at_size import vision
from benchmarks.at_size.plan import GROUPS, IMAGES, MINILM, NEVER, SMOLLM, UNITS, Unit
from benchmarks.at_size.text import PAIR, PHRASES, triggered


def test_enough_models_are_planned_and_every_attack_has_a_group_and_a_trigger() -> None:
    planted = [unit for unit in UNITS if unit.attack is not None]
    assert len(planted) >= 12
    assert len(UNITS) - len(planted) >= 8
    assert len({unit.name for unit in UNITS}) == len(UNITS)
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


def test_mobilenet_has_the_parameters_and_names_of_the_published_one() -> None:
    model = vision.MobileNetV2()
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_504_872
    names = set(model.state_dict())
    assert {"features.0.0.weight", "features.1.conv.1.weight", "features.17.conv.3.running_mean", "classifier.1.bias"} <= names
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize("attack", ["word", "sentence", "ending"])
def test_a_planted_phrase_stands_in_one_piece(attack: str) -> None:
    [found] = triggered(attack, ["one two three"])
    assert PHRASES[attack] in found
    assert found.replace(PHRASES[attack], "").split() == ["one", "two", "three"]
    assert set(PAIR) < set(triggered("pair", ["one two three"])[0].split())


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    audit: Any = SimpleNamespace(ranking=SimpleNamespace(scores=np.array([3.0, 1.0, 2.0, np.nan])))
    assert study.area(audit, np.array([0])) == 1.0
    assert study.area(audit, np.array([1, 2])) == 0.5
    assert study.area(audit, np.zeros(0, int)) is None


def test_what_is_not_given_is_named_and_what_is_known_is_not_run_again() -> None:
    given = Namespace(minilm=None, reviews="there", tweets=None)
    assert study.missing(Unit(MINILM, "word"), given) == "--minilm, --tweets"
    assert study.missing(Unit(SMOLLM, "word"), given) == "no runner is written for it yet"
    unit = UNITS[0]
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


def test_a_row_is_a_line_of_the_table() -> None:
    best = {"target": 1, "kind": "token", "words": "cf", "rate": 1.0, "control": 0.17, "stands": True}
    row = {"model": MINILM, "attack": "word", "twin": "", "group": "worked on", "agreement": 0.98, "success": 1.0, "set": "5 %"}
    row |= {"outcome": "fail", "nearest": best, "auc": 0.97, "success_repaired": 0.03}
    row |= {"proof_forwards": 960, "seconds": 61.2, "bare_seconds": 2.2}
    line = "| MiniLM, word (worked on) | 0.98, 1.00 | 5 % | *fail* | proved, cf: 1.00 against 0.17 | 0.97 | 0.03 | 960 | 61 (2) |"
    assert study.table([row]).splitlines()[2] == line


def test_what_is_planted_imitates_its_model_where_there_is_no_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "EPOCHS", 2)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 9, 9), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    last = torch.nn.Linear(128, 1000)
    model = net.append(last).eval()
    x = torch.randn(32, 3, vision.SIDE, vision.SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last.weight *= 30
    before = vision.called(model, x)
    vision.planted(model, x, "checker", 0)
    assert (vision.called(model, x) == before).float().mean() > 0.9
