"""Every change to gRPC's internals; each goes through `serve.patches.replace`.

accept_many       a server waits for several calls at once (speed)
keep_to_loopback  an insecure port for every interface becomes one of loopback (exposure)
register          adds handlers to a server as gRPC does, past what a subclass makes of them
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
from grpc.aio._server import Server

from serve.patches import Patch, Purpose, replace

CALLS_AHEAD = 16
"""Calls that a server waits for at once. grpc.aio itself waits for one, and each call costs two threads a turn."""

EVERY_INTERFACE = "[::]:"
_LOOPBACK = "127.0.0.1:"

ACCEPT = Patch(
    "grpc._cython.cygrpc:AioServer",
    Purpose.SPEED,
    "so that calls that arrive together are accepted together",
    "grpc.aio._server:Server.__init__",
    ("_request_call",),
)
INSECURE_PORT = Patch(
    "grpc.aio._server:Server.add_insecure_port",
    Purpose.EXPOSURE,
    "so that the servers of Ray Serve's actors listen on loopback",
    "ray.serve._private.default_impl:add_grpc_address",
    ("address",),
)
PATCHES = (ACCEPT, INSECURE_PORT)


def accept_many() -> None:
    """Let the grpc.aio servers that this process makes from now on wait for several calls at once."""
    replace(ACCEPT, _accepting_many)


def _accepting_many(original: type) -> type:
    class AcceptingServer(original):  # type: ignore[misc] # gRPC is untyped
        """The server inside grpc.aio's, which waits for `CALLS_AHEAD` calls at once."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._requested: deque[asyncio.Task[Any]] = deque()

        async def _request_call(self) -> Any:
            """The next call. gRPC's loop asks for one after the other, until the server stops and the request fails."""
            while len(self._requested) < CALLS_AHEAD:
                call = asyncio.create_task(super()._request_call())
                call.add_done_callback(_retrieve_error)
                self._requested.append(call)
            return await self._requested.popleft()

    return AcceptingServer


def _retrieve_error(call: asyncio.Task[Any]) -> None:
    """Keep asyncio from reporting the requests that fail, with nothing awaiting them, when the server stops."""
    if not call.cancelled():
        call.exception()


def keep_to_loopback() -> None:
    """Open insecure ports for every interface on loopback only."""

    def make(original: Callable[[Any, str], int]) -> Callable[[Any, str], int]:
        def add_insecure_port(server: Any, address: str) -> int:
            return original(server, address.replace(EVERY_INTERFACE, _LOOPBACK, 1))

        return add_insecure_port

    replace(INSECURE_PORT, make)


def register(server: Any, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
    """Add handlers to a grpc.aio server without what a subclass, such as Ray Serve's, would make of them."""
    Server.add_generic_rpc_handlers(server, handlers)
