"""The log of a service: `optimize serve` collects the lines of all replicas, and writes them to its stderr as JSON or as text."""

import json
import os
import re
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from serve import logs

_STDERR = 2
_MAX_HELD = 1000
_MAX_LINE_BYTES = 128 << 10
_MAX_TEXT = 300  # characters of one value
_POLL_S = 0.2
_CLOSE_TIMEOUT_S = 5.0
_PLAIN_VALUE = re.compile(r"[\w.,:;/@+\[\]-]+")
_ONLY_IN_JSON = ("time", "level", "event", "trace")


class LogFormat(StrEnum):
    """How the log is written; `auto` is text on a terminal and JSON elsewhere."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"

    @property
    def render(self) -> "Render":
        """What makes a line to write of a line of JSON."""
        text = self is LogFormat.TEXT or (self is LogFormat.AUTO and sys.stderr.isatty())
        return as_text if text else as_json


Render = Callable[[bytes], bytes]


def as_json(line: bytes) -> bytes:
    """The line itself."""
    return line


def as_text(line: bytes) -> bytes:
    """A short line for people: the local time, the level, the event, and its fields as key=value, without the traceback."""
    try:
        fields = json.loads(line)
    except ValueError:  # a line too long for one datagram was cut
        return line
    time = datetime.fromisoformat(fields["time"]).astimezone()
    shown = [f"{key}={_shown(value)}" for key, value in fields.items() if key not in _ONLY_IN_JSON]
    return " ".join((f"{time:%H:%M:%S}", fields["level"], fields["event"], *shown)).encode()


def _shown(value: object) -> str:
    """A value as it is, if it is one word; else as JSON, which escapes what could control a terminal."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]}..."
    return (
        text
        if _PLAIN_VALUE.fullmatch(text) and text.isascii()
        else json.dumps(text, ensure_ascii=not text.isprintable())
    )


class Relay:
    """Receives lines from replicas, and writes them to a file descriptor; holds them back until :meth:`start_writing`."""

    def __init__(self, path: Path, descriptor: int, render: Render) -> None:
        self._descriptor = descriptor
        self._render = render
        self._held: deque[bytes] | None = deque(maxlen=_MAX_HELD)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(_POLL_S)
        self._thread = threading.Thread(target=self._receive, name="log-relay", daemon=True)
        self._thread.start()

    def start_writing(self) -> None:
        """Write the lines that were held back, and from now on every line when it arrives."""
        with self._lock:
            held, self._held = self._held or (), None
            for line in held:
                self._write(line)

    def close(self) -> None:
        """Write the lines that have arrived, and receive no more."""
        self._ended.set()
        self._thread.join(_CLOSE_TIMEOUT_S)  # the reader of stderr may have stopped reading
        self._socket.close()

    def _receive(self) -> None:
        while True:
            try:
                line = self._socket.recv(_MAX_LINE_BYTES)
            except TimeoutError:
                if self._ended.is_set():
                    return
                continue
            except OSError:  # closed while the reader of stderr delayed the last line
                return
            with self._lock:
                if self._held is None:
                    self._write(line)
                else:
                    self._held.append(line)

    def _write(self, line: bytes) -> None:
        with suppress(OSError):  # a closed stderr is no reason to stop serving
            os.write(self._descriptor, self._render(line) + b"\n")


@contextmanager
def relayed(path: Path, descriptor: int = _STDERR, render: Render = as_json) -> Iterator[Relay]:
    """A relay at `path` that gets the events of this process as well.

    Of a service that does not start, nothing is written: the command prints the reason itself.
    """
    relay = Relay(path, descriptor, render)
    logs.begin(path)
    try:
        yield relay
    finally:
        logs.end()
        relay.close()
