"""The service's log: one line of JSON per event, and none per call.

A replica sends its lines to `optimize serve`, which writes them to its stderr (`serve.processes.log_relay`). Without that
command, in a service that `serve deploy` started, they go to the replica's own stderr, which Ray keeps.
"""

import json
import logging
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

LOGGER = logging.getLogger("serve")
"""Ancestor of every logger in this package."""

MAX_PER_SECOND = 10
"""Lines of one event that are written per second; the first few of a flood say what is wrong."""

_MAX_ERROR = 2_000
_MAX_TRACE = 8_000
_FIELDS = "fields"


def event(name: str, level: int = logging.INFO, error: BaseException | None = None, **fields: object) -> None:
    """Write one event, without the fields that are None; `error` adds the error and its traceback."""
    known = {key: value for key, value in fields.items() if value is not None}
    LOGGER.log(level, name, exc_info=error, extra={_FIELDS: known})


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, event, then its fields."""

    def __init__(self, **constant: object) -> None:
        super().__init__()
        self._constant = constant

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "event": record.getMessage(),
            **self._constant,
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"] = f"{type(error).__name__}: {error}"[:_MAX_ERROR]
            line["trace"] = "".join(traceback.format_exception(error))[-_MAX_TRACE:]
        return json.dumps(line, default=str)


class Throttle(logging.Filter):
    """Passes `MAX_PER_SECOND` lines of an event per second; the next line has the number of those that were left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[str, tuple[int, int, int]] = {}  # event: second, lines in it, lines left out

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line is written."""
        second = int(self._clock())
        begun, lines, left_out = self._windows.get(str(record.msg), (second, 0, 0))
        if begun != second:
            begun, lines = second, 0
        if lines >= MAX_PER_SECOND:
            self._windows[str(record.msg)] = (begun, lines, left_out + 1)
            return False
        self._windows[str(record.msg)] = (begun, lines + 1, 0)
        if left_out:
            setattr(record, _FIELDS, {**getattr(record, _FIELDS, {}), "left_out": left_out})
        return True


class _ToRelay(logging.Handler):
    """Sends each line as one datagram, without waiting; a line that cannot be sent goes to stderr."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        try:
            self._socket.sendto(line.encode(), self._path)
        except OSError:  # the socket is full, the line too long, or the command gone
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - Ray keeps a replica's stderr

    def close(self) -> None:
        self._socket.close()
        super().close()


def begin(relay: Path | None, **constant: object) -> None:
    """Write this process's events, each with the `constant` fields, to the relay, or to stderr without one."""
    end()
    handler = logging.StreamHandler() if relay is None else _ToRelay(relay)
    handler.setFormatter(JsonLines(**constant))
    handler.addFilter(Throttle())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def end() -> None:
    """Write no more events of this process."""
    for handler in LOGGER.handlers.copy():
        LOGGER.removeHandler(handler)
        handler.close()
