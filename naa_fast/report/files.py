"""The names of the files of a report folder. Nothing is imported here: a command asks for them before it loads anything."""

from __future__ import annotations

import re

REPORT = "report.json"
PAGE = "report.html"
CONFIG = "scan.toml"
"""The options of a scan as resolved, which the command line writes after all else."""
ALWAYS = (
    REPORT,
    PAGE,
    "signature.png",
    "signature.svg",
    "summary.txt",
    "clean.naa.safetensors",
    "suspect.naa.safetensors",
    "evidence.safetensors",
)
SHEET, TEXTS = "top-samples.png", "top-samples.txt"
TABLE = "ranking.csv"
VECTORS = "directions.safetensors"
SHOWN_TRIGGERS = 3
OPTIONAL = (
    SHEET,
    TEXTS,
    TABLE,
    VECTORS,
    "repair.safetensors",
    "base.json",
    *(f"trigger-{i}.{form}" for i in range(1, SHOWN_TRIGGERS + 1) for form in ("png", "txt")),
)
"""Every file a report may have beside ALWAYS."""
FORMAT_FILES = ("report.sarif", "junit.xml", "report.md", "verdict.intoto.json")
"""What `formats.FORMATS` writes for pipelines."""
FOLDER = "page"
"""Where the files of a page lie, beside it."""
PAGE_FILE = re.compile(r"report\.css|samples-\d+\.html|(trigger|place|sample)-\d+\.png|example-\d+-\d+-with(out)?\.png")
"""Their names: what an older page has left is told by them."""
PREVIOUS = "previous"
"""Where an older report of the same folder lies until a new one is written."""
