"""Images are suited to the model as a person asks, else as its configuration says, and the report tells which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import naa_fast
from naa_fast.cli.main import main
from naa_fast.errors import UsageError
from naa_fast.inputs.formats import as_mode, pixels_of
from naa_fast.inputs.images import fit_images
from naa_fast.inputs.opening import open_source
from naa_fast.inputs.preprocessing import (
    IMAGENET,
    KNOWN,
    ImageOptions,
    Preprocessing,
    of_hugging_face,
    of_timm,
    preprocessing,
)

image = pytest.importorskip("PIL.Image")
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (40, 10, 14, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(PIXELS):
        image.fromarray(pixels).save(place / f"{i:02d}.png")
    return place


class Means(nn.Module):
    """Gives what it is given, pooled, so that a test sees what a model sees."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        if settings:
            self.pretrained_cfg = settings

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x).flatten(1)


def seen(folder: Path, options: ImageOptions | None, model: nn.Module | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    measured = naa_fast.measure(model or Means(), folder, layers=["pool"], images=options)
    return measured.layers["pool"].positions.mean, measured.provenance["inputs"]


def test_values_are_scaled_and_no_more_where_nothing_is_asked(folder: Path) -> None:
    mean, words = seen(folder, None)
    assert np.allclose(mean, PIXELS.mean((0, 1, 2)) / 255, atol=1e-6)
    assert "RGB, three channels" in words[0]
    assert "scaled to 0 to 1" in words[0]


@pytest.mark.parametrize("given", ["imagenet", ".5,.25", (0.5, 0.25), ".1,.2,.3,.5,.6,.7"])
def test_values_are_normalised_as_asked(folder: Path, given: Any) -> None:
    mean, words = seen(folder, ImageOptions(normalize=given))
    expected = {"imagenet": IMAGENET, ".1,.2,.3,.5,.6,.7": ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))}.get(str(given), ((0.5,), (0.25,)))
    centre, spread = (np.array(values) for values in expected)
    assert np.allclose(mean, (PIXELS.mean((0, 1, 2)) / 255 - centre) / spread, atol=1e-5)
    assert "values as asked for" in words[0]


def test_the_middle_is_cut_out(folder: Path) -> None:
    mean, words = seen(folder, ImageOptions(center_crop=6))
    assert np.allclose(mean, PIXELS[:, 2:8, 4:10].mean((0, 1, 2)) / 255, atol=1e-6)
    assert "cut from the middle (6 x 6)" in words[0]


def test_the_shorter_side_is_resized_and_the_rest_keeps_its_shape() -> None:
    assert Preprocessing(resize=5).size_of((14, 10)) == (7, 5)
    assert Preprocessing(resize=5, crop=(4, 4)).size_of((14, 10)) == (4, 4)


def test_a_mode_is_as_asked(folder: Path) -> None:
    mean, words = seen(folder, ImageOptions(mode="L"))
    assert mean.shape == (1,)
    assert "grey, one channel (as asked for, 40 of 40 converted)" in words[0]


def test_a_timm_models_own_configuration_is_followed_and_said(folder: Path) -> None:
    model = Means(input_size=(3, 8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=1.0, interpolation="bilinear")
    mean, words = seen(folder, None, model)
    assert np.abs(mean).max() < 0.1, "values about their middle"
    assert "as pretrained_cfg of the timm model says" in words[0]
    assert preprocessing(ImageOptions(normalize="none"), model).mean == ()
    assert preprocessing(ImageOptions(), model).size_of((14, 10)) == (8, 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "CMYK"}, "image mode is 'CMYK'"),
        ({"resize": -1}, "resize is -1"),
        ({"center_crop": 1 << 20}, "center crop is"),
        ({"normalize": ".5"}, "normalize is '.5'"),
        ({"normalize": ".5,0"}, "normalize is '.5,0'"),
        ({"normalize": "nan,1"}, "normalize is 'nan,1'"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match="expected") as error:
        ImageOptions(**options)
    assert words in str(error.value)


def test_the_command_line_takes_them(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "model.py"
    source.write_text(
        "import torch\n"
        "class Means(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__(); self.pool = torch.nn.AdaptiveAvgPool2d(1)\n"
        "    def forward(self, x): return self.pool(x).flatten(1)\n"
        "build = Means\n"
    )
    out = tmp_path / "m.naa.safetensors"
    words = ["--image-mode", "L", "--center-crop", "6", "--normalize", ".5,.5", "--layers", "pool"]
    assert main(["measure", "--model", f"{source}:build", "--data", str(folder), "--out", str(out), *words]) == 0
    measured = naa_fast.Measurement.load(out)
    assert measured.layers["pool"].channels == 1
    assert "normalised (mean 0.5; deviation 0.5)" in measured.provenance["inputs"][0]
    assert main(["measure", "--model", f"{source}:build", "--data", str(folder), "--out", str(out), "--normalize", "x"]) == 4
    assert "normalize is 'x'" in capsys.readouterr().err


def test_an_image_that_resizing_would_blow_up_is_quarantined_before_it_is_decoded(tmp_path: Path) -> None:
    image.new("L", (40, 40), 51).save(tmp_path / "a.png")
    image.new("L", (60000, 1)).save(tmp_path / "thin.png")  # a shorter side of 1024 makes 63 billion pixels of it
    options = ImageOptions(resize=1024, center_crop=8)
    source = open_source(tmp_path, 4, images=options)
    fit_images(nn.Identity(), [source], options)
    (batch,) = source.batches()
    assert torch.allclose(batch.arguments[0], torch.tensor(51 / 255))
    assert [(bad.file, bad.reason) for bad in batch.rejected] == [
        ("thin.png", "60000 x 1 would become 61440000 x 1024, more than 67108864 pixels")
    ]
    assert "would become 100000 x 100000" in Preprocessing(crop=(100000, 100000)).too_large((8, 8)), (
        "a model's file may ask for it"
    )


@pytest.mark.parametrize("kind", KNOWN)
def test_the_settings_of_image_processors_give_their_values(kind: str) -> None:
    transformers = pytest.importorskip("transformers", minversion="5")
    processor = getattr(transformers, f"{kind}ImageProcessorPil")()
    plan = of_hugging_face(processor.to_dict(), "its file")
    assert plan is not None
    for shape in ((97, 64, 3), (30, 41, 3)):  # the height that is cut is odd in one of them
        picture = image.fromarray(RANDOM.integers(0, 256, shape, dtype=np.uint8))
        values = plan.normalised(pixels_of(plan.shaped(as_mode(picture, "RGB")[0]), 255.0, "RGB")).transpose(2, 0, 1)
        wanted = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0])
        assert values.shape == wanted.shape
        assert np.allclose(values, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "odd",
    [{"crop_pct": 1e-320}, {"crop_pct": float("nan")}, {"mean": (float("nan"),) * 3}, {"std": (0.5, 0.5, 0.0)}, {"mean": ()}],
)
def test_a_timm_configuration_that_makes_no_sense_is_not_followed(odd: dict[str, Any]) -> None:
    assert of_timm({"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, **odd}, nn.Identity()) is None


@pytest.mark.parametrize("odd", [{"size": float("inf")}, {"resample": float("inf")}, {"image_std": [float("nan")] * 3}])
def test_a_processors_settings_that_make_no_sense_are_not_followed(odd: dict[str, Any]) -> None:
    settings = {"size": 8, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **odd}
    assert of_hugging_face(settings, "its file") is None


def test_a_step_of_the_configuration_that_is_not_done_is_said(folder: Path) -> None:
    model = Means(input_size=(3, 8, 12), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)
    left_out = naa_fast.measure(model, folder, layers=["pool"]).provenance["left_out"]
    assert f"in {folder}: keeping the ratio of the sides, as the model's configuration asks, is not done" in left_out
