"""report.html, the page people open: `page_files` gives it with the files it needs, `short_page` the few lines for a notebook.

Jinja2 with autoescape on, and no script in any template. Names and texts come from the audited model and its data: everything
printed goes through `web_text` as well, which leaves nothing invisible in it. Styles and pictures are files beside the page, so
that it works where a content policy forbids all else; `single` puts them into it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from naa_fast.detect.accuracy import clean_accuracy
from naa_fast.detect.judgement import Judgement
from naa_fast.report.answer import answer_of
from naa_fast.report.evidence_view import Pictures, proof_views, sample_rows
from naa_fast.report.files import FOLDER, PAGE
from naa_fast.report.layers_view import layers_view
from naa_fast.report.machine import joined_provenance
from naa_fast.report.next_steps import next_steps, with_names
from naa_fast.report.sections import checks_view, findings_view, gate_view, limits_view, provenance_view
from naa_fast.report.units import interval, percent, probability, web_text
from naa_fast.report.words import number

STYLES = "report.css"
ROWS = 50
"""Samples on one page of the sheet."""
FIRST_ROWS, SINGLE_ROWS = 12, 100
"""Samples on the report itself, and where there is no other page."""
SYMBOLS = {"pass": "✓", "warn": "!", "fail": "✕", "inconclusive": "?"}
ALIKE = 0.05
"""Probability by chance from which on a page says that two sets look alike."""
NAME, LINE = 120, 600
"""Characters of a name and of a sentence at most: both may hold what the model's author wrote."""


@dataclass(frozen=True)
class Leaf:
    """A page of the sheet: its number from 1 on, its file, and whether it is the one that is shown."""

    number: int
    file: str
    here: bool


def page_files(judgement: Judgement, provenance: Mapping[str, object], single: bool = False) -> dict[str, bytes]:
    """The page and what lies beside it, by path in the report folder; with `single` the page alone, everything inside it."""
    pictures = Pictures(single)
    context = content_of(judgement, provenance, pictures, SINGLE_ROWS if single else FIRST_ROWS)
    files: dict[str, bytes] = {}
    if not single:
        listed = len(judgement.evidence.ranking.top) if judgement.evidence.ranking is not None else 0
        leaves, beside = -(-listed // ROWS), Pictures(False, pictures.files, at="")
        context["leaves"] = leaves
        for at in range(leaves):
            rows = sample_rows(judgement.evidence, beside, at * ROWS, ROWS)
            around = [Leaf(i + 1, leaf_name(i), i == at) for i in range(leaves)]
            content = rendered("samples.html.j2", {**context, "rows": rows, "around": around, "up": "../", "listed": listed})
            files[f"{FOLDER}/{leaf_name(at)}"] = content
        files[f"{FOLDER}/{STYLES}"] = styles().encode("utf-8")
    files |= {f"{FOLDER}/{name}": content for name, content in pictures.files.items()}
    return {**files, PAGE: rendered("page.html.j2", context)}


def short_page(judgement: Judgement, provenance: Mapping[str, object]) -> str:
    """Outcome, evidence, layers and what was not checked, for a cell of a notebook: HTML without scripts that needs no file."""
    return rendered("short.html.j2", content_of(judgement, provenance, Pictures(True), 0)).decode("utf-8")


def leaf_name(at: int) -> str:
    return f"samples-{at + 1}.html"


def content_of(judgement: Judgement, provenance: Mapping[str, object], pictures: Pictures, rows: int) -> dict[str, Any]:
    """All that the templates print."""
    verdict, evidence = judgement.verdict, judgement.evidence
    layers, checks = layers_view(judgement), checks_view(judgement)
    return {
        "answer": answer_of(judgement, layers, next((check for check in checks if check.name == "repair"), None)),
        "outcome": verdict.outcome,
        "symbol": SYMBOLS[verdict.outcome],
        "gate": gate_view(judgement),
        "sentence": verdict.sentence,
        "score": number(verdict.score),
        "largest_z": number(verdict.z),
        "alike": looks_alike(judgement),
        "p_value": probability(verdict.p_value),
        "accuracy": clean_accuracy(judgement.clean),
        "scanned": scanned(judgement, provenance),
        "sets": {"clean": judgement.clean, "suspect": judgement.suspect},
        "proofs": proof_views(evidence, pictures),
        "evidence": evidence,
        "rows": sample_rows(evidence, pictures, 0, rows),
        "listed": len(evidence.ranking.top) if evidence.ranking is not None else 0,
        "layers": layers,
        "findings": findings_view(judgement),
        "repair": judgement.repair,
        "checks": checks,
        "not_checked": limits_view(judgement),
        "steps": with_names(next_steps(judgement), provenance.get("run")),
        "provenance": provenance_view(joined_provenance(judgement, provenance)),
        "single": pictures.single,
        "folder": "" if pictures.single else f"{FOLDER}/",
        "styles": Markup(styles()) if pictures.single else "",
        "up": "",
        "leaves": 0,
    }


def looks_alike(judgement: Judgement) -> bool:
    """Whether some samples carry a trigger, and the sets as wholes do not differ by more than chance."""
    ranking = judgement.evidence.ranking
    some = ranking is not None and ranking.triggered is not None and bool(ranking.triggered.any())
    return some and judgement.verdict.p_value > ALIKE and not any(len(layer.abnormal) for layer in judgement.layers.values())


def scanned(judgement: Judgement, provenance: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """What was scanned, by the names a person gave: what it is, its name, and more of it."""
    run = provenance.get("run")
    known = run if isinstance(run, Mapping) else {}
    samples = {"clean": judgement.clean.samples, "suspect": judgement.suspect.samples}
    rows = [
        (f"{what} set" if what in samples else what, str(known[what]), f" ({samples[what]:,} samples)" if what in samples else "")
        for what in ("model", "weights", "clean", "suspect")
        if known.get(what)
    ]
    model = judgement.clean.model or judgement.suspect.model
    return rows or ([("model", model, "")] if model else [])


def rendered(template: str, context: Mapping[str, Any]) -> bytes:
    """The page; a number and its unit stay on one line."""
    text = environment().get_template(template).render(context)
    return re.sub(r"(?<=\d) (?=[%σ])", "\u00a0", text).encode("utf-8")


@cache
def environment() -> Environment:
    """Autoescape for every template, whatever its name; a name that a template misspells is an error, not an empty place."""
    made = Environment(
        loader=PackageLoader("naa_fast.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=visible,
    )
    made.filters |= {"pieces": marked_pieces, "number": number, "percent": percent, "interval": interval}
    made.filters |= {"name": partial(web_text, limit=NAME), "line": partial(web_text, limit=LINE)}
    return made


def visible(value: Any) -> Any:
    """Every text that is printed, without anything invisible in it; what is markup already is ours."""
    return web_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def marked_pieces(text: str) -> list[tuple[str, bool]]:
    """A text with what stands between » and « apart."""
    plain, *marked = text.split("»")
    pieces = [(plain, False)]
    for part in marked:
        inside, closed, after = part.partition("«")
        pieces += [(inside, True), (after, False)] if closed else [(part, False)]
    return [piece for piece in pieces if piece[0]]


@cache
def styles() -> str:
    return (resources.files("naa_fast.report") / "templates" / STYLES).read_text("utf-8")
