"""Stored activations: the same records as the model would have given, from either form of folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from inputs.marker import Marker
from safetensors.torch import save_file
from tolerances import assert_record

from naa_fast import audit
from naa_fast.cli.main import main
from naa_fast.errors import EXIT_PASS, EXIT_UNSAFE, InputError, NaaError, UnsafeInput, UsageError
from naa_fast.inputs.dumps import open_dump
from naa_fast.measurement import Measurement
from naa_fast.records import Folds, LayerRecord, Moments, fold_of
from naa_fast.scan.dump import measure_activations

SAMPLES = 150
RANDOM = torch.Generator().manual_seed(3)
FLAT = torch.randn(SAMPLES, 5, generator=RANDOM) + 2
TOKENS = torch.randn(SAMPLES, 7, 3, generator=RANDOM)
MASK = torch.rand(SAMPLES, 7, generator=RANDOM) < 0.6
MASK[4] = False


def written(folder: Path, form: str, dtype: torch.dtype, masked: bool) -> Path:
    folder.mkdir()
    layers = {"head": FLAT.to(dtype), "block.0": TOKENS.to(dtype)}
    mask = {"mask": MASK} if masked else {}
    if form == "npy":
        for name, x in {**layers, **mask}.items():
            np.save(folder / f"{name}.npy", x.numpy())
    elif form == "a file a layer":
        for name, x in layers.items():
            save_file({"x": x, **mask}, folder / f"{name}.safetensors")
    else:
        for index, rows in enumerate((slice(0, 64), slice(64, 65), slice(65, None))):
            save_file({k: v[rows].contiguous() for k, v in {**layers, **mask}.items()}, folder / f"part-{index}.safetensors")
    return folder


def expected(x: torch.Tensor, masked: bool) -> LayerRecord:
    """Every statistic by its definition; a sample without any observed token is not observed."""
    values = x.double().numpy() if x.ndim == 3 else x.double().numpy()[:, None]
    mask = MASK.numpy() if masked else np.ones((SAMPLES, 7), bool)
    mask = mask if x.ndim == 3 else np.asarray(mask.any(1, keepdims=True))
    seen = mask.any(1)
    means = np.stack(
        [row[kept].mean(0) if kept.any() else np.zeros(row.shape[1]) for row, kept in zip(values, mask, strict=True)]
    )
    tops = np.stack([row[kept].max(0) if kept.any() else np.zeros(row.shape[1]) for row, kept in zip(values, mask, strict=True)])
    fold = fold_of(np.arange(SAMPLES))

    def folds(observed: np.ndarray) -> Folds:
        parts = [Moments.of(observed[seen & (fold == f)]) for f in range(8)]
        return Folds(*(np.stack([getattr(part, name) for part in parts]).astype(float) for name in ("count", "mean", "m2")))

    of_means, of_tops = (Moments.of(observed[seen]) for observed in (means, tops))
    return LayerRecord("", "", Moments.of(values[mask]), of_means, of_tops, folds(means), folds(tops))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("npy", torch.float32),
        ("npy", torch.float16),
        ("a file a layer", torch.bfloat16),
        ("shards", torch.bfloat16),
        ("shards", torch.float32),
    ],
)
def test_stored_activations_give_every_statistic(tmp_path: Path, form: str, dtype: torch.dtype, masked: bool) -> None:
    folder = written(tmp_path / "dump", form, dtype, masked)
    measured = measure_activations(folder, batch_size=40)
    assert measured.samples == SAMPLES
    assert set(measured.layers) == {"head", "block.0"}
    for name, x in (("head", FLAT), ("block.0", TOKENS)):
        assert measured.layers[name].dtype == str(dtype).removeprefix("torch.")
        assert_record(measured.layers[name], expected(x.to(dtype), masked), "float32", f"{form} {name}")


def test_a_dump_is_the_measurement_of_the_model_that_made_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    with torch.no_grad():
        save_file({"0": model[0](TOKENS), "1": model(TOKENS)}, tmp_path / "part.safetensors")
    stored, scanned = measure_activations(tmp_path), audit.measure(model, TOKENS)
    for name, record in scanned.layers.items():
        assert stored.layers[name].layout == record.layout
        for ours, theirs in zip(stored.layers[name].packed(), record.packed(), strict=True):
            assert np.array_equal(ours, theirs)


def test_the_command_line_measures_a_dump_and_compares_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, shift in (("clean", 0.0), ("suspect", 9.0)):
        x = torch.randn(400, 6, generator=torch.Generator().manual_seed(len(name)))
        x[:, 2] += shift
        Path(name).mkdir()
        np.save(Path(name) / "mlp.npy", x.numpy())
        assert main(["measure", "--activations", name, "--out", f"{name}.naa.safetensors"]) == EXIT_PASS
    assert Measurement.load("clean.naa.safetensors").provenance["notes"] == (
        "measured from stored activations: nothing says which model they come from",
    )
    assert main(["compare", "clean.naa.safetensors", "suspect.naa.safetensors", "--out", "report"]) == 1
    top = json.loads(Path("report/report.json").read_text())["top"][0]
    assert (top["layer"], top["neuron"]) == ("mlp", 2)


def test_the_command_line_wants_a_model_with_data_or_activations_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, expected_text in (
        ("--data x.npy", "--model not given"),
        ("", "--model and --data not given"),
        (f"--activations {tmp_path} --model m:f", "--model with --activations"),
        (f"--activations {tmp_path} --resume", "--resume with --activations"),
    ):
        assert main([*f"measure {words}".split(), "--out", str(tmp_path / "o")]) == 4
        assert expected_text in capsys.readouterr().err


def message(folder: Path, kind: type[NaaError] = InputError) -> str:
    with pytest.raises(kind) as caught:
        open_dump(folder)
    return str(caught.value)


def test_folders_that_cannot_be_measured_say_why(tmp_path: Path) -> None:
    assert "no such folder of activations" in message(tmp_path / "gone")
    assert "holds no activations" in message(tmp_path)
    np.save(tmp_path / "mask.npy", MASK.numpy())
    assert "holds a mask and no layer" in message(tmp_path)
    np.save(tmp_path / "a.npy", FLAT.numpy().astype(np.int32))
    assert "layer a of" in message(tmp_path)
    assert "is int32\n  expected float16, bfloat16, float32 or float64" in message(tmp_path)
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 2, 2), np.float32))
    assert "has shape [2, 2, 2, 2]\n  expected [samples, neurons]" in message(tmp_path)
    np.save(tmp_path / "a.npy", TOKENS[:, :5].numpy())
    assert "mask [150, 7], activations [150, 5, 3]" in message(tmp_path)
    np.save(tmp_path / "mask.npy", np.ones((150, 5)))
    assert "mask of" in message(tmp_path)
    assert "expected a mask of bool" in message(tmp_path)
    (tmp_path / "mask.npy").unlink()
    np.save(tmp_path / "b.npy", FLAT[:9].numpy())
    assert "b: 9, a: 150" in message(tmp_path)
    save_file({"x": FLAT}, tmp_path / "c.safetensors")
    assert "holds both .npy and .safetensors" in message(tmp_path)
    (tmp_path / "b.npy").unlink()
    (tmp_path / "c.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no layer matches c\*\n  .* has: a"):
        measure_activations(tmp_path, layers=["c*"])
    np.save(tmp_path / "a.npy", FLAT[:0].numpy())
    assert "has no samples" in message(tmp_path)


def test_shards_that_do_not_belong_together_say_why(tmp_path: Path) -> None:
    save_file({"a": FLAT, "b": FLAT.clone()}, tmp_path / "1.safetensors")
    save_file({"a": FLAT}, tmp_path / "2.safetensors")
    assert "only in one of them: b" in message(tmp_path)
    save_file({"a": FLAT, "b": FLAT[:, :2].contiguous()}, tmp_path / "2.safetensors")
    assert "layer b of" in message(tmp_path)
    assert "changes from shard to shard\n  [150, 5] / [150, 2]" in message(tmp_path)


def test_a_damaged_or_lying_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FLAT.numpy())
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-9])
    assert "announces 3000 bytes of values and has 2991" in message(tmp_path)
    (tmp_path / "a.npy").unlink()
    (tmp_path / "a.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")  # a header of a terabyte
    assert "is damaged, or not a .safetensors file" in message(tmp_path)


def test_a_pickle_and_a_link_out_of_the_folder_are_refused_unread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "dump"
    folder.mkdir()
    held = np.empty(2, dtype=object)
    held[:] = [Marker(tmp_path / "ran")] * 2
    np.save(folder / "a.npy", held, allow_pickle=True)
    assert "array of Python objects" in message(folder, UnsafeInput)
    assert main(["measure", "--activations", str(folder), "--out", str(tmp_path / "o")]) == EXIT_UNSAFE
    assert "refused to read" in capsys.readouterr().err
    (folder / "a.npy").unlink()
    np.save(tmp_path / "secret.npy", FLAT.numpy())
    (folder / "a.npy").symlink_to(tmp_path / "secret.npy")
    assert "it is a link out of the folder" in message(folder, UnsafeInput)
    assert not (tmp_path / "ran").exists()
