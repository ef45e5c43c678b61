"""Which files are images, by their names and by what they hold, and their pixels. Decoded inside this process alone."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from naa_fast.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels

READ = (
    *("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "PPM", "AVIF", "HEIF", "JXL", "JPEG2000", "MPO"),
    *("QOI", "PSD", "DDS", "ICO", "ICNS", "SGI", "SUN", "XBM", "XPM", "PCX", "TGA"),
)
"""Formats that are read, by content, whatever the name; those that any file may look like come last. Pillow's other readers start
external programs (EPS, WMF), hold no picture of their own (HDF5, GRIB, BUFR) or values without a range (FITS)."""
NO_PICTURES = ("PDF", "MPEG", "HDF5", "GRIB", "BUFR")
"""Formats whose endings Pillow knows and that are no pictures."""
PLUGINS = ("pillow_heif", "pillow_avif", "pillow_jxl")
"""Packages that teach Pillow formats, where they are installed."""
CAMERA = (
    ".heic",
    ".heif",
    ".hif",
    ".avif",
    ".jxl",
    ".svg",
    ".exr",
    ".hdr",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".raw",
    ".psd",
)
"""Endings of pictures whether Pillow knows them or not."""
HEAD = 64
SURE = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"8BPS", b"qoif", b"DDS ", b"\xff\x0a")
"""How files of formats begin that nothing else begins with."""
PERHAPS = (b"BM", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"\0\0\1\0", b"\0\0\0\x0cj", b"\xff\x4f\xff\x51", b"icns")
BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
APPLE_DOUBLE = b"\0\x05\x16\x07"
"""What macOS puts beside a file as ._NAME."""
REASON_LENGTH = 200
SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")
GREY_MODES = ("1", "L", "LA", "La", *SIXTEEN)
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")
OPAQUE = ("1", "L", "RGB", "RGBX", "P", "CMYK", "YCbCr", "HSV", "LAB", *SIXTEEN)
NO_RANGE = "no fixed range of values"


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


@dataclass(frozen=True)
class Header:
    """What an image says of itself; `size` is (width, height)."""

    grey: bool
    size: tuple[int, int]
    animated: bool
    opaque: bool


def require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise InputError(
            "images need Pillow, which is not installed",
            "pip install 'naa-fast[vision]'",
            "or save the pixels as .npz",
        ) from None


@cache
def readable() -> tuple[str, ...]:
    """The formats of READ that this Pillow knows, with the plugins that are installed."""
    import PIL.Image

    PIL.Image.init()
    for name in PLUGINS:
        if importlib.util.find_spec(name) is not None:
            try:
                plugin = importlib.import_module(name)
                getattr(plugin, "register_heif_opener", bool)()
            except Exception:  # of another version, or built for another Pillow: its images cannot be decoded then, aloud
                continue
    return tuple(name for name in READ if name in PIL.Image.OPEN)


@cache
def endings() -> frozenset[str]:
    """Endings of the names of pictures, in lower case: those of every format Pillow knows, and of cameras."""
    import PIL.Image

    readable()
    known = {ending for ending, name in PIL.Image.registered_extensions().items() if name not in NO_PICTURES}
    return frozenset(known | set(CAMERA))


def is_picture(image: Image) -> bool:
    """Whether a file counts as an image of its set: by its ending, or, whatever that is, by what it holds."""
    with opened(image, HEAD) as file:
        head = file.read(HEAD)
    if head.startswith(APPLE_DOUBLE):
        return False
    if named(image) or head.startswith(SURE) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return True
    if head[4:8] == b"ftyp" and head[8:12] in BRANDS:
        return True
    return head.startswith(PERHAPS) and isinstance(image_header(image), Header)


def named(image: Image) -> bool:
    """Whether the name alone says that it is an image."""
    return Path(image.name).suffix.lower() in endings()


@contextmanager
def opened(image: Image, most: int | None = None) -> Iterator[IO[bytes]]:
    """A file to read an image from; `most`: no more than its first bytes will be asked for."""
    if isinstance(image, Path):
        with image.open("rb") as file:
            yield file
        return
    with image.archive.open("rb") as file:
        file.seek(image.offset)
        yield io.BytesIO(file.read(image.size if most is None else min(most, image.size)))


def image_header(path: Image) -> Header | str:
    """What an image says of itself, or why the file is no image of a format that is read."""
    import PIL.Image

    try:
        with opened(path) as file, PIL.Image.open(file, formats=readable()) as image:
            mode = image.mode
            if mode not in GREY_MODES and mode not in COLOUR_MODES and not is_deep(image):
                return f"holds pixels of mode {mode}, with {NO_RANGE}"
            grey = mode in GREY_MODES or is_deep(image) or (mode == "P" and grey_palette(image))
            opaque = (mode in OPAQUE or is_deep(image)) and "transparency" not in image.info
            return Header(grey, image.size, bool(getattr(image, "is_animated", False)), opaque)
    except Exception as error:  # a hostile file can raise anything from inside a decoder
        return undecodable(path, error)


def is_deep(image: Pixels) -> bool:
    """Whether values are 32-bit integers that Pillow has scaled to 16 bits: grey .pgm of more than 255 levels."""
    return image.mode == "I" and image.format == "PPM"


def grey_palette(image: Pixels) -> bool:
    """Whether all colours of a palette are grey."""
    palette = image.palette
    if palette is None or palette.mode != "RGB" or not isinstance(palette.palette, bytes | bytearray):
        return False
    colours = np.frombuffer(bytes(palette.palette), np.uint8)
    colours = colours[: len(colours) // 3 * 3].reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def undecodable(path: Image, error: Exception) -> str:
    """Why, in a few words; the decoder's own name the whole path, and may be as long as it likes."""
    words = " ".join(str(error).replace(str(path), path.name).split())
    return f"cannot be decoded: {type(error).__name__}: {words}"[:REASON_LENGTH]


def as_mode(image: Pixels, mode: str) -> tuple[Pixels, float]:
    """The image in "L" or "RGB", and the value that is 1; 16-bit grey as one plane of floating-point values."""
    if image.mode in SIXTEEN or is_deep(image):  # Pillow's own conversion to 8 bits clips instead of scaling
        import PIL.Image

        return PIL.Image.fromarray(np.asarray(image).astype(np.float32)), 65535.0
    return image.convert(mode), 255.0


def pixels_of(image: Pixels | np.ndarray, unit: float, mode: str) -> np.ndarray:
    """Values `[height, width, channels]` float32 in [0, 1] of what `as_mode` gave."""
    values = np.asarray(image, dtype=np.float32) / np.float32(unit)
    values = values[:, :, None] if values.ndim == 2 else values
    return np.repeat(values, 3, axis=2) if mode == "RGB" and values.shape[2] == 1 else values
