"""`FORMATS`: what a report can be written as for pipelines, besides report.json, which all of it is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from naa_fast.errors import UsageError
from naa_fast.report.attestation import attestation_bytes
from naa_fast.report.junit import junit_bytes
from naa_fast.report.markdown import markdown_bytes
from naa_fast.report.reading import Reading
from naa_fast.report.sarif import sarif_bytes


class Format(NamedTuple):
    """The file in the report folder, and what makes it."""

    file: str
    content: Callable[[Reading], bytes]


FORMATS: Mapping[str, Format] = {
    "sarif": Format("report.sarif", sarif_bytes),
    "junit": Format("junit.xml", junit_bytes),
    "markdown": Format("report.md", markdown_bytes),
    "intoto": Format("verdict.intoto.json", attestation_bytes),
}


def format_files(names: Iterable[str], report: bytes) -> dict[str, bytes]:
    """The files of the formats `names`, by file name, from the bytes of a report.json.

    Raises:
        UsageError: a name that FORMATS does not have.
    """
    chosen = require(names)
    reading = Reading.of(report) if chosen else None
    return {FORMATS[name].file: FORMATS[name].content(reading) for name in chosen if reading is not None}


def require(names: Iterable[str]) -> list[str]:
    """The names, each once, all of them known."""
    chosen = list(dict.fromkeys(names))
    for name in chosen:
        if name not in FORMATS:
            raise UsageError(f"'{name}' is no format of a report", f"expected some of {', '.join(FORMATS)}")
    return chosen
