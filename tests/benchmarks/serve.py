"""Calls a second, and CPU seconds a call, through `optimize serve` against a bare grpc.aio server with the same servicer.

``python -m tests.benchmarks.serve`` prints both, and their ratio: interleaved in one run, so that it holds on any machine. The model
is an identity of about 0.1 ms; one process calls, 64 calls at a time.
"""

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import psutil

from serve import codec
from tests.published import identity, publish
from tests.serving import served

CONCURRENT = 64
BLOCK_S = 2.0
WARM_UP_S = 1.0
PAIRS = 6


@contextlib.contextmanager
def bare_process(registry: Path) -> Iterator["Server"]:
    """A bare server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bare", str(registry)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Server(process.stdout.readline().strip(), [psutil.Process(process.pid)])
    finally:
        process.communicate(timeout=20)


async def rate(address: str, duration_s: float, concurrent: int = CONCURRENT) -> float:
    """Calls answered a second by `concurrent` callers that each wait for their answer."""
    request = codec.write_request("identity", {"x": np.ones((1, 4), np.float32)}).SerializeToString()
    answered = 0
    async with grpc.aio.insecure_channel(address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        end = time.perf_counter() + duration_s

        async def caller() -> None:
            nonlocal answered
            while time.perf_counter() < end:
                await infer(request, timeout=20)
                answered += 1

        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(concurrent)))
        return answered / (time.perf_counter() - started)


@dataclass
class Server:
    """A server under load: where it is, its processes, and what each block showed."""

    address: str
    processes: list[psutil.Process]
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def cpu_s(self) -> float:
        """CPU seconds that the processes have used so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    def measure(self, concurrent: int) -> None:
        """One block: calls a second, and CPU milliseconds a call."""
        before = self.cpu_s()
        found = asyncio.run(rate(self.address, BLOCK_S, concurrent))
        self.rates.append(found)
        self.cpu_ms.append((self.cpu_s() - before) * 1e3 / (found * BLOCK_S))


def interleaved(first: Server, second: Server, concurrent: int = CONCURRENT) -> None:
    """Blocks in the order A B, B A, A B ..., so that a drift of the machine meets both."""
    for server in (first, second):
        asyncio.run(rate(server.address, WARM_UP_S, concurrent))
    for pair in range(PAIRS):
        for server in (first, second) if pair % 2 == 0 else (second, first):
            server.measure(concurrent)


def main() -> None:
    """Measure both routes and print."""
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder) / "registry"
        publish(registry, "identity", identity(), Path(folder))
        for route in ("public", "native"):
            compare(registry, route)


def compare(registry: Path, route: str) -> None:
    """One route of the service against the bare server."""
    with served(registry, "--route", route) as running, bare_process(registry) as bare:
        service = Server(running.address, running.family())
        interleaved(service, bare)
    for name, server in ((route, service), ("bare", bare)):
        blocks = " ".join(f"{value:.0f}" for value in server.rates)
        cpu_ms = statistics.median(server.cpu_ms)
        print(f"{name:8}{statistics.median(server.rates):8.0f} calls/s {cpu_ms:8.3f} CPU ms a call   blocks {blocks}")
    ratios = [ours / theirs for ours, theirs in zip(service.rates, bare.rates, strict=True)]
    cpu = statistics.median(service.cpu_ms) / statistics.median(bare.cpu_ms)
    pairs = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"ratio   {statistics.median(ratios):8.2f} calls/s {cpu:8.2f} CPU ms a call   pairs  {pairs}")


if __name__ == "__main__":
    main()
