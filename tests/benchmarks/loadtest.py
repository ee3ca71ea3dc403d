"""The highest rate that one load generator sustains, against what a bare closed-loop client gets from the same server.

``python -m tests.benchmarks.loadtest``: the server answers at once, so that the generator, its Locust events and its records are what
is measured. A rate is sustained when no more than 1 call in 100 is sent over 20 ms late, and the answers come as fast as the calls are
due. It is found by doubling and bisecting to 5 %, on runs of 3 s; the closed-loop client stands before and after. Server and client
share the machine's cores, so the ratio is what counts.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc

from loadtest import report, run
from optimize.budgets import ModelBudgets, ThroughputBudget
from protos import open_inference_pb2 as pb
from serve.client.connection import Connection
from tests.loadtest import service

SECONDS = 3.0
CONCURRENT = 64
FIRST_QPS, MOST_QPS = 250.0, 32_000.0
STEP = 1.05
TRIES = 3  # what else runs on the machine can only make calls later
P99_MS = 80.0  # a quarter of it is the lateness that is tolerated


def offered(target: str, rate_qps: float, folder: Path) -> report.Report:
    """A short load test at that rate."""
    budgets = ModelBudgets(source="toy.onnx", throughput=ThroughputBudget(qps=rate_qps, p99_ms=P99_MS))
    return run.run(
        run.Settings(
            Connection(target),
            service.MODEL,
            budgets,
            rate_qps,
            round(rate_qps * SECONDS),
            folder,
            lead_in_s=1.0,
            min_block_calls=1,
        )
    )


def sustained(target: str, rate_qps: float, folder: Path) -> bool:
    """Whether the generator keeps that rate; prints what it saw."""
    found = offered(target, rate_qps, folder)
    print(
        f"  {rate_qps:8,.0f} calls/s offered, {found.good_qps:8,.0f} answered, sent {found.generator.late_p99_ms:6.2f} ms late at p99,"
        f" latency p50 {found.latency.p50_ms or 0:6.2f} ms",
        flush=True,
    )
    return found.generator.kept_up and found.good_qps >= 0.97 * rate_qps


def kept(target: str, rate_qps: float, folder: Path) -> bool:
    """Whether one of a few runs sustains that rate."""
    return any(sustained(target, rate_qps, folder) for _ in range(TRIES))


def highest(target: str, folder: Path) -> float:
    """The highest sustained rate, to 5 %."""
    low, high = 0.0, FIRST_QPS
    while high <= MOST_QPS and kept(target, high, folder):
        low, high = high, 2 * high
    while low and high / low > STEP:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if kept(target, middle, folder) else (low, middle)
    return low


async def closed_loop(target: str) -> float:
    """Calls per second of 64 callers, each of which waits for its answer before it calls again."""
    payload = pb.ModelInferRequest(model_name=service.MODEL).SerializeToString()
    count = 0
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(f"/{service.SERVICE}/ModelInfer")
        end = time.perf_counter() + SECONDS

        async def caller() -> None:
            nonlocal count
            while time.perf_counter() < end:
                await call(payload)
                count += 1

        await asyncio.gather(*(caller() for _ in range(CONCURRENT)))
    return count / SECONDS


def closed_loop_process(target: str) -> float:
    """The same in a process of its own, as the generator is."""
    command = [sys.executable, "-m", "tests.benchmarks.loadtest", target]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print the rates and their ratio."""
    with service.running(service.Faults(service_s=0.0)) as toy, tempfile.TemporaryDirectory() as name:
        before = closed_loop_process(toy.target)
        rate = highest(toy.target, Path(name))
        after = closed_loop_process(toy.target)
    bare = statistics.mean([before, after])
    print(f"open loop, sustained  {rate:8,.0f} calls/s   ratio {rate / bare:.2f}")
    print(f"closed loop, bare     {bare:8,.0f} calls/s   ({before:,.0f} before, {after:,.0f} after)")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(asyncio.run(closed_loop(sys.argv[1])))
    else:
        main()
