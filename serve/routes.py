"""How calls reach the servicer: straight from a grpc.aio server, or through Ray Serve's public route.

Messages are parsed here and not by the transport, so that bytes which are no message end as INVALID_ARGUMENT.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from optimize.errors import InputError
from protos import open_inference_pb2
from serve import status
from serve.servicer import Call, Servicer

MAX_MESSAGE_BYTES = 64 << 20
SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # two servers on one port would share its calls unseen
)

PUBLIC_DEADLINE: ContextVar[float | None] = ContextVar("PUBLIC_DEADLINE", default=None)
"""Deadline of the call that the public route is answering; Serve's own context does not tell it."""

_log = logging.getLogger(__name__)


class Rpc(NamedTuple):
    """One method of a service."""

    service: str
    name: str
    request: type[Message]
    streams: bool


RPCS = tuple(
    Rpc(service.full_name, method.name, GetMessageClass(method.input_type), method.server_streaming)
    for service in (
        open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
        health_pb2.DESCRIPTOR.services_by_name["Health"],
    )
    for method in service.methods
)


def add_services(servicer: Servicer, server: Any) -> None:
    """Register every method with a grpc.aio server.

    Ray Serve calls this too, with a server of its own that replaces the behaviours and keeps the rest, so that the deployment's
    methods get the message's bytes.
    """
    for service in dict.fromkeys(rpc.service for rpc in RPCS):
        handlers = {rpc.name: _handler(servicer, rpc) for rpc in RPCS if rpc.service == service}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        server.add_registered_method_handlers(service, handlers)


def _handler(servicer: Servicer, rpc: Rpc) -> grpc.RpcMethodHandler:
    if rpc.streams:
        return grpc.unary_stream_rpc_method_handler(_stream(servicer, rpc), response_serializer=_serialized)
    return grpc.unary_unary_rpc_method_handler(_unary(servicer, rpc), response_serializer=_serialized)


def _unary(servicer: Servicer, rpc: Rpc) -> Callable[..., Coroutine[Any, Any, Message]]:
    async def answer(raw: bytes, context: grpc.aio.ServicerContext) -> Message:
        try:
            return await getattr(servicer, rpc.name)(_parse(rpc, raw), Call(deadline_of(context)))
        except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
            await _abort(context, rpc, error)

    return answer


def _stream(servicer: Servicer, rpc: Rpc) -> Callable[..., AsyncIterator[Message]]:
    async def answers(raw: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
        try:
            async for message in getattr(servicer, rpc.name)(_parse(rpc, raw), Call(deadline_of(context))):
                yield message
        except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
            await _abort(context, rpc, error)

    return answers


class PublicContext(Protocol):
    """What Ray Serve gives a deployment's method in place of gRPC's context."""

    def set_code(self, code: grpc.StatusCode) -> None:
        """Choose the final code."""

    def set_details(self, details: str) -> None:
        """Choose the final text."""

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        """Choose what follows the answer."""


class PublicMethods:
    """The methods that Ray Serve's public route looks up on a deployment, by name."""

    servicer: Servicer


def _forwarded(rpc: Rpc) -> Callable[..., Any]:
    async def answer(self: PublicMethods, request: bytes, grpc_context: PublicContext) -> Message:
        try:
            return await getattr(self.servicer, rpc.name)(_parse(rpc, request), Call(PUBLIC_DEADLINE.get()))
        except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
            # A returned empty message carries the status and its trailing metadata out; a raised exception would lose the latter.
            _refuse(grpc_context, rpc, error)
            return health_pb2.HealthCheckRequest()

    async def answers(self: PublicMethods, request: bytes, grpc_context: PublicContext) -> AsyncIterator[Message]:
        try:
            async for message in getattr(self.servicer, rpc.name)(_parse(rpc, request), Call(PUBLIC_DEADLINE.get())):
                yield message
        except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
            _refuse(grpc_context, rpc, error)

    return answers if rpc.streams else answer


for _rpc in RPCS:
    setattr(PublicMethods, _rpc.name, _forwarded(_rpc))


def _parse(rpc: Rpc, raw: bytes) -> Message:
    try:
        return rpc.request.FromString(raw)
    except DecodeError:
        raise InputError(f"the request's bytes are no message that {rpc.name} takes") from None


def deadline_of(context: grpc.aio.ServicerContext) -> float | None:
    """A call's deadline on the monotonic clock, or None where it has none."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else time.monotonic() + remaining_s


def _refuse(context: PublicContext, rpc: Rpc, error: Exception) -> None:
    found = _status(rpc, error)
    context.set_code(found.code)
    context.set_details(found.text)
    context.set_trailing_metadata(list(found.trailing_metadata))


async def _abort(context: grpc.aio.ServicerContext, rpc: Rpc, error: Exception) -> Any:
    found = _status(rpc, error)
    await context.abort(found.code, found.text, found.trailing_metadata)


def _status(rpc: Rpc, error: Exception) -> status.Status:
    found = status.of(error)
    if found.code is grpc.StatusCode.INTERNAL:
        _log.error("%s failed", rpc.name, exc_info=error)
    return found


def _serialized(message: Message) -> bytes:
    return bytes(message.SerializeToString())
