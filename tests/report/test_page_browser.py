"""The page in a real browser: nothing on it runs, nothing reaches over the edge or over its neighbour, and it is drawn under a
policy that forbids all but styles and pictures from files beside it.

Needs Chromium (`apt-get install chromium`) on the path; without one these tests are skipped, and say so.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from report.examples import EXAMPLES, deep

from naa_fast.report.page import page_files, short_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="NO BROWSER: install chromium, or nobody has seen the page drawn")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--virtual-time-budget=20000",
]
POLICY = "default-src 'none'; img-src 'self'; style-src 'self'"
SHOWN = ("hostile", "pictured", "worded", "not_a_number")
WIDTHS = (360, 1600)

FRAMES = """<!doctype html><meta charset="utf-8"><body>
<script>
const seen = [];
function look(frame) {
  const d = frame.contentDocument, wide = frame.clientWidth, faults = [];
  const over = d.documentElement.scrollWidth - wide;
  if (over > 0) faults.push(`${over} px over the edge`);
  const ran = d.querySelectorAll("[ran], script, iframe, object, embed, [onerror], [onclick], [onmouseover], [style]").length;
  if (ran) faults.push(`${ran} elements that run or style`);
  for (const image of d.images) if (!image.naturalWidth) faults.push(`no picture at ${image.src.slice(0, 80)}`);
  const boxes = [];
  const walk = d.createTreeWalker(d.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, element = node.parentElement;
    if (!node.data.trim() || element.closest("details:not([open]) > :not(summary), .skip, style")) continue;
    if (d.defaultView.getComputedStyle(element).visibility !== "visible") continue;
    const range = d.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (!box.width || box.right < 0) continue;
      boxes.push([box, element]);
      const scrolls = element.closest(".wide, pre");
      if (!scrolls && (box.right > wide + 1 || box.left < -1)) faults.push(`cut off: ${node.data.trim().slice(0, 40)}`);
    }
  }
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const [a, from] = boxes[i], [b, to] = boxes[j];
    if (from === to || from.closest(".wide") || to.closest(".wide")) continue;
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    const words = [from, to].map(element => element.textContent.trim().slice(0, 30));
    if (across > 2 && down > 5) faults.push(`overlap: ${words.join(" / ")}`);
  }
  seen.push({page: frame.dataset.page, width: frame.width, texts: boxes.length, faults: faults.slice(0, 5)});
}
</script>
FRAMES
<pre id="seen"></pre>
<script>addEventListener("load", () => { document.getElementById("seen").textContent = JSON.stringify(seen); });</script>
"""


def browse(tmp_path: Path, *words: str) -> str:
    assert BROWSER is not None
    profile = tmp_path / "profile"
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    shutil.rmtree(profile, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def armed(content: bytes) -> bytes:
    """The page with what its names would do made visible: an attribute in place of a message that nobody sees."""
    return re.sub(rb"alert\(\d\)", b"document.body.setAttribute('ran',1)", content)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    judgements = {name: EXAMPLES[name]() for name in SHOWN} | {"deep": deep(300, 128)}
    for name, judgement in judgements.items():
        files = page_files(judgement, {})
        if name == "pictured":
            files["single.html"] = page_files(judgement, {}, single=True)["report.html"]
            files["short.html"] = b"<!doctype html><meta charset=utf-8><body>" + short_page(judgement, {}).encode()
        for place, content in files.items():
            path = folder / name / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(armed(content) if place.endswith(".html") else content)
    return folder


def test_nothing_runs_overflows_or_overlaps(pages: Path, tmp_path: Path) -> None:
    places = sorted(path for path in pages.rglob("*.html") if not re.search(r"samples-[2-9]", path.name))
    assert len(places) >= 9
    frames = [
        f'<iframe width="{width}" height="900" data-page="{html.escape(str(place.relative_to(pages)))}" '
        f'src="{place.as_uri()}" onload="look(this)"></iframe>'
        for place in places
        for width in WIDTHS
    ]
    (pages / "frames.html").write_text(FRAMES.replace("FRAMES", "\n".join(frames)))
    dumped = browse(tmp_path, "--window-size=1700,900", "--dump-dom", (pages / "frames.html").as_uri())
    match = re.search(r'<pre id="seen">(.*?)</pre>', dumped, re.DOTALL)
    assert match is not None
    seen = json.loads(html.unescape(match[1]))
    assert len(seen) == len(frames)
    assert all(one["texts"] > 5 for one in seen)
    assert not [one for one in seen if one["faults"]]


def test_the_check_sees_what_it_is_there_for(tmp_path: Path) -> None:
    """A page with every fault: without this the test above could be blind."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><body><img src=nowhere.png onerror=\"document.body.setAttribute('ran',1)\">"
        "<div style='width:2000px'>wide</div><p style='position:absolute;top:50px'>one text</p>"
        "<p style='position:absolute;top:52px'>another text</p>"
    )
    frame = f'<iframe width="360" height="900" data-page="bad" src="{bad.as_uri()}" onload="look(this)"></iframe>'
    (tmp_path / "frames.html").write_text(FRAMES.replace("FRAMES", frame))
    dumped = browse(tmp_path, "--dump-dom", (tmp_path / "frames.html").as_uri())
    faults = html.unescape(dumped)
    for words in ("px over the edge", "elements that run or style", "no picture at", "overlap: one text / another text"):
        assert words in faults


class Strict(SimpleHTTPRequestHandler):
    """Serves files under Jenkins' default policy."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", f"sandbox; {POLICY}")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(pages: Path) -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Strict, directory=str(pages)))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_address[1]}"
    served.shutdown()
    served.server_close()


def test_it_is_drawn_under_a_policy_of_files_alone(server: str, tmp_path: Path) -> None:
    picture = tmp_path / "seen.png"
    browse(tmp_path, "--window-size=1000,1400", f"--screenshot={picture}", f"{server}/pictured/report.html")
    pixels = np.round(255 * imread(picture)[..., :3]).astype(int)

    def seen(red: int, green: int, blue: int) -> int:
        return int((pixels == (red, green, blue)).all(-1).sum())

    assert seen(0xB3, 0, 0) > 1000  # the badge and the bars: the stylesheet came
    assert seen(208, 0, 0) > 500  # the place of the trigger: the pictures came


def test_it_is_dark_where_the_reader_has_it_so(pages: Path, tmp_path: Path) -> None:
    picture, place = tmp_path / "seen.png", (pages / "pictured" / "report.html").as_uri()
    browse(tmp_path, "--blink-settings=preferredColorScheme=0", "--window-size=800,600", f"--screenshot={picture}", place)
    assert (imread(picture)[-5, 5, :3] < 0.2).all()
