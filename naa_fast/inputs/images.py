"""A folder or `.tar` of images as float32 batches `[samples, channels, height, width]` in [0, 1]."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import torch

from naa_fast.errors import InputError
from naa_fast.inputs.batches import Batch, Rejected

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")  # by content: some of Pillow's other readers start external programs
REASON_LENGTH = 200
GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L")
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Member:
    """An image inside a tar archive: `size` bytes from `offset` on."""

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} in {self.archive}"


Image = Path | Member


class Images:
    """Images in order, of a folder or an archive.

    One channel if every image is grey, else RGB; transparency is dropped, stored rotation ignored, and of several frames the
    first is taken, as training code commonly does. `unusable` items (index -> why: links that lead elsewhere) and files that
    cannot be decoded are left out and named in `Batch.rejected`. Opening reads every file's header.

    Raises:
        InputError: no image, images of different sizes, or of a kind without a fixed range of values; Pillow is not installed.
    """

    read_ahead = True

    def __init__(self, place: Path, found: Sequence[Image], unusable: dict[int, str], batch_size: int) -> None:
        self.name = str(place)
        self.batch_size = batch_size
        self.place = place
        self.files = list(found)
        self.unusable = dict(unusable)
        outside = len(unusable)
        self.grey = True
        self.size = (0, 0)
        self.first: Image | None = None
        for index, path in enumerate(self.files):
            if index in self.unusable:
                continue
            header = image_header(path)
            if isinstance(header, str):
                self.unusable[index] = header
                continue
            mode, size = header
            if self.first is not None and size != self.size:
                raise different_sizes(self.first, self.size, path, size)
            self.first = self.first or path
            self.size = size
            self.grey = self.grey and mode in GREY_MODES
        self.samples: int | None = len(self.files)
        if self.first is None:
            left_out = f"{outside} links lead out of it, {len(self.unusable) - outside} files could not be decoded"
            raise InputError(f"no image in {place}", left_out, f"expected files ending in {', '.join(SUFFIXES)}")

    def file_of(self, item: int) -> str:
        """Name of an item inside the folder or archive."""
        image = self.files[item]
        return image.name if isinstance(image, Member) else str(image.relative_to(self.place))

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        waiting: list[np.ndarray] = []
        rejected: list[Rejected] = []
        for index, path in enumerate(self.files[start:stop], start):
            pixels = self.unusable.get(index) or decode(path, self.grey)
            if isinstance(pixels, str):
                rejected.append(Rejected(index, self.file_of(index), pixels))
                continue
            if pixels.shape[1::-1] != self.size:
                raise different_sizes(self.first or path, self.size, path, (pixels.shape[1], pixels.shape[0]))
            # A full batch waits for the next image, so that what is rejected at the very end is still told.
            if len(waiting) == self.batch_size:
                yield image_batch(waiting, rejected)
                waiting, rejected = [], []
            waiting.append(pixels)
        if waiting:
            yield image_batch(waiting, rejected)
        elif rejected:
            yield Batch((), {}, 0, None, tuple(rejected))


class ImageFolder(Images):
    """All images under a folder, subfolders included, in the order of their paths."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        require_pillow()
        super().__init__(folder, *image_files(folder), batch_size)


class ImageTar(Images):
    """The images in an uncompressed tar archive, in its own order, read where they lie. Nothing is unpacked to the disk."""

    def __init__(self, path: Path, batch_size: int) -> None:
        require_pillow()
        super().__init__(path, *tar_members(path), batch_size)


def require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise InputError(
            "images need Pillow, which is not installed",
            "pip install 'naa-fast[vision]'",
            "or save the pixels as .npz",
        ) from None


def image_files(folder: Path) -> tuple[list[Path], dict[int, str]]:
    """Image files and links under `folder` in order, and by index why some of them are not read: they lead out of it, or to a
    folder.
    """
    root = folder.resolve()
    found: dict[Path, str] = {}
    for place, folders, files in os.walk(folder):
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                found[Path(place, name)] = "a link to a folder, which is not entered"
        for name in files:
            path = Path(place, name)
            if path.suffix.lower() not in SUFFIXES:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                found[path] = "a link that leads out of the folder"
            elif path.is_file():
                found[path] = ""
    ordered = sorted(found)
    return ordered, {index: found[path] for index, path in enumerate(ordered) if found[path]}


def tar_members(path: Path) -> tuple[list[Member], dict[int, str]]:
    """Images in an archive in its order, and which are only links. A link in an archive may lead anywhere."""
    found: list[Member] = []
    links: dict[int, str] = {}
    try:
        held = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if Path(info.name).suffix.lower() not in SUFFIXES:
                    continue
                if info.issym() or info.islnk():
                    links[len(found)] = "a link inside an archive"
                    found.append(Member(path, info.name, 0, 0))
                elif info.isreg() and not info.issparse():
                    if info.offset_data + info.size > held:
                        raise InputError(f"{path} is cut off", f"inside {info.name}", "copy it again")
                    found.append(Member(path, info.name, info.offset_data, info.size))
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} is damaged, or not an uncompressed .tar", str(error), "copy it again, or unpack it into a folder"
        ) from error
    return found, links


@contextmanager
def opened(image: Image) -> Iterator[Path | IO[bytes]]:
    """What Pillow can read an image from."""
    if isinstance(image, Path):
        yield image
        return
    with image.archive.open("rb") as file:
        file.seek(image.offset)
        yield io.BytesIO(file.read(image.size))


def image_header(path: Image) -> tuple[str, tuple[int, int]] | str:
    """Mode and (width, height), or why the file is no image of an accepted format."""
    import PIL.Image

    try:
        with opened(path) as file, PIL.Image.open(file, formats=FORMATS) as image:
            mode, size = image.mode, image.size
    except Exception as error:  # a hostile file can raise anything from inside a decoder
        return undecodable(path, error)
    if mode not in GREY_MODES and mode not in COLOUR_MODES:
        raise InputError(
            f"{path} holds pixels of mode {mode}",
            "expected an image whose values have a fixed range: 8 bits a channel, or 16-bit grey",
            "convert it, or save the pixels as .npz in the scale the model expects",
        )
    return mode, size


def decode(path: Image, grey: bool) -> np.ndarray | str:
    """Pixels `[height, width, channels]` float32 in [0, 1], or why the file cannot be decoded."""
    import PIL.Image

    try:
        with opened(path) as file, PIL.Image.open(file, formats=FORMATS) as image:
            return pixels_of(image, grey)
    except Exception as error:
        return undecodable(path, error)


def undecodable(path: Image, error: Exception) -> str:
    """Why, in a few words; the decoder's own name the whole path, and may be as long as it likes."""
    words = " ".join(str(error).replace(str(path), path.name).split())
    return f"cannot be decoded: {type(error).__name__}: {words}"[:REASON_LENGTH]


def pixels_of(image: Pixels, grey: bool) -> np.ndarray:
    if image.mode.startswith("I;16"):  # Pillow's own conversion to 8 bits clips instead of scaling
        values = np.asarray(image).astype(np.float32)[:, :, None] / np.float32(65535)
        return values if grey else np.repeat(values, 3, axis=2)
    values = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.float32) / np.float32(255)
    return values[:, :, None] if grey else values


def image_batch(images: list[np.ndarray], rejected: list[Rejected]) -> Batch:
    x = torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))
    return Batch((x,), {}, len(images), None, tuple(rejected))


def different_sizes(first: Image, size: tuple[int, int], other: Image, other_size: tuple[int, int]) -> InputError:
    return InputError(
        "the images have different sizes",
        f"{first}: {size[0]} x {size[1]}",
        f"{other}: {other_size[0]} x {other_size[1]}",
        "resize them to the size the model expects",
    )
