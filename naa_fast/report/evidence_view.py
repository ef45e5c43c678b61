"""The evidence of a page: proofs with their examples, and rows of samples. What the template prints, and no more.

`Pictures` collects the files of the page; `proof_views` and `sample_rows` fill it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace

import numpy as np

from naa_fast.detect.axes import channels_first
from naa_fast.detect.evidence import Evidence, RankedSample
from naa_fast.detect.names import Names
from naa_fast.detect.proof import ALL_TO_ALL, Example, Pieces, Proof
from naa_fast.detect.trigger import Placed, Tokens
from naa_fast.records import Array
from naa_fast.report.drawings import (
    LARGEST,
    THUMBNAIL,
    Range,
    covered_of,
    picture_of,
    pixels_of,
    place_in_words,
    place_png,
    png,
    range_of,
    trigger_png,
)
from naa_fast.report.files import FOLDER
from naa_fast.report.heat import HeatStrip, heat_of
from naa_fast.report.shared import shared_pixels
from naa_fast.report.units import percent, web_text
from naa_fast.report.words import counted, number

SHOWN_PROOFS = 3
SINGLE_SIDE, SINGLE_THUMBNAIL, SINGLE_PICTURES = 96, 48, 24
"""Pixels a side, and pictures of samples, in a page that holds everything: photographs shall not make it more than a megabyte."""
CHANGES = 6
"""Values of an input that is no picture that are listed, the most changed first."""
TEXT = 600
NAME = 120


@dataclass
class Pictures:
    """The files of a page, by their names under FOLDER; with `single` nothing is a file and everything is in the page. `at`: what
    the page has to write before a name.
    """

    single: bool
    files: dict[str, bytes] = field(default_factory=dict)
    at: str = f"{FOLDER}/"

    @property
    def side(self) -> int:
        return SINGLE_SIDE if self.single else LARGEST

    @property
    def thumbnail(self) -> int:
        return SINGLE_THUMBNAIL if self.single else THUMBNAIL

    def add(self, name: str, content: bytes | None) -> str:
        """Where the page finds the picture, empty for None."""
        if content is None:
            return ""
        if self.single:
            return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
        self.files[name] = content
        return self.at + name


@dataclass(frozen=True)
class Image:
    """`src`, what it shows, whether its pixels are few enough to be seen one by one, and whether some are clear."""

    src: str
    alt: str
    coarse: bool
    clear: bool = False


@dataclass(frozen=True)
class ExampleView:
    """`before` and `after` pictures, or `words`, or the `changes` of other inputs as lines."""

    number: int
    predicted: str
    turned_to: str
    turned: bool
    fate: str
    before: Image | None
    after: Image | None
    words_before: Pieces
    words_after: Pieces
    changes: tuple[str, ...]


@dataclass(frozen=True)
class ProofView:
    """A proof, or the nearest to one (`proof.stands` false), and what shows it."""

    proof: Proof
    title: str
    tokens: str
    trigger: Image | None
    place: Image | None
    place_words: str
    kind: str
    whole: str
    margin: str
    examples: tuple[ExampleView, ...]
    against: str = ""

    @property
    def turned(self) -> int:
        """How many of the examples."""
        return sum(example.turned for example in self.examples)


def proof_views(evidence: Evidence, pictures: Pictures) -> list[ProofView]:
    """The proofs that stand, SHOWN_PROOFS at most; where none does, the nearest to one."""
    standing = [proof for proof in evidence.proof if proof.stands][:SHOWN_PROOFS]
    return [proof_view(i, proof, pictures, evidence) for i, proof in enumerate(standing or evidence.proof[:1], 1)]


def proof_view(at: int, proof: Proof, pictures: Pictures, evidence: Evidence) -> ProofView:
    names = evidence.names
    shown = [picture_of(array) for example in proof.examples for array in (example.before, example.after)]
    known = [picture for picture in shown if picture is not None]
    pattern = picture_of(proof.pattern)
    scale = range_of(known or ([pattern] if pattern is not None else []))
    clear, where = proof.mask is not None, place_in_words(proof)
    return ProofView(
        proof,
        web_text(title_of(proof, names), 2 * NAME),
        proof.trigger.written if isinstance(proof.trigger, Tokens) else "",
        image(pictures.add(f"trigger-{at}.png", trigger_png(proof, scale, pictures.side)), trigger_alt(proof), pattern, clear),
        image(pictures.add(f"place-{at}.png", place_png(proof, scale, pictures.side)), f"Where it lies: {where}", pattern),
        where,
        kind_of(proof),
        whole_of(proof, evidence),
        f"{100 * proof.least_margin:.0f}",
        tuple(example_view(at, i, example, proof, scale, pictures, names) for i, example in enumerate(proof.examples, 1)),
        "" if proof.against is None else web_text(proof.against.words or f"the token ids {proof.against.written}", TEXT),
    )


def kind_of(proof: Proof) -> str:
    """What the trigger is: of a patch the share it really covers, not the share that was asked for."""
    covered = covered_of(proof)
    if covered is None or not isinstance(proof.trigger, Placed):
        return proof.kind
    return f"{proof.trigger.name}, {percent(float(covered.mean()))} of the input"


def whole_of(proof: Proof, evidence: Evidence) -> str:
    """How the trigger that was put on may differ from the one that was planted; empty of words."""
    covered = covered_of(proof)
    if covered is None:
        return ""
    shared, placed = shared_pixels(proof, evidence), int(covered.sum())
    if shared is not None and shared > placed:
        return f"The proof put {counted(placed, 'pixel')} on; the samples that carry it share {shared:,} there"
    return "The trigger as reconstructed, which can be smaller than the one that was planted"


def title_of(proof: Proof, names: Names) -> str:
    """What the trigger does, e.g. `A patch turns other classes to class 7`."""
    whose = "samples of other classes" if proof.source is None else f"samples of {names.of(proof.source)}"
    where = f"{whose} to {names.of(proof.target)}" if isinstance(proof.target, int) else "each class to another"
    return f"{proof.trigger.subject} {where}"


def trigger_alt(proof: Proof) -> str:
    if proof.mask is None:
        return "The trigger: what is added to the input, blue less and red more"
    return f"The trigger, enlarged: {place_in_words(proof)}"


def image(src: str, alt: str, picture: Array | None, clear: bool = False) -> Image | None:
    """None without a source; `picture` tells how coarse it is. `[height, width, channels]`."""
    return Image(src, alt, picture is not None and max(picture.shape[:2]) <= THUMBNAIL, clear) if src else None


def example_view(at: int, i: int, example: Example, proof: Proof, scale: Range, pictures: Pictures, names: Names) -> ExampleView:
    turned = example.turned_to == proof.target if proof.target != ALL_TO_ALL else example.turned_to != example.predicted
    seen = []
    for array, when, cls in ((example.before, "without", example.predicted), (example.after, "with", example.turned_to)):
        picture = picture_of(array)
        content = None if picture is None else png(pixels_of(picture, scale, pictures.side))
        alt = f"Clean sample {i} {when} the trigger: predicted as {names.called(cls)}"
        seen.append(image(pictures.add(f"example-{at}-{i}-{when}.png", content), alt, picture))
    words = example.words_before, example.words_after
    before, after = (tuple((web_text(text, TEXT), changed) for text, changed in pieces) for pieces in words)
    changes = () if seen[0] is not None or before else changes_of(example)
    called, goes = (web_text(names.called(cls), NAME) for cls in (example.predicted, example.turned_to))
    aim = names.of(proof.target) if isinstance(proof.target, int) else "another class"
    changed = example.turned_to != example.predicted
    fate = "turned" if turned else f"changed, not to {web_text(aim, NAME)}" if changed else "not turned"
    return ExampleView(i, called, goes, turned, fate, seen[0], seen[1], before, after, changes)


def changes_of(example: Example) -> tuple[str, ...]:
    """What the trigger changes in an input that is no picture, the most changed values first."""
    if example.before.shape != example.after.shape or not example.before.size:
        return ()
    before, after = (channels_first(array).astype(np.float64) for array in (example.before, example.after))
    moved = np.nan_to_num(np.abs(after - before))
    lines = []
    for flat in np.argsort(-moved, axis=None, kind="stable")[:CHANGES].tolist():
        if moved.flat[flat] > 0:
            place = ", ".join(map(str, np.unravel_index(flat, moved.shape)))
            lines.append(f"value {place}: {number(float(before.flat[flat]))} → {number(float(after.flat[flat]))}")
    rest = int((moved > 0).sum()) - len(lines)
    return (*lines, *([f"and {rest:,} more"] if rest else []))


@dataclass(frozen=True)
class SampleRow:
    """A ranked sample as a row: `triggered` "yes", "no" or "unknown", `may`: unknown beside a proof; `called`: the class in
    words; `deviating`: neurons, and how far each deviates.
    """

    rank: int
    sample: int
    file: str
    predicted: str
    score: str
    triggered: str
    may: bool
    deviating: tuple[tuple[str, str], ...]
    image: Image | None
    text: str
    called: str
    heat: HeatStrip | None = None


TRIGGERED = {True: "yes", False: "no", None: "unknown"}


def sample_rows(evidence: Evidence, pictures: Pictures, first: int, most: int) -> list[SampleRow]:
    """The ranked samples from `first` (0: the highest) on, `most` at most, with pictures or texts as far as these were kept."""
    if evidence.ranking is None:
        return []
    kept = evidence.pictures if evidence.pictures is not None else np.zeros((0, 1, 1, 1), np.float32)
    shown = [picture for array in kept if (picture := picture_of(array)) is not None]
    scale = range_of(shown)
    rows = []
    drawn = min(len(shown), SINGLE_PICTURES) if pictures.single else len(shown)
    for at, sample in list(enumerate(evidence.ranking.top))[first : first + most]:
        picture = shown[at] if at < drawn else None
        content = None if picture is None else png(pixels_of(picture, scale, pictures.thumbnail))
        alt = f"Sample {sample.sample}, predicted as {evidence.names.called(sample.predicted)}"
        seen = image(pictures.add(f"sample-{at + 1}.png", content), alt, picture)
        text = web_text(evidence.texts[at], TEXT) if at < len(evidence.texts) else ""
        heat = heat_of(evidence.heat[at]) if at < len(evidence.heat) else None
        rows.append(replace(row_of(at + 1, sample, seen, text, evidence), heat=heat))
    return rows


def row_of(rank: int, sample: RankedSample, seen: Image | None, text: str, evidence: Evidence) -> SampleRow:
    names = evidence.names
    deviating = tuple((f"{web_text(layer, NAME)} [{neuron}]", f"{number(z)} σ") for layer, neuron, z in sample.deviating)
    file = web_text(sample.file, NAME) if sample.file else ""
    called = web_text(names.called(sample.predicted), NAME)
    short = called if sample.predicted in names.known else str(sample.predicted) if sample.predicted >= 0 else "none"
    whether = TRIGGERED[sample.triggered]
    may = sample.triggered is None and any(proof.stands for proof in evidence.proof)
    return SampleRow(rank, sample.sample, file, short, number(sample.score), whether, may, deviating, seen, text, called)
