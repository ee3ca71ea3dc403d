"""What a caller cannot get away with: sizes, encodings, floods, and bodies that stop."""

import contextlib
import functools
import threading
import zlib
from collections.abc import Iterator, Sequence

import grpc
import numpy as np
import psutil
import pytest
from grpc import StatusCode

from protos import open_inference_pb2 as pb
from serve.client import codec
from serve.transport.limits import BODY_TIMEOUT_S
from tests.conformance import http2
from tests.conformance.conftest import TIMEOUT_S, Target

INFER = "/inference.GRPCInferenceService/ModelInfer"
ENHANCE_YOUR_CALM = 11  # RFC 9113, section 7
BOMB_BYTES = 256 << 20
BOMBS, BOMBS_AT_ONCE = 32, 4


def message() -> bytes:
    return codec.write_request("identity", {"x": np.zeros((2, 4), np.float32)}).SerializeToString()


@functools.cache
def gzip_of_zeros(size: int) -> bytes:
    packer = zlib.compressobj(wbits=31)
    chunk = bytes(1 << 20)
    return b"".join(packer.compress(chunk) for _ in range(size >> 20)) + packer.flush()


def test_a_good_call_by_hand(target: Target) -> None:
    """What the cases below leave out is all that is wrong with them."""
    with http2.connected(target.address) as connection:
        stream = connection.open(INFER)
        connection.send(stream, message())
        assert connection.status(stream) == StatusCode.OK.value[0]


def test_a_compressed_request(target: Target) -> None:
    packer = zlib.compressobj(wbits=31)
    with http2.connected(target.address) as connection:
        stream = connection.open(INFER, grpc_encoding="gzip")
        connection.send(stream, packer.compress(message()) + packer.flush(), compressed=True)
        assert connection.status(stream) == StatusCode.OK.value[0]


def test_an_unknown_encoding(target: Target) -> None:
    """The standard says UNIMPLEMENTED, as HAProxy does; the C core of gRPC, which reads headers before anyone is asked, INTERNAL."""
    accepted = {StatusCode.UNIMPLEMENTED.value[0], *(() if target.proxied else (StatusCode.INTERNAL.value[0],))}
    with http2.connected(target.address) as connection:
        stream = connection.open(INFER, grpc_encoding="lzma")
        connection.send(stream, message(), compressed=True)
        assert connection.status(stream) in accepted


def test_zip_bombs(target: Target) -> None:
    """Each would be 256 MiB; as many as are unpacked at once may take a message's 64 MiB, and no more follow."""
    bomb = gzip_of_zeros(BOMB_BYTES)
    assert len(bomb) < 1 << 20
    with http2.connected(target.address) as connection, peak_of(target.processes) as memory:
        for _ in range(BOMBS // BOMBS_AT_ONCE):
            streams = [connection.open(INFER, grpc_encoding="gzip") for _ in range(BOMBS_AT_ONCE)]
            for stream in streams:
                connection.send(stream, bomb, compressed=True)
            codes = {connection.status(stream) for stream in streams}
            assert codes == {StatusCode.RESOURCE_EXHAUSTED.value[0]}
    assert memory.grown_bytes < BOMBS * BOMB_BYTES // 8


class Memory:
    """Resident memory of some processes together."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self._before = self._peak = self._now()

    @property
    def grown_bytes(self) -> int:
        """How far it rose above what it was at first."""
        return self._peak - self._before

    def look(self) -> None:
        self._peak = max(self._peak, self._now())

    def _now(self) -> int:
        return sum(process.memory_info().rss for process in self._processes if process.is_running())


@contextlib.contextmanager
def peak_of(processes: Sequence[psutil.Process]) -> Iterator[Memory]:
    """Looks all the time at how much memory they have."""
    memory, ended = Memory(processes), threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            memory.look()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()


def test_a_message_that_is_said_to_be_huge(target: Target) -> None:
    """Refused by its length, before anything of it is held."""
    with http2.connected(target.address) as connection:
        stream = connection.open(INFER)
        connection.send(stream, bytes(1 << 30), upto=1 << 10)
        assert connection.status(stream) == StatusCode.RESOURCE_EXHAUSTED.value[0]


def test_too_much_metadata(target: Target) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        target.stub.ServerReady(pb.ServerReadyRequest(), metadata=(("much", "x" * (32 << 10)),), timeout=TIMEOUT_S)
    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED


def test_calls_at_once_on_a_connection_are_bounded(target: Target) -> None:
    with http2.connected(target.address) as connection:
        assert 100 <= connection.most_streams() <= 10_000


def test_a_ping_flood(target: Target) -> None:
    """Who floods is cut off, or answered by HAProxy, which wakes no replica for it; others do not notice."""
    with http2.connected(target.address) as connection:
        connection.ping(1000)
        if not target.proxied:
            connection.wait_closed()
            assert connection.goaway in {ENHANCE_YOUR_CALM, None}
        target.good_call()


def test_a_stalled_body_delays_no_other_call(target: Target) -> None:
    with http2.connected(target.address) as connection:
        for _ in range(20):
            connection.send(connection.open(INFER), message(), upto=10)
        target.good_call()
        stream = connection.open(INFER)
        connection.send(stream, message())
        assert connection.status(stream) == StatusCode.OK.value[0]


@pytest.mark.slow
def test_a_stalled_body_is_given_up(target: Target) -> None:
    with http2.connected(target.address) as connection:
        stream = connection.open(INFER)
        connection.send(stream, message(), upto=10)
        assert connection.status(stream, BODY_TIMEOUT_S + TIMEOUT_S) == StatusCode.DEADLINE_EXCEEDED.value[0]
