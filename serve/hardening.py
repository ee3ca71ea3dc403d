"""Every change to Ray's defaults and internals, held by tests against the pinned version.

environment      settings that Ray and Serve read when they are imported, and hand to the processes they start
prepare_worker   Serve's actors listen on loopback, and no proxy is started
bind_replica_to  replicas listen where they are told, not on every interface
add_services     calls reach our servicer directly (the native route), or know their deadline on Serve's own (the public route)

Nothing here is needed where Ray's own defaults are wanted.
"""

import ipaddress
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

from grpc.aio._server import Server

from serve.plan import Plan
from serve.routes import MAX_MESSAGE_BYTES, PUBLIC_DEADLINE, deadline_of
from serve.routes import add_services as add_plain_services
from serve.servicer import Servicer

WORKER_HOOK = "serve.hardening.prepare_worker"
"""For `worker_process_setup_hook`: Ray runs it first of all in every process that Serve's actors live in."""

_EVERY_INTERFACE = "[::]:"
_LOOPBACK = "127.0.0.1:"


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
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_MESSAGE_BYTES),
        # Ray lowers its workers' priority for the sake of a driver that computes; here the workers are what counts.
        "RAY_worker_niceness": "0",
        # Ray's own daemons then listen on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # The driver asks replicas to drain from a thread without an event loop.
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
        # Only processes of this service may talk to its Ray.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would copy the working directory
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


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


def bind_replica_to(host: str) -> None:
    """Make the gRPC server that Serve starts in this process listen on `host` alone; call it before that starts."""
    from ray.serve._private import default_impl  # noqa: PLC0415 - codec and client reach this package without ray

    plain: Callable[[Any, str], None] = default_impl.add_grpc_address
    # An IPv6 address is written out in full, so that `prepare_worker` leaves it alone.
    chosen = f"[{ipaddress.ip_address(host).exploded}]:" if ":" in host else f"{host}:"

    def add_grpc_address(server: Any, address: str) -> None:
        plain(server, chosen + address.removeprefix(_EVERY_INTERFACE))

    default_impl.add_grpc_address = add_grpc_address


_native_servicer: Servicer | None = None


def answer_natively(servicer: Servicer) -> None:
    """Let this process's gRPC server call `servicer` itself; call it before Serve starts that server."""
    global _native_servicer  # noqa: PLW0603 - Serve calls `add_services` by its name, with a server and nothing else
    _native_servicer = servicer


def add_services(placeholder: Servicer, server: Any) -> None:
    """Register the protocol with one of Serve's servers; named in `gRPCOptions.grpc_servicer_functions`."""
    if _native_servicer is None:
        _add_publicly(placeholder, server)
    else:
        add_plain_services(_native_servicer, _Unwrapped(server))


class _Unwrapped:
    """Serve's server, without the wrapping that it puts around every handler; reflection still learns of the services."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
        self._server.generic_rpc_handlers.append(handlers)
        Server.add_generic_rpc_handlers(self._server, handlers)

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        Server.add_registered_method_handlers(self._server, service, handlers)


def _add_publicly(placeholder: Servicer, server: Any) -> None:
    plain = server.service_handler_factory
    server.service_handler_factory = lambda **method: _with_deadline(plain(**method), method["streaming_type"])
    try:
        add_plain_services(placeholder, server)
    finally:
        server.service_handler_factory = plain


def _with_deadline(behaviour: Callable[..., Any], streaming_type: str) -> Callable[..., Any]:
    async def answer(request: Any, context: Any) -> Any:
        PUBLIC_DEADLINE.set(deadline_of(context))
        return await behaviour(request, context)

    async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
        PUBLIC_DEADLINE.set(deadline_of(context))
        async for message in behaviour(request, context):
            yield message

    return answers if streaming_type.endswith("_stream") else answer
