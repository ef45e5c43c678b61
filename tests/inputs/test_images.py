"""Folders of images: what is read, in which order and scale, and what is left out aloud."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

PIL = pytest.importorskip("PIL.Image", reason="image folders need Pillow (the vision extra)")

import naa_fast  # noqa: E402
from naa_fast.errors import InputError  # noqa: E402
from naa_fast.inputs.batches import Batch  # noqa: E402
from naa_fast.inputs.opening import open_source  # noqa: E402


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (5, 4), fill: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.new(mode, size, tuple([fill] * len(mode)) if mode in ("RGB", "RGBA", "LA") else fill).save(path, **options)
    return path


def batches(folder: Path, batch_size: int = 2) -> list[Batch]:
    return list(open_source(folder, batch_size).batches())


def message(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        batches(folder)
    return str(caught.value)


def test_images_come_sorted_as_float32_nchw_between_0_and_1(tmp_path: Path) -> None:
    for fill, name in ((255, "c.png"), (0, "a.BMP"), (51, "b.tiff")):
        save(tmp_path / name, fill=fill)
    (tmp_path / "labels.txt").write_text("not an image")
    source = open_source(tmp_path, 2)
    assert (source.samples, source.name) == (3, str(tmp_path))
    found = list(source.batches())
    assert [batch.size for batch in found] == [2, 1]
    x = torch.cat([batch.arguments[0] for batch in found])
    assert (x.dtype, x.shape) == (torch.float32, (3, 3, 4, 5))
    assert torch.equal(x[:, 0, 0, 0], torch.tensor([0.0, 51 / 255, 1.0]))
    assert all(batch.skipped == 0 for batch in found)


def test_pixels_keep_their_place_and_channel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    PIL.fromarray(pixels).save(tmp_path / "a.png")
    (batch,) = batches(tmp_path)
    assert np.array_equal(batch.arguments[0][0].numpy(), pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "I;16"])
def test_grey_images_stay_one_channel(tmp_path: Path, mode: str) -> None:
    save(tmp_path / "a.png", mode)
    (batch,) = batches(tmp_path)
    assert batch.arguments[0].shape == (1, 1, 4, 5)


def test_a_palette_of_greys_is_grey(tmp_path: Path) -> None:
    save(tmp_path / "a.png", "P", fill=51)
    (batch,) = batches(tmp_path)
    assert batch.arguments[0].shape == (1, 1, 4, 5)


@pytest.mark.parametrize(("grey", "colour", "channels"), [(3, 1, 1), (1, 3, 3), (2, 2, 3)])
def test_one_odd_image_does_not_decide_for_all(tmp_path: Path, grey: int, colour: int, channels: int) -> None:
    for i in range(grey):
        save(tmp_path / f"g{i}.png", "L", fill=51)
    for i in range(colour):
        save(tmp_path / f"c{i}.png", "RGB")
    source = open_source(tmp_path, 9)
    (batch,) = source.batches()
    assert batch.arguments[0].shape == (4, channels, 4, 5)
    odd = grey if channels == 3 else colour
    assert f"as most are, {odd} of 4 converted" in source.reading[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_of_as_many_grey_as_coloured_images_all_are_rgb(tmp_path: Path, mode: str) -> None:
    save(tmp_path / "a.png", "L", fill=51)
    save(tmp_path / "b.png", mode)
    (batch,) = batches(tmp_path)
    assert batch.arguments[0].shape == (2, 3, 4, 5)
    assert torch.equal(batch.arguments[0][0], torch.full((3, 4, 5), 51 / 255))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    save(tmp_path / "a.png", "I;16", fill=32768)
    (batch,) = batches(tmp_path)
    assert batch.arguments[0].unique().tolist() == pytest.approx([32768 / 65535])
    save(tmp_path / "b.png", "RGB")
    (batch,) = batches(tmp_path)
    assert batch.arguments[0][0].unique().tolist() == pytest.approx([32768 / 65535])


def test_subfolders_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    save(tmp_path / "b" / "1.png", fill=255)
    save(tmp_path / "a" / "2.png", fill=0)
    (batch,) = batches(tmp_path)
    assert batch.arguments[0][:, 0, 0, 0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("where", ["a.png", "m.png", "z.png"])
@pytest.mark.parametrize("damage", ["header", "body"])
def test_an_image_that_cannot_be_decoded_is_left_out_and_counted(tmp_path: Path, where: str, damage: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in ("b.png", "c.png", "n.png", where):
        PIL.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / where).read_bytes()
    (tmp_path / where).write_bytes(b"nonsense" if damage == "header" else content[: len(content) // 2])
    found = batches(tmp_path, 1)
    assert sum(batch.size for batch in found) == 3
    assert sum(batch.skipped for batch in found) == 1


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    """A file of a format outside the list never reaches Pillow's reader for it: some start external programs."""
    save(tmp_path / "a.png")
    save(tmp_path / "g.gif", "P").rename(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n%%EndComments\n")
    source = open_source(tmp_path, 2)
    assert source.samples == 3  # items, of which one is rejected
    (batch,) = source.batches()
    assert (batch.size, batch.skipped) == (2, 1)


def test_links_that_lead_out_are_left_out_and_counted_those_that_stay_are_read(tmp_path: Path) -> None:
    outside = save(tmp_path / "outside" / "secret.png", fill=255)
    inside = save(tmp_path / "set" / "a.png")
    os.symlink(outside, tmp_path / "set" / "b.png")
    os.symlink(inside, tmp_path / "set" / "c.png")
    os.symlink(outside.parent, tmp_path / "set" / "folder")
    (batch,) = batches(tmp_path / "set")
    assert (batch.size, batch.skipped) == (2, 2)
    assert batch.arguments[0].max() == 0


# What is refused


def test_different_sizes_name_two_files(tmp_path: Path) -> None:
    save(tmp_path / "a.png", size=(5, 4))
    save(tmp_path / "b.png", size=(6, 4))
    text = message(tmp_path)
    assert "the images have different sizes" in text
    assert f"{tmp_path / 'a.png'}: 5 x 4" in text
    assert f"{tmp_path / 'b.png'}: 6 x 4" in text
    assert "resize them" in text


def test_an_image_that_changes_its_size_while_it_is_read(tmp_path: Path) -> None:
    save(tmp_path / "a.png", size=(5, 4))
    save(tmp_path / "b.png", size=(5, 4))
    source = open_source(tmp_path, 1)
    save(tmp_path / "b.png", size=(6, 4))
    with pytest.raises(InputError, match=r"b\.png: 6 x 4"):
        list(source.batches())


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    text = message(tmp_path)
    assert f"no image in {tmp_path}" in text
    assert "0 links lead out of it, 0 files could not be decoded" in text
    assert "1 file that is no image: notes.txt" in text
    assert "expected images that Pillow reads, such as .png, .jpg, .webp, .tif, .gif, .bmp, .ppm" in text


def test_a_folder_of_nothing_but_links_and_damage_says_so(tmp_path: Path) -> None:
    os.symlink(save(tmp_path / "outside" / "a.png"), tmp_path / "set.png")
    folder = tmp_path / "set"
    folder.mkdir()
    os.symlink(tmp_path / "outside" / "a.png", folder / "a.png")
    (folder / "b.png").write_bytes(b"nonsense")
    assert "1 links lead out of it, 1 files could not be decoded" in message(folder)


def test_a_folder_in_which_nothing_decodes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    PIL.fromarray(noise).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    [batch] = open_source(tmp_path, 4).batches()
    assert (batch.size, batch.skipped) == (0, 1)
    with pytest.raises(InputError, match=r"gave no sample\n  1 items could not be decoded"):
        naa_fast.measure(torch.nn.Identity(), tmp_path)


def test_pixels_without_a_fixed_range(tmp_path: Path) -> None:
    save(tmp_path / "a.tiff", "F")
    text = message(tmp_path)
    assert f"{tmp_path / 'a.tiff'} holds pixels of mode F" in text
    assert "expected an image whose values have a fixed range" in text
    assert "save the pixels as .npz" in text


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    text = message(tmp_path)
    assert "images need Pillow, which is not installed" in text
    assert "pip install 'naa-fast[vision]'" in text


def tar(path: Path, *entries: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return path


def png(fill: int, folder: Path) -> bytes:
    return save(folder / "held.png", fill=fill).read_bytes()


def test_a_tar_gives_its_images_in_its_own_order_and_unpacks_nothing(tmp_path: Path) -> None:
    held = tmp_path / "held"
    entries = [(f"../{name}.png", png(fill, held)) for name, fill in (("z", 255), ("a", 51))]
    path = tar(tmp_path / "a.tar", *entries, ("label.json", b"{}"), ("bad.png", b"no image"))
    before = sorted(tmp_path.rglob("*"))
    source = open_source(path, 1)
    found = list(source.batches())
    assert (source.samples, [batch.size for batch in found]) == (3, [1, 1]), "what cannot be decoded is an item too"
    assert [float(batch.arguments[0].max()) for batch in found] == [1.0, pytest.approx(51 / 255)]
    assert sum(batch.skipped for batch in found) == 1
    assert sorted(tmp_path.rglob("*")) == before, "a name that leads out of the archive is a name"
    model = torch.nn.Conv2d(3, 2, 1)
    assert naa_fast.measure(model, path).samples == 2


def test_links_in_a_tar_are_left_out_aloud(tmp_path: Path) -> None:
    save(tmp_path / "secret.png")
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
    path = tar(tmp_path / "a.tar", link, ("x.png", png(0, tmp_path / "held")))
    [batch] = open_source(path, 4).batches()
    assert (batch.size, batch.skipped) == (1, 1)
    with pytest.raises(InputError, match="1 links lead out of it, 0 files could not be decoded"):
        open_source(tar(tmp_path / "b.tar", link), 4)


def test_a_tar_that_is_damaged_cut_off_or_packed_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"garbage" * 200)
    with pytest.raises(InputError, match=r"is damaged, or not an uncompressed \.tar"):
        open_source(path, 2)
    whole = tar(path, ("x.png", png(0, tmp_path / "held") + bytes(9000))).read_bytes()
    path.write_bytes(whole[:1024])
    with pytest.raises(InputError, match=r"is cut off|is damaged"):
        open_source(path, 2)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / "held" / "held.png")
    with pytest.raises(InputError, match="or unpack it into a folder"):
        open_source(path, 2)


@pytest.mark.parametrize(
    "name", ["a.pgm", "b.ppm", "c.gif", "d.TIFF", "e.jfif", "f.tga", "g.webp", "h.dib", "no_ending", "i.PNG"]
)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_every_ending_that_pillow_reads_is_read(tmp_path: Path, name: str, packed: bool) -> None:
    import PIL.Image

    formats = {".pgm": "PPM", ".ppm": "PPM", ".gif": "GIF", ".tiff": "TIFF", ".jfif": "JPEG", ".tga": "TGA", ".webp": "WEBP"}
    folder = tmp_path / "set"
    folder.mkdir()
    image = PIL.Image.new("RGB" if name == "b.ppm" else "L", (5, 4), 51 if name != "b.ppm" else (51, 51, 51))
    kind = formats.get(Path(name).suffix.lower(), "DIB" if name == "h.dib" else "PNG")
    with (folder / name).open("wb") as file:
        image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    place = folder
    if packed:
        place = tmp_path / "set.tar"
        with tarfile.open(place, "w") as archive:
            archive.add(folder / name, name)
    source = open_source(place, 4)
    (batch,) = source.batches()
    assert (batch.size, batch.skipped) == (1, 0)
    assert torch.allclose(batch.arguments[0], torch.tensor(51 / 255), atol=0.02)


def test_what_is_no_image_is_named_and_counted(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "README.txt").write_text("x")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "labels.csv").write_text("a,1")
    (tmp_path / "broken.heic").write_bytes(b"no image")
    source = open_source(tmp_path, 4)
    assert source.samples == 2
    (batch,) = source.batches()
    assert [bad.file for bad in batch.rejected] == ["broken.heic"]
    assert source.left_out == (f"in {tmp_path}: 3 files that are no images: .DS_Store, README.txt, labels.csv",)  # type: ignore[attr-defined]
