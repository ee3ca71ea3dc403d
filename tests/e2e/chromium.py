"""A page opened in headless Chromium: its document, what its console said, and what it asked the network for."""

import json
import os
import shutil
import signal
import subprocess
from html import unescape
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the browser's own requests go nowhere, either
    "--enable-logging=stderr",
    "--v=0",
)
PROBE = """
<script>
const box = element => { const b = element.getBoundingClientRect(); return [b.width, b.height] };
const texts = selector => [...document.querySelectorAll(selector)].map(element => element.textContent.trim());
parent.postMessage(JSON.stringify({
  width: innerWidth,
  scroll_width: document.documentElement.scrollWidth,
  charts: [...document.querySelectorAll('figure svg')].map(box),
  marks: [...document.querySelectorAll('figure svg')].map(svg => svg.querySelectorAll('path, line, text').length),
  headings: texts('h3'),
  titles: texts('figure h4'),
  cut: [...document.querySelectorAll('figure svg text')].filter(text =>
    text.getBoundingClientRect().left < text.closest('figure').getBoundingClientRect().left).length,
}), '*');
</script>
"""
# A window is never narrower than 500 pixels; a frame may be.
FRAME = """<!DOCTYPE html><style>body {{ margin: 0 }}</style>
<script>onmessage = event => {{ document.querySelector('pre').textContent = event.data }}</script>
<pre></pre><iframe src="probed.html" style="width: {width}px; height: 900px; border: 0"></iframe>
"""
PATIENCE_S = 60.0


class Visit(Struct, frozen=True):
    """What a browser found: the document after loading, console lines, and URLs that the page itself asked for."""

    dom: str
    console: list[str]
    requests: list[str]


class Layout(Struct, frozen=True):
    """Sizes in CSS pixels; `cut` texts of charts stick out of their frame on the left."""

    width: int
    scroll_width: int
    charts: list[tuple[float, float]]
    marks: list[int]
    headings: list[str]
    titles: list[str]
    cut: int


class Browser:
    """Headless Chromium with a profile of its own for every visit."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder

    def visit(self, page: Path, width: int = 1280) -> Visit:
        """Open a page and let it load."""
        log = self._folder / "net.json"
        out, err = self._run(page, width, f"--log-net-log={log}", "--dump-dom")
        return Visit(out, [line for line in err.splitlines() if ":CONSOLE:" in line], _requests(log))

    def layout(self, page: Path, width: int) -> Layout:
        """How a page is laid out at a width; the page is copied, since it would let no script of ours run."""
        probed = self._folder / "probed.html"
        before, policy, after = page.read_text().partition('<meta http-equiv="Content-Security-Policy"')
        assert policy
        probed.write_text(before + after.partition(">")[2] + PROBE)
        frame = self._folder / "frame.html"
        frame.write_text(FRAME.format(width=width))
        dom, _ = self._run(frame, width, "--virtual-time-budget=10000", "--dump-dom")
        return msgspec.json.decode(unescape(dom.partition("<pre>")[2].partition("</pre>")[0]), type=Layout)

    def _run(self, page: Path, width: int, *flags: str) -> tuple[str, str]:
        profile = self._folder / "profile"
        command = [self._program, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},900", *flags]
        process = subprocess.Popen(
            [*command, page.as_uri()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            shutil.rmtree(profile, ignore_errors=True)
        assert process.returncode == 0, err
        return out, err


def _requests(log: Path) -> list[str]:
    """What the page asked for; a request of the browser's own has no origin."""
    events = json.loads(log.read_text())["events"]
    asked = (event["params"] for event in events if "initiator" in event.get("params", {}))
    return [params["url"] for params in asked if params["initiator"] != "not an origin"]


def chromium(folder: Path) -> Browser:
    """The browser of this machine; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    return Browser(program, folder)
