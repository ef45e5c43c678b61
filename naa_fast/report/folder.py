"""`write_report`: the report folder, every file of it whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from naa_fast.detect.evidence import Evidence
from naa_fast.detect.evidence_file import EVIDENCE_FILE, evidence_bytes
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.repair import REPAIR_FILE
from naa_fast.errors import InputError, UsageError
from naa_fast.files import write_whole
from naa_fast.report.chart import chart_bytes
from naa_fast.report.files import CONFIG, FOLDER, FORMAT_FILES, OPTIONAL, PAGE_FILE, REPORT, TABLE, VECTORS
from naa_fast.report.formats import format_files, require
from naa_fast.report.machine import report_bytes, unicode_text
from naa_fast.report.page import page_files
from naa_fast.report.pictures import optional_files
from naa_fast.report.summary import summary
from naa_fast.report.table import table_lines
from naa_fast.report.words import printable

PATH_CELLS = 200


Provenance = Mapping[str, object]


def write_report(
    judgement: Judgement,
    folder: Path,
    provenance: Provenance | Callable[[], Provenance],
    single_file: bool = False,
    formats: Iterable[str] = (),
) -> list[Path]:
    """Write the files of a report into `folder`, made if absent, and return their paths; older ones are replaced.

    Eight always, and the folder `page` with the styles and pictures of report.html, which `single_file` puts into it instead;
    where samples were ranked or a trigger proved also pictures or texts of the triggers and of the top samples, the vectors of
    the directions, the repair, and where it is asked for the table of all samples. `formats`: see `formats.FORMATS`.

    report.json comes last, so where it is, the others are; a `provenance` that is a function is asked again for it, so that it
    can say how long the others took. A symbolic link at a file's name is replaced, never followed.

    Raises:
        UsageError: `folder` is something else than a folder, or no such format. InputError: it cannot be made or written to.
    """
    require(formats)
    make_folder(folder)
    asked = provenance if callable(provenance) else lambda: provenance
    known = asked()
    # All that is drawn or worded is made before anything is written: no new file lies beside an old report if that fails.
    small = {
        **drawn_files(judgement, known, single_file),
        **table_file(judgement.evidence),
        **vectors_file(judgement.evidence),
        **({REPAIR_FILE: judgement.repair.to_bytes()} if judgement.repair is not None else {}),
        EVIDENCE_FILE: evidence_bytes(judgement.evidence),
    }
    # The measurements one after the other: those of a large model are large.
    write(folder / "clean.naa.safetensors", judgement.clean.to_bytes())
    write(folder / "suspect.naa.safetensors", judgement.suspect.to_bytes())
    write_drawn(folder, small, single_file)
    report = report_bytes(judgement, asked())
    last = {**format_files(formats, report), REPORT: report}
    for name, content in last.items():
        write(folder / name, content)
    for name in {*OPTIONAL, *FORMAT_FILES, CONFIG} - small.keys() - last.keys():  # of an older report in the same place
        remove(folder / name)
    return [folder / name for name in ("clean.naa.safetensors", "suspect.naa.safetensors", *small, *last)]


def redraw(
    judgement: Judgement, folder: Path, provenance: Provenance, single_file: bool = False, formats: Iterable[str] = ()
) -> list[Path]:
    """Write anew what people look at, and `formats`, of a report that lies in `folder`, and return the paths. report.json, the
    measurements and whatever else was measured stay as they are. Raises as `write_report`.
    """
    require(formats)
    drawn = drawn_files(judgement, provenance, single_file)
    files = {**drawn, **format_files(formats, (folder / REPORT).read_bytes())}
    write_drawn(folder, files, single_file)
    return [folder / name for name in files]


def drawn_files(judgement: Judgement, provenance: Provenance, single_file: bool) -> dict[str, bytes]:
    """What people look at, by path in the folder."""
    return {
        "signature.png": chart_bytes(judgement, "png"),
        "signature.svg": chart_bytes(judgement, "svg"),
        "summary.txt": summary(judgement, provenance=provenance).encode("utf-8"),
        **optional_files(judgement.evidence),
        **page_files(judgement, provenance, single_file),
    }


def write_drawn(folder: Path, files: Mapping[str, bytes], single_file: bool) -> None:
    """Write `files`, and take away what an older page has more."""
    if not single_file:
        make_page_folder(folder / FOLDER)
    for name, content in files.items():
        write(folder / name, content)
    for name in older_page(folder) - files.keys():
        remove(folder / name)
    if single_file:
        remove_empty(folder / FOLDER)


def table_file(evidence: Evidence) -> dict[str, bytes]:
    """The table of every sample, where it is asked for."""
    if evidence.ranking is None or not evidence.ranking.whole:
        return {}
    return {TABLE: "".join(table_lines(evidence.ranking, "csv")).encode("utf-8")}


def vectors_file(evidence: Evidence) -> dict[str, bytes]:
    """The unit vectors of the directions, float32, for what projects them out. Tensors t0, t1, ... in the order of report.json;
    the metadata's one key, "directions", is the JSON of layer, kind and step of each (a vector is over every step-th neuron).
    """
    from safetensors.numpy import save

    if not evidence.directions:
        return {}
    about = [{"layer": unicode_text(along.layer), "kind": along.kind, "step": along.step} for along in evidence.directions]
    tensors = {f"t{i}": along.vector.astype(np.float32) for i, along in enumerate(evidence.directions)}
    return {VECTORS: save(tensors, {"directions": json.dumps(about)})}


def make_page_folder(folder: Path) -> None:
    """The folder for what a page needs; in place of a link, which is not followed."""
    if folder.is_symlink():
        remove(folder)
    make_folder(folder)


def older_page(folder: Path) -> set[str]:
    """The files of an older page, by path in the report folder; what else lies among them is not ours."""
    place = folder / FOLDER
    if place.is_symlink() or not place.is_dir():
        return set()
    return {f"{FOLDER}/{path.name}" for path in place.iterdir() if PAGE_FILE.fullmatch(path.name)}


def remove_empty(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()


def write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise InputError(
            f"cannot write {path.name} of the report",
            f"folder: {shown(path.parent)}: {error.strerror or error}",
            "expected a folder this user may write to, with room on its disk; choose another with --out",
        ) from None


def remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot replace {path.name} of an older report", str(error.strerror), "choose another with --out"
        ) from None


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(
            f"the report folder {shown(folder)} is not a folder",
            "a file, or a link that leads nowhere, is in its place",
            "expected a new or an existing folder; choose another with --out",
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InputError(
            f"cannot make the report folder {shown(folder)}",
            str(getattr(error, "strerror", None) or error),
            "expected a place this user may write to; choose another with --out",
        ) from None


def shown(path: Path) -> str:
    return printable(str(path), PATH_CELLS)
