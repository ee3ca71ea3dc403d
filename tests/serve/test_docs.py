"""What docs/serving.md lists is what there is."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_type_hints

import serve
from serve import cli
from serve.models.hosting import Models
from serve.monitoring.metrics import CallCounters, ReplicaCollector

DOCS = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


class Event(NamedTuple):
    """What one kind of line in the log is made of."""

    name: str
    levels: frozenset[str]
    fields: frozenset[str]


def logged() -> Iterator[Event]:
    """Every event that the sources log."""
    for path in Path(serve.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "logs.event":
                yield event(node)


def event(call: ast.Call) -> Event:
    name, *positional = call.args
    assert isinstance(name, ast.Constant), f"an event's name stands in the source: {ast.unparse(call)}"
    fields = {keyword.arg for keyword in call.keywords}
    assert None not in fields, f"an event's fields stand in the source: {ast.unparse(call)}"
    raised = {"error", "trace"} if len(positional) > 1 or "error" in fields else set()
    levels = re.findall(r"logging\.([A-Z]+)", " ".join(map(ast.unparse, positional))) or ["INFO"]
    return Event(name.value, frozenset(levels), frozenset(fields | raised))


def section(title: str) -> str:
    return DOCS.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]


def test_every_event_of_the_log_is_listed() -> None:
    listed = {
        Event(name.strip("`"), frozenset(levels.split(", ")), frozenset(re.findall(r"`(\w+)`", fields)))
        for name, levels, fields, _ in rows(section("Log"))
    }
    assert listed == set(logged())


def test_event_names_are_of_one_style() -> None:
    assert [found.name for found in logged() if not re.fullmatch(r"[a-z]+(_[a-z]+)*", found.name)] == []


def test_every_metric_is_listed_with_its_labels() -> None:
    families = [*ReplicaCollector(Models(["double"]), CallCounters()).collect()]
    suffixes = {"counter": "_total", "info": "_info"}
    labels = {family.name + suffixes.get(family.type, ""): set(family._labelnames) for family in families}
    listed = {
        name: set(cell.split(", ")) - {""}
        for names, cell, _ in rows(section("Metrics"))
        for name in re.findall(r"`(proveserve_\w+)`", names)
    }
    assert listed.keys() == labels.keys()
    # What an `info` metric tells stands in further labels.
    differing = {name for name, found in labels.items() if listed[name] != found}
    assert differing == {"proveserve_info", "proveserve_model_info"}
    assert listed["proveserve_model_info"] > labels["proveserve_model_info"]


def test_every_option_is_documented() -> None:
    hints = get_type_hints(cli.serve, include_extras=True)
    names = {
        str(hints[name].__metadata__[0].default).replace("Ellipsis", f"--{name.replace('_', '-')}")
        for name in inspect.signature(cli.serve).parameters
    }
    assert [name for name in sorted(names) if not re.search(rf"{name}\b", DOCS)] == []
