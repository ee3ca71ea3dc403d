"""The golden lines of the log, and what a line of a real service must have in common with them."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden" / "log_events.jsonl"

Line = dict[str, object]


def check(lines: Iterable[str]) -> None:
    """Compare the JSON among a service's lines with the golden ones: the fields, and the JSON type of each."""
    problems = [problem for line in lines if line.startswith("{") for problem in _problems(json.loads(line))]
    assert not problems, "\n".join(problems)


def of_event(event: object) -> list[Line]:
    return [line for line in map(json.loads, GOLDEN.read_text().splitlines()) if line["event"] == event]


def _problems(line: Line) -> Iterator[str]:
    golden = of_event(line["event"])
    if not golden:
        yield f"no golden line has the event of {line}"
        return
    known = {(name, _kind(value)) for one in golden for name, value in one.items()} | {("left_out", "number")}
    needed = set.intersection(*map(set, golden))
    for name in needed - line.keys():
        yield f"{name} is missing in {line}"
    for name, kind in {(name, _kind(value)) for name, value in line.items()} - known:
        yield f"{name}, {kind}, is in no golden line, but in {line}"
    if line["level"] not in {one["level"] for one in golden}:
        yield f"no golden line has the level of {line}"


def _kind(value: object) -> str:
    return "number" if isinstance(value, int | float) else type(value).__name__
