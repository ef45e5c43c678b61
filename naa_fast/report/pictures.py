"""What a person looks at beside the signature: the triggers that were proved, and the highest-ranked samples.

`optional_files` gives them by name, as far as there is something to show.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from naa_fast.detect.axes import channels_first, is_picture
from naa_fast.detect.evidence import Evidence, Ranking
from naa_fast.detect.findings import called
from naa_fast.detect.names import Names
from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Pattern, Tokens, Trigger
from naa_fast.records import Array
from naa_fast.report.chart_style import ABOVE, LINE, MUTED, drawable, own_style
from naa_fast.report.files import SHEET, SHOWN_TRIGGERS, TEXTS
from naa_fast.report.units import interval, percent
from naa_fast.report.words import number, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, ROWS = 12, 4
GROUND = "#8c9cb8"
"""Behind a trigger: neither a white nor a black one is lost on it."""
TITLE, SHORT_CELLS, QUOTES = 90, 9, "'\""
TEXT_CELLS = 2000


def optional_files(evidence: Evidence) -> dict[str, bytes]:
    """Name -> content of the files this evidence has something for."""
    files = {}
    for proof, name in trigger_names(evidence).items():
        files[name] = (
            text_trigger(proof, evidence.names)
            if isinstance(proof.trigger, Tokens)
            else png_bytes(trigger_figure(proof, called(evidence, proof)))
        )
    if evidence.ranking is not None and evidence.pictures is not None and len(evidence.pictures):
        files[SHEET] = png_bytes(sheet_figure(evidence.ranking, evidence.pictures, evidence.names))
    if evidence.ranking is not None and evidence.texts:
        files[TEXTS] = text_sheet(evidence.ranking, evidence.texts, evidence.names)
    return files


def trigger_names(evidence: Evidence) -> dict[Proof, str]:
    """The file each proof that stands and can be shown goes to."""
    standing = [proof for proof in evidence.proof if proof.stands and ending_of(proof.trigger)]
    return {p: f"trigger-{i}.{ending_of(p.trigger)}" for i, p in enumerate(standing[:SHOWN_TRIGGERS], 1)}


def ending_of(trigger: Trigger) -> str:
    """The kind of file that shows a trigger; empty where it is neither text nor picture."""
    if isinstance(trigger, Tokens):
        return "txt"
    return "png" if is_picture(trigger.pattern) else ""


def trigger_figure(proof: Proof, target: str) -> Figure:
    """The trigger, and the places it covers; of an offset what it adds, blue less, red more; `target`: its class by name."""
    from matplotlib.figure import Figure

    assert isinstance(proof.trigger, Pattern)
    pattern, mask = channels_first(proof.trigger.pattern), None if proof.mask is None else channels_first(proof.mask)
    with own_style():
        figure = Figure(figsize=(7.5, 4.2), dpi=150, facecolor="white")
        axes = figure.subplots(1, 2 if mask is not None else 1, squeeze=False)[0]
        if mask is not None:
            scaled = pixels(pattern)  # by the range of all of it: a white patch alone has none
            covered = mask.max(0) > 0
            shown = np.where(covered if scaled.ndim == 2 else covered[:, :, None], scaled, np.nan)
            axes[0].set_facecolor(GROUND)
            axes[0].imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes[0].set_title("the trigger (blue: left as it is)")
            axes[1].imshow(mask.max(0), cmap="gray", interpolation="nearest")
            axes[1].set_title("the places it covers, in white")
        else:
            furthest = max(float(np.abs(pattern).max()), 1e-12)
            drawn = axes[0].imshow(pattern.mean(0), cmap="coolwarm", vmin=-furthest, vmax=furthest, interpolation="nearest")
            figure.colorbar(drawn, ax=axes[0], shrink=0.8, label="added to the input, in its own units")
            axes[0].set_title("the trigger (mean over channels)" if pattern.shape[0] > 1 else "the trigger")
        for ax in axes:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(True)
        title = f"{proof.kind}: turns {percent(proof.rate)} of clean samples to {target}"
        figure.suptitle(drawable(title, TITLE), color=LINE, fontsize=12)
        words = f"95 % interval {interval(proof.interval)}, on {proof.samples:,} samples; one made from clean samples: "
        words += percent(proof.control)
        figure.text(0.5, 0.03, words, ha="center", color=MUTED, fontsize=9)
    return figure


def sheet_figure(ranking: Ranking, pictures: Array, names: Names) -> Figure:
    """The highest-ranked samples, with their place in the set and predicted class; red frames carry a proven trigger. `pictures`
    `[samples, channels, height, width]`.
    """
    from matplotlib.figure import Figure

    shown = min(len(pictures), COLUMNS * ROWS)
    rows = -(-shown // COLUMNS)
    with own_style():
        figure = Figure(figsize=(COLUMNS, 1.22 * rows + 0.6), dpi=110, facecolor="white")
        axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=1 - 0.62 / (1.22 * rows + 0.6), hspace=0.28, wspace=0.06)
        for ax, picture, sample in zip(axes, pictures[:shown], ranking.top, strict=False):
            ax.imshow(pixels(picture), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            to = f" → {drawable(names.short(sample.predicted).strip(QUOTES), SHORT_CELLS)}" if sample.predicted >= 0 else ""
            ax.set_title(f"{sample.sample}{to}", fontsize=7, color=ABOVE if sample.triggered else MUTED, pad=2)
            for spine in ax.spines.values():
                spine.set_visible(sample.triggered)
                spine.set_edgecolor(ABOVE)
                spine.set_linewidth(2)
        for ax in axes:
            ax.set_xticks([])
            ax.set_yticks([])
        for ax in axes[shown:]:
            ax.axis("off")
        title = "The suspect samples farthest outside the clean set: sample → predicted class (red: carries a proven trigger)"
        figure.suptitle(title, color=LINE, fontsize=10)
    return figure


def pixels(picture: Array) -> Array:
    """`[channels, height, width]` as matplotlib wants it, each picture stretched to its own range; of four channels the first
    three: opacity would hide what is there.
    """
    picture = picture[:3]
    finite = picture[np.isfinite(picture)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = (picture - low) / max(high - low, 1e-12)
    return scaled[0] if len(scaled) == 1 else np.moveaxis(scaled, 0, -1)


def png_bytes(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with own_style():
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def text_trigger(proof: Proof, names: Names | None = None) -> bytes:
    low, high = proof.interval
    assert isinstance(proof.trigger, Tokens)
    target = (names or Names()).of(proof.target) if isinstance(proof.target, int) else proof.target
    lines = [
        f"trigger: {printable(proof.words, TEXT_CELLS) if proof.words else '(token ids below)'}",
        f"token ids: {proof.trigger.written}",
        f"turns {proof.rate:.0%} of {proof.samples} clean samples of other classes to {target}",
        f"95 % interval {low:.0%} to {high:.0%}; the strongest words of that class in clean data: {proof.control:.0%}",
    ]
    return ("\n".join(lines) + "\n").encode()


def text_sheet(ranking: Ranking, texts: tuple[str, ...], names: Names) -> bytes:
    """One line a sample: its place, score, predicted class, and text, a proven trigger in »«."""
    lines = ["The suspect samples farthest outside the clean set; a proven trigger stands in »«", ""]
    for sample, text in zip(ranking.top, texts, strict=False):
        head = f"{sample.sample}  score {number(sample.score)}  {names.called(sample.predicted)}"
        lines.append(f"{head}  {printable(text, TEXT_CELLS)}")
    return ("\n".join(lines) + "\n").encode()
