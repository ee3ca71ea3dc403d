"""How a replica shares its cores between what answers calls and what runs the model, and how it takes calls that come together.

On a machine that its model keeps busy, every event of a call would otherwise interrupt an execution: gRPC's threads and the event
loop would each wake for one event, find nothing in the caches, and leave nothing there of the model's.
"""

import asyncio
import contextlib
import os
import sys
from collections import deque
from pathlib import Path
from typing import Any

from grpc._cython import cygrpc

AHEAD = 16
"""Calls that grpc.aio waits for at once; by itself it waits for one, and each takes two threads a turn."""


def take_turns() -> None:
    """Let every thread of this process, and all that they start, wait for its turn where no core is free, and not interrupt (Linux).

    Events then come together, and are worked off together. A turn comes with the scheduler's next tick, 4 ms at most at 250 Hz.
    """
    if sys.platform == "linux":
        for thread in Path("/proc/self/task").iterdir():
            # It may have ended, and some containers allow no such call.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.sched_setscheduler(int(thread.name), os.SCHED_BATCH, os.sched_param(0))


class Acceptor(cygrpc.AioServer):  # type: ignore[misc] # gRPC is untyped
    """The server inside grpc.aio's, which waits for `AHEAD` calls at once: calls that come together are taken together."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._coming: deque[asyncio.Task[Any]] = deque()

    async def _request_call(self) -> Any:
        """The next call; gRPC's loop asks for one after the other, until the server stops and it fails."""
        while len(self._coming) < AHEAD:
            call = asyncio.create_task(super()._request_call())
            call.add_done_callback(_note)
            self._coming.append(call)
        return await self._coming.popleft()


def _note(call: asyncio.Task[Any]) -> None:
    """Take note of a failure that nobody waits for: those that the server still waited for when it stopped."""
    if not call.cancelled():
        call.exception()


def accept_together() -> None:
    """Let the grpc.aio servers that this process makes from now on take calls together."""
    cygrpc.AioServer = Acceptor
