"""A replica's threads wait for their turn, and calls that come together are taken together."""

import asyncio
import gc
import os
import subprocess
import sys

import grpc
import pytest
from grpc._cython import cygrpc

from serve.transport import grpc_patches

ECHO = "/test/Echo"
THREADS = """
import os, threading
from serve.transport.grpc_patches import take_turns

done = threading.Event()
def linger(): done.wait()
threading.Thread(target=linger, daemon=True).start()
take_turns()
threading.Thread(target=linger, daemon=True).start()
print(*(os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduler")
def test_all_threads_take_turns_those_of_before_and_later_ones() -> None:
    printed = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True).stdout
    assert [int(policy) for policy in printed.split()] == [os.SCHED_BATCH] * 3


async def serve() -> tuple[grpc.aio.Server, str]:
    async def echo(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
        return request

    server = grpc.aio.server()
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


def test_a_server_waits_for_many_calls_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More of them than it waits for: each is answered with its own; and it stops without a word about those that never came."""
    monkeypatch.setattr(cygrpc, "AioServer", cygrpc.AioServer)  # put back at the end
    grpc_patches.accept_together()

    async def run() -> None:
        server, address = await serve()
        acceptor = server._server
        assert isinstance(acceptor, grpc_patches.Acceptor)
        async with grpc.aio.insecure_channel(address) as channel:
            messages = [str(number).encode() for number in range(10 * grpc_patches.AHEAD)]
            assert await asyncio.gather(*map(channel.unary_unary(ECHO), messages)) == messages
            assert len(acceptor._coming) == grpc_patches.AHEAD - 1  # and the one that gRPC's own loop holds
        await server.stop(grace=1)

    asyncio.run(run())
    gc.collect()  # a failure that nobody took note of is told when its task is collected
    assert caplog.records == []
