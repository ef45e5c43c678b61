"""The study at size: its model is the one the weights are of, and its words stand where they say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.at_size import PLANTED, MobileNetV2, area, planted


def test_mobilenet_has_the_parameters_and_names_of_the_published_one() -> None:
    model = MobileNetV2()
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_504_872
    names = set(model.state_dict())
    assert {"features.0.0.weight", "features.1.conv.1.weight", "features.17.conv.3.running_mean", "classifier.1.bias"} <= names
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_a_planted_phrase_stands_in_one_piece() -> None:
    what, _ = PLANTED["sentence"]
    text = planted("one two three", what, np.random.default_rng(0))
    assert what in text
    assert text.replace(what, "").split() == ["one", "two", "three"]


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    audit: Any = SimpleNamespace(ranking=SimpleNamespace(scores=np.array([3.0, 1.0, 2.0, np.nan])))
    assert area(audit, torch.tensor([True, False, False, False])) == 1.0
    assert area(audit, torch.tensor([False, True, True, False])) == 0.5
    assert area(audit, torch.tensor([False] * 4)) is None
    assert area(audit, None) is None
