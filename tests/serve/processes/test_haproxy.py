"""HAProxy in front of bare servers: what is fast enough to try without Ray."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from optimize.errors import UserError
from optimize.registry import Registry
from serve.access.tls import TlsFiles
from serve.client import Client
from serve.client.connection import Connection
from serve.models.hosting import Models
from serve.plan import Frontend
from serve.processes import haproxy, ports
from tests.certificates import issue
from tests.published import publish, scale
from tests.serving import Bare, bare, until

X = np.ones((1, 4), np.float32)
LIVE = "/inference.GRPCInferenceService/ServerLive"
NOBODY = "127.0.0.1:1"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("registry")
    publish(root, "double", scale(2.0), tmp_path_factory.mktemp("models"))
    return Registry(root)


@contextlib.contextmanager
def server(registry: Registry) -> Iterator[Bare]:
    async def fill(models: Models) -> None:
        await models.load(registry, registry.load("double"))

    with bare(["double"], fill) as running:
        yield running


def answered(replica: Bare) -> int:
    return sum(calls for (method, *_), calls in replica.servicer.calls.ended.items() if method == "ModelInfer")


@pytest.fixture
def front() -> Frontend:
    return Frontend("127.0.0.1", ports.free("127.0.0.1", 0, 1))


def address(front: Frontend) -> str:
    return f"{front.host}:{front.port}"


def own_processes() -> list[psutil.Process]:
    return [process for process in psutil.Process().children() if process.name() == "haproxy"]


def test_calls_of_one_channel_are_spread_over_the_servers_that_answer(
    registry: Registry, front: Frontend, tmp_path: Path
) -> None:
    with (
        server(registry) as one,
        server(registry) as two,
        haproxy.running(front, [one.address, two.address, NOBODY], tmp_path),
        Client(address(front), max_attempts=1) as client,
    ):
        for _ in range(60):
            np.testing.assert_array_equal(client.infer("double", {"x": X}, timeout_s=10).outputs["y"], 2 * X)
    assert answered(one) + answered(two) == 60
    assert min(answered(one), answered(two)) >= 20


def test_a_server_counts_as_up_only_if_it_answers_its_ping(
    registry: Registry, front: Frontend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with server(registry) as one, haproxy.running(front, [one.address, NOBODY], tmp_path):
        until(lambda: "replica-1 is DOWN" in texts(caplog))
        one.run(drain(one))
        with Client(address(front), max_attempts=1) as client:
            assert not client.ready()
        assert "replica-0 is DOWN" not in texts(caplog)
    with (
        haproxy.running(front, [NOBODY], tmp_path),
        grpc.insecure_channel(address(front)) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(LIVE)(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "no replica answers; call again"


def texts(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(getattr(record, "fields", {}).get("text", "") for record in caplog.records)


async def drain(replica: Bare) -> None:
    await replica.models.drain()


def test_it_is_restarted_and_no_call_is_refused_meanwhile(registry: Registry, front: Frontend, tmp_path: Path) -> None:
    with server(registry) as one, haproxy.running(front, [one.address], tmp_path):
        (process,) = own_processes()
        process.kill()
        until(lambda: process.pid not in {other.pid for other in own_processes()})
        # The port goes on listening, so that a connection waits instead of being refused.
        with socket.create_connection((front.host, front.port), timeout=10):
            pass
        with Client(address(front), max_attempts=1_000) as client:
            client.infer("double", {"x": X}, timeout_s=20)
        (again,) = own_processes()
        assert again.pid != process.pid
    assert own_processes() == []
    with ports.bound(front.host, front.port):
        pass


def test_the_ping_is_a_health_check_that_any_http2_server_reads() -> None:
    reader = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    events = reader.receive_data(haproxy.HealthPing().request)
    (request,) = (event for event in events if isinstance(event, h2.events.RequestReceived))
    (message,) = (event for event in events if isinstance(event, h2.events.DataReceived))
    assert dict(request.headers) == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": "replica",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    assert message.data == bytes(5)
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)


def test_the_ping_is_answered_by_a_server_that_serves_and_by_one_that_drains(registry: Registry) -> None:
    with server(registry) as one:
        assert is_answered(one)
        one.run(drain(one))
        assert is_answered(one)


def is_answered(replica: Bare) -> bool:
    ping = haproxy.HealthPing()
    host, port = replica.address.split(":")
    heard = b""
    with socket.create_connection((host, int(port)), timeout=10) as link:
        link.sendall(ping.request)
        while ping.answer not in heard:
            more = link.recv(1 << 16)
            assert more, heard
            heard += more
    return f"expect binary {ping.answer.hex()}\n" in haproxy.configuration("", [], Path(), 1)


@pytest.mark.parametrize(
    ("script", "problem"),
    [("exit 1", "rejects its configuration"), ("exec sleep 60", "did not check its configuration")],
)
def test_a_program_that_is_no_haproxy_is_one_line(
    front: Frontend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, problem: str
) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(program))
    monkeypatch.setattr(haproxy, "_CHECK_TIMEOUT_S", 3.0)
    with (
        pytest.raises(UserError, match=f"program {problem}"),
        haproxy.running(front, [], tmp_path),
    ):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_nothing_but_the_one_address_is_opened(registry: Registry, tmp_path: Path, host: str) -> None:
    front = Frontend(host, ports.free(host, 0, 1))
    with server(registry) as one, haproxy.running(front, [one.address], tmp_path):
        (process,) = own_processes()
        with Client(f"[{host}]:{front.port}" if ":" in host else address(front)) as client:
            assert client.ready()
        listening = {
            connection.laddr for connection in process.net_connections() if connection.status == psutil.CONN_LISTEN
        }
        unix = [connection for connection in process.net_connections("unix") if connection.laddr]
        assert {(found.ip, found.port) for found in listening} == {(front.host, front.port)}
        assert unix == []


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_silent_connection_is_closed_and_one_that_waits_for_an_answer_is_not(
    registry: Registry, front: Frontend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    monkeypatch.setattr(haproxy, "_MAX_SILENCE_S", 1)
    certificates = issue(tmp_path / "certificates")
    if encrypted:
        front = Frontend(front.host, front.port, TlsFiles(certificates.server, certificates.server_key))
    connection = Connection(address(front), ca=certificates.ca if encrypted else None)
    with server(registry) as one, haproxy.running(front, [one.address], tmp_path), connection.channel(()) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with socket.create_connection((front.host, front.port), timeout=20) as silent:
            assert silent.recv(1) == b""
        time.sleep(1)  # longer than anyone may be silent
        one.run(drain(one))
        assert [answer.status for answer in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
