"""Which threads, instances and batch size to run an artefact with: for single requests, and for bulk."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import msgspec
import numpy as np

from optimize.arrays import Arrays
from optimize.manifest import OperatingPoint, Signature
from optimize.measure.curve import batch_sizes
from optimize.measure.workload import opt_sizes, requests, timed
from optimize.runtime.session import Session
from optimize.source.model_ref import ModelRef, opened_instances
from optimize.statistics.quantile import quantile

_TRIAL_S = 0.5
_MIN_CALLS = 4
_WARM_UP_CALLS = 3


def layouts(cores: int, own: int) -> list[tuple[int, int]]:
    """Threads x instances that fill the cores (1 x 4, 2 x 2, 4 x 1 on four), and the artefact's `own` threads."""
    counts = {threads for threads in range(1, cores + 1) if cores % threads == 0} | {own}
    return [(threads, max(1, cores // threads)) for threads in sorted(counts)]


def measure(model_ref: ModelRef, signature: Signature, split: Path, cores: int) -> list[OperatingPoint]:
    """Rows per second and latency of every layout at every batch size, with all instances working at once."""
    found = []
    for threads, instances in layouts(cores, model_ref.options.threads):
        laid_out = msgspec.structs.replace(
            model_ref, options=msgspec.structs.replace(model_ref.options, threads=threads)
        )
        with opened_instances(laid_out, instances) as sessions:
            for batch in batch_sizes(signature):
                inputs = requests(signature, split, opt_sizes(signature, batch))
                found.append(_point(sessions, inputs, threads, batch))
    return found


def _point(sessions: Sequence[Session], inputs: list[Arrays], threads: int, batch: int) -> OperatingPoint:
    with ThreadPoolExecutor(len(sessions)) as pool:
        start = time.perf_counter()
        runs = list(pool.map(lambda session: _loop(session, inputs, start + _TRIAL_S), sessions))
    latencies = np.concatenate([np.asarray(run) for run in runs])
    rows_per_s = sum(batch * len(run) / sum(run) for run in runs) * 1e3
    p95_ms = quantile(latencies, 0.95)
    return OperatingPoint(
        threads, len(sessions), batch, rows_per_s, float(np.median(latencies)), p95_ms, len(latencies)
    )


def _loop(session: Session, inputs: list[Arrays], until: float) -> list[float]:
    rotation = cycle(inputs)
    for _ in range(_WARM_UP_CALLS):
        session.run(next(rotation))
    latencies: list[float] = []
    while len(latencies) < _MIN_CALLS or time.perf_counter() < until:
        latencies.append(timed(session, rotation))
    return latencies


def bulk(points: list[OperatingPoint]) -> OperatingPoint:
    """The point with the most rows per second."""
    return max(points, key=lambda point: point.rows_per_s)


def online(points: list[OperatingPoint], threads: int) -> OperatingPoint:
    """For single requests: the layout with the threads that latency was measured with, at the batch with the most rows per second."""
    return max((point for point in points if point.threads == threads), key=lambda point: point.rows_per_s)
