"""Every change to Ray's defaults and internals; each replacement goes through `serve.patches.replace`.

environment               settings that Ray and Serve read when they are imported, and pass on to the processes they start
check                     every replacement that a service needs can be made with the installed Ray
start_fewer_processes     Ray starts none of its own processes that do nothing here
prepare_worker            Serve's actors listen on loopback, and no proxy is started
redirect_daemon_output    messages of Ray's daemons go to the log of the command
configure_server          a replica's server listens where it should, with our limits, and answers nothing of Serve's own
set_servicer              which servicer this process's server calls
add_services              adds the protocol to a server: calls reach the servicer directly (native) or through Serve (public)
"""

import heapq
import ipaddress
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from serve import patches
from serve.patches import Patch, Purpose, replace
from serve.plan import Plan
from serve.transport import grpc_patches, native_handlers, public_route
from serve.transport.limits import MAX_MESSAGE_BYTES, SERVER_LIMITS
from serve.transport.public_route import Behaviour
from serve.transport.reflection import add_reflection
from serve.transport.rpcs import Rpc
from serve.transport.servicer import Servicer

WORKER_HOOK = "serve.rayserve.ray_patches.prepare_worker"
"""For `worker_process_setup_hook`: the first thing that Ray runs in every process of Serve's actors."""

PORT_QUARANTINE_S = 5.0
"""How long a port that another program uses is left alone."""

_REUSEPORT = "grpc.so_reuseport"
_UNREACHABLE = b"127.0.0.1:0"

_GRPC_UTIL = "ray.serve._private.grpc_util"
_NODE = "ray._private.node:Node"
_START_SERVER = f"{_GRPC_UTIL}:start_grpc_server"
_START_HEAD = f"{_NODE}.start_head_processes"

MONITOR = Patch(f"{_NODE}.start_monitor", Purpose.SPEED, "so that no autoscaler is started", _START_HEAD)
LOG_MONITOR = Patch(
    f"{_NODE}.start_log_monitor", Purpose.SPEED, "so that no log forwarder is started", f"{_NODE}.start_ray_processes"
)
API_SERVER = Patch(
    f"{_NODE}.start_api_server",
    Purpose.CORRECTNESS,
    "so that two services on one machine do not wait for the same port",
    _START_HEAD,
)
DAEMON_OUTPUT = Patch(
    "ray._private.worker:print_to_stdstream",
    Purpose.CORRECTNESS,
    "so that nothing but READY lines appears on stdout",
    "ray._private.worker:listen_error_messages",
    ("data", "ignore_prefix"),
)
PROXIES = Patch(
    "ray.serve._private.proxy_state:ProxyStateManager._resolved_proxy_location",
    Purpose.EXPOSURE,
    "so that Serve opens no proxy and no HTTP server",
    "ray.serve._private.proxy_state:ProxyStateManager._get_target_nodes",
)
RELEASED_PORTS = Patch(
    "ray.serve._private.node_port_manager:PortAllocator.release",
    Purpose.CORRECTNESS,
    "so that a lost replica can be replaced at its port",
    "ray.serve._private.node_port_manager:NodePortManager.release_port",
    ("replica_id", "port", "block_port", "_allocated_ports", "_quarantined_ports", "_quarantine_heap"),
)
ADDRESS = Patch(
    "ray.serve._private.default_impl:add_grpc_address",
    Purpose.EXPOSURE,
    "so that replicas listen on the chosen host only, with TLS if there is a certificate",
    _START_SERVER,
    ("grpc_server", "server_address", "add_insecure_port"),
)
SERVER = Patch(
    f"{_GRPC_UTIL}:gRPCGenericServer",
    Purpose.EXPOSURE,
    "so that no other server shares its port, and no connection asks for more than our limits",
    _START_SERVER,
    ("extra_options", "service_handler_factory", "generic_rpc_handlers"),
)
SERVES_OWN_SERVICE = Patch(
    f"{_GRPC_UTIL}:add_RayServeAPIServiceServicer_to_server",
    Purpose.EXPOSURE,
    "so that Serve's own service does not answer callers without a token",
    _START_SERVER,
)
SERVES_REFLECTION = Patch(
    f"{_GRPC_UTIL}:enable_server_reflection",
    Purpose.EXPOSURE,
    "so that reflection does not answer callers without a token",
    _START_SERVER,
)
PATCHES = (
    *(MONITOR, LOG_MONITOR, API_SERVER, DAEMON_OUTPUT, PROXIES, RELEASED_PORTS),
    *(ADDRESS, SERVER, SERVES_OWN_SERVICE, SERVES_REFLECTION),
)


def environment(plan: Plan) -> dict[str, str]:
    """Variables to set before ray is imported."""
    return {
        # Replicas take gRPC calls on ports of their own, on the loop that answers them, without a proxy in between.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(plan.port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(plan.port + plan.replicas),
        # A new replica gets the port of the one that it replaces at once, since no proxy still uses the old one.
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        # We drain replicas ourselves: that ends with the last accepted call, not after a fixed time.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # A replica that hangs cannot drain: kill it, so that its port is free for the next one.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_MESSAGE_BYTES),
        # Ray lowers its workers' priority in favour of a driver that computes; here the workers do the work.
        "RAY_worker_niceness": "0",
        # A worker that is started ahead has not run our setup hook, and is thrown away.
        "RAY_prestart_worker_first_driver": "0",
        # This puts Ray's own daemons on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ten rounds per second in an idle service would cost 1 % of a core and more.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        # Replicas report metrics of their own; those of Ray and Serve are not read.
        "RAY_enable_metrics_collection": "0",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
        # The driver drains replicas from a thread without an event loop.
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
        # Only processes of this service may talk to its Ray.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would copy the working directory
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def check() -> None:
    """Check the installed Ray and gRPC before any process is started: Ray would start a worker that cannot be patched again and again.

    Raises:
        ProveserveError: A replacement that a service needs cannot be made.
    """
    patches.check((*PATCHES, *grpc_patches.PATCHES))


def start_fewer_processes() -> None:
    """Let a Ray that this process starts do without autoscaler, API server and log forwarder, which do nothing here.

    Ray then starts a second sooner, ends a second sooner (the autoscaler has to be killed), and takes less memory.
    """
    from ray._private import ray_constants  # noqa: PLC0415 - ray reads its settings when it is imported

    key, space = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD

    def start_api_server(node: Any, **_: Any) -> None:
        # The node's agent looks for the server's address every second, and logs an error, until it finds one.
        node.get_gcs_client().internal_kv_put(key, _UNREACHABLE, True, space)  # noqa: FBT003 - Ray's parameter is positional
        # The agent's default port is the same for every Ray of a machine; the second one would wait for it in vain.
        node._ray_params.dashboard_agent_listen_port = 0

    replace(MONITOR, lambda _: lambda _: None)
    replace(LOG_MONITOR, lambda _: lambda _: None)
    replace(API_SERVER, lambda _: start_api_server)


def prepare_worker() -> None:
    """Put the gRPC servers of Serve's actors on loopback, and start no proxy: calls reach the replicas without one."""
    from ray.serve.config import ProxyLocation  # noqa: PLC0415 - as above

    grpc_patches.keep_to_loopback()
    # In direct-ingress mode the controller starts a proxy and every replica an HTTP server, whatever the configuration says.
    replace(PROXIES, lambda _: lambda _: ProxyLocation.Disabled)
    replace(RELEASED_PORTS, _quarantining)


def _quarantining(original: Callable[[Any, str, int], None]) -> Callable[..., None]:
    """The controller never offers a port again that was in use once; without spare ports, the service could not heal."""

    def release(allocator: Any, replica_id: str, port: int, block_port: bool = False) -> None:  # noqa: FBT001 - Ray's signature
        if not block_port:
            original(allocator, replica_id, port)
            return
        del allocator._allocated_ports[replica_id]
        deadline = time.monotonic() + PORT_QUARANTINE_S
        allocator._quarantined_ports[port] = deadline
        heapq.heappush(allocator._quarantine_heap, (deadline, port))

    return release


def redirect_daemon_output(write: Callable[[str], None]) -> None:
    """Pass each line that Ray's daemons print for the user to `write`; Ray would print it on stdout."""

    def print_to_stdstream(data: dict[str, Any], ignore_prefix: bool = False) -> None:  # noqa: FBT001 - Ray's signature
        del ignore_prefix
        for line in data["lines"]:
            write(line)

    replace(DAEMON_OUTPUT, lambda _: print_to_stdstream)


def configure_server(host: str, credentials: Callable[[], Any] | None = None) -> None:
    """Configure the gRPC server that Serve will start in this process: it listens on `host` only, with TLS if there are credentials.

    `credentials` makes new ones for each port that Serve tries until it finds a free one.
    """
    # An IPv6 address is written in full, so that `prepare_worker` leaves it alone.
    chosen = f"[{ipaddress.ip_address(host).exploded}]:" if ":" in host else f"{host}:"

    def make_add_address(original: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
        def add_grpc_address(grpc_server: Any, server_address: str) -> None:
            ours = chosen + server_address.removeprefix(grpc_patches.EVERY_INTERFACE)
            if credentials is None:
                original(grpc_server, ours)
            else:
                grpc_server.add_secure_port(ours, credentials())

        return add_grpc_address

    replace(ADDRESS, make_add_address)
    replace(SERVER, _limited)
    replace(SERVES_OWN_SERVICE, lambda _: lambda *_: None)
    replace(SERVES_REFLECTION, lambda _: lambda _: None)


def _limited(original: type) -> type:
    """Serve's server with our limits, alone on its port: Serve asks for that with a string where gRPC wants a number."""

    class LimitedServer(original):  # type: ignore[misc] # Ray is untyped
        def __init__(self, factory: Any, *, extra_options: Sequence[tuple[str, Any]] = ()) -> None:
            others = [option for option in extra_options if option[0] != _REUSEPORT]
            super().__init__(factory, extra_options=[*others, (_REUSEPORT, 0), *SERVER_LIMITS])

    return LimitedServer


_servicer: Servicer | None = None
_native = False


def set_servicer(servicer: Servicer, *, native: bool) -> None:
    """Let this process's gRPC server call `servicer`, directly or through Serve; to be called before Serve starts that server."""
    global _servicer, _native
    _servicer, _native = servicer, native


def add_services(_: Any, server: Any) -> None:
    """Add the protocol to one of Serve's servers; `gRPCOptions.grpc_servicer_functions` names this function."""
    direct = _DirectRegistration(server)
    if _servicer is not None and _native:
        native_handlers.add_services(_servicer, direct)
    else:
        public_route.add_services(_servicer, _behaviours_of_serve(server), direct)
    if _servicer is not None:
        add_reflection(_servicer.authenticator, direct)


def _behaviours_of_serve(server: Any) -> Callable[[Rpc], Behaviour]:
    from ray.serve._private.proxy_request_response import gRPCStreamingType  # noqa: PLC0415 - as above

    def behaviour(rpc: Rpc) -> Behaviour:
        # Unary on the caller's side: our checks read the stream and pass on its one message.
        kind = gRPCStreamingType.UNARY_STREAM if rpc.streams else gRPCStreamingType.UNARY_UNARY
        by_serve: Behaviour = server.service_handler_factory(service_method=rpc.path, streaming_type=kind)
        return by_serve

    return behaviour


class _DirectRegistration:
    """Serve's server without the wrapper that it puts around every handler; Serve still learns which services there are."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
        self._server.generic_rpc_handlers.append(handlers)
        grpc_patches.register(self._server, handlers)
