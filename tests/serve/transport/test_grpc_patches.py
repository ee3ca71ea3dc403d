"""A server with the patch for speed waits for several calls at once."""

import asyncio
import gc

import grpc
import pytest
from grpc._cython import cygrpc

from serve.transport import grpc_patches

ECHO = "/test/Echo"


async def serve() -> tuple[grpc.aio.Server, str]:
    async def echo(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
        return request

    server = grpc.aio.server()
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


def test_a_server_waits_for_several_calls_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of more calls than it waits for gets its own answer, and it stops without errors about those that never came."""
    monkeypatch.setattr(cygrpc, "AioServer", cygrpc.AioServer)  # restored at the end
    grpc_patches.accept_many()

    async def run() -> None:
        server, address = await serve()
        async with grpc.aio.insecure_channel(address) as channel:
            messages = [str(number).encode() for number in range(10 * grpc_patches.CALLS_AHEAD)]
            assert await asyncio.gather(*map(channel.unary_unary(ECHO), messages)) == messages
            requested = server._server._requested
            assert len(requested) == grpc_patches.CALLS_AHEAD - 1  # and the one that gRPC's own loop awaits
        await server.stop(grace=1)

    asyncio.run(run())
    gc.collect()  # an error that nothing retrieved is reported when its task is collected
    assert caplog.records == []
