"""How calls reach the servicer: straight from a grpc.aio server, or through Ray Serve's public route.

Messages are parsed here and not by the transport, so that bytes which are no message end as INVALID_ARGUMENT.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import grpc
from google.protobuf.descriptor import MethodDescriptor
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


_MODEL_FIELDS = ("model_name", "name", "service")


class Rpc(NamedTuple):
    """One method of a service; `model_field` is the field of its request that names a model, where it has one."""

    service: str
    name: str
    request: type[Message]
    streams: bool
    model_field: str | None

    def model(self, request: Message) -> str:
        """The model that a request names; empty where it names none."""
        return "" if self.model_field is None else getattr(request, self.model_field)


def _rpc(method: MethodDescriptor) -> Rpc:
    named = [field for field in _MODEL_FIELDS if field in method.input_type.fields_by_name]
    return Rpc(
        method.containing_service.full_name,
        method.name,
        GetMessageClass(method.input_type),
        method.server_streaming,
        named[0] if named else None,
    )


RPCS = tuple(
    _rpc(method)
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


class _Running:
    """One call from its bytes to its end, counted with the code that it ends with."""

    __slots__ = ("_code", "_model", "_rpc", "_servicer")

    def __init__(self, servicer: Servicer, rpc: Rpc) -> None:
        self._servicer = servicer
        self._rpc = rpc
        self._model = ""
        self._code: grpc.StatusCode | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = grpc.StatusCode.OK if kind is None else grpc.StatusCode.CANCELLED
        self._servicer.calls.end(self._rpc.name, self._model, self._code or ended)

    def parse(self, raw: bytes) -> Message:
        """The request of these bytes."""
        try:
            request = self._rpc.request.FromString(raw)
        except DecodeError:
            raise InputError(f"the request's bytes are no message that {self._rpc.name} takes") from None
        named = self._rpc.model(request)
        if named in self._servicer.models:
            self._model = named
        return request

    def fail(self, error: Exception) -> status.Status:
        """The status that an error ends the call with; its cause goes to the log where the caller is not told."""
        found = status.of(error)
        self._code = found.code
        if found.code is grpc.StatusCode.INTERNAL:
            _log.error("%s failed", self._rpc.name, exc_info=error)
        return found


def _unary(servicer: Servicer, rpc: Rpc) -> Callable[..., Coroutine[Any, Any, Message]]:
    async def answer(raw: bytes, context: grpc.aio.ServicerContext) -> Message:
        with _Running(servicer, rpc) as running:
            try:
                return await getattr(servicer, rpc.name)(running.parse(raw), Call(deadline_of(context)))
            except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
                await _abort(context, running.fail(error))

    return answer


def _stream(servicer: Servicer, rpc: Rpc) -> Callable[..., AsyncIterator[Message]]:
    async def answers(raw: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
        with _Running(servicer, rpc) as running:
            try:
                async for message in getattr(servicer, rpc.name)(running.parse(raw), Call(deadline_of(context))):
                    yield message
            except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
                await _abort(context, running.fail(error))

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
        with _Running(self.servicer, rpc) as running:
            try:
                return await getattr(self.servicer, rpc.name)(running.parse(request), Call(PUBLIC_DEADLINE.get()))
            except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
                # A returned empty message carries the status and its trailing metadata out; a raised exception would lose the latter.
                _refuse(grpc_context, running.fail(error))
                return health_pb2.HealthCheckRequest()

    async def answers(self: PublicMethods, request: bytes, grpc_context: PublicContext) -> AsyncIterator[Message]:
        with _Running(self.servicer, rpc) as running:
            try:
                parsed = running.parse(request)
                async for message in getattr(self.servicer, rpc.name)(parsed, Call(PUBLIC_DEADLINE.get())):
                    yield message
            except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
                _refuse(grpc_context, running.fail(error))

    return answers if rpc.streams else answer


for _public in RPCS:
    setattr(PublicMethods, _public.name, _forwarded(_public))


def deadline_of(context: grpc.aio.ServicerContext) -> float | None:
    """A call's deadline on the monotonic clock, or None where it has none."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else time.monotonic() + remaining_s


def _refuse(context: PublicContext, found: status.Status) -> None:
    context.set_code(found.code)
    context.set_details(found.text)
    context.set_trailing_metadata(list(found.trailing_metadata))


async def _abort(context: grpc.aio.ServicerContext, found: status.Status) -> Any:
    await context.abort(found.code, found.text, found.trailing_metadata)


def _serialized(message: Message) -> bytes:
    return bytes(message.SerializeToString())
