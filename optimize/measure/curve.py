"""Latency per batch size, which the batcher plans with."""

import time
from itertools import cycle
from pathlib import Path

import numpy as np

from optimize.arrays import Arrays
from optimize.budgets import BATCH
from optimize.manifest import CurvePoint, Signature
from optimize.measure.workload import requests, timed
from optimize.runtime.session import Session
from optimize.source.model_ref import ModelRef, opened
from optimize.statistics.quantile import quantile

_MIN_CALLS, _MAX_CALLS = 20, 200
_MAX_S = 1.0
_WARM_UP_CALLS = 5


def measure(model_ref: ModelRef, signature: Signature, split: Path) -> list[CurvePoint]:
    """Latency at 1, 2, 4 ... max rows, for the smallest, the `opt` and the largest size of the other dimensions."""
    shapes: list[dict[str, int]] = []
    for label in ("min", "opt", "max"):
        shape = {name: getattr(dim, label) for name, dim in signature.dims.items() if name != BATCH}
        if shape not in shapes:
            shapes.append(shape)
    with opened(model_ref) as session:
        return [_point(session, signature, split, shape, batch) for shape in shapes for batch in batch_sizes(signature)]


def batch_sizes(signature: Signature) -> list[int]:
    """1, 2, 4 ... and the largest batch itself, from the smallest that the model takes."""
    if BATCH not in signature.dims:
        return [1]
    dim = signature.dims[BATCH]
    largest = signature.max_batch if signature.batchable else dim.min
    return sorted({dim.min, largest} | {2**power for power in range(20) if dim.min <= 2**power <= largest})


def _point(session: Session, signature: Signature, split: Path, shape: dict[str, int], batch: int) -> CurvePoint:
    inputs = requests(signature, split, {**shape, BATCH: batch})
    latencies = _timed(session, inputs)
    return CurvePoint(
        shape,
        batch,
        float(np.median(latencies)),
        quantile(np.asarray(latencies), 0.95),
        len(latencies),
    )


def _timed(session: Session, inputs: list[Arrays]) -> list[float]:
    rotation = cycle(inputs)
    for _ in range(_WARM_UP_CALLS):
        session.run(next(rotation))
    latencies: list[float] = []
    start = time.perf_counter()
    while len(latencies) < _MIN_CALLS or (len(latencies) < _MAX_CALLS and time.perf_counter() - start < _MAX_S):
        latencies.append(timed(session, rotation))
    return latencies
