"""Milliseconds of single calls, in process, after a warm-up that ends when the timings are steady."""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

from msgspec import Struct

from optimize.manifest import Signature
from optimize.measure.workload import opt_sizes, requests, timed
from optimize.source.model_ref import ModelRef, opened
from optimize.source.preprocess import Preprocess
from optimize.source.split_file import read_split

WARM_UP_CALLS = 50
WARM_UP_MIN_S = 2.0
WARM_UP_MAX_S = 20.0
STEADY_SHARE = 0.05
_STEADY_BLOCKS = 3


class LatencyRun(Struct, frozen=True):
    """Consecutive calls of one process; `unstable` if the warm-up ended before they were steady."""

    latencies_ms: list[float]
    unstable: bool


def measure_end_to_end(model_ref: ModelRef, spec: str, base: Path, raw: Path, calls: int) -> LatencyRun:
    """Time `calls` calls from raw columns to answers: the callable `spec` of the code in `base`, then the model."""
    preprocess = Preprocess(spec, base)
    with opened(model_ref) as session:
        rotation = cycle(read_split(raw))

        def call() -> float:
            columns = next(rotation).inputs
            start = time.perf_counter_ns()
            session.run(preprocess(columns))
            return (time.perf_counter_ns() - start) / 1e6

        steady = warm_up(call)
        return LatencyRun([call() for _ in range(calls)], unstable=not steady)


def measure(model_ref: ModelRef, signature: Signature, split: Path, batch: int, calls: int) -> LatencyRun:
    """Time `calls` single calls of `batch` rows at the `opt` dims, over different real inputs in rotation."""
    inputs = requests(signature, split, opt_sizes(signature, batch))
    with opened(model_ref) as session:
        call = partial(timed, session, cycle(inputs))
        steady = warm_up(call)
        return LatencyRun([call() for _ in range(calls)], unstable=not steady)


def warm_up(call: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> bool:
    """Call until three 50-call medians agree within 5 %, for at least 2 s and at most 20 s; return whether they agree."""
    start = clock()
    medians: list[float] = []
    while clock() - start < WARM_UP_MAX_S:
        medians.append(statistics.median(_bounded(call, start, clock)))
        recent = medians[-_STEADY_BLOCKS:]
        if (
            clock() - start >= WARM_UP_MIN_S
            and len(recent) == _STEADY_BLOCKS
            and max(recent) <= (1 + STEADY_SHARE) * min(recent)
        ):
            return True
    return False


def _bounded(call: Callable[[], float], start: float, clock: Callable[[], float]) -> Iterator[float]:
    """One block of the warm-up, cut short if calls are so slow that the time limit passes."""
    for _ in range(WARM_UP_CALLS):
        yield call()
        if clock() - start >= WARM_UP_MAX_S:
            return
