"""`optimize report` as a user runs it, and its page as a browser shows it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from optimize.budgets import load
from optimize.manifest import encode
from optimize.registry import Registry
from tests.e2e.chromium import Browser, chromium
from tests.optimize.report import results
from tests.published import identity, publish

COMMAND = [str(Path(sys.executable).with_name("optimize")), "report"]
BUDGETS = """
schema = 1
registry = "store"
[models.sentiment]
source = "sentiment.onnx"
size = { mb = 40.0 }
[models.close]
source = "close.onnx"
size = { mb = 40.0 }
[models.forgotten]
source = "forgotten.onnx"
size = { mb = 40.0 }
"""
SECTIONS = [
    "Candidates against budgets",
    "Why the others lost",
    "Operating points",
    "Judged by optimize validate",
    "Charts",
    "Evidence",
    "Answers that changed",
    "The run",
    "How to read this",
]
TITLES = [
    "Accuracy against latency",
    "Latency of single calls",
    "Peak memory",
    "Size",
    "Speed-up",
    "Cost per million rows",
    "Latency per batch size",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a budgets file and what an export of two of its models left behind."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "budgets.toml").write_text(BUDGETS)
    registry = Registry(folder / "store")
    registry.keep(results.won())
    # The winner is version 3; what it is made of does not matter here.
    for _ in range(3):
        manifest = publish(folder / "store", "sentiment", identity(), folder)
    served = results.served()
    told = msgspec.structs.replace(manifest, online=served.online, bulk=served.bulk)
    Path(registry.manifest_path("sentiment", 3)).write_bytes(encode(told))
    for judged in served.judgements[:2]:
        registry.keep_judgement(3, judged)
    declared = load(folder / "budgets.toml").models["close"]
    registry.keep(msgspec.structs.replace(results.inconclusive(), budgets=declared))
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def page(project: Path) -> Path:
    """The page of the model that has a winner."""
    done = run(project, "--model", "sentiment", "--output", "page", "--format", "html")
    assert (done.returncode, done.stdout) == (0, "wrote page/report.html\n")
    return project / "page" / "report.html"


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    return chromium(tmp_path)


def test_report_of_all_models_is_written_in_every_format(project: Path) -> None:
    done = run(project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"wrote report/report.{kind}" for kind in ("html", "md", "json")]
    assert "forgotten: never exported, so not in the report" in done.stderr
    markdown = (project / "report" / "report.md").read_text()
    assert markdown.startswith("# 1 of 2 models has a winner")
    assert "The budgets file has changed since this export" in markdown.partition("## close")[0]
    assert "The budgets file has changed" not in markdown.partition("## close")[2]
    document = json.loads((project / "report" / "report.json").read_text())
    assert [(model["name"], model["exit"]) for model in document["models"]] == [("sentiment", 0), ("close", 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "forgotten"], "error: forgotten: never exported to "),
        (
            ["--model", "unheard"],
            "error: model unheard is not in budgets.toml; it declares sentiment, close, forgotten",
        ),
        (["--budget", "nowhere.toml"], "error: nowhere.toml: no such file"),
        (["--format", "pdf"], "'pdf' is not one of 'html', 'md', 'json', 'all'"),
    ],
)
def test_what_cannot_be_reported_is_said_in_one_line(project: Path, arguments: list[str], message: str) -> None:
    done = run(project, *arguments)
    assert done.returncode == 2
    assert message in re.sub(r"[\s│]+", " ", done.stderr)
    assert "Traceback" not in done.stderr


def test_page_loads_without_an_error_and_asks_for_nothing(browser: Browser, page: Path) -> None:
    visit = browser.visit(page)
    assert (visit.console, visit.requests) == ([], [])
    assert "int8-dynamic@onnxruntime-cpu wins" in visit.dom
    assert page.stat().st_size < 2_000_000


def test_a_page_that_errs_or_asks_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/pixel.png'><script>undefined_function()</script>")
    visit = browser.visit(bad)
    assert any("undefined_function is not defined" in line for line in visit.console)
    assert visit.requests[0] == "http://127.0.0.1:9/pixel.png"


@pytest.mark.parametrize("width", [1280, 480])
def test_page_shows_all_sections_and_charts_within_its_width(browser: Browser, page: Path, width: int) -> None:
    layout = browser.layout(page, width)
    assert layout.width == width
    assert layout.scroll_width <= width
    assert layout.headings == SECTIONS
    assert layout.titles == TITLES
    assert len(layout.charts) == len(TITLES)
    assert all(250 < wide <= 560 and high > 50 for wide, high in layout.charts)
    assert all(count > 10 for count in layout.marks)
    assert layout.cut == 0


def test_hostile_names_run_no_script(browser: Browser, tmp_path: Path) -> None:
    from optimize.report.outputs import Findings, write

    (attacked,) = write(Findings((results.hostile(),)), tmp_path, ("html",))
    visit = browser.visit(attacked)
    assert (visit.console, visit.requests) == ([], [])
    layout = browser.layout(attacked, 480)  # without the page's own policy, which would have stopped a script
    assert layout.scroll_width <= 480
    assert len(layout.charts) == len(layout.titles) > 4
