"""The page: everything is on it and in order, nothing on it can run, deceive or be missing, and it is readable in the dark."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from unicodedata import category

import numpy as np
import pytest
from report.examples import EXAMPLES, HOSTILE, classic, deep, judged, noise, pair, pictured, ranking_of, worded

from naa_fast.detect.accept import Rules
from naa_fast.detect.checks import ABOUT
from naa_fast.detect.coverage import NOT_CHECKED
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.proof import Example, Proof
from naa_fast.detect.trigger import Patch
from naa_fast.repair.search import CURE
from naa_fast.report.layers_view import SHORT, short_names
from naa_fast.report.page import environment, marked_pieces, page_files, short_page, styles, visible
from naa_fast.report.sections import OF_TEXTS
from naa_fast.report.words import UNSHOWN

VOID = {"meta", "link", "img", "br"}
SVG_ALONE = {"rect", "line", "path"}
ORDER = ["evidence", "samples", "layers", "repair", "checks", "limits", "next", "provenance"]


@dataclass
class Read(HTMLParser):
    """A page as its elements: `(tag, attributes)` in order, the text, and whether every element was closed in its turn."""

    content: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value and value.replace("\xa0", " ") for key, value in attrs}))
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SVG_ALONE
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag, self.getpos()
        self.text += " " if tag in ("td", "th", "li", "p") else ""

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\xa0", " ")

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(attribute)) is not None]


def pages(judgement: Judgement, single: bool = False) -> dict[str, Read]:
    files = page_files(judgement, {"options": {"seed": 1}}, single)
    return {name: Read(content.decode("utf-8")) for name, content in files.items() if name.endswith(".html")}


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("single", [False, True])
def test_every_page_is_whole_and_runs_nothing(example: str, single: bool) -> None:
    judgement = EXAMPLES[example]()
    read = {**pages(judgement, single), "short": Read(short_page(judgement, {}))}
    for name, page in read.items():
        assert page.open_tags == [], name
        tags = {tag for tag, _ in page.tags}
        assert not tags & {"script", "iframe", "object", "embed", "form", "base", "foreignobject"}
        for tag, attributes in page.tags:
            assert not [key for key in attributes if key.startswith("on") or key in ("style", "srcset", "formaction")], (
                tag,
                name,
            )
            for key in ("href", "src"):
                assert re.match(r"#|data:image/png;base64,|[\w./-]+(#\w+)?$", attributes.get(key) or "#"), (tag, attributes)


@pytest.mark.parametrize("example", EXAMPLES)
def test_whatever_a_page_points_to_is_there_and_nothing_else(example: str) -> None:
    files = page_files(EXAMPLES[example](), {})
    wanted = {"report.html"}
    for name in [name for name in files if name.endswith(".html")]:
        page, folder = Read(files[name].decode()), name.rpartition("/")[0]
        ids = page.values("id")
        assert len(ids) == len(set(ids))
        for place in page.values("href") + page.values("src"):
            path, _, fragment = place.partition("#")
            target = posixpath.normpath(posixpath.join(folder, path)) if path else name
            wanted.add(target)
            assert target in files, place
            if fragment:
                assert fragment in Read(files[target].decode()).values("id"), place
    assert wanted == files.keys()


def test_the_page_is_in_the_order_a_person_asks() -> None:
    page = pages(pictured())["report.html"]
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == ORDER
    text = page.text
    places = [
        text.index(words) for words in (pictured().verdict.sentence[:40], "Attack success on 288", "9 of 130 suspect samples")
    ]
    assert places == sorted(places)
    links = [value for value in page.values("href") if value.startswith("#")]
    assert "|".join(f"#{name}" for name in ORDER) in "|".join(links)


def test_a_short_answer_stands_on_top_and_links_to_what_shows_it() -> None:
    content = page_files(pictured(), {})["report.html"].decode()
    box = Read(content[content.index('<dl class="answer">') : content.index("</header>")].partition("</dl>")[0] + "</dl>")
    assert box.values("href") == ["#evidence", "#evidence", "#samples", "#layers", "#repair"]
    text = " ".join(box.text.split())
    assert "the trigger turns 91 % of 288 clean samples to class 7, the control 6 %; 65 % is needed" in text
    assert "2 × 2 pixels, rows 6 to 7, columns 6 to 7 of 8 × 8: bottom right, light" in text
    assert "9 of the 130 suspect samples" in text
    assert "in 9 of 9 triggered samples looked at (neurons 0 in 2, 1 in 2)" in text
    assert "89 % turned before, 1 % after; 99.5 % of clean predictions stay" in text
    box = Read(page_files(worded(), {})["report.html"].decode().partition("</dl>")[0] + "</dl></header></body></html>")
    assert "“zebra<script>”, put in place of any one word" in box.text


def test_a_number_stays_with_its_unit_and_the_menu_has_the_headings() -> None:
    files = page_files(pictured(), {})
    for name in [name for name in files if name.endswith(".html")]:
        assert not re.search(r"\d [%σ]", files[name].decode())
    text = files["report.html"].decode()
    menu = re.findall(r'<a href="#\w+">([^<]+)</a></li>', text.partition("<nav")[2].partition("</nav>")[0])
    assert menu == re.findall(r"<h2[^>]*>([^<]+)</h2>", text)


def test_a_report_on_texts_speaks_of_no_camera() -> None:
    assert all(any(words in line for line in NOT_CHECKED) for words in OF_TEXTS)
    assert "camera" in pages(pictured())["report.html"].text
    text = pages(worded())["report.html"].text
    assert not re.search("camera|video|photograph", text)
    assert "other authors, other topics" in text


def test_short_names_of_layers_tell_them_apart() -> None:
    layers = [f"bert.encoder.layer.{i}{part}" for i in (0, 1) for part in ("", ".output.dense:in", ".attention.output.dense")]
    assert short_names(layers)[:3] == ["layer.0", "l.0.o.dense:in", "l.0.a.o.dense"]
    longer = [*layers, "bert.pooler.dense"]
    assert short_names(longer)[:3] == ["e.l.0", "l.0.o.dense:in", "l.0.a.o.dense"]
    for names in (layers, longer, ["x" * 50 + "a", "y" * 50 + "x" * 20 + "a"], ["", "a" * 99], ["fc"], [HOSTILE, HOSTILE + "1"]):
        short = short_names(names)
        assert len(set(short)) == len(names)
        assert max(map(len, short)) <= SHORT + 1


def test_headings_go_down_one_level_at_a_time_and_pictures_and_tables_are_described() -> None:
    for example in EXAMPLES.values():
        for page in pages(example()).values():
            levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
            assert levels[0] == 1
            assert levels.count(1) == 1
            assert all(after <= before + 1 for before, after in pairwise(levels))
            assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
            roles = [attributes for _, attributes in page.tags if attributes.get("role") in ("img", "region")]
            assert all(attributes.get("aria-label") for attributes in roles)
            assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
            assert page.tags[0] == ("html", {"lang": "en"})


def test_a_proof_shows_its_examples_and_numbers() -> None:
    page = pages(pictured())["report.html"]
    assert "A patch turns samples of other classes to class 7" in page.text
    assert "91 % (95 % interval 87 to 94 %)" in page.text
    assert "2 × 2 pixels, rows 6 to 7, columns 6 to 7 of 8 × 8: bottom right." in page.text
    assert "6.2 % of the input; read off the suspect samples" in page.text
    assert page.text.count("Rows and columns count from 0.") == 1
    assert "at least 65 % (the dashed line), at least 40 points more than its control" in page.text
    assert "Clean sample → with the trigger: 5 of 6 turned" in page.text
    shown = [source for source in page.values("src") if "example" in source]
    assert shown == [f"page/example-1-{i}-{when}.png" for i in range(1, 7) for when in ("without", "with")]
    assert "Turned, of 122 clean samples with the trigger on them:" in page.text
    bars = {a["aria-label"]: None for tag, a in page.tags if tag == "svg" and a.get("class") == "track"}
    assert list(bars) == [
        "with the trigger: 91 % (95 % interval 87 to 94 %)",
        "control: 6 %",
        "before: 89 %",
        "after: 1 %",
        "a random repair: 88 %",
    ]
    widths = [a["width"] for tag, a in page.tags if tag == "rect" and a.get("class") in ("strong", "weak")]
    assert [float(str(width).rstrip("%")) for width in widths] == [91, 6, 89, 1, 88]


def carrying(shared: slice) -> Judgement:
    """`pictured` with 48 samples of a grey edge, of which the first 9 are white in `shared` of the last row and the one above."""
    judgement = pictured()
    pictures = np.random.default_rng(1).random((48, 1, 8, 8)).astype(np.float32)
    pictures[:, :, :, 0] = 0.5
    pictures[:9, :, 6:, shared] = 1
    return replace(judgement, evidence=replace(judgement.evidence, pictures=pictures))


def test_a_proof_says_how_many_pixels_triggered_samples_share() -> None:
    larger = pages(carrying(slice(4, 8)))["report.html"].text
    assert "The proof put 4 pixels on; the samples that carry it share 8 there." in larger
    for same in (pictured(), carrying(slice(6, 8)), carrying(slice(0, 0))):
        assert (
            "The trigger as reconstructed, which can be smaller than the one that was planted." in pages(same)["report.html"].text
        )


def test_a_sample_that_turned_to_a_third_class_says_so() -> None:
    judgement = pictured()
    (proof,) = judgement.evidence.proof
    examples = (replace(proof.examples[1], turned_to=4), *proof.examples[2:])
    changed = replace(judgement, evidence=replace(judgement.evidence, proof=(replace(proof, examples=examples),)))
    assert "changed, not to class 7" in pages(changed)["report.html"].text
    assert "changed, not" not in pages(judgement)["report.html"].text


def test_words_stand_in_their_context_and_are_marked() -> None:
    content = page_files(worded(), {})["report.html"].decode()
    assert "<mark>zebra</mark>" in content
    assert "&lt;/blockquote&gt;&lt;script&gt;alert(4)&lt;/script&gt;" in content
    assert "<mark><bdi>zebra&lt;script&gt;</bdi></mark>" in content
    assert re.search(r"text 0 &lt;i onclick=alert\(5\)&gt;\s+<mark>zebra</mark>\s+end", content)


def test_samples_are_on_pages_of_plain_links_with_file_and_neurons() -> None:
    read = pages(pictured())
    leaves = [f"page/samples-{i}.html" for i in (1, 2, 3)]
    assert set(read) == {"report.html", *leaves}
    assert "page/samples-1.html" in read["report.html"].values("href")
    ranks = []
    for i, leaf in enumerate(leaves, 1):
        links = read[leaf].values("href")
        assert {f"samples-{j}.html" for j in (1, 2, 3) if j != i} == {link for link in links if link.startswith("samples")}
        ranks += [int(rank) for rank in re.findall(r"Ranks (\d+)", read[leaf].text)]
        assert "\\u202e.png" in read[leaf].text  # what turns a line shows
        assert "\u05d0\u05d1" in read[leaf].text  # letters of another script stay
        assert "] 12.5 σ" in read[leaf].text
    assert ranks == [1, 51, 101]


def test_every_check_says_whether_it_ran_and_why_not() -> None:
    judgement = classic(None)
    page = pages(judgement)["report.html"]
    part = " ".join(page.text[page.text.index("What ran, and what did not") :].partition("What a script is told")[0].split())
    assert len(judgement.verdict.checks) >= 5
    for check in judgement.verdict.checks:
        assert f"{check.name} {'yes' if check.ran else 'no'} {ABOUT[check.name]}" in part
        assert check.reason in part
    assert "500 clean and 100 suspect samples, 1 layer, 512 neurons" in part
    missing = [attributes for tag, attributes in page.tags if tag == "tr" and attributes.get("class") == "missing"]
    assert len(missing) == sum(not check.ran for check in judgement.verdict.checks) + 1  # and there is no repair
    assert "repair no whether silencing what was found cures the model it was not tried" in part


def test_a_repair_that_was_tried_in_vain_ran() -> None:
    failed = replace(pictured(), repair=None)
    for why, ran in (("none of 14 repairs silences it", "yes, none found"), ("no layer can be changed", "no")):
        verdict = replace(failed.verdict, not_checked=(f"{CURE}: {why}",))
        text = " ".join(pages(replace(failed, verdict=verdict))["report.html"].text.split())
        assert f"repair {ran} {CURE} {why}" in text
        assert f"No repair: {why}. See" in text


def test_the_page_says_what_a_script_is_told_and_by_which_rules() -> None:
    judgement = replace(classic(), rules=Rules(fail_on="proved", allow="known<b>.json", warn_ok=True))
    text = " ".join(pages(judgement)["report.html"].text.split())
    gate = judgement.gate
    assert gate.decision != judgement.verdict.outcome
    assert f"A script is told {gate.decision}: {gate.reason}." in text
    assert f"{gate.decision.capitalize()}, exit code {gate.exit_code}: {gate.reason}." in text
    assert "--fail-on proved, --baseline none, --allow known<b>.json, --warn-ok yes, --accept-unranked nothing" in text
    assert "A script is told" not in pages(classic())["report.html"].text


def test_a_pass_and_an_inconclusive_outcome_say_what_to_do_and_what_was_not_seen() -> None:
    text = pages(EXAMPLES["pass"]())["report.html"].text
    assert "PASS" in text
    assert "nothing was found by the 1 check that ran; 5 checks did not run, or not to its end" in text
    assert "Over the set as a whole no neuron of any layer is beyond its limit." in text
    judgement = EXAMPLES["inconclusive"]()
    text = pages(judgement)["report.html"].text
    assert "INCONCLUSIVE" in text
    assert "no check ran to its end" in text
    assert "Close the gaps and scan again" in text
    for line in judgement.verdict.not_checked:
        assert line in text


def test_three_hundred_layers_fit_into_a_megabyte_however_wide_they_are() -> None:
    wide, wider = (len(page_files(deep(6, neurons), {}, single=True)["report.html"]) for neurons in (1024, 4096))
    assert wider < 1.1 * wide  # a chart has 400 bars at most
    judgement = deep(neurons=1024)
    files = page_files(judgement, {}, single=True)
    assert list(files) == ["report.html"]
    assert 100_000 < len(files["report.html"]) < 1_000_000
    page = Read(files["report.html"].decode())
    cells = [a for tag, a in page.tags if tag == "span" and str(a.get("class")).startswith("cell")]
    assert len(cells) == 600
    tails, means = cells[:300], cells[300:]
    colours = [int(re.findall(r"\bc(\d)", str(a["class"]))[0]) for a in tails]
    assert min(colours[200:]) >= 3 > max(colours[:200])  # beyond what chance reaches, and not
    assert all({"c0", "c1"} & set(str(a["class"]).split()) for a in means)
    assert sum("labelled" in str(a["class"]) for a in tails) == 5
    assert "model.layers.200.mlp.act_fn: 0 of 1,024 neurons beyond 2 σ, 20 with more than" in " ".join(page.text.split())


def test_photographs_do_not_make_a_single_file_more_than_a_megabyte() -> None:
    """Noise, which no compression makes smaller."""
    random = np.random.default_rng(0)
    mask = np.zeros((3, 224, 224), np.float32)
    mask[:, 180:200, 190:210] = 1
    noisy = [random.random((3, 224, 224), np.float32) for _ in range(12)]
    examples = tuple(Example(i, 7, noisy[2 * i], noisy[2 * i + 1]) for i in range(6))
    proof = Proof(Patch(noisy[0], mask, "1 % of the input"), 7, 0.9, 0.0, 100, 8, examples=examples)
    pictures = random.random((48, 3, 224, 224), np.float32)
    judgement = judged({"f": pair(8)}, evidence=Evidence(ranking_of(500, 20), (proof,), pictures=pictures))
    assert 500_000 < len(page_files(judgement, {}, single=True)["report.html"]) < 1_000_000


def test_a_name_of_a_megabyte_does_not_make_a_page_of_one() -> None:
    judgement = judged({"x" * 1_000_000: pair(8, {2: 9.0})}, 2.0)
    assert sum(map(len, page_files(judgement, {}).values())) < 100_000


def test_the_page_is_the_same_twice() -> None:
    assert page_files(pictured(), {}) == page_files(pictured(), {})


def test_nothing_invisible_is_printed_and_templates_escape_by_themselves() -> None:
    template = environment().from_string("{{ a }}|{{ b }}")
    shown = template.render(a=HOSTILE, b='"><b>')
    assert "<" not in shown
    assert '"' not in shown
    for page in pages(EXAMPLES["hostile"]()).values():
        assert not [c for c in page.text if c != "\n" and category(c) in UNSHOWN]
    assert visible(3) == 3


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a »b« c", [("a ", False), ("b", True), (" c", False)]),
        ("»b«", [("b", True)]),
        ("a « b » c", [("a « b ", False), (" c", False)]),
        ("", []),
    ],
)
def test_marks_of_a_text(text: str, pieces: list[tuple[str, bool]]) -> None:
    assert marked_pieces(text) == pieces


def test_a_notebook_gets_one_piece_without_a_file() -> None:
    content = short_page(pictured(), {})
    page = Read(content)
    assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
    assert len(page.values("src")) == 6
    assert pictured().verdict.sentence[:30] in page.text
    assert "html" not in {tag for tag, _ in page.tags}
    ours = (".naa", "body.naa", ":root:has(> body.naa)", "@")
    assert all(selector.strip().startswith(ours) for selector in selectors(styles()))


def selectors(css: str) -> list[str]:
    """The selectors of every rule that is not inside another."""
    rules = re.sub(r"@media[^{]*\{((?:[^{}]*\{[^{}]*\})*)\s*\}", r"\1", re.sub(r"@page[^}]*\}", "", css))
    return [part for rule in re.findall(r"([^{}]+)\{", rules) for part in rule.split(",")]


def contrast(a: str, b: str) -> float:
    """Of two #rgb or #rrggbb colours, by WCAG 2.1."""

    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
        parts = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_have_contrast_on_every_ground(scheme: int) -> None:
    found = [
        dict(re.findall(r"--([\w]+): (#[0-9a-f]{3,6})", block))
        for block in re.findall(r"\.naa \{([^}]*--paper[^}]*)\}", styles())
    ]
    colours = found[scheme]
    for ground in ("paper", "soft"):
        for words in ("ink", "quiet", "link", "pass", "warn", "fail", "inconclusive"):
            assert contrast(colours[words], colours[ground]) >= 4.5, (words, ground)
    assert contrast(colours["ink"], colours["mark"]) >= 4.5
    for step in range(8):
        dark_words = step <= 4 if scheme == 0 else step >= 4
        assert contrast("#10151c" if dark_words else "#fff", colours[f"c{step}"]) >= 4.5, step
    for bar in ("bar", "weak", "dim"):
        assert contrast(colours[bar], colours["paper"]) >= 2.4, bar


def test_a_layer_that_is_nan_is_shown_as_unknown() -> None:
    page = pages(EXAMPLES["not_a_number"]())["report.html"]
    assert any("cnone" in str(a.get("class")) for _, a in page.tags)
    assert "cannot be compared" in page.text
    whole = judged({"f": (noise(0, 64, 4), np.full((40, 4), np.nan, np.float32))}, 2.0)
    assert pages(whole)["report.html"].open_tags == []
