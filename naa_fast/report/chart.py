"""The signature as a picture: what was found, a strip of all layers, and a bar a neuron of those that differ most.

`signature_figure` draws it with matplotlib's objects, never pyplot, whose global state belongs to the user; `chart_bytes` is the
file. strip.py and panel.py decide what is shown, chart_panel.py draws a layer.
"""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from naa_fast.detect.judgement import Judgement
from naa_fast.detect.names import Names
from naa_fast.detect.proof import Example, Pieces, Proof
from naa_fast.report.chart_panel import draw_panel, limit_name
from naa_fast.report.chart_style import (
    ABOVE,
    DIM,
    DPI,
    LINE,
    MUTED,
    OUTCOME_COLOURS,
    WIDTH_INCHES,
    axes_at,
    bare,
    drawable,
    own_style,
)
from naa_fast.report.drawings import Range, picture_of, pixels_of, range_of
from naa_fast.report.panel import COLUMNS, LABELS, Signature, TailSignature, panel_of
from naa_fast.report.strip import CHANCE_STEPS, COLOURS, STEPS, Cell, Strip, strip_of
from naa_fast.report.units import interval, percent
from naa_fast.report.words import counted, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SENTENCE_CHARACTERS = 140
LEFT_INCHES, PANELS_INCHES = 0.7, 10.35
PROOF_INCHES, STRIP_INCHES, LEGEND_INCHES, GAP_INCHES = 1.3, 0.62, 0.42, 0.86
PAIRS = 3
LABEL_INCHES = 0.3
CONTEXT = 68
"""Characters of a text around its changed words."""
STRIP_NAMES = {"z": "largest standardised difference of each layer", "tail": "largest share of samples beyond the clean tail"}


def signature_figure(judgement: Judgement) -> Figure:
    """The proof if there is one, a strip of all layers, and bar charts of the worst ones in model order.

    Beside the differences of the means stands the share of samples beyond each neuron's clean tail, where histograms were kept;
    it comes first where it alone shows something: few triggered samples move no mean.
    """
    from matplotlib.figure import Figure

    strip = strip_of(judgement)
    proof = next((proof for proof in judgement.evidence.proof if proof.stands), None)
    shown = sorted(strip.worst, key=lambda cell: cell.place)
    sentence = textwrap.wrap(drawable(judgement.verdict.sentence, 400), SENTENCE_CHARACTERS, max_lines=2, placeholder=" ...")
    strips = (["tail", "z"] if strip.rare else ["z", "tail"]) if strip.has_tails else ["z"]
    panel_inches = 2.4 if len(shown) == 1 else 1.5 if len(shown) <= 3 else 1.15
    top = 0.75 + 0.18 * len(sentence)
    height = top + PROOF_INCHES * (proof is not None) + STRIP_INCHES * len(strips) + LEGEND_INCHES + 0.25
    height += len(shown) * (panel_inches + GAP_INCHES)
    with own_style():
        figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, facecolor="white")
        head(figure, judgement, sentence)
        if proof is not None:
            draw_proof(figure, proof, judgement.evidence.names, top)
            top += PROOF_INCHES
        unseen(figure, strip, top)
        for name in strips:
            draw_strip(figure, strip, name, top)
            top += STRIP_INCHES
        legend(figure, judgement, strip, top)
        top += LEGEND_INCHES
        for cell in shown:
            draw_layer(figure, judgement, strip, cell, (top + 0.45, panel_inches))
            top += panel_inches + GAP_INCHES
        figure.supxlabel("neuron index", x=0.49, y=0.08 / height, fontsize=10, color=LINE)
    return figure


def chart_bytes(judgement: Judgement, form: str) -> bytes:
    """The chart as a file, `form` "png" or "svg": the same bytes for the same judgement and matplotlib."""
    figure = signature_figure(judgement)
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    with own_style():
        figure.savefig(buffer, format=form, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def head(figure: Figure, judgement: Judgement, sentence: list[str]) -> None:
    """Outcome and sentence."""
    verdict = judgement.verdict
    colour = OUTCOME_COLOURS[verdict.outcome]
    write(figure, 0.38, 0.24, verdict.outcome.upper(), fontsize=17, weight="bold", color=colour)
    write(figure, 0.38, WIDTH_INCHES - 0.24, f"largest z {number(verdict.z)} σ", fontsize=12, ha="right", color=LINE)
    for row, text in enumerate(sentence):
        write(figure, 0.63 + 0.18 * row, 0.24, text, fontsize=10, color=LINE)


def write(figure: Figure, top: float, left: float, text: str, **style: Any) -> None:
    """Text whose baseline is so many inches from the top."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, va="baseline", **style)


def draw_proof(figure: Figure, proof: Proof, names: Names, top: float) -> None:
    """How many clean samples the trigger turns and how many its control, and some of them without and with it."""
    low, high = proof.interval
    ax = bare(axes_at(figure, (1.35, top + 0.08, 1.9, 0.56), "attack success"))
    ax.barh([1, 0], [1, 1], height=0.7, color=COLOURS[0])
    ax.barh([1, 0], [proof.rate, proof.control], height=0.7, color=[ABOVE, DIM])
    ax.plot([low, high], [1, 1], color=LINE, linewidth=1.6)
    ax.plot([proof.limit] * 2, [0.6, 1.4], color=LINE, linewidth=1, linestyle=":")
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.5, 1.5)
    rows = [("attack success", f"{percent(proof.rate)} ({interval(proof.interval)})"), ("control", percent(proof.control))]
    for row, (name, value) in enumerate(rows):
        write(figure, top + 0.26 + 0.28 * row, 0.24, name, fontsize=9, color=LINE)
        write(figure, top + 0.26 + 0.28 * row, 3.33, value, fontsize=9, color=LINE)
    about = f"on {counted(proof.samples, 'clean sample')}; {proof.kind}"
    write(figure, top + 0.86, 0.24, drawable(about, 70), fontsize=8, color=MUTED)
    if proof.words:
        write(figure, top + 1.1, 0.24, drawable(proof.words, 50), fontsize=11, weight="bold", color=ABOVE)
    pictures = [picture_of(array) for example in proof.examples[:PAIRS] for array in (example.before, example.after)]
    scale = range_of([picture for picture in pictures if picture is not None])
    for at, example in enumerate(proof.examples[:PAIRS]):
        if picture_of(example.before) is not None:
            draw_pair(figure, example, names, scale, (5.6 + 2.1 * at, top))
        elif example.words_after:
            turns = f"{named(example.predicted, names)} -> {named(example.turned_to, names)}:  {in_context(example.words_after)}"
            write(figure, top + 0.26 + 0.28 * at, 5.6, turns, fontsize=8.5, color=LINE)


def draw_pair(figure: Figure, example: Example, names: Names, scale: Range, place: tuple[float, float]) -> None:
    """A clean sample without and with the trigger, and the class predicted under each; `place` in inches from left and top."""
    left, top = place
    pairs = ((example.before, example.predicted), (example.after, example.turned_to))
    for column, (array, called) in enumerate(pairs):
        picture = picture_of(array)
        if picture is not None:
            ax = bare(axes_at(figure, (left + 0.95 * column, top + 0.05, 0.85, 0.85), "example"))
            ax.imshow(pixels_of(picture, scale), interpolation="nearest")
            turned = column == 1 and example.turned_to != example.predicted
            style: dict[str, Any] = {"color": ABOVE, "weight": "bold"} if turned else {"color": LINE}
            write(figure, top + 1.08, left + 0.95 * column, named(called, names), fontsize=8.5, **style)
    write(figure, top + 0.52, left + 0.87, ">", fontsize=9, color=MUTED)


def in_context(pieces: Pieces) -> str:
    """The first changed words of a text with as much around them as there is room for; all of it drawable."""
    first = next((at for at, (_, changed) in enumerate(pieces) if changed), 0)
    words = f"[{drawable(pieces[first][0], 30)}]" if pieces[first][1] else drawable(pieces[first][0], CONTEXT)
    before, after = (" ".join(text.strip("…") for text, _ in part) for part in (pieces[:first], pieces[first + 1 :]))
    room = max(CONTEXT - len(words), 0) // 2
    before, after = drawable(before[-room:], 2 * room + 8)[-room:], drawable(after[:room], 2 * room + 8)[:room]
    return " ".join(part.strip() for part in (before, words, after) if part.strip())


def named(cls: int, names: Names) -> str:
    """A class where there is room for some twelve characters."""
    return drawable(names.short(cls), 12) if cls in names.known else names.called(cls)


def draw_strip(figure: Figure, strip: Strip, name: str, top: float) -> None:
    """All layers in model order, one cell a layer; the numbers stand over those that are drawn below."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    ax = bare(axes_at(figure, (0.24, top + 0.25, WIDTH_INCHES - 0.48, 0.22), f"strip {name}"))
    steps = [cell.tail_step if name == "tail" else cell.step for cell in strip.cells]
    values = np.array([[np.nan if step is None else step for step in steps]])
    colours = ListedColormap(list(COLOURS)).with_extremes(bad=MUTED)
    edges = np.arange(len(strip.cells) + 1)
    thin = 1.0 if len(strip.cells) <= 60 else 0.0
    norm = BoundaryNorm(np.arange(len(COLOURS) + 1) - 0.5, len(COLOURS))
    ax.pcolormesh(edges, [0, 1], np.ma.masked_invalid(values), cmap=colours, norm=norm, edgecolors="white", linewidth=thin)
    pale, dark = (f"{STEPS[end]:g} σ" if name == "z" else percent(strip.tail_limit * CHANCE_STEPS[end]) for end in (0, -1))
    words = f"{STRIP_NAMES[name]} (pale: below {pale}, dark: {dark} and more)"
    ax.set_title(words, loc="left", fontsize=8, color=LINE, pad=12)
    for place, text in strip_labels(strip):
        ax.text(place, 1.08, text, ha="center", va="bottom", fontsize=8, weight="bold", color=ABOVE)


def strip_labels(strip: Strip) -> list[tuple[float, str]]:
    """Labels and their places in layers; those that would lie over one another share one, such as "1, 3, 4"."""
    room = len(strip.cells) * LABEL_INCHES / (WIDTH_INCHES - 0.48)
    groups: list[list[Cell]] = []
    for cell in (cell for cell in strip.cells if cell.label):
        if groups and cell.place - groups[-1][-1].place < room:
            groups[-1].append(cell)
        else:
            groups.append([cell])
    return [
        (sum(cell.place for cell in group) / len(group) - 0.5, ", ".join(sorted(cell.label for cell in group)))
        for group in groups
    ]


def unseen(figure: Figure, strip: Strip, top: float) -> None:
    """How many layers are not drawn."""
    if len(strip.worst) < len(strip.cells):
        rest = sum(cell.abnormal for cell in strip.cells) - sum(cell.abnormal for cell in strip.worst)
        text = f"{len(strip.worst)} of {len(strip.cells)} layers drawn, the worst; {rest or 'no'} neurons above in the others"
        write(figure, top + 0.09, WIDTH_INCHES - 0.24, text, fontsize=8, ha="right", color=MUTED)


def legend(figure: Figure, judgement: Judgement, strip: Strip, top: float) -> None:
    """What is red, and what is not shown."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    limit = limit_name(judgement.limit_on)
    above = f"▼ above the {limit}: {counted(sum(cell.abnormal for cell in strip.cells), 'neuron')}"
    above += f" by means, {sum(cell.tailed for cell in strip.cells)} by tails" if strip.has_tails else ""
    wide = any(cell.neurons > COLUMNS // 2 for cell in strip.worst)
    handles: list[Any] = [
        Patch(color=ABOVE, label=above),
        Patch(color=DIM, label="below (a bar is the largest of some)" if wide else "below"),
        Line2D([], [], color=LINE, linestyle="--", label=limit),
    ]
    if any(cell.unknown for cell in strip.worst):
        unknown = counted(sum(cell.unknown for cell in strip.cells), "neuron")
        handles.append(Line2D([], [], color=MUTED, marker="x", linestyle="", label=f"cannot be compared: {unknown}"))
    y = 1 - (top + 0.3) / figure.get_figheight()
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.013, y), ncols=4, frameon=False, borderaxespad=0)


def draw_layer(figure: Figure, judgement: Judgement, strip: Strip, cell: Cell, place: tuple[float, float]) -> None:
    """A layer's panels side by side under its name; `place`: inches from the top, and of height."""
    top, height = place
    tails = strip.tails[cell.name]
    signatures: list[Signature] = [judgement.layers[cell.name]]
    if np.isfinite(tails).any():
        signatures.insert(0 if strip.rare else 1, TailSignature(cell.name, tails, strip.tail_limit))
    many = len(signatures)
    width = PANELS_INCHES if many == 1 else PANELS_INCHES / 2 - 0.62
    write(figure, top - 0.24, LEFT_INCHES, drawable(cell.name), fontsize=10, weight="bold", color=LINE)
    write(figure, top - 0.24, LEFT_INCHES - 0.25, cell.label, fontsize=10, weight="bold", color=ABOVE)
    for column, signature in enumerate(signatures):
        ax = axes_at(figure, (LEFT_INCHES + column * (width + 1.24), top, width, height), f"{signature.limit_on} {cell.name}")
        draw_panel(ax, panel_of(signature, COLUMNS // many, LABELS // many, float(many)))
