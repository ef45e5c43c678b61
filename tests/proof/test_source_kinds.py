"""A backdoor on 5 % of the samples never passes, whatever form the sets come in and whatever was left out."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from proof.test_images import CLEAN, HELD, Quadrants, with_trigger
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import naa_fast
from naa_fast.result import Audit

MODEL = Quadrants("patch")
TRIGGERED, CARRY = with_trigger(HELD[:300], "patch", 15)
SETS = {"clean": CLEAN[:200], "suspect": TRIGGERED}
Given = tuple[Any, Any]


class Stream(IterableDataset[Tensor]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.x)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sets as folders of images, and as archives of them."""
    image = pytest.importorskip("PIL.Image", reason="image folders need Pillow (the vision extra)")
    place = tmp_path_factory.mktemp("images")
    for name, x in SETS.items():
        (place / name).mkdir()
        for i, pixels in enumerate((x[:, 0] * 255).round().byte().numpy()):
            image.fromarray(pixels).save(place / name / f"{i:03d}.png")
        with tarfile.open(place / f"{name}.tar", "w") as archive:
            archive.add(place / name, name)
    return place


def both(form: Callable[[Tensor], Any]) -> Callable[[Path], Given]:
    return lambda place: (form(SETS["clean"]), form(SETS["suspect"]))


KINDS: dict[str, Callable[[Path], Given]] = {
    "array": both(lambda x: x.numpy()),
    "tensor": both(lambda x: x),
    "list of batches": both(lambda x: list(x.split(64))),
    "loader": both(lambda x: DataLoader(TensorDataset(x), 64)),
    "folder": lambda place: (place / "clean", place / "suspect"),
    "tar": lambda place: (place / "clean.tar", place / "suspect.tar"),
    "shuffled loader": both(lambda x: DataLoader(TensorDataset(x), 64, shuffle=True)),
    "loader of a stream": both(lambda x: DataLoader(Stream(x), 64)),
    "generator": both(lambda x: (batch for batch in x.split(64))),
}


def scanned(kind: str, place: Path, **options: Any) -> Audit:
    return naa_fast.scan(MODEL, *KINDS[kind](place), repair=False, **options)


def require_no_pass(audit: Audit) -> None:
    assert audit.verdict.outcome != "pass"
    assert audit.verdict.exit_code == audit.gate.exit_code == audit.report()["exit_code"] != 0
    if audit.verdict.outcome != "fail":
        assert audit.verdict.exit_code == 3, "something did not run"
        assert audit.verdict.gaps
    assert audit.verdict.not_checked[0].startswith("a trigger that is not in your suspect set")


@pytest.mark.parametrize("kind", KINDS)
def test_no_form_of_a_set_passes(kind: str, folders: Path) -> None:
    audit = scanned(kind, folders)
    require_no_pass(audit)
    assert audit.verdict.outcome == "fail"
    assert audit.proof[0].stands
    assert audit.proof[0].target == 2
    assert all(check.ran for check in audit.verdict.checks)


def shares(audit: Audit) -> Any:
    """What was proved, in numbers that do not depend on the order of the samples."""
    best = audit.proof[0]
    return best.stands, best.target, best.trigger.key


def test_a_stream_gives_the_proof_and_the_scores_of_the_set_and_a_shuffled_order_the_same_ranking() -> None:
    order = torch.randperm(300, generator=torch.Generator().manual_seed(7))
    forms: dict[str, tuple[Any, np.ndarray]] = {
        "set": (TRIGGERED, CARRY),
        "stream": (DataLoader(Stream(TRIGGERED), 64), CARRY),
        "shuffled": (DataLoader(TensorDataset(TRIGGERED), 64, sampler=order.tolist()), CARRY[order.numpy()]),
    }
    found = {name: naa_fast.scan(MODEL, SETS["clean"], suspect, repair=False) for name, (suspect, _) in forms.items()}
    areas = {}
    for name, audit in found.items():
        assert audit.verdict.outcome == "fail"
        assert shares(audit) == shares(found["set"])
        assert audit.ranking is not None
        scores, carry = audit.ranking.scores, forms[name][1]
        areas[name] = (scores[carry][:, None] > scores[~carry]).mean()
    assert found["set"].ranking is not None
    assert found["stream"].ranking is not None
    assert np.array_equal(found["stream"].ranking.scores, found["set"].ranking.scores)
    assert [proof.rate for proof in found["stream"].proof] == [proof.rate for proof in found["set"].proof]
    assert abs(areas["shuffled"] - areas["set"]) <= 0.01
    assert areas["set"] > 0.9


SKIPPED: dict[str, dict[str, Any]] = {
    "no ranking": {"ranking": False},
    "no proof": {"proof": False},
    "stop early": {"stop_early": True, "layers": ["see"]},
}


@pytest.mark.parametrize("skipped", SKIPPED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_check_that_was_left_out_is_no_pass_in_any_form(kind: str, skipped: str, folders: Path) -> None:
    audit = scanned(kind, folders, **SKIPPED[skipped])
    require_no_pass(audit)
    missing = {check.name for check in audit.verdict.checks if not check.ran}
    assert missing >= ({"proof"} if skipped == "no proof" else {"ranking", "directions", "proof"})
    if kind in ("array", "generator"):
        audit = scanned(kind, folders, **SKIPPED[skipped], accept_unranked=True)
        assert {"accept_unranked": True, "threshold": None, "top_k": 20}.items() <= audit.options.items()
        accepted = audit.verdict
        assert set(accepted.accepted) == missing
        assert not accepted.gaps
        how = "means only" if "ranking" in missing else "without proof"
        assert accepted.outcome != "pass" or f"A pass, {how}, as was accepted" in accepted.sentence


def test_a_comparison_of_the_failing_scans_own_measurements_is_no_pass(folders: Path) -> None:
    audit = scanned("tensor", folders, proof=False)
    sets = audit.judgement.clean, audit.judgement.suspect
    require_no_pass(naa_fast.compare(*sets))
    accepted = naa_fast.compare(*sets, accept_unranked=True).verdict
    assert accepted.exit_code in (0, 6)
    assert not accepted.gaps


def test_a_model_without_class_scores_is_no_pass_unless_accepted() -> None:
    """A regression, say: its samples are ranked, but nobody knows what a trigger would turn them to."""
    from torch import nn

    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 6), nn.ReLU(), nn.Linear(6, 4), nn.Unflatten(1, (2, 2)))
    plain = naa_fast.scan(model, CLEAN[:200], HELD[:300]).verdict
    assert {check.name for check in plain.checks if not check.ran} == {"predictions", "proof"}
    assert (plain.outcome, plain.exit_code) == ("inconclusive", 3)
    accepted = naa_fast.scan(model, CLEAN[:200], HELD[:300], accept_unranked=True).verdict
    assert (accepted.outcome, accepted.exit_code) == ("pass", 0)
    assert "A pass, without predictions and proof, as was accepted" in accepted.sentence


@pytest.mark.parametrize("every", [True, False])
def test_suspects_of_another_size_are_not_called_searched(every: bool) -> None:
    class Anywhere(Quadrants):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[..., -12:, -12:])

    from torch import nn

    wide = nn.functional.pad(HELD[:20], (0, 0, 2, 0))
    audit = naa_fast.scan(Anywhere(), CLEAN[:200], [wide] if every else [HELD[20:200], wide])
    reasons = {check.name: check.reason for check in audit.verdict.checks if not check.ran}
    share = "20 of the 20" if every else "20 of the 200"
    assert f"{share} highest-ranked samples have another shape than most clean ones" in reasons["proof"]
    assert audit.verdict.exit_code == 3


def test_a_model_that_gives_no_class_to_a_few_suspects_is_no_pass() -> None:
    """Scores that are not finite are no scores, also where no layer shows it."""

    class Silent(Quadrants):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).where(x.mean((1, 2, 3))[:, None] < 1, float("nan"))

    suspect = HELD[:300].clone()
    suspect[5:9] += 1
    verdict = naa_fast.scan(Silent(), CLEAN[:200], suspect).verdict
    assert verdict.exit_code != 0
    assert any("4 suspect samples have class scores that are not finite" in gap for gap in verdict.gaps)


def test_inputs_too_large_to_keep_are_not_called_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naa_fast.rank.retained.INPUT_BYTES", 3 * 144 * 4)
    verdict = naa_fast.scan(Quadrants(), CLEAN[:200], HELD[:300]).verdict
    reasons = {check.name: check.reason for check in verdict.checks if not check.ran}
    assert "inputs are too large to keep" in reasons["proof"]
    assert verdict.exit_code == 3
