"""A folder or `.tar` of images as float32 batches `[samples, channels, height, width]`; `fit_images` suits them to a model.

Every file counts: an image is read, or quarantined with its reason; what is no image is named and counted.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.capture.runnable import require_runnable
from naa_fast.errors import InputError, UsageError
from naa_fast.inputs.batches import Batch, PartOfSource, Rejected, Source
from naa_fast.inputs.decoding import Decode, Decoders, Raw
from naa_fast.inputs.formats import (
    NO_RANGE,
    Image,
    Member,
    image_header,
    is_picture,
    named,
    require_pillow,
)
from naa_fast.inputs.identity import identity_of_file, identity_of_files
from naa_fast.inputs.labels import Labels
from naa_fast.inputs.preprocessing import ImageOptions, Preprocessing, preprocessing

SHOWN = 5
EXPECTED = "expected images that Pillow reads, such as .png, .jpg, .webp, .tif, .gif, .bmp, .ppm"


@dataclass
class Listing:
    """What lies in a folder or archive: `files` in order, of which some are `unusable` (index -> why), and the names of `others`,
    which are no images.
    """

    files: list[Image] = field(default_factory=list)
    unusable: dict[int, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def refuse(self, image: Image, why: str) -> None:
        self.unusable[len(self.files)] = why
        self.files.append(image)


class Images:
    """Images in order, of a folder or an archive.

    Grey or RGB as most of them are, until `fit` says otherwise; transparency is dropped, stored rotation ignored, and of several
    frames the first is taken, as training code commonly does. `unusable` items and files that cannot be decoded are left out and
    named in `Batch.rejected`. Opening reads every file's header. Folders that sort the images are their labels.

    Raises:
        InputError: no image, images of different sizes, or Pillow is not installed.
    """

    read_ahead = True
    labels_guessed = True

    def __init__(self, place: Path, listing: Listing, batch_size: int, options: ImageOptions | None = None) -> None:
        self.name = str(place)
        self.batch_size = batch_size
        self.place = place
        self.options = options or ImageOptions()
        self.files = listing.files
        self.unusable = dict(listing.unusable)
        self.others = listing.others
        outside = len(self.unusable)
        self.sizes: dict[tuple[int, int], Image] = {}
        self.count = self.grey = self.animated = self.transparent = 0
        for index, path in enumerate(self.files):
            if index in self.unusable:
                continue
            header = image_header(path)
            if isinstance(header, str):
                self.unusable[index] = header
                continue
            self.sizes.setdefault(header.size, path)
            self.count += 1
            self.grey += header.grey
            self.animated += header.animated
            self.transparent += not header.opaque
        self.samples: int | None = len(self.files)
        if not self.count:
            raise self.no_image(outside)
        self.plan = Preprocessing()
        self.decoders = Decoders(self.options.workers) if self.options.workers else None
        self.mode, self.why = self.options.mode or self.own_mode(), "as asked for" if self.options.mode else "as most are"
        usable = [None if index in self.unusable else self.file_of(index) for index in range(len(self.files))]
        labels = Labels.of(folder_names(usable), f"the folders in {self.name}")
        self.labels: Tensor | None = None if labels is None else labels.numbers
        self.label_names, self.labelled = (labels.names, labels.words) if labels is not None else ((), "")

    def no_image(self, outside: int) -> InputError:
        """The error of a set without a single usable image; `outside`: how many were no files of its own."""
        ranges = [index for index, why in self.unusable.items() if why.endswith(NO_RANGE)]
        if ranges:
            return InputError(
                f"{self.files[ranges[0]]} {self.unusable[ranges[0]].partition(',')[0]}",
                "expected an image whose values have a fixed range: 8 bits a channel, or 16-bit grey",
                "convert it, or save the pixels as .npz in the scale the model expects",
            )
        left_out = f"{outside} links lead out of it, {len(self.unusable) - outside} files could not be decoded"
        return InputError(f"no image in {self.name}", left_out, *self.not_images(), EXPECTED)

    def own_mode(self) -> str:
        """What most of the images are; of as many grey ones as ones in colour the latter, which loses nothing."""
        return "L" if 2 * self.grey > self.count else "RGB"

    def fit(self, mode: str, why: str, plan: Preprocessing) -> None:
        """Read all of them in `mode`, for the reason `why`, and do to them what `plan` says."""
        self.mode, self.why, self.plan = mode, why, plan

    @property
    def reading(self) -> tuple[str, ...]:
        """How they are read, in a sentence."""
        kind = {"L": "grey, one channel", "RGB": "RGB, three channels"}[self.mode]
        odd = self.count - self.grey if self.mode == "L" else self.grey
        turned = f", {odd} of {self.count} converted" if odd else ""
        steps = "; ".join(self.plan.steps()) + (f" ({self.plan.words})" if self.plan.words else "")
        return (f"{self.name}: {kind} ({self.why}{turned}); {steps}",)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of the folder or archive is not seen, in sentences."""
        lines = list(self.not_images())
        if self.animated:
            lines.append(f"in {self.name}: {self.animated} images hold several frames, of which the first is read")
        if self.transparent:
            lines.append(f"in {self.name}: {self.transparent} images have transparency, which is dropped")
        lines += [f"in {self.name}: {step}, as the model's configuration asks, is not done" for step in self.plan.undone]
        return tuple(lines)

    def not_images(self) -> tuple[str, ...]:
        if not self.others:
            return ()
        more = ", ..." if len(self.others) > SHOWN else ""
        files = "1 file that is no image" if len(self.others) == 1 else f"{len(self.others)} files that are no images"
        return (f"in {self.name}: {files}: {', '.join(sorted(self.others)[:SHOWN])}{more}",)

    @property
    def hint(self) -> str:
        """What to try where the model does not take them."""
        other = {"L": "RGB", "RGB": "L"}[self.mode]
        width, height = self.plan.size_of(next(iter(self.sizes)))
        words = {"L": "grey (L)", "RGB": "RGB"}[self.mode]
        return f"the images were read as {words}, {width} x {height}: --image-mode {other}, --resize, --center-crop change that"

    @property
    def read_as(self) -> str:
        """In which mode, and after which steps."""
        return "; ".join((self.mode, *self.plan.steps()))

    def identity(self) -> str:
        """Of the archive, or of the names, sizes and some of the contents of the files."""
        if self.place.is_file():
            return identity_of_file(self.place)
        return identity_of_files(self.place, [image for image in self.files if isinstance(image, Path)])

    def file_of(self, item: int) -> str:
        """Name of an item inside the folder or archive."""
        image = self.files[item]
        return image.name if isinstance(image, Member) else str(image.relative_to(self.place))

    def require_one_size(self) -> None:
        """Raise InputError unless all images come out in one size."""
        sizes = list(self.sizes.items())
        for size, path in sizes[1:]:
            if self.plan.size_of(size) != self.plan.size_of(sizes[0][0]):
                raise different_sizes(sizes[0][1], sizes[0][0], path, size)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        self.require_one_size()
        first_size, first = next(iter(self.sizes.items()))
        decode = Decode(self.mode, self.plan)
        decoded = self.decoded(decode, start, stop)
        waiting: list[tuple[int, np.ndarray]] = []
        rejected: list[Rejected] = []
        for index, path in enumerate(self.files[start:stop], start):
            outcome = self.unusable.get(index) or decode.finished(path, next(decoded))
            if isinstance(outcome, str):
                rejected.append(Rejected(index, self.file_of(index), outcome))
                continue
            size, pixels = outcome
            if size not in self.sizes:  # it was another one when the header was read
                raise different_sizes(first, first_size, path, size)
            # A full batch waits for the next image, so that what is rejected at the very end is still told.
            if len(waiting) == self.batch_size:
                yield self.batch(waiting, rejected)
                waiting, rejected = [], []
            waiting.append((index, pixels))
        if waiting:
            yield self.batch(waiting, rejected)
        elif rejected:
            yield Batch((), {}, 0, None, tuple(rejected))

    def decoded(self, decode: Decode, start: int, stop: int | None) -> Iterator[Raw]:
        """What the usable ones of some items hold, in order: those of the first batch decoded here, so that a look at the set
        starts no process, the others by the workers, where there are any.
        """
        paths = (path for index, path in enumerate(self.files[start:stop], start) if index not in self.unusable)
        yield from map(decode, islice(paths, self.batch_size) if self.decoders else paths)
        if self.decoders:
            yield from self.decoders.run(decode, paths)

    @property
    def feeding(self) -> str:
        """Who decodes, for a person whose model waits for it."""
        workers = self.options.workers
        return f"images are decoded by {workers} processes" if workers else "images are decoded by one thread: --workers N"

    def batch(self, images: list[tuple[int, np.ndarray]], rejected: list[Rejected]) -> Batch:
        x = torch.from_numpy(np.ascontiguousarray(np.stack([pixels for _, pixels in images]).transpose(0, 3, 1, 2)))
        labels = None if self.labels is None else self.labels[[index for index, _ in images]]
        return Batch((x,), {}, len(images), None, tuple(rejected), labels=labels)


class ImageFolder(Images):
    """All images under a folder, subfolders included, in the order of their paths."""

    def __init__(self, folder: Path, batch_size: int, options: ImageOptions | None = None) -> None:
        require_pillow()
        super().__init__(folder, folder_listing(folder), batch_size, options)


class ImageTar(Images):
    """The images in an uncompressed tar archive, in its own order, read where they lie. Nothing is unpacked to the disk."""

    def __init__(self, path: Path, batch_size: int, options: ImageOptions | None = None) -> None:
        require_pillow()
        super().__init__(path, tar_listing(path), batch_size, options)


def fit_images(model: nn.Module, sources: Sequence[Source], options: ImageOptions | None = None) -> None:
    """Suit the sets of images among `sources`, the trusted one first, to a model: all are read alike. `options`: those that they
    were opened with, if any.

    Mode: as asked for, else by the input channels of the model's first convolution, else as most images of the first set are.
    Preprocessing: see `preprocessing`.

    Raises:
        UsageError: options for images, and no images; or three means for one channel.
        InputError: images of different sizes.
    """
    wholes = [source.whole if isinstance(source, PartOfSource) else source for source in sources]
    images = [source for source in wholes if isinstance(source, Images)]
    if options is not None:
        require_images(options, images, [source.name for source in sources])
    if not images:
        return
    require_runnable(model)
    channels = first_channels(model)
    for source in images:
        asked, plan = source.options, preprocessing(source.options, model)
        mode = asked.mode or channels[1] or images[0].own_mode()
        why = "as asked for" if asked.mode else channels[0] if channels[1] else f"as most in {images[0].name} are"
        if mode == "L" and len((asked.statistics() or ((), ()))[0]) > 1:
            raise UsageError(
                "three means for images of one channel", f"{source.name} is read as grey, {why}", "give one, as in .5,.5"
            )
        source.fit(mode, why, plan)
        source.require_one_size()


def require_images(options: ImageOptions, images: Sequence[Images], names: Sequence[str]) -> None:
    """Raise UsageError where options for images are given, and none of the sets holds any."""
    if options.asked and not images:
        raise UsageError(
            f"options for images with {', '.join(names)}",
            "mode, resize, center crop and normalize are for folders and .tar archives of images",
            "leave them out: arrays are taken as they are",
        )


def first_channels(model: nn.Module) -> tuple[str, str]:
    """Why, and as which mode, a model's first convolution wants images; two empty words where it does not say."""
    inner = getattr(model, "_orig_mod", model)
    first = next(((name, m) for name, m in inner.named_modules() if isinstance(m, nn.Conv2d)), None)
    mode = {1: "L", 3: "RGB"}.get(first[1].in_channels, "") if first is not None else ""
    return (
        (f"as {first[0] or 'the model'} takes {first[1].in_channels} channel{'s' * (mode == 'RGB')}", mode)
        if first and mode
        else ("", "")
    )


def folder_listing(folder: Path) -> Listing:
    """What lies under `folder`, in the order of the paths. Links out of it, to folders or to nothing are not followed."""
    root = folder.resolve()
    reasons: dict[Path, str | None] = {}
    others: list[str] = []

    def closed(error: OSError) -> None:
        reasons[Path(error.filename)] = f"a folder that cannot be entered: {error.strerror}"

    for place, folders, files in os.walk(folder, onerror=closed):
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                reasons[Path(place, name)] = "a link to a folder, which is not entered"
        for name in files:
            path = Path(place, name)
            why = why_not(path, root)
            if why and not named(path) and (path.suffix or "link" not in why):
                others.append(str(path.relative_to(folder)))
            elif why or picture(path):
                reasons[path] = why
            else:
                others.append(str(path.relative_to(folder)))
    listing = Listing(others=others)
    for path in sorted(reasons):
        if reasons[path]:
            listing.refuse(path, str(reasons[path]))
        else:
            listing.files.append(path)
    return listing


def why_not(path: Path, root: Path) -> str | None:
    """Why a file of a folder is not read at all; None where it can be."""
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        return "a link that leads out of the folder"
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    return None if path.is_file() else "not a regular file"


def picture(path: Image) -> bool:
    """Whether a file counts as an image of the set; one that cannot be opened does if its name says so."""
    try:
        return is_picture(path)
    except OSError:
        return named(path)


def tar_listing(path: Path) -> Listing:
    """What an archive holds, in its order. A link in an archive may lead anywhere: none is followed."""
    listing = Listing()
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isdir():
                    continue
                member = Member(path, info.name, info.offset_data, info.size)
                if info.isreg() and not info.issparse():
                    if info.offset_data + info.size > size:
                        raise InputError(f"{path} is cut off", f"inside {info.name}", "copy it again")
                    if picture(member):
                        listing.files.append(member)
                    else:
                        listing.others.append(info.name)
                    continue
                link = info.issym() or info.islnk()
                if named(member) or (link and not Path(info.name).suffix):
                    why = "a link inside an archive" if link else "not a plain file inside an archive"
                    listing.refuse(Member(path, info.name, 0, 0), why)
                else:
                    listing.others.append(info.name)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} is damaged, or not an uncompressed .tar", str(error), "copy it again, or unpack it into a folder"
        ) from error
    return listing


def folder_names(files: Iterable[str | None]) -> list[str | None]:
    """The folder that sorts each file, below what all of them share; None for all where some lie in none."""
    parts = [None if name is None else [part for part in PurePosixPath(name).parts[:-1] if part != "."] for name in files]
    usable = [folders for folders in parts if folders is not None]
    low, high = min(usable, default=[]), max(usable, default=[])
    shared = next((at for at, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), min(len(low), len(high)))
    if any(len(folders) <= shared for folders in usable):
        return [None] * len(parts)
    return [None if folders is None else folders[shared] for folders in parts]


def different_sizes(first: Image, size: tuple[int, int], other: Image, other_size: tuple[int, int]) -> InputError:
    return InputError(
        "the images have different sizes",
        f"{first}: {size[0]} x {size[1]}",
        f"{other}: {other_size[0]} x {other_size[1]}",
        "resize them to the size the model expects: --resize N --center-crop N (images=ImageOptions(...) in Python)",
    )
