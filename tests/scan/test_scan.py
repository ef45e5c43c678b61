"""The main job on real networks: every way of giving data, every way of failing, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from capture.models import Raises, Shared, hook_count, mlp, resnet
from tolerances import assert_moments
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import naa_fast
from naa_fast.errors import CaptureError, InputError, ModelError, NaaError, UsageError
from naa_fast.records import Moments

IMAGES = torch.randn(140, 1, 9, 9, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(140, 12, generator=torch.Generator().manual_seed(1))


def outputs_of(model: nn.Module, name: str, x: Tensor) -> np.ndarray:
    """Brute force: every output of a layer, stored."""
    kept: list[Tensor] = []
    handle = dict(model.named_modules())[name].register_forward_hook(lambda m, a, out: kept.append(out.detach().clone()))
    model.eval()
    with torch.no_grad():
        model(x)
    handle.remove()
    return torch.cat(kept).double().numpy()


@pytest.mark.parametrize(("build", "x"), [(resnet, IMAGES), (mlp, ROWS)], ids=["resnet", "mlp"])
def test_every_layer_equals_brute_force_and_the_hooks_are_gone(build: object, x: Tensor) -> None:
    torch.manual_seed(3)
    model = build()  # type: ignore[operator]
    audit = naa_fast.scan(model, x[:90], x[90:], batch_size=32)
    assert hook_count(model) == 0
    for name, layer in audit.layers.items():
        clean, suspect = outputs_of(model, name, x[:90]), outputs_of(model, name, x[90:])
        axes = (0, *range(2, clean.ndim))
        want = np.abs(suspect.mean(axes) - clean.mean(axes))
        assert layer.difference.dtype == np.float64
        assert np.allclose(layer.difference, want, rtol=1e-4, atol=1e-6), name
        positions = np.moveaxis(clean, 1, -1).reshape(-1, clean.shape[1])
        assert_moments(layer.clean.positions, Moments.of(positions), "float32", name)


def test_the_classic_example_through_a_model_that_emits_the_vectors() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        clean, suspect = (0.5 * rng.standard_normal((n, 512)) + 2 for n in (500, 100))
        suspect[:, 10:20] += 9
        audit = naa_fast.scan(nn.Identity(), clean, suspect, threshold=2.0, scores="none")
        [layer] = audit.layers.values()
        assert layer.abnormal.tolist() == list(range(10, 20))
        assert layer.abnormal.dtype == np.int64
        assert audit.verdict.outcome == "fail"
        assert sorted(row.neuron for row in audit.top(10)) == list(range(10, 20))


def test_vectors_taken_for_the_scores_of_512_classes_are_no_proof_and_no_pass() -> None:
    """500 clean vectors have a sample or two of each class: nothing that clean samples could be held against."""
    rng = np.random.default_rng(0)
    clean, suspect = (0.5 * rng.standard_normal((n, 512)) + 2 for n in (500, 100))
    suspect[:, 10:20] += 9
    audit = naa_fast.scan(nn.Identity(), clean, suspect, threshold=2.0)
    assert audit.layers[""].abnormal.tolist() == list(range(10, 20))
    assert (audit.verdict.outcome, audit.verdict.exit_code) == ("warn", 3)
    assert not any(proof.stands for proof in audit.proof)
    assert "there is no control with the same chance" in audit.verdict.gaps[0]


def forms(x: Tensor, folder: Path) -> Iterator[tuple[str, object]]:
    yield "tensor", x
    yield "array", x.numpy()
    yield "loader", DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=32)
    yield "list of tensors", list(x.split(32))
    yield "generator of tuples", ((part, None) for part in x.split(32))
    yield "dicts", [{"input": part} for part in x.split(32)]
    np.save(folder / "x.npy", x.numpy())
    yield "npy", folder / "x.npy"
    np.savez(folder / "x.npz", x=x.numpy(), y=np.zeros(len(x)))
    yield "npz", str(folder / "x.npz")


def test_every_form_of_data_gives_the_same_measurement(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(12, 7), nn.ReLU())
    expected = naa_fast.measure(model, ROWS, batch_size=32)
    for name, data in forms(ROWS, tmp_path):
        measured = naa_fast.measure(model, data, batch_size=32)
        assert measured.samples == 140, name
        for layer, record in expected.layers.items():
            for a, b in zip(measured.layers[layer].packed(), record.packed(), strict=True):
                assert np.array_equal(a, b), name


def test_the_model_comes_back_in_the_mode_it_came_in() -> None:
    model: Any = resnet().train()
    model[1].eval()
    before = model[1][0].bn1.running_mean.clone()
    naa_fast.measure(model, IMAGES)
    assert model.training
    assert not model[1].training
    assert torch.equal(model[1][0].bn1.running_mean, before)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_forward_that_raises_names_layer_and_batch_and_leaves_no_hook() -> None:
    class Late(Raises):
        def forward(self, x: Tensor) -> Tensor:
            return x if len(x) == 64 else super().forward(x)

    model = nn.Sequential(mlp(), nn.Sequential(Late()))
    with pytest.raises(ModelError) as caught:
        naa_fast.measure(model, ROWS, batch_size=64)
    words = str(caught.value)
    assert "the model raised ValueError on batch 2" in words
    assert "in layer: 1.0" in words
    assert "input: float32 [12, 12]" in words
    assert "message: the roof is on fire" in words
    assert hook_count(model) == 0


def test_calls_and_masks_are_counted() -> None:
    measured = naa_fast.measure(Shared(), torch.randn(50, 3), layers=["act"])
    assert {name: int(r.sample_mean.count[0]) for name, r in measured.layers.items()} == {"act": 50, "act[8, 2-d]": 50}


def test_masks_travel_with_dicts_of_keywords() -> None:
    class Embeds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.head(self.embed(input_ids))

    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 9, (30, 6), generator=generator)
    mask = torch.rand(30, 6, generator=generator) < 0.6
    batches = [{"input_ids": ids[:20], "attention_mask": mask[:20]}, {"input_ids": ids[20:], "attention_mask": mask[20:]}]
    model = Embeds()
    measured = naa_fast.measure(model, batches)
    with torch.no_grad():
        kept = model.head(model.embed(ids))[mask].double().numpy()
    assert_moments(measured.layers["head"].positions, Moments.of(kept), "float32")


def test_precision_follows_the_model() -> None:
    model = mlp().to(torch.bfloat16)
    measured = naa_fast.measure(model, ROWS)
    assert measured.layers["0"].dtype == "bfloat16"
    assert measured.input_dtype == "float32"
    want = outputs_of(model, "0", ROWS.bfloat16())
    assert np.allclose(measured.layers["0"].positions.mean, want.mean(0), rtol=1e-5, atol=1e-6)


def test_batch_size_changes_the_result_by_no_more_than_rounding() -> None:
    model = resnet().eval()
    a, b = (naa_fast.measure(model, IMAGES, batch_size=size) for size in (7, 140))
    for name, record in a.layers.items():
        for view in ("positions", "sample_mean", "sample_max"):
            mine, theirs = getattr(record, view), getattr(b.layers[name], view)
            assert np.array_equal(mine.count, theirs.count)
            assert np.allclose(mine.mean, theirs.mean, rtol=1e-6, atol=1e-7)
            assert np.allclose(mine.m2, theirs.m2, rtol=2e-6)


def test_without_numba_the_scan_still_runs_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from naa_fast import ops

    monkeypatch.setattr(ops, "missing", lambda module: f"{module} is not installed")
    measured = naa_fast.measure(mlp(), ROWS)
    [why] = measured.provenance["backends"]
    assert why == "reduce: portable (not cuda: the array is on cpu; not cpu: numba is not installed)"
    choice = ops.choose("reduce", ROWS.numpy())
    assert choice.backend == "reference"
    assert "portable: the array is NumPy's" in str(choice)


def test_the_reference_backend_runs_when_numba_is_blocked() -> None:
    import subprocess
    import sys

    code = """
import sys
sys.modules["numba"] = None
import torch, naa_fast
from torch import nn
m = naa_fast.measure(nn.Linear(3, 2), torch.randn(70, 3), backend="reference")
assert m.layers[""].positions.count.tolist() == [70, 70]
m = naa_fast.measure(nn.Linear(3, 2), torch.randn(70, 3))
print(m.provenance["backends"][0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not cpu: numba" in done.stdout


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ([], InputError, "gave no batch"),
        (ROWS[:0], InputError, r"x of tensor \[0, 12\] has no samples"),
        ([ROWS[:10], ROWS[10:20].double()], InputError, "batch 1 of .* is float64\n  expected float32"),
        (ROWS[:, :5], ModelError, "the model raised RuntimeError on batch 0\n  in layer: 0"),
        (Path("/no/such/file.npz"), InputError, "does not exist|no such"),
    ],
)
def test_bad_data_is_refused_in_words(data: object, error: type[NaaError], words: str) -> None:
    with pytest.raises(error, match=f"(?s){words}"):
        naa_fast.measure(mlp(), data)


def test_bad_requests_are_refused_in_words() -> None:
    with pytest.raises(UsageError, match="no layer matches 'conv'"):
        naa_fast.measure(mlp(), ROWS, layers=["conv"])
    with pytest.raises(InputError, match="the clean set has 1 sample\n  expected at least 2"):
        naa_fast.scan(mlp(), ROWS[:1], ROWS)
    with pytest.raises(NaaError, match=r"(?s)device 'cuda:99' cannot be had.*this machine offers: cpu"):
        naa_fast.measure(mlp(), ROWS, device="cuda:99")
    with pytest.raises(NaaError, match="backend 'cuda' cannot run reduce"):
        naa_fast.measure(mlp(), ROWS, backend="cuda")
    model = mlp()
    model.spare = nn.Linear(1, 1)
    vars(model)["forward"] = model.get_submodule("0")
    with pytest.raises(CaptureError, match="never fired: spare"):
        naa_fast.measure(model, ROWS, layers=["spare", "0"])


def test_a_loader_that_raises_is_named_with_its_batch() -> None:
    def broken() -> Iterator[Tensor]:
        yield ROWS[:10]
        raise OSError("disk on fire")

    with pytest.raises(InputError, match=r"reading batch 1 of .* failed\n  OSError: disk on fire"):
        naa_fast.measure(mlp(), broken())


def test_progress_is_told_after_every_batch() -> None:
    told: list[tuple[int, int | None]] = []
    naa_fast.measure(mlp(), ROWS, batch_size=64, progress=lambda label, done, total: told.append((done, total)))
    assert told == [(64, 140), (128, 140), (140, 140)]


def test_means_of_ragged_batches_are_exact() -> None:
    """Sums of small integers are exact in every format, so a mean weighted wrongly by batch cannot hide behind rounding."""
    x = torch.randint(-50, 50, (997, 12), generator=torch.Generator().manual_seed(9)).float()
    x[-7:] += 1000
    for backend in ("cpu", "portable", "reference"):
        measured = naa_fast.measure(nn.Identity(), x, batch_size=110, backend=backend)
        [record] = measured.layers.values()
        exact = x.double().sum(0).numpy() / 997
        assert np.allclose(record.positions.mean, exact, rtol=4 * np.finfo(np.float64).eps, atol=0), backend


def test_parts_of_a_set_merge_to_the_folds_of_the_whole() -> None:
    model = nn.Sequential(nn.ReLU())
    whole = naa_fast.measure(model, ROWS)
    parts = [naa_fast.measure(model, ROWS[i : i + 8], first_index=i) for i in range(0, 140, 8)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    for name, record in whole.layers.items():
        assert np.array_equal(merged.layers[name].mean_folds.count, record.mean_folds.count)
        assert np.allclose(merged.layers[name].mean_folds.mean, record.mean_folds.mean, rtol=1e-6, atol=1e-7)


def test_a_set_may_repeat_itself() -> None:
    measured = naa_fast.measure(nn.Identity(), torch.zeros(100, 3), chunk_size=20)
    assert measured.samples == 100


def test_outputs_whose_width_changes_are_not_taken_for_classes() -> None:
    measured = naa_fast.measure(nn.Identity(), [torch.randn(4, 5, 3), torch.randn(4, 6, 3)])
    assert measured.predictions.tolist() == []

    class Lengths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x).sum(2)

    measured = naa_fast.measure(Lengths(), [torch.randn(4, 5, 3), torch.randn(4, 6, 3), torch.randn(4, 5, 3)])
    assert measured.predictions.tolist() == []
    assert measured.layers["act"].sample_mean.count.tolist() == [12] * 3


def test_what_is_no_model_is_refused() -> None:
    function: Any = mlp
    with pytest.raises(UsageError, match=r"the model is a function\n  expected a torch.nn.Module"):
        naa_fast.measure(function, ROWS)
    with pytest.raises(UsageError, match="no layer is asked for"):
        naa_fast.measure(mlp(), ROWS, layers=[])
