"""Calls a second, and CPU seconds a call, through `optimize serve` on Ray against a bare grpc.aio server with the same servicer and model.

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
from pathlib import Path

import grpc
import numpy as np

from serve import codec
from tests.published import identity, publish
from tests.serving import served

CONCURRENT = 64
BLOCK_S = 2.0
WARM_UP_S = 1.0
PAIRS = 6


@contextlib.contextmanager
def bare_process(registry: Path) -> Iterator[str]:
    """A bare server in a process of its own; gives its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bare", str(registry)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
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


def interleaved(addresses: dict[str, str], concurrent: int = CONCURRENT) -> dict[str, list[float]]:
    """Rates per server: blocks in the order A B, B A, A B ..., so that a drift of the machine meets both."""
    rates: dict[str, list[float]] = {name: [] for name in addresses}
    for address in addresses.values():
        asyncio.run(rate(address, WARM_UP_S, concurrent))
    for pair in range(PAIRS):
        order = list(addresses)[:: 1 if pair % 2 == 0 else -1]
        for name in order:
            rates[name].append(asyncio.run(rate(addresses[name], BLOCK_S, concurrent)))
    return rates


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder) / "registry"
        publish(registry, "identity", identity(), Path(folder))
        with served(registry) as service, bare_process(registry) as bare_address:
            rates = interleaved({"service": service.address, "bare": bare_address})
    for name, found in rates.items():
        print(
            f"{name:8} {statistics.median(found):8.0f} calls/s   blocks {' '.join(f'{value:.0f}' for value in found)}"
        )
    ratios = [ours / bare for ours, bare in zip(rates["service"], rates["bare"], strict=True)]
    print(f"ratio    {statistics.median(ratios):8.2f}           pairs  {' '.join(f'{value:.2f}' for value in ratios)}")


if __name__ == "__main__":
    main()
