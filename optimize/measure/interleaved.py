"""Two models timed in one process, in ABBA order, so that a machine that slows down slows both."""

from itertools import cycle
from pathlib import Path

import numpy as np
from msgspec import Struct

from optimize.arrays import Arrays
from optimize.manifest import Signature
from optimize.measure.curve import batch_sizes
from optimize.measure.workload import opt_sizes, requests, timed
from optimize.runtime.session import Session
from optimize.source.model_ref import ModelRef, opened
from optimize.statistics.comparison import BLOCK_CALLS, MIN_PAIRS

_MAX_BLOCK_S = 0.5
_MIN_BLOCK_CALLS = 5
_TRIAL_CALLS = 7
_WARM_UP_CALLS = 5


class InterleavedTiming(Struct, frozen=True):
    """Latency blocks of A and B, the i-th of each run side by side, and the rows per call of each."""

    a_ms: list[list[float]]
    b_ms: list[list[float]]
    a_rows: int
    b_rows: int

    def a_rows_per_s(self) -> list[float]:
        """Rows per second in each block of A."""
        return [1e3 * self.a_rows / float(np.median(block)) for block in self.a_ms]

    def b_rows_per_s(self) -> list[float]:
        """Rows per second in each block of B."""
        return [1e3 * self.b_rows / float(np.median(block)) for block in self.b_ms]


def time_interleaved(
    a: ModelRef, b: ModelRef, signature: Signature, split: Path, batch: int | None
) -> InterleavedTiming:
    """Time A and B in ABBA order at `batch` rows per call, or each at its own best batch where `batch` is None.

    A block has 50 calls, or as many as fit in half a second (5 at least); there are 20 pairs.
    """
    with opened(a) as first, opened(b) as second:
        a_rows = batch or _best_batch(first, signature, split)
        b_rows = batch or _best_batch(second, signature, split)
        a_inputs = requests(signature, split, opt_sizes(signature, a_rows))
        b_inputs = requests(signature, split, opt_sizes(signature, b_rows))
        a_calls, b_calls = _calls_per_block(first, a_inputs), _calls_per_block(second, b_inputs)
        a_ms: list[list[float]] = []
        b_ms: list[list[float]] = []
        for pair in range(MIN_PAIRS):
            order = ((first, a_inputs, a_calls, a_ms), (second, b_inputs, b_calls, b_ms))
            for session, inputs, calls, found in order if pair % 2 == 0 else order[::-1]:
                found.append(_block(session, inputs, calls))
    return InterleavedTiming(a_ms, b_ms, a_rows, b_rows)


def _block(session: Session, inputs: list[Arrays], calls: int) -> list[float]:
    rotation = cycle(inputs)
    return [timed(session, rotation) for _ in range(calls)]


def _calls_per_block(session: Session, inputs: list[Arrays]) -> int:
    call_s = float(np.median(_block(session, inputs, _WARM_UP_CALLS))) / 1e3
    return max(_MIN_BLOCK_CALLS, min(BLOCK_CALLS, int(_MAX_BLOCK_S / call_s)))


def _best_batch(session: Session, signature: Signature, split: Path) -> int:
    """The batch size with the most rows per second, by a short trial of each."""
    speeds = {}
    for rows in batch_sizes(signature):
        inputs = requests(signature, split, opt_sizes(signature, rows))
        _block(session, inputs, _WARM_UP_CALLS)
        speeds[rows] = rows / float(np.median(_block(session, inputs, _TRIAL_CALLS)))
    return max(speeds, key=lambda rows: speeds[rows])
