"""The native route: a grpc.aio server calls the servicer directly.

Messages are parsed here and not by the transport, so that bytes which are no message end as INVALID_ARGUMENT.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
from google.protobuf.message import Message

from serve.transport.admission import admit, deadline_of
from serve.transport.call import Call, abort
from serve.transport.rpcs import RPCS, SERVICES, Rpc
from serve.transport.servicer import Servicer


def add_services(servicer: Servicer, server: Any) -> None:
    """Add every method to a grpc.aio server."""
    for service in SERVICES:
        handlers = {rpc.name: _handler(servicer, rpc) for rpc in RPCS if rpc.service == service}
        # Generated code would register the methods one by one as well; grpc.aio then waits for each of them again with every call.
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def _handler(servicer: Servicer, rpc: Rpc) -> grpc.RpcMethodHandler:
    if rpc.streams:
        return grpc.stream_stream_rpc_method_handler(_stream(servicer, rpc), response_serializer=_serialize)
    return grpc.stream_unary_rpc_method_handler(_unary(servicer, rpc), response_serializer=_serialize)


def _unary(servicer: Servicer, rpc: Rpc) -> Callable[..., Coroutine[Any, Any, Message]]:
    async def answer(messages: object, context: grpc.aio.ServicerContext) -> Message:
        with Call(servicer, rpc, context) as call:
            deadline = deadline_of(context)
            request = call.parse(*await admit(servicer, rpc, context, deadline))
            return await getattr(servicer, rpc.name)(request, deadline)
        aborted = abort(context, call.status)
        # gRPC keeps with the call what this raises, which keeps this frame, which would keep the call: a cycle that costs the garbage
        # collector more than the refusal itself.
        del messages, context, call
        return await aborted

    return answer


def _stream(servicer: Servicer, rpc: Rpc) -> Callable[..., AsyncIterator[Message]]:
    async def answers(_: object, context: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
        with Call(servicer, rpc, context) as call:
            deadline = deadline_of(context)
            request = call.parse(*await admit(servicer, rpc, context, deadline))
            async for message in getattr(servicer, rpc.name)(request, deadline):
                yield message
        if call.failed:
            await abort(context, call.status)

    return answers


def _serialize(message: Message) -> bytes:
    return bytes(message.SerializeToString())
