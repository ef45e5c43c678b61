"""The tables in the documents are those of the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_refusals_is_that_of_the_code() -> None:
    refusals = script("refusals")
    text = refusals.DOCUMENT.read_text(encoding="utf-8")
    assert refusals.renewed(text) == text, "run: python tools/refusals.py"


def test_a_new_refusal_makes_the_table_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = script("refusals")
    (tmp_path / "naa_fast").mkdir()
    (tmp_path / "naa_fast" / "new.py").write_text('raise UnsafeInput(f"refused {name}", "it bites", "flee")\n')
    monkeypatch.setattr(refusals, "ROOT", tmp_path)
    assert list(refusals.refusals()) == [("naa_fast/new.py", "refused …: it bites")]


def test_every_form_of_data_and_place_is_in_the_document() -> None:
    from naa_fast.capture.friendly import NAMES
    from naa_fast.inputs.opening import ARRAY_SUFFIXES, DATASET, TEXT_SUFFIXES

    text = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
    for form in (*ARRAY_SUFFIXES, *TEXT_SUFFIXES, ".tar", ".pt2", "timm:", "hf:", DATASET, *NAMES, "@last"):
        assert f"`{form}" in text or f"`FILE{form}`" in text or f" {form}" in text, form


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]


def anchors(text: str) -> set[str]:
    """Where a link may lead inside a page: its headings, as GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), f"{page} links to {target}, which is not there"
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), f"{page} links to {target}#{anchor}"


def test_the_readme_is_one_screen_and_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in text, f"README.md does not lead to docs/{page.name}"
