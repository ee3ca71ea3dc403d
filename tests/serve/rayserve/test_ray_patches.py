"""What `serve.rayserve.ray_patches` changes in the pinned Ray."""

import asyncio
import logging
import mmap
import re
import socket
import threading
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import psutil
import pytest

from protos import open_inference_pb2 as pb
from serve import patches
from serve.access.auth import Authenticator, AuthTokens, digest_of
from serve.access.tls import TlsFiles, server_credentials
from serve.models.hosting import Models
from serve.plan import Plan
from serve.rayserve import ray_patches
from serve.transport import admission, grpc_patches
from serve.transport.limits import MAX_METADATA_BYTES
from serve.transport.public_route import PUBLIC_DEADLINE
from serve.transport.servicer import Servicer
from tests.certificates import issue

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ray declares its own models in a way that pydantic means to drop
    import ray
    from ray._private import ray_constants, services, worker
    from ray._private.node import Node
    from ray._private.parameter import RayParams
    from ray.serve._private import default_impl, node_port_manager
    from ray.serve._private.grpc_util import start_grpc_server
    from ray.serve._private.proxy_state import ProxyStateManager
    from ray.serve.config import ProxyLocation, gRPCOptions

PLAN = Plan("", (), "127.0.0.1", 9000, replicas=2)
READY = "/inference.GRPCInferenceService/ServerReady"


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test patches is restored after it."""
    for patch in (*ray_patches.PATCHES, *grpc_patches.PATCHES):
        owner, name = patches.owner_of(patch.target)
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(ray_patches, "_servicer", None)
    monkeypatch.setattr(ray_patches, "_native", False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening_on(port: int) -> set[str]:
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.Process().net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }


def with_server_of_serve(story: Callable[[Any, int], Awaitable[None]]) -> None:
    """Run `story` with the server that a replica of Serve starts, and its port."""

    def by_serve(service_method: str, streaming_type: str) -> Callable[..., Any]:
        async def unary(request: bytes, context: Any) -> bytes:
            return pb.ServerReadyResponse(ready=PUBLIC_DEADLINE.get() is not None).SerializeToString()

        async def stream(request: bytes, context: Any) -> Any:
            yield b""

        return stream if streaming_type.endswith("_stream") else unary

    async def run() -> None:
        port = free_port()
        grpc_options = gRPCOptions(port=port, grpc_servicer_functions=["serve.rayserve.ray_patches.add_services"])
        task, server = await start_grpc_server(by_serve, grpc_options, event_loop=asyncio.get_running_loop())
        try:
            await story(server, port)
        finally:
            await server.stop(None)
            await task

    asyncio.run(run())


async def ask_ready(port: int, timeout: float | None = None) -> bool:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = await channel.unary_unary(READY)(b"", timeout=timeout)
    return pb.ServerReadyResponse.FromString(answer).ready


def test_processes_that_do_nothing_here_are_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: dict[bytes, bytes] = {}
    store = SimpleNamespace(internal_kv_put=lambda key, value, *_: stored.update({key: value}))
    monkeypatch.setattr(Node, "start_gcs_server", lambda _: None)
    monkeypatch.setattr(Node, "get_gcs_client", lambda _: store)
    monkeypatch.setattr(Node, "_write_cluster_info_to_kv", lambda _: None)
    node = Node.__new__(Node)
    node._gcs_address, node._gcs_client, node._logs_dir, node.all_processes = None, None, "", {}
    node._ray_params = RayParams(no_monitor=False, include_dashboard=False, include_log_monitor=True)

    ray_patches.start_fewer_processes()
    node.start_head_processes()
    node.start_log_monitor()

    assert node.all_processes == {}
    assert stored == {ray_constants.DASHBOARD_ADDRESS.encode(): b"127.0.0.1:0"}
    assert node.dashboard_agent_listen_port == 0


def test_ray_reads_every_setting() -> None:
    """Those for its core are tested below; the others are in its sources."""
    unread = {name for name in ray_patches.environment(PLAN) if not re.fullmatch("RAY_[a-z_]+", name)}
    for path in Path(ray.__file__).parent.rglob("*.py"):
        source = path.read_text(errors="ignore")
        unread -= {name for name in unread if f'"{name}"' in source}
    assert unread == set()


def test_rays_core_knows_its_settings() -> None:
    """It ignores unknown ones silently."""
    settings = [name for name in ray_patches.environment(PLAN) if re.fullmatch("RAY_[a-z_]+", name)]
    assert settings
    with (
        Path(services.RAYLET_EXECUTABLE).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code,
    ):
        assert [name for name in settings if code.find(name.encode()) < 0] == []


def test_a_worker_listens_on_loopback_and_no_proxy_is_started() -> None:
    ray_patches.prepare_worker()

    async def story(_: Any, port: int) -> None:
        assert listening_on(port) == {"127.0.0.1"}

    with_server_of_serve(story)
    manager = ProxyStateManager.__new__(ProxyStateManager)
    assert manager._resolved_proxy_location() is ProxyLocation.Disabled


@pytest.mark.parametrize(("host", "found"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "::"), ("::1", "::1")])
def test_a_replica_listens_on_the_chosen_host(host: str, found: str) -> None:
    ray_patches.prepare_worker()
    ray_patches.configure_server(host)

    async def story(_: Any, port: int) -> None:
        assert listening_on(port) == {found}

    with_server_of_serve(story)


def test_the_public_route_knows_the_deadline() -> None:
    async def story(_: Any, port: int) -> None:
        assert await ask_ready(port, timeout=5)
        assert not await ask_ready(port)

    with_server_of_serve(story)


def test_the_native_route_calls_our_servicer() -> None:
    models = Models(["double"])
    ray_patches.set_servicer(Servicer(models), native=True)

    async def story(server: Any, port: int) -> None:
        assert not await ask_ready(port, timeout=5)
        models.health.set_serving("double")
        assert await ask_ready(port)

    with_server_of_serve(story)


LIST_APPLICATIONS = "/ray.serve.RayServeAPIService/ListApplications"
INFER = "/inference.GRPCInferenceService/ModelInfer"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
REFLECT_ALPHA = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
BOTH_ROUTES = pytest.mark.parametrize("native", [True, False], ids=["native", "public"])


def one_token() -> AuthTokens:
    return AuthTokens.parse(f"ci {digest_of('s3cret').hex()} double", "tokens")


async def code_of(port: int, path: str, token: str = "", message: bytes = b"") -> grpc.StatusCode:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(path)(
            message, metadata=metadata, timeout=10
        )  # streamed, a refusal could race with it
        return await call.code()


@BOTH_ROUTES
def test_a_replica_answers_nothing_of_serve_itself(native: bool) -> None:
    async def open_before(_: Any, port: int) -> None:
        assert await code_of(port, LIST_APPLICATIONS) is grpc.StatusCode.OK

    async def closed_after(_: Any, port: int) -> None:
        assert await code_of(port, LIST_APPLICATIONS) is grpc.StatusCode.UNIMPLEMENTED

    with_server_of_serve(open_before)
    ray_patches.configure_server("127.0.0.1")
    ray_patches.set_servicer(Servicer(Models(["double"])), native=native)
    with_server_of_serve(closed_after)


@BOTH_ROUTES
def test_a_call_without_a_token_is_refused_before_serve_sees_it(native: bool) -> None:
    ray_patches.configure_server("127.0.0.1")
    ray_patches.set_servicer(Servicer(Models(["double"]), Authenticator(one_token)), native=native)

    async def story(_: Any, port: int) -> None:
        for path in (READY, INFER, REFLECT, REFLECT_ALPHA):
            assert await code_of(port, path) is grpc.StatusCode.UNAUTHENTICATED
            assert await code_of(port, path, "wrong") is grpc.StatusCode.UNAUTHENTICATED
        assert await code_of(port, READY, "s3cret") is grpc.StatusCode.OK
        assert await code_of(port, REFLECT, "s3cret") is grpc.StatusCode.OK
        assert await code_of(port, "/grpc.health.v1.Health/Check") is grpc.StatusCode.OK

    with_server_of_serve(story)


@BOTH_ROUTES
def test_a_message_that_never_arrives_ends_the_call(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "BODY_TIMEOUT_S", 0.2)
    ray_patches.set_servicer(Servicer(Models(["double"])), native=native)

    async def story(_: Any, port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_unary(READY)(timeout=20)
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "did not arrive within 0.2 s" in await call.details()
        await ask_ready(port)

    with_server_of_serve(story)


@BOTH_ROUTES
def test_a_replica_keeps_our_limits(native: bool) -> None:
    ray_patches.configure_server("127.0.0.1")
    ray_patches.set_servicer(Servicer(Models(["double"])), native=native)

    async def story(_: Any, port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(20):  # gRPC's own limit would refuse at random from half of ours on
                much = (("much", "x" * (MAX_METADATA_BYTES * 3 // 4)),)
                assert await channel.unary_unary(READY)(b"", metadata=much, timeout=10) is not None
            call = channel.unary_unary(READY)(b"", metadata=(("much", "x" * 2 * MAX_METADATA_BYTES),), timeout=10)
            assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(MAX_METADATA_BYTES) in await call.details()
        await ask_ready(port)

    with_server_of_serve(story)


@BOTH_ROUTES
def test_a_replica_with_credentials_speaks_only_tls(native: bool, tmp_path: Path) -> None:
    issued = issue(tmp_path)
    files = TlsFiles(issued.server, issued.server_key)
    ray_patches.configure_server("127.0.0.1", lambda: server_credentials(files))
    ray_patches.set_servicer(Servicer(Models(["double"])), native=native)

    async def story(_: Any, port: int) -> None:
        trusting = issued.channel_credentials(client=False)
        assert listening_on(port) == {"127.0.0.1"}
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trusting) as channel:
            await channel.unary_unary(READY)(b"", timeout=10)
        assert await code_of(port, READY) is grpc.StatusCode.UNAVAILABLE
        default_impl.add_grpc_address(grpc.aio.server(), "[::]:0")  # as Serve does again if a port is taken

    with_server_of_serve(story)


def test_a_replaced_replica_gets_its_port_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve's range excludes its upper bound, and without quarantine a port is free again at once."""
    environment = ray_patches.environment(PLAN)
    monkeypatch.setattr(
        node_port_manager, "RAY_SERVE_PORT_QUARANTINE_S", float(environment["RAY_SERVE_PORT_QUARANTINE_S"])
    )
    monkeypatch.setattr(node_port_manager.logger, "level", logging.ERROR)
    first, last = (int(environment[f"RAY_SERVE_DIRECT_INGRESS_{end}_GRPC_PORT"]) for end in ("MIN", "MAX"))
    ports = node_port_manager.PortAllocator(first, last, "gRPC", "node")
    assert [ports.allocate("a"), ports.allocate("b")] == [9000, 9001]
    ports.release("a", 9000)
    assert ports.allocate("c") == 9000


def test_output_of_daemons_is_redirected_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker, "_internal_kv_initialized", lambda: False)
    lines: list[str] = []
    ray_patches.redirect_daemon_output(lines.append)
    job, stopped = SimpleNamespace(binary=lambda: b"job"), threading.Event()

    def poll() -> tuple[str, dict[str, Any]]:
        stopped.set()
        return "", {"job_id": b"job", "error_message": "a worker died"}

    subscriber = SimpleNamespace(subscribe=lambda: None, poll=poll)
    worker.listen_error_messages(SimpleNamespace(gcs_error_subscriber=subscriber, current_job_id=job), stopped)
    assert lines == ["a worker died"]
    assert capsys.readouterr() == ("", "")


def test_no_other_server_can_share_the_port_of_a_replica() -> None:
    ray_patches.prepare_worker()
    ray_patches.configure_server("127.0.0.1")

    async def story(_: Any, port: int) -> None:
        options = gRPCOptions(port=port, grpc_servicer_functions=["serve.rayserve.ray_patches.add_services"])
        with pytest.raises(RuntimeError, match="Failed to bind"):
            await start_grpc_server(lambda **_: None, options, event_loop=asyncio.get_running_loop())

    with_server_of_serve(story)


def test_a_port_that_another_program_used_is_offered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_port_manager.logger, "level", logging.ERROR)
    ray_patches.prepare_worker()
    ports = node_port_manager.PortAllocator(9000, 9001, "gRPC", "node")
    ports.release("a", ports.allocate("a"), block_port=True)
    with pytest.raises(node_port_manager.NoAvailablePortError):
        ports.allocate("b")
    monkeypatch.setattr(ray_patches, "PORT_QUARANTINE_S", 0.0)
    other = node_port_manager.PortAllocator(9000, 9001, "gRPC", "node")
    other.release("a", other.allocate("a"), block_port=True)
    assert other.allocate("b") == 9000
