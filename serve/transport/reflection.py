"""gRPC's own description of the service, for tools that have no .proto file; it needs a token like any call.

Version 1 of the protocol differs from version 1alpha in its name alone, so one set of messages serves both.
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from optimize.errors import InputError
from serve.access.auth import Authenticator
from serve.transport import rpcs
from serve.transport.call import aborting

SERVICES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
_METHOD = "ServerReflectionInfo"


def add_reflection(authenticator: Authenticator, server: Any) -> None:
    """Add both versions to a grpc.aio server."""
    described = reflection.aio.ReflectionServicer(sorted({*rpcs.SERVICES, *SERVICES}))
    for service in SERVICES:
        handlers = {_METHOD: _handler(authenticator, described, f"/{service}/{_METHOD}")}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def _handler(authenticator: Authenticator, described: Any, path: str) -> grpc.RpcMethodHandler:
    async def answers(raw: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async with aborting(context):
            authenticator.authenticate(path, context.invocation_metadata())
            async for answer in described.ServerReflectionInfo(_parsed(raw), context):
                yield answer

    return grpc.stream_stream_rpc_method_handler(
        answers, response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString
    )


async def _parsed(raw: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for message in raw:
        try:
            yield reflection_pb2.ServerReflectionRequest.FromString(message)
        except DecodeError:
            raise InputError(f"the request's bytes are no message that {_METHOD} takes") from None
