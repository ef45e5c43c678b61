"""The study of false proofs: pairs are drawn alike and share no sample, and a row is counted for what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the digits come with scikit-learn (the demo extra)")

from benchmarks import false_proofs
from benchmarks.false_proofs import Trigger


def test_a_number_is_its_digits_side_by_side() -> None:
    x, y = false_proofs.numbers(3, np.arange(200), 40, np.random.default_rng(0))
    images, digits = false_proofs.digits()
    assert x.shape == (40, 1, 8, 24)
    for image, label in zip(x[:, 0], y, strict=True):
        for place in range(3):
            part = image[:, 8 * place : 8 * place + 8]
            same = (images[:200] == part).flatten(1).all(1)
            assert int(label) // 10 ** (2 - place) % 10 in set(digits[:200][same].tolist())


def test_two_halves_share_no_digit_and_two_draws_are_as_unbalanced() -> None:
    clean, suspect = false_proofs.pair(1, 0)
    assert not {x.tobytes() for x in clean.numpy()} & {x.tobytes() for x in suspect.numpy()}
    random = np.random.default_rng
    first, second = (false_proofs.numbers(2, np.arange(797), 4000, random(seed), 5)[1] for seed in (1, 2))
    shares = np.stack([np.bincount(y.numpy(), minlength=100) / 4000 for y in (first, second)])
    assert np.abs(shares[0] - shares[1]).max() < 0.02
    assert shares.max() > 0.03, "some classes are frequent"


def test_a_trigger_changes_its_pixels_alone() -> None:
    patch, wave = Trigger.of(0, 2), Trigger.of(8, 2)
    x = torch.rand(5, 1, 8, 16)
    assert (patch.kind, wave.kind) == ("patch", "wave")
    assert torch.equal(patch.put_on(x)[..., patch.mask == 0], x[..., patch.mask == 0])
    assert float((wave.put_on(x) - x).abs().max()) <= 0.3 + 1e-6


def test_what_is_counted(tmp_path: Path) -> None:
    proof = {"kind": "patch", "target": 3, "rate": 0.9, "control": 0.1, "controls": 3}
    quiet = {"outcome": "pass", "proofs": [], "forwards": 0, "unrun": [], "accuracy": 0.9}
    clean = [{**quiet, "forwards": 100}, quiet, {**quiet, "outcome": "fail", "proofs": [proof]}]
    triggered = {**quiet, "kind": "patch", "target": 3, "success": 1.0}
    backdoored = [{**triggered, "outcome": "fail", "proofs": [proof]}, {**triggered, "proofs": [{**proof, "target": 4}]}]
    told = false_proofs.summary(1, clean, backdoored)
    assert (told["false_proofs"], told["searched"], told["forwards_median"], told["proved"]) == (1, 1, 100, 1)
    assert told["outcomes"] == {"pass": 2, "warn": 0, "fail": 1, "inconclusive": 0}
    assert told["proved_of_patches"] == [1, 2]
    made = false_proofs.kept(tmp_path / "row.json", lambda: {"a": 1})
    assert false_proofs.kept(tmp_path / "row.json", lambda: {"a": 2}) == made == {"a": 1}
