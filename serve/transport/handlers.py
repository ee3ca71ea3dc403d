"""How calls reach the servicer: straight from a grpc.aio server, or through Ray Serve's public route.

Every method is registered as one that takes a stream, though it takes one message: gRPC would read that message, however large and
slow, before it asked us anything. So a call passes the gate first, and then its message has a time to arrive in. Messages are parsed
here and not by the transport, so that bytes which are no message end as INVALID_ARGUMENT.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from optimize.errors import InputError
from protos import open_inference_pb2
from serve import logs
from serve.access.auth import Grant
from serve.metadata_keys import TRACEPARENT_KEY
from serve.models.refused import Refused
from serve.transport import status
from serve.transport.servicer import Call, Servicer

BODY_TIMEOUT_S = 30.0
"""How long a call's message may take to arrive, whatever the caller's deadline."""

MAX_MESSAGE_BYTES = 64 << 20
MAX_METADATA_BYTES = 16 << 10
MAX_STREAMS = 10_000
MAX_PENDING = 100_000

LIMITS = (
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),  # between the two, gRPC refuses at random
    ("grpc.max_concurrent_streams", MAX_STREAMS),  # of one connection; further calls wait in the client
    # By default gRPC ends calls as CANCELLED, at random, where a thousand wait for the loop; the batchers refuse them with a reason.
    ("grpc.server.max_pending_requests", MAX_PENDING),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
    ("grpc.keepalive_time_ms", 60_000),  # a peer that is gone is found out, and its streams end
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # who pings more often is cut off, after two strikes
    ("grpc.http2.max_ping_strikes", 2),
)
"""What one connection may ask of a server, beside the size of its messages."""

SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # two servers on one port would share its calls unseen
    *LIMITS,
)

PUBLIC_DEADLINE: ContextVar[float | None] = ContextVar("PUBLIC_DEADLINE", default=None)
"""Deadline of the call that the public route is answering; Serve's own context does not tell it."""

_MAX_LOGGED = 128  # characters of what a client chose

_INFER = "ModelInfer"

_MODEL_FIELDS = ("model_name", "name", "service")


class Rpc(NamedTuple):
    """One method of a service; `model_field` is the field of its request that names a model, where it has one."""

    service: str
    name: str
    request: type[Message]
    streams: bool
    model_field: str | None

    @property
    def path(self) -> str:
        """Its name on the wire."""
        return f"/{self.service}/{self.name}"

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
        # Not as registered methods too, as generated code does: for each one, grpc.aio waits anew with every call.
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def _handler(servicer: Servicer, rpc: Rpc) -> grpc.RpcMethodHandler:
    if rpc.streams:
        return grpc.stream_stream_rpc_method_handler(_stream(servicer, rpc), response_serializer=_serialized)
    return grpc.stream_unary_rpc_method_handler(_unary(servicer, rpc), response_serializer=_serialized)


class PublicContext(Protocol):
    """What Ray Serve gives a deployment's method in place of gRPC's context."""

    def invocation_metadata(self) -> list[tuple[str, str]]:
        """What the caller sent beside the message."""

    def set_code(self, code: grpc.StatusCode) -> None:
        """Choose the final code."""

    def set_details(self, details: str) -> None:
        """Choose the final text."""

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        """Choose what follows the answer."""


AnyContext: TypeAlias = grpc.aio.ServicerContext | PublicContext


class _Running:
    """One call from its bytes to its end, counted with the code that it ends with."""

    __slots__ = ("_code", "_context", "_id", "_model", "_rpc", "_servicer")

    def __init__(self, servicer: Servicer, rpc: Rpc, context: AnyContext) -> None:
        self._servicer = servicer
        self._rpc = rpc
        self._context = context
        self._model = ""
        self._id = ""
        self._code: grpc.StatusCode | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = grpc.StatusCode.OK if kind is None else grpc.StatusCode.CANCELLED
        self._servicer.calls.end(self._rpc.name, self._model, self._code or ended)

    async def receive(self, context: grpc.aio.ServicerContext, call: Call) -> Message:
        """The request of a call that may be made, once it has arrived."""
        return self.parse(*await received(self._servicer, self._rpc, context, call))

    def parse(self, raw: bytes, grant: Grant) -> Message:
        """The request of these bytes, where it is granted."""
        try:
            request = self._rpc.request.FromString(raw)
        except DecodeError:
            raise InputError(f"the request's bytes are no message that {self._rpc.name} takes") from None
        named = self._rpc.model(request)
        if named in self._servicer.models:
            self._model = named
        self._id = getattr(request, "id", "")
        if self._rpc.model_field is not None:
            grant.permit(named)
        return request

    def fail(self, error: Exception) -> status.Status:
        """The status that an error ends the call with; its cause goes to the log where the caller is not told."""
        found = status.of(error)
        self._code = found.code
        if found.code is grpc.StatusCode.INTERNAL:
            self._log_cause(error)
        return found

    def _log_cause(self, error: Exception) -> None:
        logs.tell(
            "call_failed",
            logging.ERROR,
            error,
            method=self._rpc.name,
            model=self._model,
            request_id=self._id[:_MAX_LOGGED] or None,
            traceparent=_traceparent(self._context)[:_MAX_LOGGED] or None,
        )


def _unary(servicer: Servicer, rpc: Rpc) -> Callable[..., Coroutine[Any, Any, Message]]:
    async def answer(messages: object, context: grpc.aio.ServicerContext) -> Message:
        with _Running(servicer, rpc, context) as running:
            try:
                call = Call(deadline_of(context))
                return await getattr(servicer, rpc.name)(await running.receive(context, call), call)
            except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
                found = running.fail(error)
            aborted = context.abort(found.code, found.text, found.trailing_metadata)
            # gRPC keeps with the call what this raises, which keeps this frame, which would keep the call: more for the garbage
            # collector to do than a refusal takes.
            del messages, context, running
            return await aborted

    return answer


def _stream(servicer: Servicer, rpc: Rpc) -> Callable[..., AsyncIterator[Message]]:
    async def answers(_: object, context: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
        with _Running(servicer, rpc, context) as running:
            try:
                call = Call(deadline_of(context))
                async for message in getattr(servicer, rpc.name)(await running.receive(context, call), call):
                    yield message
            except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
                await abort(context, running.fail(error))

    return answers


class PublicMethods:
    """The methods that Ray Serve's public route looks up on a deployment, by name."""

    servicer: Servicer


def _forwarded(rpc: Rpc) -> Callable[..., Any]:
    async def answer(self: PublicMethods, request: bytes, grpc_context: PublicContext) -> Message:
        with _Running(self.servicer, rpc, grpc_context) as running:
            try:
                # Asked again, since a call may have come by a proxy, which knows no tokens.
                grant = self.servicer.gate.admit(rpc.path, grpc_context.invocation_metadata())
                parsed = running.parse(request, grant)
                return await getattr(self.servicer, rpc.name)(parsed, Call(PUBLIC_DEADLINE.get()))
            except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
                # A returned empty message carries the status and its trailing metadata out; a raised exception would lose the latter.
                _refuse(grpc_context, running.fail(error))
                return health_pb2.HealthCheckRequest()

    async def answers(self: PublicMethods, request: bytes, grpc_context: PublicContext) -> AsyncIterator[Message]:
        with _Running(self.servicer, rpc, grpc_context) as running:
            try:
                grant = self.servicer.gate.admit(rpc.path, grpc_context.invocation_metadata())
                parsed = running.parse(request, grant)
                async for message in getattr(self.servicer, rpc.name)(parsed, Call(PUBLIC_DEADLINE.get())):
                    yield message
            except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
                _refuse(grpc_context, running.fail(error))

    return answers if rpc.streams else answer


for _public in RPCS:
    setattr(PublicMethods, _public.name, _forwarded(_public))


Behaviour = Callable[[bytes, Any], Any]
"""How Ray Serve answers a call: with bytes that can be awaited, or with a stream of them."""


def fronted(servicer: Servicer | None, rpc: Rpc, by_serve: Behaviour) -> Callable[..., Any]:
    """What lets a call through to Serve's public route; without a servicer, as in a proxy, the replica asks for the token."""

    async def receive(context: grpc.aio.ServicerContext) -> Any:
        deadline = deadline_of(context)
        PUBLIC_DEADLINE.set(deadline)
        try:
            if servicer is None:
                return await _body(context)
            return (await received(servicer, rpc, context, Call(deadline)))[0]
        except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a status
            found = status.of(error)
            if servicer is not None:
                servicer.calls.end(rpc.name, "", found.code)
            await abort(context, found)

    async def answer(_: object, context: grpc.aio.ServicerContext) -> Any:
        return await by_serve(await receive(context), context)

    async def answers(_: object, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for message in by_serve(await receive(context), context):
            yield message

    return answers if rpc.streams else answer


async def received(servicer: Servicer, rpc: Rpc, context: grpc.aio.ServicerContext, call: Call) -> tuple[bytes, Grant]:
    """The bytes of a call's message, where it is worth reading, and what the call may do.

    Raises:
        Unauthenticated: It needs a token that is known here.
        Rejected: It asks for a prediction, and no model could make one in time, whatever the message says.
        Refused: Its message did not arrive in time.
    """
    grant = servicer.gate.admit(rpc.path, context.invocation_metadata())
    _turn_down(servicer, rpc, call)
    raw = await _body(context)
    _turn_down(servicer, rpc, call)  # again: of those that came with it, some were taken
    return raw, grant


def _turn_down(servicer: Servicer, rpc: Rpc, call: Call) -> None:
    """Refuse to look at a call's message where no model could answer it in time, whatever it says.

    Raises:
        Rejected: It asks for a prediction, and none can be made.
    """
    if rpc.name == _INFER and (refusal := servicer.models.refusal(call.deadline)) is not None:
        servicer.calls.unread += 1
        try:
            raise refusal
        finally:
            # It will hold this frame, which would hold it: more for the garbage collector to do than the call itself took.
            del refusal


async def _body(context: grpc.aio.ServicerContext) -> bytes:
    """The bytes of a call's message, once they have arrived.

    Raises:
        Refused: They did not, in time.
    """
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await context.read()
    except TimeoutError:
        raise Refused(
            grpc.StatusCode.DEADLINE_EXCEEDED, f"the request did not arrive within {BODY_TIMEOUT_S:g} s; send it again"
        ) from None
    # A caller that ended its side without a message sent what an empty message looks like.
    return b"" if raw is grpc.aio.EOF else bytes(raw)


def deadline_of(context: grpc.aio.ServicerContext) -> float | None:
    """A call's deadline on the monotonic clock, or None where it has none."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else time.monotonic() + remaining_s


def _traceparent(context: AnyContext) -> str:
    """The call's place in a trace; empty where the client names none."""
    found = (value for key, value in context.invocation_metadata() or () if key == TRACEPARENT_KEY)
    return str(next(found, ""))


def _refuse(context: PublicContext, found: status.Status) -> None:
    context.set_code(found.code)
    context.set_details(found.text)
    context.set_trailing_metadata(list(found.trailing_metadata))


async def abort(context: grpc.aio.ServicerContext, found: status.Status) -> Any:
    """End a call with a status, and with nothing before it: gRPC's clients retry no call that an answer has begun to."""
    await context.abort(found.code, found.text, found.trailing_metadata)


def _serialized(message: Message) -> bytes:
    return bytes(message.SerializeToString())
