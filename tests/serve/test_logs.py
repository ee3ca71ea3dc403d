"""The log of a process: one line of JSON per event."""

import json
import logging
import socket
from pathlib import Path

import pytest

from serve import logs

pytestmark = pytest.mark.usefixtures("untouched_log")


def test_without_the_command_lines_go_to_stderr(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.begin(path)
    logs.event("orphaned")
    assert json.loads(capsys.readouterr().err)["event"] == "orphaned"


def test_without_a_relay_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logs.begin(None)
    logs.event("deployed")
    assert json.loads(capsys.readouterr().err)["event"] == "deployed"


def test_a_command_that_no_longer_reads_stops_no_replica(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(path))
        logs.begin(path)
        for number in range(2000):
            logs.event(f"event {number}")
    assert capsys.readouterr().err.count("\n") > 0


def test_a_flood_of_one_event_is_throttled() -> None:
    now = 0.0
    throttle = logs.Throttle(lambda: now)

    def passed(event: str) -> bool:
        record = logging.LogRecord("serve", logging.INFO, "", 0, event, (), None)
        return throttle.filter(record)

    assert [passed("failed") for _ in range(logs.MAX_PER_SECOND + 3)].count(True) == logs.MAX_PER_SECOND
    assert passed("ready")
    now = 1.0
    record = logging.LogRecord("serve", logging.INFO, "", 0, "failed", (), None)
    assert throttle.filter(record)
    assert record.fields == {"left_out": 3}
