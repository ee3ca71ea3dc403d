"""Requests per second that keep a p99, at open-loop Poisson arrivals through the batcher that serves.

Latency counts from the scheduled arrival, so that a batcher that falls behind cannot hide it; a refused or failed request counts as
one that never came back.
"""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from msgspec import Struct

from optimize.arrays import Arrays
from optimize.errors import ProveserveError
from optimize.manifest import CurvePoint, Signature
from optimize.measure.workload import opt_sizes, requests
from optimize.runtime.batching.batcher import Batcher
from optimize.runtime.batching.options import BatcherOptions
from optimize.runtime.batching.scheduling.curve import Curve
from optimize.source.model_ref import ModelRef, opened_instances
from optimize.statistics.arrivals import schedule
from optimize.statistics.blocks import BLOCKS, MIN_BLOCK_CALLS

JUDGED_CALLS = BLOCKS * MIN_BLOCK_CALLS
SEED = 20_240_103
_WARM_UP_CALLS = 200
_QUEUE_BATCHES = 16
_SEARCH_CALLS = 400
_SEARCH_MIN_S = 1.0
_SEARCH_WITHIN = 1.05
_MOST_STEPS = 24
_MOST_SEARCH_S = 300.0
# A short run sees few slow calls: a rate counts as kept while at most this share of its calls is over the limit.
_SEARCH_OVER = 0.01


class Service(Struct, frozen=True):
    """What answers: `instances` sessions of one model_ref behind one batcher, with requests of `rows` rows."""

    model_ref: ModelRef
    signature: Signature
    curve: tuple[CurvePoint, ...]
    instances: int
    rows: int
    limit_ms: float


class Load(Struct, frozen=True):
    """One open-loop run: milliseconds from each scheduled arrival (None where no answer came), and answers per second."""

    latencies_ms: list[float | None]
    answered_qps: float


class Capacity(Struct, frozen=True):
    """The highest rate whose short run kept the limit: an estimate, not a verdict."""

    qps: float
    runs: int


def schedule_s(qps: float, calls: int) -> float:
    """How long :func:`measure` offers requests."""
    return (_WARM_UP_CALLS + calls) / qps


def measure(service: Service, split: Path, qps: float, calls: int) -> Load:
    """Offer `calls` requests at `qps` requests per second, after a warm-up that is not judged."""

    async def run() -> Load:
        async with _serving(service) as batcher:
            inputs = _inputs(service, split)
            await _offer(batcher, inputs, service.rows, qps, _WARM_UP_CALLS)
            return await _offer(batcher, inputs, service.rows, qps, calls)

    return asyncio.run(run())


def capacity(service: Service, split: Path, start_qps: float) -> Capacity:
    """Double the rate until a short run loses the limit, then bisect to within 5 %, or as near as five minutes allow."""

    async def run() -> Capacity:
        async with _serving(service) as batcher:
            inputs = _inputs(service, split)
            await _offer(batcher, inputs, service.rows, start_qps, _WARM_UP_CALLS)
            kept, lost = 0.0, math.inf
            rate = start_qps
            runs, end = 0, time.monotonic() + _MOST_SEARCH_S
            while runs < _MOST_STEPS and time.monotonic() < end:
                runs += 1
                load = await _offer(
                    batcher, inputs, service.rows, rate, max(_SEARCH_CALLS, math.ceil(rate * _SEARCH_MIN_S))
                )
                kept, lost = (rate, lost) if _keeps(load, service.limit_ms) else (kept, rate)
                if kept and lost <= kept * _SEARCH_WITHIN:
                    break
                rate = 2 * kept if lost == math.inf else (kept + lost) / 2
            return Capacity(kept, runs)

    return asyncio.run(run())


def _keeps(load: Load, limit_ms: float) -> bool:
    over = sum(latency is None or latency > limit_ms for latency in load.latencies_ms)
    return over <= _SEARCH_OVER * len(load.latencies_ms)


@asynccontextmanager
async def _serving(service: Service) -> AsyncIterator[Batcher]:
    batch = service.signature.max_batch
    options = BatcherOptions(
        max_batch=batch,
        max_queue_rows=max(_QUEUE_BATCHES * batch, service.rows),
        # Generous: the limit is judged from the latencies, and this only ends a queue that grows forever.
        default_timeout_s=max(10 * service.limit_ms / 1e3, 1.0) if math.isfinite(service.limit_ms) else 60.0,
    )
    with opened_instances(service.model_ref, service.instances) as sessions:
        async with Batcher(sessions, service.signature, Curve(service.curve), options) as batcher:
            yield batcher


def _inputs(service: Service, split: Path) -> list[Arrays]:
    return requests(service.signature, split, opt_sizes(service.signature, service.rows))


async def _offer(batcher: Batcher, inputs: list[Arrays], rows: int, qps: float, calls: int) -> Load:
    """Submit requests at the arrival times of a seeded Poisson process, however long earlier ones take."""
    arrivals = schedule("poisson", qps, calls, np.random.default_rng(SEED))
    found: list[float | None] = [None] * calls
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def call(index: int, arrays: Arrays, due: float) -> None:
        try:
            await batcher.submit(arrays, rows)
        except ProveserveError:  # a refusal or a failure is what this run counts
            return
        found[index] = (loop.time() - due) * 1e3

    tasks = set()
    for index, (arrival, arrays) in enumerate(zip(arrivals, itertools.cycle(inputs), strict=False)):
        due = start + float(arrival)
        delay = due - loop.time()
        if delay > 0:
            await asyncio.sleep(delay)
        task = asyncio.ensure_future(call(index, arrays, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    answered = sum(latency is not None for latency in found)
    return Load(found, answered / max(loop.time() - start, time.get_clock_info("monotonic").resolution))
