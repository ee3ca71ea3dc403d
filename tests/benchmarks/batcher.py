"""What the batcher costs and gains: `python -m tests.benchmarks.batcher`.

Requests of one row per second through the batcher, as a ratio to calling the same session directly, one row after the other. With a
session that does nothing the ratio is the pure overhead; with a small ONNX model, batching must more than pay for it.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from optimize.arrays import Array, Arrays
from optimize.budgets import Dim
from optimize.manifest import CurvePoint, SessionOptions, Signature, TensorSpec
from optimize.runtime.batching.batcher import Batcher
from optimize.runtime.batching.options import BatcherOptions
from optimize.runtime.batching.rejections import QueueFull
from optimize.runtime.batching.scheduling import batch_formation
from optimize.runtime.batching.scheduling.curve import Curve
from optimize.runtime.batching.scheduling.latency_model import LatencyModel
from optimize.runtime.session import OnnxSession, Session
from tests.optimize.runtime.fakes import linear_curve
from tests.optimize.runtime.simulation import Load, Simulation

WIDTH = 512
LAYERS = 8
MAX_BATCH = 32
OPTIONS = BatcherOptions(max_batch=MAX_BATCH, max_queue_rows=20_000, default_timeout_s=60.0)
SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", WIDTH)),),
    (TensorSpec("y", "float32", ("batch", WIDTH)),),
    {"batch": Dim(1, 1, MAX_BATCH)},
)


class NullSession:
    """Answers at once with what came in."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        return dict.fromkeys(outputs or ("y",), inputs["x"])


def perceptron() -> onnx.ModelProto:
    """A small model whose cost is mostly that of reading its weights, as a large one's is: rows in a batch are cheap."""
    weights = [
        numpy_helper.from_array(
            np.random.default_rng(layer).normal(0, 0.1, (WIDTH, WIDTH)).astype(np.float32), f"w{layer}"
        )
        for layer in range(LAYERS)
    ]
    names = ["x", *(f"h{layer}" for layer in range(1, LAYERS)), "y"]
    nodes = [helper.make_node("MatMul", [names[n], f"w{n}"], [names[n + 1]]) for n in range(LAYERS)]
    io = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])] for name in "xy"]
    graph = helper.make_graph(nodes, "perceptron", *io, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def median_s(session: Session, rows: int, calls: int = 50) -> float:
    """Median seconds of one execution."""
    x = np.ones((rows, WIDTH), np.float32)
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        session.run({"x": x})
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


async def through_batcher(session: Session, curve: Curve, callers: int, calls: int) -> tuple[float, float]:
    """Answers per second with so many concurrent callers, and the mean rows of an execution."""
    x = np.ones((1, WIDTH), np.float32)
    async with Batcher([session], SIGNATURE, curve, OPTIONS) as batcher:

        async def caller() -> None:
            for _ in range(calls // callers):
                await batcher.submit({"x": x}, 1)

        start = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        seconds = time.perf_counter() - start
        return calls // callers * callers / seconds, batcher.counters.rows / batcher.counters.executions


async def refusals(calls: int) -> float:
    """Refusals per second at a full queue."""

    class Busy(NullSession):
        def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
            time.sleep(0.5)
            return super().run(inputs, outputs)

    x = np.ones((1, WIDTH), np.float32)
    options = BatcherOptions(MAX_BATCH, max_queue_rows=0, default_timeout_s=60.0)
    async with Batcher([Busy()], SIGNATURE, Curve([]), options) as batcher:
        running = asyncio.create_task(batcher.submit({"x": x}, 1))
        await asyncio.sleep(0)
        start = time.perf_counter()
        for _ in range(calls):
            try:
                await batcher.submit({"x": x}, 1)
            except QueueFull:
                continue
        seconds = time.perf_counter() - start
        await running
    return calls / seconds


def compare(name: str, session: Session, calls: int) -> None:
    """Print one line per number of callers."""
    points = [CurvePoint({}, rows, 1e3 * s, 1e3 * s, 50) for rows in (1, 8, 32) for s in [median_s(session, rows)]]
    direct = 1 / median_s(session, 1, calls=2000)
    print(f"{name}: {direct:,.0f} direct calls per second")
    for callers in (1, 8, 64, 1000):
        rate, rows = asyncio.run(through_batcher(session, Curve(points), callers, calls))
        print(
            f"  {callers:>5} callers  {rate:>10,.0f} submits/s  {rate / direct:>7.3f} x direct  {rows:>5.1f} rows per batch"
        )


def overload() -> None:
    """Print answers in time as a share of capacity, in simulated time, with and without the rule that gives requests up.

    An execution takes 4 ms and 0.5 ms a row, at 80 to 110 % of what the curve says.
    """
    noise = (0.8, 0.85, 0.9, 0.95, 1.0, 1.1)
    rule = batch_formation.WORTH_GIVING_UP
    print("answers in time, as a share of capacity (simulated): with the rule that gives requests up, and without it")
    for load in (1.0, 2.0):
        for timeout_s in (0.05, 0.1, 0.2, 1.0):
            shares = []
            for batch_formation.WORTH_GIVING_UP in (rule, math.inf):
                latency_model = LatencyModel(linear_curve(0.004, 0.0005, MAX_BATCH), (), MAX_BATCH)
                capacity = MAX_BATCH / (latency_model.promised_s(MAX_BATCH, ()) * sum(noise) / len(noise))
                offered = Load(load * capacity, 10.0, lambda _, timeout_s=timeout_s: timeout_s)
                simulation = Simulation(latency_model, offered, 1, noise)
                simulation.run()
                shares.append(simulation.in_time / 10.0 / capacity)
            print(f"  load {load:.0f} x, deadlines {1e3 * timeout_s:>5.0f} ms  {shares[0]:>6.2f}  {shares[1]:>6.2f}")
    batch_formation.WORTH_GIVING_UP = rule


def main() -> None:
    """Print the comparison."""
    compare("nothing to run", NullSession(), calls=20_000)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "perceptron.onnx"
        onnx.save(perceptron(), path)
        with OnnxSession(path, SessionOptions()) as session:
            compare(f"{LAYERS} layers of {WIDTH}", session, calls=20_000)
    print(f"refusals at a full queue: {asyncio.run(refusals(10_000)):,.0f} per second")
    overload()


if __name__ == "__main__":
    main()
