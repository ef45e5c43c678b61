"""A folder of images as float32 batches `[samples, channels, height, width]` in [0, 1]."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from naa_fast.errors import InputError
from naa_fast.inputs.batches import Batch

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")  # by content: some of Pillow's other readers start external programs
GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L")
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")


class ImageFolder:
    """All images under a folder, subfolders included, in the order of their paths.

    One channel if every image is grey, else RGB; transparency is dropped, stored rotation ignored, and of several frames the
    first is taken, as training code commonly does. Files that cannot be decoded and links that lead out of the folder are left
    out and counted in `Batch.skipped`. Opening reads every file's header.

    Raises:
        InputError: no image, images of different sizes, or of a kind without a fixed range of values; Pillow is not installed.
    """

    def __init__(self, folder: Path, batch_size: int) -> None:
        require_pillow()
        self.name = str(folder)
        self.batch_size = batch_size
        found, outside = image_files(folder)
        self.files: list[Path] = []
        self.unreadable = outside
        self.grey = True
        self.size = (0, 0)
        for path in found:
            header = image_header(path)
            if header is None:
                self.unreadable += 1
                continue
            mode, size = header
            if self.files and size != self.size:
                raise different_sizes(self.files[0], self.size, path, size)
            self.size = size
            self.grey = self.grey and mode in GREY_MODES
            self.files.append(path)
        self.samples: int | None = len(self.files)
        if not self.files:
            left_out = f"{outside} links lead out of the folder, {self.unreadable - outside} files could not be decoded"
            raise InputError(f"no image in {folder}", left_out, f"expected files ending in {', '.join(SUFFIXES)}")

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        waiting: list[np.ndarray] = []
        skipped = self.unreadable if start == 0 else 0
        for path in self.files[start:stop]:
            pixels = decode(path, self.grey)
            if pixels is None:
                skipped += 1
                continue
            if pixels.shape[1::-1] != self.size:
                raise different_sizes(self.files[0], self.size, path, (pixels.shape[1], pixels.shape[0]))
            # A full batch waits for the next image, so that what is skipped at the very end is still counted.
            if len(waiting) == self.batch_size:
                yield image_batch(waiting, skipped)
                waiting, skipped = [], 0
            waiting.append(pixels)
        if waiting:
            yield image_batch(waiting, skipped)
        elif skipped:
            yield Batch((), {}, 0, None, skipped)


def require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise InputError(
            "a folder of images needs Pillow, which is not installed",
            "pip install 'naa-fast[vision]'",
            "or save the pixels as .npz",
        ) from None


def image_files(folder: Path) -> tuple[list[Path], int]:
    """Image files under `folder` in order, and how many links lead out of it. Linked folders are never entered."""
    root = folder.resolve()
    found: list[Path] = []
    outside = 0
    for place, folders, files in os.walk(folder):
        outside += sum(os.path.islink(os.path.join(place, name)) for name in folders)
        for name in files:
            path = Path(place, name)
            if path.suffix.lower() not in SUFFIXES:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                outside += 1
            elif path.is_file():
                found.append(path)
    return sorted(found), outside


def image_header(path: Path) -> tuple[str, tuple[int, int]] | None:
    """Mode and (width, height), or None if the file is no image of an accepted format."""
    import PIL.Image

    try:
        with PIL.Image.open(path, formats=FORMATS) as image:
            mode, size = image.mode, image.size
    except Exception:  # a hostile file can raise anything from inside a decoder
        return None
    if mode not in GREY_MODES and mode not in COLOUR_MODES:
        raise InputError(
            f"{path} holds pixels of mode {mode}",
            "expected an image whose values have a fixed range: 8 bits a channel, or 16-bit grey",
            "convert it, or save the pixels as .npz in the scale the model expects",
        )
    return mode, size


def decode(path: Path, grey: bool) -> np.ndarray | None:
    """Pixels `[height, width, channels]` float32 in [0, 1], or None if the file cannot be decoded."""
    import PIL.Image

    try:
        with PIL.Image.open(path, formats=FORMATS) as image:
            return pixels_of(image, grey)
    except Exception:
        return None


def pixels_of(image: Image, grey: bool) -> np.ndarray:
    if image.mode.startswith("I;16"):  # Pillow's own conversion to 8 bits clips instead of scaling
        values = np.asarray(image).astype(np.float32)[:, :, None] / np.float32(65535)
        return values if grey else np.repeat(values, 3, axis=2)
    values = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.float32) / np.float32(255)
    return values[:, :, None] if grey else values


def image_batch(images: list[np.ndarray], skipped: int) -> Batch:
    x = torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))
    return Batch((x,), {}, len(images), None, skipped)


def different_sizes(first: Path, size: tuple[int, int], other: Path, other_size: tuple[int, int]) -> InputError:
    return InputError(
        "the images have different sizes",
        f"{first}: {size[0]} x {size[1]}",
        f"{other}: {other_size[0]} x {other_size[1]}",
        "resize them to the size the model expects",
    )
