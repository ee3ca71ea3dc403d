"""The log: one line of JSON an event, from a replica to the stderr of the command."""

import contextlib
import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve import logs

PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """What `begin` sets up is taken down again."""
    level, propagate = logs.LOGGER.level, logs.LOGGER.propagate
    yield
    logs.end()
    logs.LOGGER.setLevel(level)
    logs.LOGGER.propagate = propagate


@pytest.fixture
def path() -> Iterator[Path]:
    """Of a socket, whose length is limited."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "log"


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
    def empty(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            self._text += os.read(self.reading, 1 << 20)
        return not self._text


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
    with logs.relayed(path, stderr.writing) as relay:
        logs.begin(path, replica="r1")
        relay.let_go()
        logs.tell("ready", model="digits", version=3, before=None)
        logs.tell("failed", logging.ERROR, failing("no such row"), request_id="a\nb")
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


def test_lines_are_held_back_until_the_service_is_up(path: Path, stderr: Pipe) -> None:
    with logs.relayed(path, stderr.writing) as relay:
        logs.begin(path)
        logs.tell("loading")
        _until(lambda: bool(relay._held))
        assert stderr.empty
        relay.let_go()
        assert [line["event"] for line in stderr.lines(1)] == ["loading"]


def test_lines_of_a_service_that_does_not_come_up_are_not_written(path: Path, stderr: Pipe) -> None:
    with logs.relayed(path, stderr.writing):
        logs.begin(path)
        logs.tell("loading")
    assert stderr.empty


def test_without_the_command_lines_go_to_stderr(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.begin(path)
    logs.tell("orphaned")
    assert json.loads(capsys.readouterr().err)["event"] == "orphaned"


def test_where_no_command_is_named_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logs.begin(None)
    logs.tell("deployed")
    assert json.loads(capsys.readouterr().err)["event"] == "deployed"


def test_a_command_that_stopped_reading_stops_nobody(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(path))
        logs.begin(path)
        for number in range(2000):
            logs.tell(f"event {number}")
    assert capsys.readouterr().err.count("\n") > 0


def test_a_huge_error_is_cut(path: Path, stderr: Pipe) -> None:
    with logs.relayed(path, stderr.writing) as relay:
        relay.let_go()
        logs.begin(path)
        logs.tell("failed", logging.ERROR, failing("\N{SNOWMAN}" * 1_000_000))
        (line,) = stderr.lines(1)
    assert line["error"].startswith("ValueError: \N{SNOWMAN}")


def test_a_flood_is_throttled_an_event_at_a_time(path: Path, stderr: Pipe) -> None:
    now = 0.0
    throttle = logs.Throttle(lambda: now)

    def passed(event: str) -> bool:
        record = logging.LogRecord("serve", logging.INFO, "", 0, event, (), None)
        return throttle.filter(record)

    assert [passed("failed") for _ in range(logs.MAX_A_SECOND + 3)].count(True) == logs.MAX_A_SECOND
    assert passed("ready")
    now = 1.0
    record = logging.LogRecord("serve", logging.INFO, "", 0, "failed", (), None)
    assert throttle.filter(record)
    assert record.fields == {"left_out": 3}


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
