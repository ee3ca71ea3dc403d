"""What README, CONTRIBUTING and docs refer to exists: pages, sections, files and names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
TOP = "optimize|serve|loadtest|protos|examples|tests|docs"
# Files that CONTRIBUTING.md tells its readers to write.
TO_BE_WRITTEN = {
    "optimize/recipes/int4_weights.py",
    "tests/optimize/recipes/test_int4_weights.py",
    "optimize/runtime/openvino.py",
    "optimize/measure/energy.py",
    "optimize/tournament/judging/energy.py",
}
# Pages whose names in code font are names of the sources.
NAMING = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]


def anchors(page: Path) -> set[str]:
    """The sections of a page, as links name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if not link.startswith("http")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in links(page):
        name, _, section = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (section and section not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_the_readme_links_every_page_of_docs() -> None:
    linked = {link.partition("#")[0] for link in links(ROOT / "README.md")}
    assert {str(page.relative_to(ROOT)) for page in DOCS} - linked == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = set(re.findall(rf"(?<![\w/.-])((?:{TOP})/[\w./-]*[\w/])", page.read_text()))
    assert [path for path in sorted(named - TO_BE_WRITTEN) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_named_exist(page: Path) -> None:
    named = set(re.findall(r"`((?:optimize|serve|loadtest|tests|protos)(?:\.\w+)+)`", page.read_text()))
    missing = [name for name in sorted(named) if not any(exists(place) for place in places(name))]
    assert missing == []


def places(name: str) -> list[Path]:
    """Where a module of that name may be, or the module that has the name's last part."""
    path = ROOT.joinpath(*name.split("."))
    return [path, path.with_suffix(".py"), path.parent, path.parent.with_suffix(".py")]


def exists(path: Path) -> bool:
    return path.is_file() or (path / "__init__.py").exists()


@pytest.mark.parametrize("page", NAMING, ids=lambda page: page.name)
def test_names_in_code_font_are_names_of_the_sources(page: Path) -> None:
    sources = "\n".join(
        path.read_text() for top in ("optimize", "serve", "loadtest", "tests") for path in (ROOT / top).rglob("*.py")
    )
    named = {full.rpartition(".")[2] for full in re.findall(r"`([A-Za-z_.]+)(?:\(.*?\))?`", page.read_text())}
    unknown = {name for name in named if not re.search(rf"\b{re.escape(name)}\b", sources)}
    assert unknown - {"joules_per_row", "toml"} == set()


def test_the_tree_shows_every_package() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text().split("## The tree\n")[1].split("\n## ")[0]
    shown = set(re.findall(r"^ {4,}(\w+)/ ", tree, re.MULTILINE))
    packages = {
        path.parent.name
        for top in ("optimize", "serve", "loadtest", "protos")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert shown == packages | {"examples", "tests", "docs"}
