"""What the documentation's site has beside docs/ (mkdocs.yml): README.md as its first page, and the reference from docstrings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = (
    "naa_fast.audit.scan",
    "naa_fast.audit.measure",
    "naa_fast.audit.compare",
    "naa_fast.detect.arrays.detect",
    "naa_fast.result.Audit",
    "naa_fast.measurement.Measurement",
    "naa_fast.detect.evidence.Ranking",
    "naa_fast.detect.proof.Proof",
    "naa_fast.detect.repair.Repair",
    "naa_fast.repair.change.applied",
    "naa_fast.errors",
)


def first_page() -> str:
    """README.md, its links from where the site has it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](", re.sub(r'(src|srcset)="docs/', r'\1="', text))


def reference() -> str:
    """The page that mkdocstrings fills."""
    return "# Reference\n\n" + "\n\n".join(f"::: {name}" for name in PUBLIC) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """mkdocs' hook: both pages are made anew for every build."""
    from mkdocs.structure.files import File

    for name, content in (("index.md", first_page()), ("reference.md", reference())):
        files.append(File.generated(config, name, content=content))
    return files
