"""What counts as a sample: windows, flattened tokens, sequences first, branches, masks; and who may scan at the same time."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from capture.models import hook_count, mlp
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import naa_fast
from naa_fast.capture import hooks
from naa_fast.errors import CaptureError, StateMismatch, UsageError

IMAGES = torch.randn(96, 8, 8, generator=torch.Generator().manual_seed(0))


class Windows(nn.Module):
    """Cuts each 8 x 8 image into 16 windows of 4 pixels and runs a linear layer on all of them as one batch, like Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(1, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.reshape(len(x), 4, 2, 4, 2).transpose(2, 3).reshape(len(x) * 16, 4, 1)
        return self.head(self.qkv(windows).reshape(len(x), 64, 6).mean(1))


def test_windows_of_an_image_are_positions_of_one_sample() -> None:
    torch.manual_seed(0)
    model = Windows().eval()
    measured = naa_fast.measure(model, IMAGES, batch_size=32, layers=["qkv"])
    record = measured.layers["qkv"]
    with torch.no_grad():
        pixels = model.qkv(IMAGES.reshape(96, 64, 1)).double()
    assert record.sample_mean.count.tolist() == [96] * 6
    assert record.positions.count.tolist() == [96 * 64] * 6
    assert np.allclose(record.sample_mean.m2, ((pixels.mean(1) - pixels.mean((0, 1))) ** 2).sum(0), rtol=1e-4)
    assert np.allclose(record.sample_max.mean, pixels.amax(1).mean(0), rtol=1e-5)


def test_a_layer_of_windows_does_not_blind_the_audit() -> None:
    """Its rows once made the clean set look different from itself, and every limit with it."""
    slope = torch.linspace(-20, 20, 8)[:, None]
    torch.manual_seed(0)
    model = Windows()
    x = torch.randn(600, 8, 8, generator=torch.Generator().manual_seed(1)) + slope
    assert naa_fast.scan(model, x[:400], x[400:]).verdict.outcome == "pass"
    assert naa_fast.scan(model, x[:400], x[400:] + 0.3).verdict.outcome != "pass"


def test_rows_of_no_sample_in_particular_are_never_a_pass() -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x.reshape(-1, 8)[1:])

    verdict = naa_fast.scan(Drops(), IMAGES[:48], IMAGES[48:]).verdict
    assert verdict.outcome == "inconclusive"
    assert "act: its rows cannot be told apart by sample" in verdict.sentence


@pytest.mark.parametrize("length", [5, 32])
def test_recurrences_with_the_sequence_first_count_samples(length: int) -> None:
    torch.manual_seed(0)
    rnn = nn.LSTM(4, 6)
    x = torch.randn(length, 32, 4)
    sequence_first = naa_fast.measure(nn.Sequential(rnn), [(x,)], layers=["0"])
    # The batch is the first axis of the input for everybody else: a dict says how many samples there are.
    assert sequence_first.layers["0"].positions.count.tolist() == [length * 32] * 6

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = rnn

        def forward(self, batch: Tensor) -> Tensor:
            return self.rnn(batch.transpose(0, 1))[0].transpose(0, 1)

    measured = naa_fast.measure(Turned(), x.transpose(0, 1), layers=["rnn", ""])
    assert measured.layers["rnn"].sample_mean.count.tolist() == [32] * 6
    assert np.allclose(measured.layers["rnn"].sample_max.mean, measured.layers[""].sample_max.mean, rtol=1e-6)
    assert "samples on axis 1" in measured.layers["rnn"].layout


def test_a_layer_that_fires_in_some_chunks_only_counts_there() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.seldom = nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.always(x)
            return self.seldom(x) if x[0, 0] > 5 else x

    x = torch.randn(96, 4)
    x[32:64, 0] = 9
    measured = naa_fast.measure(Branch(), x, batch_size=32, chunk_size=32)
    assert {name: int(r.sample_mean.count[0]) for name, r in measured.layers.items()} == {"always": 96, "seldom": 32}


def test_a_mask_does_not_make_evidence_of_what_it_hides(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clean, suspect = (rng.standard_normal((640, 12)).astype(np.float32) for _ in range(2))
    np.savez(tmp_path / "s.npz", x=suspect, mask=np.arange(640) < 5)
    verdict = naa_fast.scan(mlp(), clean, tmp_path / "s.npz").verdict
    assert verdict.outcome == "inconclusive"
    assert "only 5 suspect samples" in verdict.sentence


def test_nan_on_both_sides_is_never_a_pass() -> None:
    clean, suspect = torch.randn(640, 4), torch.randn(640, 4)
    clean[3], suspect[40:] = float("nan"), float("nan")
    assert naa_fast.scan(nn.Identity(), clean, suspect, ranking=False).verdict.outcome == "inconclusive"
    looked = naa_fast.scan(nn.Identity(), clean, suspect).verdict
    assert looked.outcome == "warn", "600 suspect samples of NaN against one clean one are a finding"


def test_one_model_is_scanned_by_one_scan_at_a_time() -> None:
    model = mlp()
    x = torch.randn(64, 12)
    refused: list[str] = []

    def meanwhile(label: str, done: int, total: int | None) -> None:
        def other() -> None:
            with pytest.raises(CaptureError, match="this model is being scanned already") as caught:
                naa_fast.measure(model, x)
            refused.append(str(caught.value))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    naa_fast.measure(model, x, batch_size=64, progress=meanwhile)
    assert len(refused) == 1
    naa_fast.measure(model, x)
    assert hook_count(model) == 0


def test_an_order_that_changes_is_refused_where_order_matters() -> None:
    loader = DataLoader(TensorDataset(torch.randn(64, 12)), batch_size=16, shuffle=True)
    assert naa_fast.measure(mlp(), loader).samples == 64
    with pytest.raises(UsageError, match="the loader shuffles"):
        naa_fast.measure(mlp(), loader, chunk_size=16)


def test_other_data_of_the_same_shape_does_not_resume(tmp_path: Path) -> None:
    model = mlp()
    naa_fast.measure(model, torch.randn(64, 12), chunk_size=16, checkpoint=tmp_path)
    with pytest.raises(StateMismatch, match=r"cannot resume from .*: content of the data differs"):
        naa_fast.measure(model, torch.randn(64, 12), chunk_size=16, checkpoint=tmp_path, resume=True)
    loaders = [DataLoader(TensorDataset(torch.randn(64, 12)), batch_size=16) for _ in range(2)]
    naa_fast.measure(model, loaders[0], chunk_size=16, checkpoint=tmp_path / "loader")
    with pytest.raises(StateMismatch, match="cannot resume: the data differs"):  # the last chunk is read again
        naa_fast.measure(model, loaders[1], chunk_size=16, checkpoint=tmp_path / "loader", resume=True)


def test_a_set_that_was_changed_anywhere_does_not_resume(tmp_path: Path) -> None:
    """A finished checkpoint would give yesterday's verdict on today's samples."""
    x = torch.randn(64, 12)
    np.save(tmp_path / "x.npy", x.numpy())
    naa_fast.measure(mlp(), tmp_path / "x.npy", chunk_size=16, checkpoint=tmp_path / "kept")
    x[3] += 1  # not in the last chunk, which is read again
    np.save(tmp_path / "x.npy", x.numpy())
    with pytest.raises(StateMismatch, match=r"cannot resume from .*: content of the data differs"):
        naa_fast.measure(mlp(), tmp_path / "x.npy", chunk_size=16, checkpoint=tmp_path / "kept", resume=True)


def test_images_that_are_read_otherwise_do_not_resume(tmp_path: Path) -> None:
    from PIL import Image

    from naa_fast.inputs.preprocessing import ImageOptions

    (tmp_path / "x").mkdir()
    for index in range(20):
        Image.fromarray(np.full((8, 8), 10 * index, np.uint8)).save(tmp_path / f"x/{index:02}.png")
    convolution, options = nn.Conv2d(1, 2, 3), {"chunk_size": 8, "checkpoint": tmp_path / "kept"}
    naa_fast.measure(convolution, tmp_path / "x", **options)  # type: ignore[arg-type]
    with pytest.raises(StateMismatch, match=r"cannot resume from .*: reading of the data differs\n  reading of the data: L"):
        naa_fast.measure(convolution, tmp_path / "x", images=ImageOptions(resize=4), resume=True, **options)  # type: ignore[arg-type]


def test_files_of_others_in_the_checkpoint_folder_are_left_alone(tmp_path: Path) -> None:
    for name in ("checkpoint-a-copy.naa", "notes.txt"):
        (tmp_path / name).write_text("mine")
    x = torch.randn(64, 12)
    model = mlp()
    first = naa_fast.measure(model, x, chunk_size=16, checkpoint=tmp_path)
    assert naa_fast.measure(model, x, chunk_size=16, checkpoint=tmp_path, resume=True).to_bytes() == first.to_bytes()
    assert (tmp_path / "checkpoint-a-copy.naa").read_text() == "mine"


def test_mixed_precision_models_get_their_inputs_as_they_come() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.body = nn.Parameter(torch.ones(1, dtype=torch.float16)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    measured = naa_fast.measure(Scaled(), torch.full((40, 4), 1e5))
    assert measured.layers["body"].positions.nonfinite.tolist() == [0, 0, 0]


def test_a_model_is_not_taken_for_one_that_is_gone_whose_number_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    model, gone = mlp(), weakref.ref(nn.Identity())
    monkeypatch.setitem(hooks._scanned, id(model), gone)
    assert naa_fast.measure(model, torch.randn(64, 12)).samples == 64
