"""The log of a service: lines of replicas reach the stderr of the command, as JSON or as text."""

import contextlib
import json
import logging
import os
import pty
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve import logs
from serve.processes import log_relay
from serve.processes.log_relay import LogFormat, as_text
from tests.serve import log_lines

PATIENCE_S = 20.0


pytestmark = pytest.mark.usefixtures("untouched_log")


class Pipe:
    """What a relay writes to."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self._text = b""

    def lines(self, wanted: int) -> list[dict]:
        """The lines so far, once there are so many."""
        deadline = time.monotonic() + PATIENCE_S
        while self._text.count(b"\n") < wanted:
            assert time.monotonic() < deadline, self._text
            try:
                self._text += os.read(self.reading, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
        return [json.loads(line) for line in self._text.splitlines()]

    @property
    def text(self) -> bytes:
        """What was written so far."""
        with contextlib.suppress(BlockingIOError):
            self._text += os.read(self.reading, 1 << 20)
        return self._text

    @property
    def empty(self) -> bool:
        return not self.text


@pytest.fixture
def stderr() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reading)
    os.close(pipe.writing)


def failing(text: str) -> Exception:
    """An error that was raised in `fail`."""

    def fail() -> None:
        raise ValueError(text)

    try:
        fail()
    except ValueError as error:
        return error
    raise AssertionError


def test_events_of_a_replica_reach_the_command(path: Path, stderr: Pipe) -> None:
    with log_relay.relayed(path, stderr.writing) as relay:
        logs.begin(path, replica="r1")
        relay.start_writing()
        logs.event("ready", model="digits", version=3, before=None)
        logs.event("failed", logging.ERROR, failing("no such row"), request_id="a\nb")
        logging.getLogger("serve.elsewhere").warning("kept version %d", 2)
        ready, failed, kept = stderr.lines(3)
    assert (ready["event"], ready["level"], ready["replica"], ready["model"], ready["version"]) == (
        *("ready", "INFO", "r1", "digits"),
        3,
    )
    assert "before" not in ready
    assert ready["time"].endswith("+00:00")
    assert failed["error"] == "ValueError: no such row"
    assert "in fail" in failed["trace"]
    assert failed["request_id"] == "a\nb"
    assert (kept["event"], kept["level"]) == ("kept version 2", "WARNING")


def test_lines_are_held_back_until_the_service_has_started(path: Path, stderr: Pipe) -> None:
    with log_relay.relayed(path, stderr.writing) as relay:
        logs.begin(path)
        logs.event("loading")
        _until(lambda: bool(relay._held))
        assert stderr.empty
        relay.start_writing()
        assert [line["event"] for line in stderr.lines(1)] == ["loading"]


def test_lines_of_a_service_that_does_not_start_are_not_written(path: Path, stderr: Pipe) -> None:
    with log_relay.relayed(path, stderr.writing):
        logs.begin(path)
        logs.event("loading")
    assert stderr.empty


def test_a_huge_error_is_cut(path: Path, stderr: Pipe) -> None:
    with log_relay.relayed(path, stderr.writing) as relay:
        relay.start_writing()
        logs.begin(path)
        logs.event("failed", logging.ERROR, failing("\N{SNOWMAN}" * 1_000_000))
        (line,) = stderr.lines(1)
    assert line["error"].startswith("ValueError: \N{SNOWMAN}")


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is that of the golden lines."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            {"level": "INFO", "event": "ready", "replicas": 2, "seconds": 6.214},
            "12:00:00 INFO ready replicas=2 seconds=6.214",
        ),
        (
            {
                "level": "ERROR",
                "event": "call_failed",
                "model": "digits",
                "error": "ValueError: no row",
                "trace": "File\n",
            },
            '12:00:00 ERROR call_failed model=digits error="ValueError: no row"',
        ),
        (
            {"level": "WARNING", "event": "no_metrics", "ports": [9100, 9101], "reason": "größer"},
            '12:00:00 WARNING no_metrics ports=[9100,9101] reason="größer"',
        ),
        (
            {"level": "ERROR", "event": "call_failed", "request_id": "\x1b[2J\n12:00:00 INFO ready", "model": ""},
            r'12:00:00 ERROR call_failed request_id="\u001b[2J\n12:00:00 INFO ready" model=""',
        ),
        (
            {"level": "ERROR", "event": "start_failed", "reason": "x" * 1000},
            "12:00:00 ERROR start_failed reason=" + "x" * 300 + "...",
        ),
    ],
    ids=["numbers", "error", "list", "control characters", "long"],
)
@pytest.mark.usefixtures("utc")
def test_a_line_of_text(line: dict[str, object], text: str) -> None:
    json_line = json.dumps({"time": "2026-01-01T12:00:00.000+00:00", **line})
    assert as_text(json_line.encode()).decode() == text


def test_every_event_is_one_line_of_text() -> None:
    for line in log_lines.GOLDEN.read_bytes().splitlines():
        text = as_text(line).decode()
        assert text.isprintable()
        assert f" {json.loads(line)['event']}" in text
        assert "Traceback" not in text


def test_a_line_that_was_cut_is_written_as_it_is() -> None:
    assert as_text(b'{"time": "2026') == b'{"time": "2026'


def test_text_reaches_the_terminal(path: Path, stderr: Pipe) -> None:
    with log_relay.relayed(path, stderr.writing, as_text) as relay:
        relay.start_writing()
        logs.event("ready", replicas=2)
    assert stderr.text.endswith(b" INFO ready replicas=2\n")


@pytest.mark.parametrize(
    ("chosen", "terminal", "text"),
    [("auto", True, True), ("auto", False, False), ("text", False, True), ("json", True, False)],
)
def test_the_format_follows_the_option_and_the_terminal(
    monkeypatch: pytest.MonkeyPatch, chosen: str, terminal: bool, text: bool
) -> None:
    ends = pty.openpty() if terminal else os.pipe()
    with os.fdopen(ends[1], "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        assert (LogFormat(chosen).render is as_text) is text
    os.close(ends[0])
