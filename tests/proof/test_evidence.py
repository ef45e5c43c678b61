"""Evidence from awkward sets and hostile models: nothing measured is lost, no sample is misnamed, no gap is a pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from proof.test_images import CLEAN, HELD, Quadrants, with_trigger
from torch import Tensor, nn

import naa_fast
from naa_fast.result import Audit

SUSPECT, TRIGGERED = with_trigger(HELD, "patch", 60)


class Moody(Quadrants):
    """The backdoored model, and after some calls something else: a hostile model counts."""

    def __init__(self, mood: str, after: int) -> None:
        super().__init__("patch")
        self.mood, self.after, self.calls, self.largest = mood, after, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.largest = max(self.largest, len(x))
        logits = super().forward(x)
        if self.calls <= self.after:
            return logits
        if self.mood == "raises":
            raise RuntimeError("tired")
        if self.mood == "memory" and len(x) > 7:
            raise torch.OutOfMemoryError("no room")
        return logits * torch.nan if self.mood == "nan" else logits


def calls_before_the_proof(batch: int) -> int:
    """Forwards of both measurements, which the samples are looked at along with."""
    return -(-len(CLEAN) // batch) - (-len(SUSPECT) // batch)


def scanned(model: nn.Module, clean: object = CLEAN, suspect: object = SUSPECT, **options: object) -> Audit:
    return naa_fast.scan(model, clean, suspect, **{"repair": False, **options})  # type: ignore[arg-type]


def test_a_model_that_raises_in_the_proof_keeps_its_ranking_and_is_no_pass() -> None:
    audit = scanned(Moody("raises", calls_before_the_proof(256)))
    assert audit.ranking is not None
    assert np.isfinite(audit.ranking.scores).all()
    assert any("the attempt ended with RuntimeError: tired" in gap for gap in audit.verdict.gaps)
    assert audit.verdict.outcome != "pass"


def test_the_proof_keeps_to_the_batch_that_worked_and_halves_it_when_memory_ends() -> None:
    model = Moody("memory", calls_before_the_proof(20))
    audit = scanned(model, batch_size=20, repair=False)
    assert model.largest == 20
    assert audit.proof[0].stands


def test_nan_scores_are_no_class_and_prove_nothing() -> None:
    for target in (0, 2):
        audit = scanned(Moody("nan", calls_before_the_proof(256)))
        assert not any(proof.stands for proof in audit.proof), target


@pytest.mark.parametrize("first", [2, 0], ids=["the target first", "the target last"])
def test_a_clean_set_sorted_by_class_hides_no_proof(first: int) -> None:
    with torch.no_grad():
        called = Quadrants()(CLEAN).argmax(1)
    order = ((called - first) % 4).argsort(stable=True)
    audit = scanned(Quadrants("patch"), CLEAN[order])
    assert audit.proof[0].stands
    assert audit.proof[0].target == 2


def test_samples_that_the_mask_leaves_out_are_not_ranked(tmp_path: Path) -> None:
    mask = np.ones(len(HELD), bool)
    mask[::20] = False
    np.savez(tmp_path / "s.npz", x=HELD.numpy(), mask=mask)
    np.savez(tmp_path / "c.npz", x=CLEAN.numpy(), mask=np.arange(len(CLEAN)) % 20 > 0)
    audit = scanned(Quadrants(), tmp_path / "c.npz", tmp_path / "s.npz")
    assert audit.ranking is not None
    assert len(audit.ranking.scores) == mask.sum()
    assert np.isfinite(audit.ranking.scores).all()
    assert np.isfinite(audit.ranking.limit)
    assert {sample.sample for sample in audit.ranking.top} <= set(np.flatnonzero(mask).tolist())
    assert audit.verdict.outcome == "pass"


def test_a_file_that_cannot_be_read_shifts_no_name(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="image folders need Pillow (the vision extra)")
    for name, x in (("clean", CLEAN[:80]), ("suspect", HELD[:80])):
        (tmp_path / name).mkdir()
        for i, pixels in enumerate((x[:, 0] * 255).round().byte().numpy()):
            image.fromarray(pixels).save(tmp_path / name / f"{i:03d}.png")
    odd = np.zeros((12, 12), np.uint8)
    odd[::2] = 255
    image.fromarray(odd).save(tmp_path / "suspect" / "070.png")
    (tmp_path / "suspect" / "064.png").write_bytes(b"no image")  # right behind a full batch of 8
    audit = scanned(Quadrants(), tmp_path / "clean", tmp_path / "suspect", batch_size=8, proof=False)
    assert audit.ranking is not None
    first = audit.ranking.top[0]
    assert (first.sample, first.file) == (70, "070.png")


class Branches(nn.Module):
    """A layer that only dark batches reach."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.dark = nn.Linear(144, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.always(x.flatten(1))
        return self.dark(hidden) if x.mean() < 0.275 else hidden[:, :4]


def test_a_layer_that_some_batches_skip_does_not_end_the_ranking() -> None:
    torch.manual_seed(0)
    audit = scanned(Branches(), batch_size=16, proof=False)
    assert audit.ranking is not None
    assert not audit.verdict.gaps or not any("ranking" in gap for gap in audit.verdict.gaps)


def test_batches_of_different_shapes_prove_on_those_of_the_commonest() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Quadrants("patch")

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x[..., -12:, -12:])

    wide = nn.functional.pad(CLEAN[:64], (3, 0, 3, 0))
    audit = scanned(Pooled(), [wide, *CLEAN[64:].split(64)], list(SUSPECT.split(64)))
    assert not any("attempt ended" in gap for gap in audit.verdict.gaps)
    assert audit.proof[0].stands


def test_a_nan_in_one_clean_input_robs_nobody_of_a_proof() -> None:
    clean = CLEAN.clone()
    clean[7, 0, 3, 3] = torch.nan
    assert any(proof.stands for proof in scanned(Quadrants("patch"), clean).proof)


def test_large_integers_are_no_tokens_and_take_no_memory() -> None:
    hashed = torch.randint(0, 1 << 40, (600, 4), generator=torch.Generator().manual_seed(0))

    class Hashed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x % 97).float())

    audit = scanned(Hashed(), hashed[:300], hashed[300:])
    assert audit.ranking is not None
    assert audit.proof == ()


def test_what_is_switched_off_is_said_and_is_a_gap_unless_it_was_accepted() -> None:
    for accepted, outcome in ((False, "inconclusive"), (True, "pass")):
        audit = scanned(Quadrants(), suspect=HELD, ranking=False, accept_unranked=accepted)
        assert any("switched off" in line for line in audit.verdict.not_checked)
        assert any("switched off" in line for line in audit.verdict.gaps) != accepted
        assert audit.verdict.outcome == outcome
        assert audit.report()["ranking_summary"] is None


def test_a_mask_of_the_user_is_left_alone() -> None:
    ids = torch.randint(0, 50, (300, 6), generator=torch.Generator().manual_seed(0))
    ids[:, 5] = -100
    mask = torch.ones(300, 6, dtype=torch.bool)

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 4), nn.Linear(4, 3)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.head(self.embed(input_ids.clamp(min=0)).mean(1))

    batches = [{"input_ids": ids[i : i + 50], "attention_mask": mask[i : i + 50]} for i in range(0, 300, 50)]
    scanned(Bag(), batches, batches[::-1])
    assert mask.all()


def test_samples_that_the_mask_leaves_out_shift_no_carrier(tmp_path: Path) -> None:
    mask = np.ones(len(SUSPECT), bool)
    mask[::3] = False
    np.savez(tmp_path / "s.npz", x=SUSPECT.numpy(), mask=mask)
    audit = scanned(Quadrants("patch"), CLEAN, tmp_path / "s.npz")
    assert audit.ranking is not None
    assert audit.proof[0].stands
    assert audit.ranking.triggered is not None
    assert np.array_equal(audit.ranking.triggered, TRIGGERED[mask])


def test_a_proof_outlives_what_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("naa_fast.proof.triggered.triggered_samples", full)
    monkeypatch.setattr("naa_fast.proof.clusters.cluster_of", full)
    audit = scanned(Quadrants("patch"))
    assert audit.proof[0].stands
    assert audit.verdict.outcome == "fail"
    assert sum("MemoryError: no room" in gap for gap in audit.verdict.gaps) == 2


class Numb(Quadrants):
    """The backdoored model with a branch that nobody uses and that is never finite."""

    def __init__(self) -> None:
        super().__init__("patch")
        self.branch = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        self.branch(torch.cat([x[:, 0, :, 0], torch.full((len(x), 1), torch.nan)], 1))
        return super().forward(x)


def test_a_neuron_that_is_never_finite_hides_no_sample() -> None:
    audit = scanned(Numb())
    assert audit.ranking is not None
    assert np.isfinite(audit.ranking.scores).all()
    assert audit.proof[0].stands
    assert audit.verdict.outcome == "fail"
