"""What serving costs and keeps, each claim as a ratio in one interleaved run: ``python -m tests.benchmarks.serve [options]``.

a  rows per CPU second of all of the service's processes, against the same artefact called in process at its best batch
b  calls per second with a model that costs next to nothing, against a bare grpc.aio server and against Serve's own gRPC proxy
c  p50 of one caller at a time, against that bare server
d  twice the load that can be sustained: answers in time, and how soon the others are turned away; beside `@serve.batch`
e  before and after: PyTorch eager behind JSON over HTTP, against the artefact behind gRPC
m  what counting a call for the metrics costs
s  seconds from start to ready, and a replica's idle memory against what was measured and its budget

For a, d and e name a published version with --registry and --model; without, a stand-in of 48 dense layers is published. s serves all
models of that registry. Client and server share the machine's cores, so run it where nothing else runs.
"""

import argparse
import contextlib
import select
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import psutil
import uvloop

from optimize.runtime.session import instances
from serve.client import codec
from serve.monitoring.metrics import CallCounters
from tests.benchmarks import serve_clients as clients
from tests.benchmarks import serve_models as models
from tests.benchmarks import serve_wire as wire
from tests.benchmarks.serve_clients import Ends
from tests.benchmarks.serve_models import ModelRef
from tests.benchmarks.serve_start import start
from tests.serving import served

CONCURRENT = 64
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Scale:
    """How long and how often: `--quick` shows that it works, and no more."""

    block_s: float = 3.0
    pairs: int = 6
    overload_s: float = 15.0
    burst: int = 10_000
    warm_up_s: float = 2.0


QUICK = Scale(block_s=0.5, pairs=2, overload_s=2.0, burst=500, warm_up_s=0.5)


@dataclass(frozen=True)
class Server:
    """A server under load: where it is, and its processes."""

    address: str
    processes: list[psutil.Process]

    def cpu_s(self) -> float:
        """CPU seconds that they have used so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    def closed(self, request: bytes, concurrent: int, duration_s: float) -> Ends:
        """So many callers that each wait for their answer."""

        async def run() -> Ends:
            async with wire.caller(self.address, request) as call:
                return await clients.closed(call, concurrent, duration_s)

        return _all_answered(uvloop.run(run()))


def _all_answered(ends: Ends) -> Ends:
    if set(ends.codes) != {"OK"}:
        raise SystemExit(f"calls were not answered: {dict(ends.codes)}")
    return ends


@contextlib.contextmanager
def process(module: str, *arguments: str) -> Iterator[Server]:
    """A server in a process of its own, which prints its address and stops when its stdin ends."""
    started = subprocess.Popen(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stdout is not None
        ready, _, _ = select.select([started.stdout], [], [], START_TIMEOUT_S)
        address = started.stdout.readline().strip() if ready else ""
        if not address:
            raise SystemExit(f"{module} {' '.join(arguments)} did not start")
        yield Server(address, _family(started.pid))
    finally:
        try:
            started.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.communicate()


@contextlib.contextmanager
def service(model_ref: ModelRef, *arguments: str) -> Iterator[Server]:
    """`optimize serve` with one model."""
    registry = Path(model_ref.registry.place)
    with served(registry, "--model", model_ref.manifest.model, *arguments) as running:
        yield Server(running.address, _family(running.process.pid))


def _family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def interleaved(first: Callable[[], float], second: Callable[[], float], pairs: int) -> list[float]:
    """Ratios of both, measured in the order A B, B A, A B ..., so that a drift of the machine meets both."""
    ratios = []
    for pair in range(pairs):
        found = {measure: measure() for measure in ((first, second) if pair % 2 == 0 else (second, first))}
        ratios.append(found[first] / found[second])
    return ratios


def verdict(claim: str, ratios: list[float], wanted: str) -> None:
    """Print the median, what was wanted, and all."""
    pairs = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"{claim:78}{statistics.median(ratios):7.2f}   wanted {wanted:8} pairs {pairs}", flush=True)


def request_of(model_ref: ModelRef) -> bytes:
    """One row, as it travels."""
    return codec.write_request(model_ref.manifest.model, model_ref.row).SerializeToString()


def rows_per_cpu_second(model_ref: ModelRef, scale: Scale) -> None:
    """Claim a."""
    request, rows = request_of(model_ref), model_ref.best_batch
    path, options = model_ref.registry.model_file(model_ref.manifest), model_ref.manifest.artifact.options
    with service(model_ref) as server, instances(path, options, 1) as (session, *_):
        inputs = model_ref.tiled(rows)

        def in_process() -> float:
            begun, cpu_s, executions = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() < begun + scale.block_s:
                session.run(inputs)
                executions += 1
            return executions * rows / (time.process_time() - cpu_s)

        def over_grpc() -> float:
            cpu_s = server.cpu_s()
            ends = server.closed(request, CONCURRENT, scale.block_s)
            return len(ends.answered) / (server.cpu_s() - cpu_s)

        server.closed(request, CONCURRENT, scale.warm_up_s)
        ratios = interleaved(over_grpc, in_process, scale.pairs)
    name = f"{model_ref.manifest.model} {model_ref.manifest.candidate}"
    verdict(f"a  rows a CPU second, service / in process at {rows} rows ({name})", ratios, ">= 0.80")


def against_bare(model_ref: ModelRef, scale: Scale) -> None:
    """Claims b and c, on both routes."""
    request, registry = request_of(model_ref), model_ref.registry.place
    for route in ("native", "public"):
        with service(model_ref, "--route", route) as ours, process("bare", registry) as bare:
            for server in (ours, bare):
                server.closed(request, CONCURRENT, scale.warm_up_s)
            rates = interleaved(*(partial(_rate, server, request, scale) for server in (ours, bare)), pairs=scale.pairs)
            waits = interleaved(
                *(partial(_p50_ms, server, request, scale) for server in (ours, bare)), pairs=scale.pairs
            )
        verdict(f"b  calls per second, {route} route / bare grpc.aio server", rates, ">= 0.75")
        verdict(f"c  p50 of one caller, {route} route / bare grpc.aio server", waits, "<= 1.6")


def against_proxy(model_ref: ModelRef, scale: Scale) -> None:
    """The other half of claim b."""
    request = request_of(model_ref)
    arguments = ("proxy", model_ref.registry.place, model_ref.manifest.model)
    with service(model_ref) as ours, process("serve_rivals", *arguments) as proxy:
        for server in (ours, proxy):
            server.closed(request, CONCURRENT, scale.warm_up_s)
        rates = interleaved(*(partial(_rate, server, request, scale) for server in (ours, proxy)), pairs=scale.pairs)
    verdict("b  calls per second, native route / Serve's own gRPC proxy", rates, ">= 4")


def _rate(server: Server, request: bytes, scale: Scale) -> float:
    return server.closed(request, CONCURRENT, scale.block_s).rate


def _p50_ms(server: Server, request: bytes, scale: Scale) -> float:
    return server.closed(request, 1, scale.block_s).percentile_ms(50)


def overload(model_ref: ModelRef, scale: Scale) -> None:
    """Claim d: the sustainable rate is what 64 callers that wait get; then calls come twice as fast.

    Every call that is refused costs the client and the server some CPU, which the model then lacks: a short execution shows the worst.
    """
    request = request_of(model_ref)
    deadline_s = max(0.1, 10 * model_ref.execution_s(model_ref.manifest.signature.max_batch))
    rival = ("batch", model_ref.registry.place, model_ref.manifest.model)
    with service(model_ref) as ours, process("serve_rivals", *rival) as batch:
        for name, server in (("ours", ours), ("@serve.batch", batch)):
            server.closed(request, CONCURRENT, scale.warm_up_s)
            sustained = server.closed(request, CONCURRENT, 2 * scale.block_s).rate
            ends = uvloop.run(_offered(server.address, request, 2 * sustained, scale.overload_s, deadline_s))
            _print_overload(f"{name}, {model_ref.described}", ends, sustained, deadline_s)


async def _offered(address: str, request: bytes, rate: float, duration_s: float, deadline_s: float) -> Ends:
    async with wire.caller(address, request) as call:
        return await clients.offered(call, rate, duration_s, deadline_s)


def _print_overload(name: str, ends: Ends, sustained: float, deadline_s: float) -> None:
    in_time = sum(latency_s <= deadline_s for latency_s in ends.answered)
    refused = sorted(
        latency_s for code in ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED") for latency_s in ends.by_code.get(code, [])
    )
    p99_ms = f"{refused[int(0.99 * (len(refused) - 1))] * 1e3:.0f} ms" if refused else "none refused"
    share = in_time / ends.seconds / sustained
    print(
        f"d  twice {sustained:.0f} calls/s, {deadline_s * 1e3:.0f} ms each, {name}\n"
        f"{'   answered in time / sustained':78}{share:7.2f}   wanted >= 0.85  refused p99 {p99_ms} (wanted <= 50 ms)"
        f"  {dict(ends.codes)}",
        flush=True,
    )


def before_and_after(model_ref: ModelRef, scale: Scale) -> None:
    """Claim e."""
    request = request_of(model_ref)
    body = models.as_json(model_ref.row)
    eager = ("eager", model_ref.registry.place, model_ref.manifest.model)
    # One after the other: the first goes on working for callers that have given up.
    with process("serve_rivals", *eager) as before:
        _print_both("before: eager FP32, JSON over HTTP", partial(clients.http_caller, before.address, body), scale)
    with service(model_ref) as after:
        _print_both("after: gRPC", partial(clients.grpc_caller, after.address, request, insist=True), scale)


def _print_both(
    name: str, caller: Callable[[], contextlib.AbstractAsyncContextManager[clients.Call]], scale: Scale
) -> None:
    waiting, at_once = uvloop.run(_both(caller, scale))
    for load, ends in ((f"{CONCURRENT} callers", waiting), (f"{scale.burst} at once", at_once)):
        print(
            f"e  {name}, {load}: p50 {ends.percentile_ms(50):.1f} ms, p99 {ends.percentile_ms(99):.1f} ms,"
            f" {ends.rate:.0f} answers/s  {dict(ends.codes)}",
            flush=True,
        )


async def _both(
    caller: Callable[[], contextlib.AbstractAsyncContextManager[clients.Call]], scale: Scale
) -> tuple[Ends, Ends]:
    async with caller() as call:
        await clients.closed(call, CONCURRENT, scale.warm_up_s)
        return await clients.closed(call, CONCURRENT, 2 * scale.block_s), await clients.burst(call, scale.burst)


def counting(model_ref: ModelRef, scale: Scale) -> None:
    """Claim m."""
    calls, loops = CallCounters(), 100_000
    once_us = 1e6 / loops * timeit.timeit(lambda: _count(calls), number=loops)
    request = request_of(model_ref)
    with process("bare", model_ref.registry.place) as bare:
        bare.closed(request, CONCURRENT, scale.warm_up_s)
        cpu_s = bare.cpu_s()
        ends = bare.closed(request, CONCURRENT, scale.block_s)
        call_us = 1e6 * (bare.cpu_s() - cpu_s) / len(ends.answered)
    print(f"m  counting a call: {once_us:.1f} us of the {call_us:.0f} us of CPU that a trivial call takes", flush=True)


def _count(calls: CallCounters) -> None:
    calls.answered("identity", 0.001, 0.0001)
    calls.end("ModelInfer", "identity", grpc.StatusCode.OK)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="?", default="abcdems", help="their letters; default: all of abcdems")
    parser.add_argument("--registry", type=Path, help="registry of the version that a, d and e call")
    parser.add_argument("--model", help="its name")
    parser.add_argument("--quick", action="store_true", help="a glance at each, which proves nothing")
    asked = parser.parse_args()
    scale = QUICK if asked.quick else Scale()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trivial = models.trivial(folder)
        worker = models.published(asked.registry.absolute(), asked.model) if asked.registry else models.stand_in(folder)
        if "a" in asked.claims:
            rows_per_cpu_second(worker, scale)
        if {"b", "c"} & set(asked.claims):
            against_bare(trivial, scale)
            against_proxy(trivial, scale)
        if "d" in asked.claims:
            overload(worker, scale)
            if worker.longest.described != worker.described:
                overload(worker.longest, scale)
        if "e" in asked.claims:
            before_and_after(worker, scale)
        if "m" in asked.claims:
            counting(trivial, scale)
        if "s" in asked.claims:
            start(worker.registry)


if __name__ == "__main__":
    main()
