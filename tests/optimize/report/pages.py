"""Pages read back as a browser's parser reads them."""

import functools
from html.parser import HTMLParser

from optimize.manifest import Result
from optimize.report.page import as_html
from tests.optimize.report import results

VOID = frozenset({"meta", "br", "wbr", "img", "hr", "input", "link"})


class Page(HTMLParser):
    """Every element with its attributes, all text, and what was left open or closed out of order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.faults: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def tags(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == name]


@functools.cache
def html(*names: str) -> str:
    """The page of the named results of :mod:`tests.optimize.report.results`; drawn once, since drawing takes its time."""
    return as_html([result(name) for name in names])


def result(name: str) -> Result:
    made: Result = getattr(results, name)()
    return made
