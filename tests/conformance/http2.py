"""A caller that speaks HTTP/2 frame by frame, for what no gRPC library would send."""

import contextlib
import socket
import struct
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events

TIMEOUT_S = 20.0
_READ = 1 << 16


class Connection:
    """One connection; streams are opened, fed and asked for how they ended."""

    def __init__(self, link: socket.socket, host: str) -> None:
        self._link = link
        self._host = host
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._headers: dict[int, dict[str, str]] = {}
        self._ended: set[int] = set()
        self._http.initiate_connection()
        self._flush()
        self.goaway: int | None = None
        self._settled = False

    def open(self, path: str, **headers: str) -> int:
        """A call whose message is not sent yet."""
        stream = self._http.get_next_available_stream_id()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        pseudo = {":method": "POST", ":scheme": "http", ":path": path, ":authority": self._host}
        self._headers[stream] = {}
        self._http.send_headers(
            stream, [*(pseudo | {"content-type": "application/grpc", "te": "trailers"} | sent).items()]
        )
        self._flush()
        return stream

    def send(self, stream: int, message: bytes, *, compressed: bool = False, upto: int | None = None) -> None:
        """Send a message, or its first `upto` bytes and then no more."""
        framed = (struct.pack(">BI", compressed, len(message)) + message)[:upto]
        while framed and stream not in self._ended:
            size = min(self._http.local_flow_control_window(stream), self._http.max_outbound_frame_size, len(framed))
            if size == 0:
                self._receive()
                continue
            self._http.send_data(stream, framed[:size])
            framed = framed[size:]
            self._flush()
        if upto is None and stream not in self._ended:
            self._http.end_stream(stream)
            self._flush()

    def status(self, stream: int, timeout_s: float = TIMEOUT_S) -> int:
        """The gRPC code that the call ends with."""
        self._link.settimeout(timeout_s)
        while "grpc-status" not in self._headers[stream]:
            assert stream not in self._ended, f"reset without a status: {self._headers[stream]}"
            self._receive()
        return int(self._headers[stream]["grpc-status"])

    def most_streams(self) -> int:
        """How many calls at once the server allows on the connection; without a limit, more than anybody makes."""
        while not self._settled:
            self._receive()
        return int(self._http.remote_settings.max_concurrent_streams)

    def ping(self, times: int) -> None:
        """Ping as fast as the link takes it."""
        for _ in range(times):
            self._http.ping(b"12345678")
        self._flush()

    def wait_closed(self) -> None:
        """Until the server says goodbye or is gone."""
        with contextlib.suppress(ConnectionError):
            while self.goaway is None:
                self._receive()

    def _flush(self) -> None:
        self._link.sendall(self._http.data_to_send())

    def _receive(self) -> None:
        data = self._link.recv(_READ)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        for event in self._http.receive_data(data):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    self._headers[event.stream_id].update(event.headers)
                case h2.events.StreamEnded() | h2.events.StreamReset():
                    self._ended.add(event.stream_id)
                case h2.events.RemoteSettingsChanged():
                    self._settled = True
                case h2.events.ConnectionTerminated():
                    self.goaway = int(event.error_code)
                case _:
                    pass
        self._flush()


@contextlib.contextmanager
def connected(address: str) -> Iterator[Connection]:
    """A connection to HOST:PORT, in the clear."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S) as link:
        yield Connection(link, address)
