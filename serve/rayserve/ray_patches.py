"""Every change to Ray's defaults and internals, held by tests against the pinned version.

environment      settings that Ray and Serve read when they are imported, and hand to the processes they start
start_less       of Ray's own processes, none that nobody here would ask
prepare_worker   Serve's actors listen on loopback, and no proxy is started
hear_daemons     what Ray's daemons have to say to the command goes to its log
open_replica     replicas listen where they are told and as they are told, within our limits, and answer nothing of Serve's own
add_services     calls reach our servicer directly (the native route), or pass its gate on the way through Serve (the public route)

Nothing here is needed where Ray's own defaults are wanted.
"""

import heapq
import ipaddress
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from grpc.aio._server import Server

from serve.plan import Plan
from serve.transport.handlers import LIMITS, MAX_MESSAGE_BYTES, RPCS, fronted
from serve.transport.handlers import add_services as add_plain_services
from serve.transport.reflection import add_reflection
from serve.transport.servicer import Servicer

WORKER_HOOK = "serve.rayserve.ray_patches.prepare_worker"
"""For `worker_process_setup_hook`: Ray runs it first of all in every process that Serve's actors live in."""

PORT_ASIDE_S = 5.0
"""How long a port that something else holds is left alone."""

_REUSEPORT = "grpc.so_reuseport"
_EVERY_INTERFACE = "[::]:"
_LOOPBACK = "127.0.0.1:"
_NOWHERE = b"127.0.0.1:0"


def environment(plan: Plan) -> dict[str, str]:
    """Variables to set before ray is imported."""
    return {
        # Replicas take gRPC calls on ports of their own, on the loop that answers them, without a proxy in between.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(plan.port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(plan.port + plan.replicas),
        # A replacement gets the port of the replica that it replaces at once: no proxy holds on to the old one.
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        # The drain is ours: it ends when the last accepted call is answered, not after a fixed time.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # A replica that hangs cannot drain: it is killed, and its port is free for the next one.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_MESSAGE_BYTES),
        # Ray lowers its workers' priority for the sake of a driver that computes; here the workers are what counts.
        "RAY_worker_niceness": "0",
        # Started ahead, a worker lacks what ours are prepared with, and is thrown away while the first of those starts.
        "RAY_prestart_worker_first_driver": "0",
        # Ray's own daemons then listen on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ten looks a second at a service where nothing happens cost a hundredth of a core and more.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        # Nobody reads Ray's metrics, nor Serve's: a replica tells its own.
        "RAY_enable_metrics_collection": "0",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
        # The driver asks replicas to drain from a thread without an event loop.
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
        # Only processes of this service may talk to its Ray.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would copy the working directory
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def start_less() -> None:
    """Let a Ray that this process starts go without autoscaler, API server and log forwarder: they do nothing here.

    It then starts a second sooner, ends a second sooner (the autoscaler has to be killed), and takes less memory.
    """
    from ray._private import ray_constants  # noqa: PLC0415 - codec and client reach this package without ray
    from ray._private.node import Node  # noqa: PLC0415 - as above

    key, space = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD

    def start_api_server(node: Any, **_: Any) -> None:
        # The node's agent looks for the server's address every second, and logs its failure, until it finds one.
        node.get_gcs_client().internal_kv_put(key, _NOWHERE, True, space)  # noqa: FBT003 - as it is called
        # Its own port is the same for every Ray of a machine; the second would wait for it in vain.
        node._ray_params.dashboard_agent_listen_port = 0

    Node.start_monitor = Node.start_log_monitor = lambda _: None
    Node.start_api_server = start_api_server


def prepare_worker() -> None:
    """Put the gRPC servers of Serve's actors on loopback, and start no proxy: calls reach the replicas without one."""
    from ray.serve._private.proxy_state import ProxyStateManager  # noqa: PLC0415 - as below
    from ray.serve.config import ProxyLocation  # noqa: PLC0415 - as below

    plain: Callable[[Any, str], int] = Server.add_insecure_port

    def add_insecure_port(server: Any, address: str) -> int:
        return plain(server, address.replace(_EVERY_INTERFACE, _LOOPBACK, 1))

    Server.add_insecure_port = add_insecure_port
    # In direct-ingress mode the controller starts a proxy whatever it was asked for, and every replica an HTTP server.
    ProxyStateManager._resolved_proxy_location = lambda _: ProxyLocation.Disabled
    _set_ports_aside()


def _set_ports_aside() -> None:
    """Let the controller offer a port again that was in use: it would never, and a service without ports to spare could not heal."""
    from ray.serve._private.node_port_manager import PortAllocator  # noqa: PLC0415 - as below

    plain: Callable[[Any, str, int], None] = PortAllocator.release

    def release(allocator: Any, replica_id: str, port: int, block_port: bool = False) -> None:  # noqa: FBT001 - as it is called
        if not block_port:
            plain(allocator, replica_id, port)
            return
        del allocator._allocated_ports[replica_id]
        deadline = time.monotonic() + PORT_ASIDE_S
        allocator._quarantined_ports[port] = deadline
        heapq.heappush(allocator._quarantine_heap, (deadline, port))

    PortAllocator.release = release


def hear_daemons(tell: Callable[[str], None]) -> None:
    """Hand what Ray's daemons have to say to this process's user to `tell`; Ray would print it on stdout."""
    from ray._private import worker  # noqa: PLC0415 - codec and client reach this package without ray

    def print_to_stdstream(message: dict[str, Any], ignore_prefix: bool = False) -> None:  # noqa: FBT001 - as it is called
        del ignore_prefix
        for line in message["lines"]:
            tell(line)

    worker.print_to_stdstream = print_to_stdstream


def open_replica(host: str, credentials: Callable[[], Any] | None = None) -> None:
    """Say how the gRPC server that Serve starts in this process listens, before it starts: on `host` alone, and with TLS if asked.

    `credentials` makes them anew for each port that Serve tries, until it finds a free one.
    """
    from ray.serve._private import default_impl, grpc_util  # noqa: PLC0415 - codec and client reach this package without ray

    plain: Callable[[Any, str], None] = default_impl.add_grpc_address
    # An IPv6 address is written out in full, so that `prepare_worker` leaves it alone.
    chosen = f"[{ipaddress.ip_address(host).exploded}]:" if ":" in host else f"{host}:"

    def add_grpc_address(server: Any, address: str) -> None:
        ours = chosen + address.removeprefix(_EVERY_INTERFACE)
        if credentials is None:
            plain(server, ours)
        else:
            server.add_secure_port(ours, credentials())

    default_impl.add_grpc_address = add_grpc_address
    grpc_util.gRPCGenericServer = _exclusive(grpc_util.gRPCGenericServer)
    grpc_util.DEFAULT_GRPC_SERVER_OPTIONS = [*grpc_util.DEFAULT_GRPC_SERVER_OPTIONS, *LIMITS]
    # Serve's own service and its reflection answer whoever asks; its controller uses neither.
    grpc_util.add_RayServeAPIServiceServicer_to_server = lambda *_: None
    grpc_util.enable_server_reflection = lambda _: None


def _exclusive(plain: type[Server]) -> type[Server]:
    """Serve's server, alone on its port: Serve asks for that in a text, which gRPC, wanting a number, passes over."""

    class Exclusive(plain):  # type: ignore[misc] # Ray is untyped
        def __init__(self, factory: Any, *, extra_options: Sequence[tuple[str, Any]] = ()) -> None:
            others = [option for option in extra_options if option[0] != _REUSEPORT]
            super().__init__(factory, extra_options=[*others, (_REUSEPORT, 0)])

    return Exclusive


_servicer: Servicer | None = None
_natively = False


def answer_with(servicer: Servicer, *, natively: bool) -> None:
    """Let this process's gRPC server call `servicer` itself, or only hold its gate; call it before Serve starts that server."""
    global _servicer, _natively
    _servicer, _natively = servicer, natively


def add_services(placeholder: Servicer, server: Any) -> None:
    """Register the protocol with one of Serve's servers; named in `gRPCOptions.grpc_servicer_functions`."""
    unwrapped = _Unwrapped(server)
    if _servicer is not None and _natively:
        add_plain_services(_servicer, unwrapped)
    else:
        _add_publicly(placeholder, server)
    if _servicer is not None:
        add_reflection(_servicer.gate, unwrapped)


class _Unwrapped:
    """Serve's server, without the wrapping that it puts around every handler; Serve still learns of the services."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
        self._server.generic_rpc_handlers.append(handlers)
        Server.add_generic_rpc_handlers(self._server, handlers)


class _OneApplication:
    """gRPC's context without the metadata that asks for an application: there is one, and Serve tells of others in its own words."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [(key, value) for key, value in self._context.invocation_metadata() if key != "application"]


def _add_publicly(placeholder: Servicer, server: Any) -> None:
    """Register the protocol through Serve, with our front before each of its behaviours."""
    from ray.serve._private.proxy_request_response import gRPCStreamingType  # noqa: PLC0415 - as above

    plain = server.service_handler_factory
    ours = {rpc.path: rpc for rpc in RPCS}

    def factory(service_method: str, **_: Any) -> Callable[..., Any]:
        rpc = ours[service_method]
        # Whatever kind Serve asks for, the front takes a stream and hands on its one message.
        kind = gRPCStreamingType.UNARY_STREAM if rpc.streams else gRPCStreamingType.UNARY_UNARY
        by_serve = plain(service_method=service_method, streaming_type=kind)
        if _servicer is None:
            return fronted(None, rpc, by_serve)
        return fronted(_servicer, rpc, lambda request, context: by_serve(request, _OneApplication(context)))

    server.service_handler_factory = factory
    try:
        add_plain_services(placeholder, server)
    finally:
        server.service_handler_factory = plain
