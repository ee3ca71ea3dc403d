"""A caller that takes little of the cores that it shares with the server: it writes the same call again and again as HTTP/2 frames.

grpc.aio takes 90 us of CPU for a call, as much as the server takes to refuse one; this takes 20. Frames are those of RFC 9113, headers
those of RFC 7541. The server is told to keep no table of headers, so that a call's code stands in its last frame as text. And it waits
for its turn: a caller on another machine would not interrupt the server's executions either.
"""

import asyncio
import contextlib
import math
import os
import struct
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator

import grpc

from tests.benchmarks.serve_clients import Call

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
_FRAME = struct.Struct(">HBBBI")  # two bytes and one of length, kind, flags, stream
_FIRST_WINDOW = 65_535
_MOST = 2**31 - 1
_PATH = b"/inference.GRPCInferenceService/ModelInfer"
_STATUS = b"grpc-status"
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _text(value: bytes) -> bytes:
    assert len(value) < 127, "a longer text would have a longer length"
    return bytes([len(value)]) + value


class Connection(asyncio.Protocol):
    """One connection, and the calls on it that have not ended."""

    def __init__(self, request: bytes, authority: str) -> None:
        self._message = struct.pack(">BI", 0, len(request)) + request
        # POST, http, and four headers that the server keeps from the first call on; each later one points to them, newest first.
        self._headers = b"\x83\x86\x44" + _text(_PATH) + b"\x41" + _text(authority.encode())
        self._headers += b"\x40" + _text(b"te") + _text(b"trailers") + b"\x5f" + _text(b"application/grpc")
        self._next = 1
        self._running: dict[int, asyncio.Future[str]] = {}
        self._held: deque[tuple[float, asyncio.Future[str]]] = deque()
        self._window = _FIRST_WINDOW
        self._rest = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, and let answers come without asking for more room."""
        self._link: asyncio.WriteTransport = transport  # type: ignore[assignment] # uvloop's says so only in deed
        settings = struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, _MOST)
        room = struct.pack(">I", _MOST - _FIRST_WINDOW)
        self._link.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, room))

    def call(self, timeout_s: float) -> asyncio.Future[str]:
        """One call, as soon as the server has room for its message; its code."""
        ended = self._loop.create_future()
        self._held.append((self._loop.time() + timeout_s, ended))
        self._send()
        return ended

    def _send(self) -> None:
        while self._held and self._window >= len(self._message):
            end, ended = self._held.popleft()
            self._window -= len(self._message)
            stream, self._next = self._next, self._next + 2
            self._running[stream] = ended
            timeout = b"%dm" % max(1, math.ceil(1e3 * (end - self._loop.time())))
            headers = self._headers + b"\x00" + _text(b"grpc-timeout") + _text(timeout)
            self._headers = b"\x83\x86\xc1\xc0\xbf\xbe"
            self._link.write(
                _frame(_HEADERS, _END_HEADERS, stream, headers) + _frame(_DATA, _END_STREAM, stream, self._message)
            )

    def data_received(self, data: bytes) -> None:
        """Take the whole frames; of answers, their end alone."""
        data, at = self._rest + data, 0
        while at + _FRAME.size <= len(data):
            high, low, kind, flags, stream = _FRAME.unpack_from(data, at)
            end = at + _FRAME.size + (high << 8) + low
            if end > len(data):
                break
            if kind != _DATA:
                self._take(kind, flags, stream, data[at + _FRAME.size : end])
            at = end
        self._rest = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS and flags & _END_STREAM:
            self._end(stream, _code(payload))
        elif kind == _RESET:
            self._end(stream, "RESET")
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += struct.unpack(">I", payload)[0]
            self._send()
        elif kind in {_SETTINGS, _PING} and not flags & _ACK:
            self._link.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))

    def _end(self, stream: int, code: str) -> None:
        ended = self._running.pop(stream, None)
        if ended is not None and not ended.done():
            ended.set_result(code)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what runs."""
        del exc
        for ended in [*self._running.values(), *(ended for _, ended in self._held)]:
            if not ended.done():
                ended.set_result("UNAVAILABLE")


def _code(headers: bytes) -> str:
    start = headers.index(_STATUS) + len(_STATUS)
    return _CODES[int(headers[start + 1 : start + 1 + headers[start]])]


@contextlib.contextmanager
def _in_turn() -> Iterator[None]:
    """Let this thread wait for its turn where no core is free (Linux)."""
    if sys.platform != "linux":
        yield
        return
    policy = os.sched_getscheduler(0)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, os.sched_param(0))


@contextlib.asynccontextmanager
async def caller(address: str, request: bytes) -> AsyncIterator[Call]:
    """Predictions over one connection."""
    host, port = address.rsplit(":", 1)
    link, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(request, address), host, int(port)
    )
    try:
        with _in_turn():
            yield connection.call
    finally:
        link.close()
