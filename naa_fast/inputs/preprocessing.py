"""What is done to an image before the model sees it: asked for by a person, taken from the model's own configuration, or nothing.

Values are scaled to [0, 1] first. What is done is told in the report, with where it comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import floor, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from naa_fast.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels
    from torch import nn

MODES = ("L", "RGB")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By the numbers Pillow and transformers give them."""
LARGEST = 1 << 13
MOST_PIXELS = LARGEST * LARGEST
"""Beyond this a resized image is refused: Pillow's guard sees the file alone, and 60,000 x 1 grows with its longer side."""
HF = "preprocessor_config.json"
UNREAD = (
    "do_pad",
    "do_flip_channel_order",
    "do_thumbnail",
    "do_align_long_axis",
    "do_image_splitting",
    "rescale_offset",
    "do_trim",
)
"""What image processors of transformers may also do, and is not done here."""
KNOWN = (
    *("ViT", "DeiT", "Beit", "CLIP", "Siglip", "ConvNext", "Bit", "MobileNetV1", "MobileNetV2", "PoolFormer", "Pvt", "Segformer"),
    *("DPT", "Flava"),
)
"""Image processors of transformers whose settings are all read here: the same values, which a test holds them to."""

Floats = tuple[float, ...]


MOST_WORKERS = 256


@dataclass(frozen=True)
class ImageOptions:
    """What a person asks for; None leaves a step to the model's own configuration, or out.

    `mode`: "L" or "RGB". `resize`: the shorter side in pixels, with bilinear filtering; 0: as it is. `center_crop`: the side of a
    square cut from the middle; 0: no cut. `normalize`: "imagenet", "none", or mean and standard deviation, "MEAN,STD", each one
    number or three; or a pair of them. `workers`: processes that decode them beside the model; 0: a thread of this one.
    """

    mode: str | None = None
    resize: int | None = None
    center_crop: int | None = None
    normalize: str | tuple[float | Floats, float | Floats] | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in MODES:
            raise UsageError(f"image mode is {self.mode!r}", f"expected one of {', '.join(MODES)}")
        for name, value in (("resize", self.resize), ("center crop", self.center_crop)):
            if value is not None and not (type(value) is int and 0 <= value <= LARGEST):
                raise UsageError(f"{name} is {value!r}", f"expected a number of pixels up to {LARGEST}, or 0 to leave it out")
        if not (type(self.workers) is int and 0 <= self.workers <= MOST_WORKERS):
            raise UsageError(
                f"workers is {self.workers!r}", f"expected a number of processes up to {MOST_WORKERS}, or 0 for none"
            )
        self.statistics()

    @property
    def asked(self) -> bool:
        """Whether anything is asked for that changes what is read."""
        return self != ImageOptions(workers=self.workers)

    def statistics(self) -> tuple[Floats, Floats] | None:
        """Mean and standard deviation, of one channel or three; empty for none, None if it is left to the model."""
        given = self.normalize
        if given is None or given == "none":
            return None if given is None else ((), ())
        if given == "imagenet":
            return IMAGENET
        try:
            if isinstance(given, str):
                numbers = [float(word) for word in given.split(",")]
                mean, std = tuple(numbers[: len(numbers) // 2]), tuple(numbers[len(numbers) // 2 :])
            else:
                mean, std = (tuple(map(float, part)) if isinstance(part, tuple | list) else (float(part),) for part in given)
        except (TypeError, ValueError):
            mean, std = (), ()
        if not are_statistics(mean, std):
            raise UsageError(
                f"normalize is {given!r}", "expected imagenet, none, MEAN,STD or three means and three deviations, as in .5,.5"
            )
        return mean, std


@dataclass(frozen=True)
class Preprocessing:
    """What is done, in this order: `resize` (the shorter side, or (height, width)), `crop` (height, width) from the middle, and
    `(x - mean) / std` of values in [0, 1]. `words`: where it comes from; `undone`: what the model's configuration asks for and
    is not done. `down`: half pixels beside the cut are rounded down, as transformers does, and not to even, as torchvision does.
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    resample: str = "bilinear"
    mean: Floats = ()
    std: Floats = ()
    words: str = ""
    undone: tuple[str, ...] = ()
    down: bool = False

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of an image after `resize`."""
        if self.resize is None:
            return size
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        width, height = size
        short, long = min(size), max(size)
        other = max(1, int(self.resize * long / short))
        return (self.resize, other) if width <= height else (other, self.resize)

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of an image after all of it."""
        return self.resized(size) if self.crop is None else (self.crop[1], self.crop[0])

    def too_large(self, size: tuple[int, int]) -> str:
        """Why an image of (width, height) `size` is not resized or cut; empty where it can be. Nothing is decoded for it."""
        for after in {self.resized(size), self.size_of(size)} - {size}:
            if after[0] * after[1] > MOST_PIXELS:
                return f"{size[0]} x {size[1]} would become {after[0]} x {after[1]}, more than {MOST_PIXELS} pixels"
        return ""

    def shaped(self, image: Pixels) -> Pixels:
        """The image resized and cut; what lies beyond its edge is black."""
        import PIL.Image

        size = self.resized(image.size)
        if size != image.size:
            image = image.resize(size, PIL.Image.Resampling(RESAMPLING.index(self.resample)))
        if self.crop is None or self.crop == size[::-1]:
            return image
        rounded: Callable[[float], int] = floor if self.down else round
        left, top = rounded((size[0] - self.crop[1]) / 2), rounded((size[1] - self.crop[0]) / 2)
        return image.crop((left, top, left + self.crop[1], top + self.crop[0]))

    def normalised(self, values: np.ndarray) -> np.ndarray:
        """Values `[height, width, channels]` in [0, 1] as the model wants them, float32."""
        if not self.mean:
            return values
        mean, std = self.mean, self.std
        if values.shape[2] == 1 and len(mean) > 1:
            mean, std = (float(np.mean(mean)),), (float(np.mean(std)),)
        centred: np.ndarray = (values - np.array(mean, np.float32)) / np.array(std, np.float32)
        return centred

    def steps(self) -> list[str]:
        """What is done, in words."""
        resize = f"{self.resize[1]} x {self.resize[0]}" if isinstance(self.resize, tuple) else f"shorter side {self.resize}"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return [
            *([f"resized ({resize}, {self.resample})"] if self.resize is not None else []),
            *([f"cut from the middle ({self.crop[1]} x {self.crop[0]})"] if self.crop is not None else []),
            f"normalised (mean {mean}; deviation {std})" if self.mean else "scaled to 0 to 1",
        ]


def preprocessing(options: ImageOptions, model: nn.Module) -> Preprocessing:
    """What to do: each step as asked for, else as the model's configuration says, else not at all."""
    plan = own_preprocessing(model) or Preprocessing()
    words = [plan.words] if plan.words else []
    if options.resize is not None or options.center_crop is not None:  # together they say the size
        crop = (options.center_crop, options.center_crop) if options.center_crop else None
        plan = replace(plan, resize=options.resize or None, crop=crop, resample="bilinear", down=False)
        words.append("size as asked for")
    statistics = options.statistics()
    if statistics is not None:
        plan = replace(plan, mean=statistics[0], std=statistics[1])
        words.append("values as asked for")
    return replace(plan, words="; ".join(words))


def own_preprocessing(model: nn.Module) -> Preprocessing | None:
    """What a timm or Hugging Face model says of itself; None where it says nothing that can be read."""
    settings = next((config for key in ("pretrained_cfg", "default_cfg") if is_timm(config := getattr(model, key, None))), None)
    if settings is not None:
        return of_timm(settings, model)
    folder = Path(str(getattr(getattr(model, "config", None), "_name_or_path", None) or ""))
    for name, key in ((HF, None), ("processor_config.json", "image_processor")):
        try:
            settings = json.loads((folder / name).read_text(encoding="utf-8")) if folder.name else None
            settings = settings if key is None or settings is None else settings[key]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(settings, dict):
            return of_hugging_face(settings, str(folder / name))
    return None


def is_timm(settings: Any) -> bool:
    return isinstance(settings, Mapping) and "input_size" in settings and "mean" in settings


def of_timm(settings: Mapping[str, Any], model: nn.Module) -> Preprocessing | None:
    """As timm's own evaluation does: the shorter side to size / crop_pct, and the middle of that."""
    try:
        height, width = (int(n) for n in settings["input_size"][1:])
        fixed = getattr(getattr(model, "patch_embed", None), "img_size", None)  # a model may be built for another size
        if fixed is not None:
            height, width = (int(fixed), int(fixed)) if isinstance(fixed, int) else (int(fixed[0]), int(fixed[1]))
        share, filtering = float(settings.get("crop_pct") or 0.875), str(settings.get("interpolation") or "bicubic")
        mean, std = tuple(map(float, settings["mean"])), tuple(map(float, settings["std"]))
        larger = floor(height / share), floor(width / share)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None
    if not are_statistics(mean, std):
        return None
    mode = str(settings.get("crop_mode") or "center")
    whole = mode == "squash" or height != width
    undone = () if mode in ("center", "squash") else (f"crop_mode {mode}",)
    if mode == "center" and whole:
        undone = ("keeping the ratio of the sides",)
    resample = filtering if filtering in RESAMPLING else "bicubic"
    words = "as pretrained_cfg of the timm model says"
    return Preprocessing(larger if whole else larger[0], (height, width), resample, mean, std, words, undone)


def of_hugging_face(settings: Mapping[str, Any], where: str) -> Preprocessing | None:
    """As the image processor does that these settings are of."""
    undone = [f"{key} {settings[key]!r}" for key in UNREAD if settings.get(key)]
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    if kind and re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind) not in KNOWN:
        undone.append(f"what {kind} does beyond that")
    none: Floats = ()
    try:
        resize, crop = sizes_of(settings)
        mean, std = none, none
        if settings.get("do_normalize", "image_mean" in settings):
            scale = 255 * float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 255.0
            mean = tuple(float(value) / scale for value in numbers(settings["image_mean"]))
            std = tuple(float(value) / scale for value in numbers(settings["image_std"]))
        elif not settings.get("do_rescale", True):
            undone.append("values from 0 to 255 (do_rescale false)")
        if mean != none and not are_statistics(mean, std):
            return None
        filtering = settings.get("resample")
        resample = RESAMPLING[2 if filtering is None else int(filtering)]
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError):
        return None
    return Preprocessing(resize, crop, resample, mean, std, f"as {where} says", tuple(undone), down=True)


def sizes_of(settings: Mapping[str, Any]) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """What an image processor resizes to, and cuts. Raises ValueError for a form that is not known."""
    size, cut = settings.get("size"), settings.get("crop_size")
    cuts = bool(settings.get("do_center_crop"))
    crop = side_pair(cut) if cuts and cut is not None else None
    if not settings.get("do_resize", size is not None) or size is None:
        return None, crop
    if isinstance(size, Mapping) and "shortest_edge" in size:
        short = int(size["shortest_edge"])
        if settings.get("crop_pct") is not None:  # ConvNeXt's: small ones are cut, large ones are not
            return (int(short / float(settings["crop_pct"])), (short, short)) if short < 384 else ((short, short), None)
        return short, crop
    if isinstance(size, int) and cuts:
        return size, crop
    return side_pair(size), crop


def side_pair(size: Any) -> tuple[int, int]:
    """(height, width) of a size in any form; a number is a square."""
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[1])
    return int(size), int(size)


def are_statistics(mean: Floats, std: Floats) -> bool:
    """Whether these can be the means and standard deviations of one channel or three."""
    return len(mean) == len(std) and len(mean) in (1, 3) and all(map(isfinite, mean + std)) and min(std) > 0


def numbers(value: Any) -> Floats:
    """One number or several, as several."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)
