"""The service's log: one line of JSON an event, and none a call.

A replica sends its lines to `optimize serve`, which writes them to its stderr. Where no such command runs (a service that
`serve deploy` started), they go to the replica's own stderr, which Ray keeps.
"""

import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

LOGGER = logging.getLogger("serve")
"""Ancestor of every logger in this package."""

MAX_A_SECOND = 10
"""Lines of one event that are written a second; what a flood of failures says is in the first few."""

_STDERR = 2
_MAX_HELD = 1000
_MAX_LINE_BYTES = 128 << 10
_MAX_ERROR = 2_000
_MAX_TRACE = 8_000
_POLL_S = 0.2
_CLOSE_TIMEOUT_S = 5.0
_FIELDS = "fields"


def tell(event: str, level: int = logging.INFO, error: BaseException | None = None, **fields: object) -> None:
    """Write one event, without the fields that are None; `error` adds what was raised, and where."""
    known = {name: value for name, value in fields.items() if value is not None}
    LOGGER.log(level, event, exc_info=error, extra={_FIELDS: known})


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
    """Lets `MAX_A_SECOND` lines of an event pass a second; the next one after a pause tells how many were left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[str, tuple[int, int, int]] = {}  # second, lines in it, lines left out

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line is written."""
        second = int(self._clock())
        begun, lines, left_out = self._windows.get(str(record.msg), (second, 0, 0))
        if begun != second:
            begun, lines = second, 0
        if lines >= MAX_A_SECOND:
            self._windows[str(record.msg)] = (begun, lines, left_out + 1)
            return False
        self._windows[str(record.msg)] = (begun, lines + 1, 0)
        if left_out:
            setattr(record, _FIELDS, {**getattr(record, _FIELDS, {}), "left_out": left_out})
        return True


class _ToRelay(logging.Handler):
    """Sends each line as one datagram; never waits, and writes to stderr what cannot be sent."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        try:
            self._socket.sendto(line.encode(), self._path)
        except OSError:  # full, too long, or the command is gone
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - Ray keeps a replica's stderr

    def close(self) -> None:
        self._socket.close()
        super().close()


def begin(relay: Path | None, **constant: object) -> None:
    """Write this process's events, each with these `constant` fields, to the relay, or to stderr where there is none."""
    end()
    handler = logging.StreamHandler() if relay is None else _ToRelay(relay)
    handler.setFormatter(JsonLines(**constant))
    handler.addFilter(Throttle())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def end() -> None:
    """Write no events of this process any more."""
    for handler in LOGGER.handlers.copy():
        LOGGER.removeHandler(handler)
        handler.close()


class Relay:
    """Takes lines from replicas, and writes them to a file descriptor once it is let go."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held: deque[bytes] | None = deque(maxlen=_MAX_HELD)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(_POLL_S)
        self._thread = threading.Thread(target=self._receive, name="log-relay", daemon=True)
        self._thread.start()

    def let_go(self) -> None:
        """Write what was held back, and from now on every line as it comes."""
        with self._lock:
            held, self._held = self._held or (), None
            for line in held:
                self._write(line)

    def close(self) -> None:
        """Write what has arrived, and take no more."""
        self._ended.set()
        self._thread.join(_CLOSE_TIMEOUT_S)  # whoever reads stderr may have stopped reading
        self._socket.close()

    def _receive(self) -> None:
        while True:
            try:
                line = self._socket.recv(_MAX_LINE_BYTES) + b"\n"
            except TimeoutError:
                if self._ended.is_set():
                    return
                continue
            except OSError:  # closed, while whoever reads stderr held up the last line
                return
            with self._lock:
                if self._held is None:
                    self._write(line)
                else:
                    self._held.append(line)

    def _write(self, line: bytes) -> None:
        with suppress(OSError):  # nobody reads stderr any more, which is no reason to stop serving
            os.write(self._descriptor, line)


@contextmanager
def relayed(path: Path, descriptor: int = _STDERR) -> Iterator[Relay]:
    """A relay at `path`, which gets the events of this process, too. Of a service that does not come up, the command says why."""
    relay = Relay(path, descriptor)
    begin(path)
    try:
        yield relay
    finally:
        end()
        relay.close()
