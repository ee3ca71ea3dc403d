"""The public route: calls pass through Ray Serve's own handling on their way to the servicer of a replica.

A call is checked before Serve sees it, and again by the deployment's method, since it may have come by a proxy, which knows no tokens.
"""

from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from serve.transport.admission import admit, deadline_of, read_message
from serve.transport.call import Call, PublicContext, aborting
from serve.transport.rpcs import RPCS, SERVICES, Rpc
from serve.transport.servicer import Servicer
from serve.transport.status import Status

PUBLIC_DEADLINE: ContextVar[float | None] = ContextVar("PUBLIC_DEADLINE", default=None)
"""Deadline of the call that the public route is answering, which Serve's own context does not have."""

Behaviour = Callable[[bytes, Any], Any]
"""How Ray Serve answers a call: with an awaitable of bytes, or with a stream of bytes."""


def add_services(servicer: Servicer | None, behaviour_of: Callable[[Rpc], Behaviour], server: Any) -> None:
    """Add every method to a grpc.aio server; without a servicer, as in a proxy, only the replica checks the token."""
    for service in SERVICES:
        handlers = {rpc.name: _handler(servicer, rpc, behaviour_of(rpc)) for rpc in RPCS if rpc.service == service}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def _handler(servicer: Servicer | None, rpc: Rpc, by_serve: Behaviour) -> grpc.RpcMethodHandler:
    """Serve's behaviour behind the checks of `serve.transport.admission`."""

    def count(code: grpc.StatusCode) -> None:
        if servicer is not None:  # calls that pass the checks are counted by the deployment's method
            servicer.calls.end(rpc.name, "", code)

    async def receive(context: grpc.aio.ServicerContext) -> bytes:
        deadline, raw = deadline_of(context), b""
        PUBLIC_DEADLINE.set(deadline)
        async with aborting(context, count):
            if servicer is None:
                raw = await read_message(context)
            else:
                raw, _ = await admit(servicer, rpc, context, deadline)
        return raw

    async def answer(_: object, context: grpc.aio.ServicerContext) -> Any:
        return await by_serve(await receive(context), _OneApplication(context))

    async def answers(_: object, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for message in by_serve(await receive(context), _OneApplication(context)):
            yield message

    if rpc.streams:
        return grpc.stream_stream_rpc_method_handler(answers)
    return grpc.stream_unary_rpc_method_handler(answer)


class _OneApplication:
    """gRPC's context without the metadata that asks for an application: there is one, and Serve's own errors name others."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [(key, value) for key, value in self._context.invocation_metadata() if key != "application"]


class PublicMethods:
    """The methods that Ray Serve's public route looks up on a deployment, by name."""

    servicer: Servicer


def _method(rpc: Rpc) -> Callable[..., Any]:
    async def answer(self: PublicMethods, request: bytes, grpc_context: PublicContext) -> Message:
        with Call(self.servicer, rpc, grpc_context) as call:
            token = self.servicer.authenticator.authenticate(rpc.path, grpc_context.invocation_metadata())
            parsed = call.parse(request, token)
            return await getattr(self.servicer, rpc.name)(parsed, PUBLIC_DEADLINE.get())
        # An empty message carries the status and its trailing metadata; an exception would lose the metadata.
        _set_status(grpc_context, call.status)
        return health_pb2.HealthCheckRequest()

    async def answers(self: PublicMethods, request: bytes, grpc_context: PublicContext) -> AsyncIterator[Message]:
        with Call(self.servicer, rpc, grpc_context) as call:
            token = self.servicer.authenticator.authenticate(rpc.path, grpc_context.invocation_metadata())
            parsed = call.parse(request, token)
            async for message in getattr(self.servicer, rpc.name)(parsed, PUBLIC_DEADLINE.get()):
                yield message
        if call.failed:
            _set_status(grpc_context, call.status)

    return answers if rpc.streams else answer


def _set_status(context: PublicContext, status: Status) -> None:
    context.set_code(status.code)
    context.set_details(status.text)
    context.set_trailing_metadata(list(status.trailing_metadata))


for _rpc in RPCS:
    setattr(PublicMethods, _rpc.name, _method(_rpc))
