"""Drive a batcher step by step: sessions that wait to be let through, and waiting for what must come true."""

import asyncio
import time
from contextlib import asynccontextmanager

from optimize.runtime.batching.batcher import Batcher
from optimize.runtime.batching.options import BatcherOptions
from tests.optimize.runtime.fakes import PATIENCE_S, FakeClock, GatedSession, linear_curve, request, rows_signature

MAX_BATCH = 8
FIXED_S, ROW_S = 1.0, 0.25
OPTIONS = BatcherOptions(max_batch=MAX_BATCH, max_queue_rows=1000, default_timeout_s=1000.0, ageing_s=1000.0)
CURVE = linear_curve(FIXED_S, ROW_S, MAX_BATCH)


def cost_s(rows):
    return FIXED_S + rows * ROW_S


async def until(condition):
    """Let the loop and the workers go on until `condition()` holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "this never came true"
        await asyncio.sleep(0.0002)


@asynccontextmanager
async def gated(options=OPTIONS, *, workers=1, poison=(), curve=CURVE, max_batch=MAX_BATCH):
    """A batcher over one gated session per worker, with a clock that moves by each execution's cost."""
    clock = FakeClock()
    sessions = [GatedSession(clock, FIXED_S, ROW_S, poison) for _ in range(workers)]
    async with Batcher(sessions, rows_signature(max_batch), curve, options, clock) as batcher:
        try:
            yield batcher, sessions[0] if workers == 1 else sessions, clock
        finally:
            for session in sessions:
                session.release(10_000)


def calls(batcher, numbers, **options):
    """One task per number, each submitting the row of that number."""
    return [asyncio.create_task(batcher.submit(request(n), 1, **options)) for n in numbers]


async def admitted():
    """Let the tasks made last reach their place in the batcher."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
