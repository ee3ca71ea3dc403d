"""Callers for the serving benchmarks: so many at a time, at a rate, or all at once."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import grpc
import numpy as np

from serve.metadata_keys import PUSHBACK_KEY

TIMEOUT_S = 60.0
_TICK_S = 0.002
_CONNECTIONS = 512
_CHANNEL_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))

Call = Callable[[float], Awaitable[str]]
"""Makes one call with a timeout in seconds, and tells how it ended: OK, or the name of a code."""


@contextlib.asynccontextmanager
async def grpc_caller(address: str, request: bytes, *, insist: bool = False) -> AsyncIterator[Call]:
    """Predictions over one channel; who insists comes again when the server says so."""
    async with grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def call(timeout_s: float) -> str:
            end = time.monotonic() + timeout_s
            while True:
                asked = infer(request, timeout=max(0.001, end - time.monotonic()))
                code = await asked.code()  # dearer to have it raised, and the caller shares the server's cores
                if code is grpc.StatusCode.OK or not insist:
                    return str(code.name)
                pause_ms = _pushback_ms(await asked.trailing_metadata())
                if pause_ms is None or time.monotonic() + pause_ms / 1e3 > end:
                    return str(code.name)
                await asyncio.sleep(pause_ms / 1e3)

        yield call


def _pushback_ms(trailing: grpc.aio.Metadata) -> int | None:
    found = dict(trailing).get(PUSHBACK_KEY)
    return None if found is None else int(found)


@contextlib.asynccontextmanager
async def http_caller(address: str, body: Any) -> AsyncIterator[Call]:
    """Predictions as JSON over HTTP, over as many kept connections as calls need."""
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def call(timeout_s: float) -> str:
            try:
                async with session.post(
                    f"http://{address}/infer", json=body, timeout=aiohttp.ClientTimeout(total=timeout_s)
                ) as response:
                    await response.json()
                    return "OK" if response.status == 200 else str(response.status)
            except (aiohttp.ClientError, TimeoutError) as error:
                return type(error).__name__

        yield call


@dataclass
class Ends:
    """How calls ended: latencies by code, in seconds, and the seconds that all of it took."""

    seconds: float = 0.0
    by_code: dict[str, list[float]] = field(default_factory=dict)

    def add(self, code: str, latency_s: float) -> None:
        self.by_code.setdefault(code, []).append(latency_s)

    @property
    def answered(self) -> list[float]:
        return self.by_code.get("OK", [])

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.answered) / self.seconds

    def percentile_ms(self, percentile: float) -> float:
        return float(np.percentile(self.answered or [np.nan], percentile)) * 1e3

    @property
    def codes(self) -> Counter[str]:
        return Counter({code: len(latencies) for code, latencies in self.by_code.items()})


async def closed(call: Call, concurrent: int, duration_s: float) -> Ends:
    """`concurrent` callers that each wait for their answer."""
    ends = Ends()
    started = time.perf_counter()

    async def caller() -> None:
        while (begun := time.perf_counter()) < started + duration_s:
            ends.add(await call(TIMEOUT_S), time.perf_counter() - begun)

    await asyncio.gather(*(caller() for _ in range(concurrent)))
    ends.seconds = time.perf_counter() - started
    return ends


async def offered(call: Call, rate: float, duration_s: float, deadline_s: float, seed: int = 1) -> Ends:
    """Poisson arrivals at `rate` a second, those of one tick together; latencies count from when a call was due."""
    gaps_s = np.random.default_rng(seed).exponential(1 / rate, int(rate * duration_s))
    ends = Ends(seconds=duration_s)
    started = time.perf_counter()

    def end(due: float, ended: asyncio.Future[str]) -> None:
        ends.add(ended.result(), time.perf_counter() - due)

    made = []
    for due in (started + np.cumsum(gaps_s)).tolist():
        now = time.perf_counter()
        if due > now:
            await asyncio.sleep(max(due - now, _TICK_S))
            now = time.perf_counter()
        if now < due + deadline_s:
            made.append(asyncio.ensure_future(call(due + deadline_s - now)))
            made[-1].add_done_callback(partial(end, due))
        else:
            ends.add("LATE_CLIENT", now - due)
    await asyncio.gather(*made)
    return ends


async def burst(call: Call, count: int) -> Ends:
    """All at once."""
    ends = Ends()
    started = time.perf_counter()

    async def one() -> None:
        ends.add(await call(TIMEOUT_S), time.perf_counter() - started)

    await asyncio.gather(*(one() for _ in range(count)))
    ends.seconds = time.perf_counter() - started
    return ends
